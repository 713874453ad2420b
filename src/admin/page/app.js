// The dashboard of a running recorder: asks the admin endpoint once a second, and shows it.
//
// Order of the file: words and figures, asking, feeds, timelines, memory, disk and queue, log,
// orders, the loop. Rules: text from the server goes in by textContent only; rows are made once and
// changed in place; what is not known is said to be unknown, never shown as 0; styles are classes
// and attributes, as the Content-Security-Policy wants it.
"use strict";

const FEEDS_EVERY_MS = 1000;
const GAPS_EVERY_MS = 5000;
const MEMORY_EVERY_MS = 20000; // six hours of samples are some 200 KiB
const ANSWER_LIMIT_MS = 8000;
const RATES_KEPT_MS = 180000;
const DAY_MS = 86400000;
const LOG_LINES_MAX = 1000;
const OUR_LOSSES = ["stall", "disk", "oversized", "panic"];
// In the order of trouble first. A feed that connects for the first time is busy, not in trouble.
const STATES = ["failed", "refused", "waiting", "stale", "connecting", "paused", "ended", "live"];
const TONES = { live: "ok", connecting: "busy", paused: "off", ended: "off" };

// ---- words and figures ----

const $ = (id) => document.getElementById(id);
const NS = "http://www.w3.org/2000/svg";

/** An element with attributes (null leaves one out) and children; strings become text. */
function make(tag, attributes = {}, ...children) {
  const svg = ["svg", "use", "path", "rect", "line", "text", "g"].includes(tag);
  const node = svg ? document.createElementNS(NS, tag) : document.createElement(tag);
  set(node, attributes);
  node.append(...children);
  return node;
}
function set(node, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null) node.removeAttribute(name);
    else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
  }
}
// Touching only what changed keeps 500 feeds cheap, and selections and screen readers undisturbed.
function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}
function show(node, visible) {
  if (node.hidden === visible) node.hidden = !visible;
}
const known = (value, words) => (value === null || value === undefined ? "unknown" : words(value));
// Past 2^53 JSON's numbers lose some 100 ns: nothing at the scale of a page.
const ms = (ns) => (ns === null || ns === undefined ? null : ns / 1e6);
const count = (n) => known(n, (v) => v.toLocaleString("en"));
const plural = (n, noun) => `${count(n)} ${noun}${n === 1 ? "" : "s"}`;

function size(bytes) {
  return known(bytes, (value) => {
    const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    const at = value < 1024 ? 0 : Math.min(Math.floor(Math.log2(value) / 10), units.length - 1);
    return `${at ? (value / 1024 ** at).toFixed(1) : value} ${units[at]}`;
  });
}
function span(milliseconds) {
  return known(milliseconds, (value) => {
    const s = Math.max(0, value) / 1000;
    if (s < 1) return "<1 s";
    if (s < 120) return `${Math.floor(s)} s`;
    if (s < 7200) return `${Math.floor(s / 60)} min`;
    if (s < 2 * 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
    return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
  });
}
/** `14:03:22`, with the date before it where it is not today's (UTC). */
function clock(at, now = Date.now()) {
  return known(at, (value) => {
    const text = new Date(value).toISOString();
    const today = text.slice(0, 10) === new Date(now).toISOString().slice(0, 10);
    return `${today ? "" : text.slice(0, 10) + " "}${text.slice(11, 19)}`;
  });
}
function rateWords(perSecond) {
  return known(perSecond, (value) => {
    if (value === 0) return "0/s";
    if (value < 1) return `${Math.max(1, Math.round(value * 60))}/min`;
    if (value < 10) return `${value.toFixed(1)}/s`;
    return value < 10000 ? `${Math.round(value)}/s` : `${(value / 1000).toFixed(1)} k/s`;
  });
}
/** Rounded down: 100 % means that nothing is missing. */
function percent(share) {
  return share === null ? "unknown" : share >= 1 ? "100 %" : `${(Math.floor(share * 10000) / 100).toFixed(2)} %`;
}
/** Of counts by reason: `closed 3, timeout 1`. */
function tally(counts) {
  const entries = Object.entries(counts || {}).filter(([, n]) => n > 0).sort((a, b) => b[1] - a[1]);
  return entries.map(([reason, n]) => `${reason} ${count(n)}`).join(", ") || "none";
}
function tone(feed) {
  if (feed.state === "connecting" && feed.trouble) return "bad";
  return TONES[feed.state] || (STATES.includes(feed.state) ? "bad" : "none");
}
const shape = (state) => "#s-" + (state === "refused" ? "failed" : STATES.includes(state) ? state : "unknown");

// ---- asking ----

/** No answer, or none of the expected; the status is 0 where there was none. */
class Refused extends Error {
  constructor(status, words) {
    super(status ? `${status}: ${words}` : words);
    this.status = status;
  }
}

// The token lives in this tab only. Some browsers forbid even that: then until the page is left.
let token = "";
try { token = sessionStorage.getItem("feedtape-token") || ""; } catch { /* kept in memory */ }
function keepToken(value) {
  token = value;
  try { sessionStorage.setItem("feedtape-token", value); } catch { /* kept in memory */ }
}

async function ask(path, method = "GET") {
  const headers = method === "POST" ? { "X-Feedtape": "1" } : {};
  if (token) headers.Authorization = `Bearer ${token}`;
  const options = { method, headers, cache: "no-store", signal: AbortSignal.timeout(ANSWER_LIMIT_MS) };
  let answer, text;
  try {
    answer = await fetch(path, options);
    text = await answer.text();
  } catch (error) {
    throw new Refused(0, error.name === "TimeoutError" ? `no answer within ${ANSWER_LIMIT_MS / 1000} s` : "it can't be reached");
  }
  let body = null;
  try { body = JSON.parse(text); } catch { /* said below */ }
  if (!answer.ok) throw new Refused(answer.status, body?.error || text.slice(0, 200) || answer.statusText);
  if (body === null) throw new Refused(answer.status, "the answer is no JSON");
  return body;
}

// ---- what is known of the recorder; forgotten when it was started anew ----

let now = {}; // answers of /api/recorder and /api/feeds
let rows = new Map(); // of feeds by name
let gaps = new Map(); // by feed, reason and beginning
let gapsSince = null;
let knownSince = null;
let memory = null;
let eventsNext = 0;
let due = { gaps: 0, memory: 0 };
let lastAnswer = null; // ms, of this machine
let lost = false;
let unanswered = []; // parts of the last round, with why
let trouble = ""; // why the last try failed

function forget() {
  now = {};
  rows.forEach((row) => row.leave());
  rows = new Map();
  gaps = new Map();
  gapsSince = null;
  knownSince = null;
  memory = null;
  eventsNext = 0;
  due = { gaps: 0, memory: 0 };
}

// ---- feeds ----

/** Rows in sight: only their pictures are drawn. */
const inSight = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    const row = entry.target.row;
    row.visible = entry.isIntersecting;
    if (row.visible) row.draw();
  }
}, { rootMargin: "200px" });

class Row {
  constructor(name) {
    this.name = name;
    this.rates = []; // {at, messages}, in the recorder's time
    this.gaps = [];
    this.visible = true;
    this.badgeUse = make("use");
    this.badgeText = make("span");
    this.badge = make("span", { class: "badge" }, make("svg", { "aria-hidden": "true" }, this.badgeUse), this.badgeText);
    this.open = make("button", { type: "button", "aria-expanded": "false" }, name);
    this.open.onclick = () => this.toggle();
    this.trouble = make("p", { class: "trouble" });
    this.spark = make("path");
    this.rate = make("span");
    this.age = make("div", { class: "c-age" });
    this.cover = make("div", { class: "c-cover" });
    this.day = new Day(this);
    this.pause = this.button("Pause", () => confirmFeed(this, this.paused ? "resume" : "pause"));
    this.reconnect = this.button("Reconnect", () => confirmFeed(this, "reconnect"));
    this.node = make("li", {}, this.line = make("div", { class: "row" },
      make("div", { class: "c-state" }, this.badge),
      make("div", { class: "c-name" }, this.open), this.trouble,
      make("div", { class: "c-rate" }, make("svg", { viewBox: "0 0 80 24", "aria-hidden": "true" }, this.spark), this.rate),
      this.age, make("div", { class: "c-day" }, this.day.node), this.cover,
      make("div", { class: "c-acts" }, this.pause, this.reconnect)));
    this.node.row = this;
    inSight.observe(this.node);
  }

  button(words, act) {
    const node = make("button", { type: "button" }, words);
    node.onclick = act;
    return node;
  }

  leave() {
    inSight.unobserve(this.node);
    this.node.remove();
  }

  update(feed, at) {
    const before = this.feed;
    this.feed = feed;
    this.paused = feed.state === "paused";
    this.tone = tone(feed);
    this.measure(feed, at);
    this.ageMs = feed.last_data_ns === null ? null : at - ms(feed.last_data_ns);
    const changed = before && before.state !== feed.state;
    // Rows out of sight are not touched: the layout of 500 costs more than all else here.
    if (this.visible || changed || !before) this.tell(at);
    return changed;
  }

  tell(at) {
    const feed = this.feed;
    set(this.badgeUse, { href: shape(feed.state) });
    set(this.badge, { class: `badge tone-${this.tone}` });
    set(this.node, { class: this.tone === "bad" ? null : "calm", "data-state": feed.state });
    say(this.badgeText, feed.state);
    const since = ms(feed.since_ns);
    const how = feed.state === "live" || since === null ? "" : `for ${span(at - since)}`;
    // The reason of a trouble that is over stands in the details.
    say(this.trouble, feed.state === "live" ? "" : [how, feed.trouble].filter(Boolean).join(": "));
    say(this.age, this.ageMs === null ? (feed.messages === 0 ? "none yet" : "unknown") : span(this.ageMs));
    say(this.pause, this.paused ? "Resume" : "Pause");
    set(this.pause, { "aria-label": `${this.paused ? "Resume" : "Pause"} ${this.name}` });
    set(this.reconnect, { "aria-label": `Reconnect ${this.name}` });
    this.reconnect.disabled = this.paused || feed.state === "ended";
    this.pause.disabled = feed.state === "ended";
    say(this.rate, rateWords(this.perSecond));
    this.drawSpark(at);
    if (this.more) this.tellMore();
  }

  /** A rate is the difference of two answers; none where the counter began anew between them. */
  measure(feed, at) {
    const last = this.rates.at(-1);
    if (last && feed.messages < last.messages) this.rates = [];
    if (!last || at > last.at) this.rates.push({ at, messages: feed.messages });
    while (this.rates.length && this.rates[0].at < at - RATES_KEPT_MS - 2000) this.rates.shift();
    // Quiet feeds by the minute, so that the figure doesn't jump between 0 and 1.
    const over = (window) => {
      const from = this.rates.find((one) => one.at >= at - window);
      return from && from.at < at ? (feed.messages - from.messages) * 1000 / (at - from.at) : null;
    };
    const lately = over(5500);
    this.perSecond = lately !== null && lately < 2 ? over(60500) : lately;
    // A feed that is cut must not look as if it still came in.
    if (lately === 0 && feed.state !== "live") this.perSecond = 0;
  }

  drawSpark(at) {
    const points = [];
    let top = 0;
    // Of a quiet feed each 6 s: seconds with one message or none would only be a hatching.
    const step = this.perSecond !== null && this.perSecond < 2 ? 6000 : 1;
    const rates = this.rates.filter((one, i) => i === 0 || Math.floor(one.at / step) !== Math.floor(this.rates[i - 1].at / step));
    for (let i = 1; i < rates.length; i++) {
      const [a, b] = [rates[i - 1], rates[i]];
      const rate = (b.messages - a.messages) * 1000 / (b.at - a.at);
      // Nobody asked for a while (a hidden tab, no answer): the line breaks there.
      points.push({ at: b.at, rate, broken: b.at - a.at > 5 * FEEDS_EVERY_MS + step });
      if (!points.at(-1).broken) top = Math.max(top, rate);
    }
    let path = "";
    let drawing = false;
    for (const { at: when, rate, broken } of points) {
      const x = 79 - (at - when) / RATES_KEPT_MS * 79;
      if (broken || x < 0) { drawing = false; continue; }
      path += `${drawing ? "L" : "M"}${x.toFixed(1)} ${(22.5 - (top ? rate / top * 20 : 0)).toFixed(1)}`;
      drawing = true;
    }
    set(this.spark, { d: path });
  }

  draw() {
    if (!now.at) return;
    this.tell(now.at);
    this.day.draw();
  }

  toggle() {
    const opening = !this.more;
    set(this.open, { "aria-expanded": opening });
    if (!opening) {
      this.more.remove();
      this.more = null;
      return;
    }
    this.more = make("dl", { class: "more" });
    this.line.append(this.more);
    this.tellMore();
  }

  tellMore() {
    const feed = this.feed;
    const holes = Object.entries(feed.gaps || {}).map(([reason, gap]) =>
      `${reason} ${count(gap.holes)}` + (gap.messages ? ` (${plural(gap.messages, "message")} lost)` : ""));
    const facts = {
      "URL": feed.url,
      "Kind": feed.kind === "http" ? "polled" : "WebSocket",
      [feed.state === "live" ? "Live since" : "Since"]: clock(ms(feed.since_ns)),
      "Messages": `${count(feed.messages)}, ${size(feed.bytes)}`,
      "On the wire": size(feed.wire_bytes),
      "On tape": `${size(feed.tape_bytes)}; sealed ${size(feed.sealed_bytes)}`,
      "Connections": `${count(feed.connections)}, ${count(feed.connect_failures)} failed`,
      "Reconnects": tally(feed.reconnects),
      "Gaps": holes.join(", ") || "none",
      "Refusals": count(feed.refusals),
      "Silent keys": count(feed.silent_keys),
      "Last trouble": feed.trouble || "none",
    };
    const nodes = [...this.more.children];
    Object.entries(facts).forEach(([term, words], at) => {
      const node = nodes[at] || make("div", {}, make("dt"), make("dd"));
      if (!node.isConnected) this.more.append(node);
      say(node.firstChild, term);
      say(node.lastChild, String(words));
    });
  }
}

function showFeeds(answer) {
  now.feeds = answer.feeds;
  now.at = ms(answer.now_ns);
  const changed = [];
  const seen = new Set();
  for (const feed of answer.feeds) {
    seen.add(feed.name);
    let row = rows.get(feed.name);
    if (!row) rows.set(feed.name, row = new Row(feed.name));
    if (row.update(feed, now.at)) changed.push(feed);
  }
  for (const [name, row] of rows) {
    if (seen.has(name)) continue;
    row.leave();
    rows.delete(name);
  }
  // What changed has a gap that began or ended.
  if (changed.length) due.gaps = 0;
  announce(changed);
  arrange();
}

/** For screen readers: one sentence a second at most, however many changed. */
function announce(changed) {
  if (!changed.length) return;
  const words = changed.slice(0, 3).map((feed) => `${feed.name} is ${feed.state}${feed.trouble && feed.state !== "live" ? ": " + feed.trouble : ""}`);
  if (changed.length > 3) words.push(`${changed.length - 3} more feeds changed`);
  say($("said"), words.join("; "));
}

const ORDERS = {
  trouble: (a, b) => rank(a) - rank(b),
  name: () => 0,
  rate: (a, b) => (b.perSecond ?? -1) - (a.perSecond ?? -1),
  age: (a, b) => (b.ageMs ?? Infinity) - (a.ageMs ?? Infinity) || 0,
  coverage: (a, b) => (a.day.covered ?? -1) - (b.day.covered ?? -1),
};
function rank(row) {
  return row.tone === "bad" ? STATES.indexOf(row.feed.state) : 10 + STATES.indexOf(row.feed.state);
}

let arranged = 0;
/** Filters, and sorts by moving only the rows that stand wrong. */
function arrange(asked = false) {
  const words = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const row of rows.values()) {
    const { url, state, trouble: why } = row.feed;
    const text = `${row.name} ${url} ${state} ${why || ""}`.toLowerCase();
    const fits = words.every((word) => text.includes(word));
    show(row.node, fits);
    shown += fits;
  }
  say($("shown"), shown === rows.size ? String(rows.size) : `${shown} of ${rows.size}`);
  show($("none"), shown === 0);
  say($("none"), rows.size ? "No feed fits the filter." : "No feeds are recorded.");

  // A row must not move away under the pointer or the keyboard.
  const list = $("rows");
  const busy = list.contains(document.activeElement) || (matchMedia("(hover: hover)").matches && list.matches(":hover"));
  const calm = $("sort").value === "trouble" || performance.now() - arranged > 5000;
  if (!asked && list.childElementCount === rows.size && (busy || !calm)) return;
  arranged = performance.now();
  const compare = ORDERS[$("sort").value];
  const byName = (a, b) => a.name.localeCompare(b.name, "en", { numeric: true });
  const wanted = [...rows.values()].sort((a, b) => compare(a, b) || byName(a, b));
  let at = list.firstElementChild;
  for (const row of wanted) {
    if (at === row.node) at = at.nextElementSibling;
    else list.insertBefore(row.node, at);
  }
}

// ---- timelines: the last day of a feed ----

function takeGaps(answer) {
  // Later answers tell of less time, and know nothing of what had no room in an earlier one.
  knownSince = Math.max(knownSince ?? 0, ms(answer.known_since_ns));
  show($("known"), knownSince > now.at - DAY_MS);
  const started = ms(now.recorder.started_ns);
  say($("known"), `Known since ${clock(knownSince)}, ${knownSince <= started ? "the recorder's start; the tapes tell of earlier gaps" : "as there were more gaps than are kept; the tapes have all"}.`);
  // Each answer has all open gaps. One that ended may begin elsewhere than it was thought to.
  for (const [key, gap] of gaps) if (gap.to === null) gaps.delete(key);
  for (const gap of answer.gaps) {
    gaps.set(`${gap.feed} ${gap.reason} ${gap.from_ns}`, { ...gap, from: ms(gap.from_ns), to: ms(gap.to_ns) });
  }
  const byFeed = new Map([...rows.keys()].map((name) => [name, []]));
  let newest = knownSince;
  for (const [key, gap] of gaps) {
    if (gap.to !== null && gap.to < now.at - DAY_MS) { gaps.delete(key); continue; }
    byFeed.get(gap.feed)?.push(gap);
    newest = Math.max(newest, gap.to ?? 0);
  }
  // Next time only what ended since, and a minute more: feeds write down their gaps each at its
  // own time.
  gapsSince = newest - 60000;
  for (const [name, list] of byFeed) {
    const row = rows.get(name);
    row.gaps = list.sort((a, b) => a.from - b.from);
    row.day.measure();
    if (row.visible) row.day.draw();
  }
}

class Day {
  constructor(row) {
    this.row = row;
    this.covered = null;
    this.at = -1; // the gap that is pointed at
    this.paths = ["t-blank", "t-unknown", "t-paused", "t-gap", "t-ours", "t-mark"].map((name) => make("path", { class: name }));
    this.node = make("svg", { class: "day", tabindex: 0, role: "slider", "aria-label": `Gaps of ${row.name}, last day`, "aria-valuemin": 0 }, ...this.paths);
    this.node.onkeydown = (event) => this.step(event);
    this.node.onfocus = () => this.point(this.holes.length - 1, true);
    this.node.onblur = () => this.point(-1);
    this.node.onpointermove = (event) => this.point(this.near(event));
    this.node.onpointerleave = () => this.point(-1);
    this.holes = [];
  }

  /** The share of what is known that was recorded; overlapping gaps count once. */
  measure() {
    const from = Math.max(knownSince ?? now.at, now.at - DAY_MS);
    const { feed, gaps: list } = this.row;
    this.holes = list;
    // A feed that never was connected has no gap yet: a gap begins after something.
    if (!list.length && feed.connections === 0 && feed.messages === 0) {
      this.holes = [{ reason: "nothing received yet", from, to: null, messages: null }];
    }
    let missing = 0;
    let end = from;
    for (const gap of this.holes) {
      const to = gap.to ?? now.at;
      missing += Math.max(0, to - Math.max(gap.from, end));
      end = Math.max(end, to);
    }
    this.covered = now.at > from ? Math.max(0, 1 - missing / (now.at - from)) : null;
    // A gap too short to count must not be rounded away.
    if (this.covered === 1 && this.holes.length) this.covered = 0.99999;
    const words = percent(this.covered);
    say(this.row.cover, words);
    set(this.row.cover, { title: knownSince > now.at - DAY_MS ? `of the ${span(now.at - from)} that are known` : "of the last day" });
    set(this.node, { "aria-valuemax": this.holes.length, "aria-valuenow": Math.max(0, this.at + 1) });
    if (this.at < 0) set(this.node, { "aria-valuetext": `${words} covered, ${plural(this.holes.length, "gap")}` });
  }

  draw() {
    const width = this.node.clientWidth;
    if (!width || !now.at) return;
    this.width = width;
    const x = (at) => Math.max(0, (1 - (now.at - at) / DAY_MS) * width);
    const [blank, unknown, paused, gap, ours, mark] = this.paths;
    // Nothing is known of the time before; without an answer, of no time at all.
    const knownFrom = knownSince === null ? width : x(knownSince);
    const before = knownFrom > 0 ? bar(0, knownFrom, 0, 18) : "";
    set(blank, { d: before });
    set(unknown, { d: before });
    const kinds = { paused: "", gap: "", ours: "" };
    for (const hole of this.holes) {
      // At least a pixel wide: a short gap is a gap.
      const from = Math.min(x(hole.from), width - 1);
      const to = Math.max(x(hole.to ?? now.at), from + 1);
      if (hole.reason === "paused") kinds.paused += bar(from, to, 9, 18);
      else if (OUR_LOSSES.includes(hole.reason)) kinds.ours += bar(from, to, 0, 7) + bar(from, to, 11, 18);
      else kinds.gap += bar(from, to, 0, 18);
    }
    set(paused, { d: kinds.paused });
    set(gap, { d: kinds.gap });
    set(ours, { d: kinds.ours });
    const pointed = this.holes[this.at];
    const middle = pointed && (x(pointed.from) + x(pointed.to ?? now.at)) / 2;
    set(mark, { d: pointed ? bar(middle - 3, middle + 3, 0, 3) + bar(middle - 3, middle + 3, 15, 18) : "" });
  }

  near(event) {
    const box = this.node.getBoundingClientRect();
    const at = now.at - (1 - (event.clientX - box.left) / box.width) * DAY_MS;
    const reach = DAY_MS / box.width * 4;
    let best = -1;
    let distance = reach;
    this.holes.forEach((hole, index) => {
      const away = Math.max(hole.from - at, at - (hole.to ?? now.at), 0);
      if (away <= distance) [best, distance] = [index, away];
    });
    return best;
  }

  step(event) {
    const last = this.holes.length - 1;
    const to = { ArrowLeft: this.at - 1, ArrowRight: this.at + 1, Home: 0, End: last }[event.key];
    if (event.key === "Escape") this.point(-1);
    if (to === undefined) return;
    event.preventDefault();
    this.point(Math.min(Math.max(to, 0), last), true);
  }

  point(index, byKey = false) {
    if (index === this.at && !byKey) return;
    this.at = index;
    const hole = this.holes[index];
    this.draw();
    set(this.node, { "aria-valuenow": Math.max(0, index + 1) });
    if (!hole) return hideTip();
    const open = hole.to === null;
    const times = open ? `since ${clock(hole.from)}, ${span(now.at - hole.from)}, still open`
      : `${clock(hole.from)} to ${clock(hole.to)}, ${span(hole.to - hole.from)}`;
    const lostWords = hole.messages === null ? "how many messages is unknown" : `${plural(hole.messages, "message")} lost`;
    const words = `${hole.reason}\n${times}\n${lostWords}`;
    set(this.node, { "aria-valuetext": `${index + 1} of ${this.holes.length}: ${words.replaceAll("\n", ", ")}` });
    const box = this.node.getBoundingClientRect();
    const middle = ((hole.from + (hole.to ?? now.at)) / 2 - (now.at - DAY_MS)) / DAY_MS;
    showTip(words, box.left + Math.max(0, middle) * box.width, box);
  }
}
const bar = (left, right, top, bottom) => `M${left.toFixed(1)} ${top}H${right.toFixed(1)}V${bottom}H${left.toFixed(1)}Z`;

function showTip(words, x, box) {
  const tip = $("tip");
  say(tip, words);
  show(tip, true);
  const room = document.documentElement.clientWidth - tip.offsetWidth - 8;
  tip.style.left = `${Math.max(8, Math.min(x - tip.offsetWidth / 2, room))}px`;
  tip.style.top = `${box.top > tip.offsetHeight + 10 ? box.top - tip.offsetHeight - 6 : box.bottom + 6}px`;
}
const hideTip = () => show($("tip"), false);

// ---- memory ----

const CURVES = [
  { key: "rss_bytes", kind: "m-rss", label: "resident (RSS)" },
  { key: "rss_anon_bytes", kind: "m-anon", label: "of it heap and stacks" },
  { key: "heap_in_use_bytes", kind: "m-heap", label: "heap in use", text: "Allocated and not freed: if this grows for days, the program leaks." },
];
const PLANS = [["idle_bytes", "idle"], ["full_bytes", "queue full"], ["large_bytes", "one large message"]];
let memoryAt = -1; // the sample that is pointed at

function takeMemory(answer) {
  memory = answer;
  const said = new Map((answer.sentences || []).map((one) => [one.key, one]));
  const legend = $("memory-legend");
  CURVES.forEach(({ key, kind, label, text }, at) => {
    const node = legend.children[at] || legend.appendChild(make("li", {},
      make("svg", { viewBox: "0 0 26 8", "aria-hidden": "true" }, make("line", { x1: 0, x2: 26, y1: 4, y2: 4, class: kind })),
      make("span", {}, label), make("b"), make("p", { class: "soft" })));
    say(node.children[2], size(answer.figures?.[key]));
    // Of RSS it speaks of the figures that follow it: that stands in the list.
    say(node.children[3], key === "rss_bytes" ? "" : said.get(key)?.text || text || "");
  });
  const all = [...said.values()];
  const list = $("memory-sentences");
  show($("memory-more"), all.length > 0);
  all.forEach((one, at) => {
    const node = list.children[at] || list.appendChild(make("div", {}, make("dt", { class: "part" }), make("dt"), make("dd"), make("dd")));
    show(node.children[0], one.section !== all[at - 1]?.section);
    say(node.children[0], one.section);
    say(node.children[1], one.label);
    say(node.children[2], one.unit === "count" ? count(one.value) : size(one.value));
    say(node.children[3], one.text);
  });
  while (list.children.length > all.length) list.lastChild.remove();
  const leak = answer.leak;
  show($("memory-leak"), Boolean(leak));
  say($("memory-leak"), leak ? `Over this run, ${leak.text}.` : "");
  set($("memory-leak"), { class: leak?.word === "leaks" ? "error" : "soft" });
  show($("memory-verdict"), Boolean(answer.verdict));
  say($("memory-verdict"), answer.verdict || "");
  drawMemory();
}

/** 1, 2, 2.5, 5 x a power of two of bytes' kind: about four lines. */
function gridStep(top) {
  const wanted = top / 4;
  const unit = 1024 ** Math.max(0, Math.floor(Math.log2(wanted) / 10));
  const power = 10 ** Math.floor(Math.log10(wanted / unit));
  return unit * power * ([1, 2, 2.5, 5, 10].find((factor) => factor * power * unit >= wanted) || 10);
}

function drawMemory() {
  const chart = $("memory-chart");
  const width = chart.clientWidth;
  const history = memory?.history || [];
  if (!width || !memory) return;
  const height = 190;
  const [left, bottom] = [52, height - 20];
  const first = ms(history[0]?.t_ns) ?? 0;
  const last = ms(history.at(-1)?.t_ns) ?? first;
  say($("memory-span"), history.length > 1 ? `last ${span(last - first)}` : "no history yet");
  const values = history.flatMap((one) => CURVES.map(({ key }) => one[key] ?? 0));
  const plan = memory.plan || {};
  const most = Math.max(...values, plan.idle_bytes ?? 0, plan.full_bytes ?? 0, memory.figures?.rss_bytes ?? 0, 4 << 20);
  // The row of one large message may lie far above; then it would press all else flat.
  const top = 1.12 * Math.max(most, (plan.large_bytes ?? 0) <= 2 * most ? plan.large_bytes ?? 0 : 0);
  const y = (bytes) => bottom - bytes / top * (bottom - 8);
  const x = (at) => left + (last > first ? (at - first) / (last - first) : 1) * (width - left - 2);
  const parts = [];
  const step = gridStep(top);
  for (let bytes = 0; bytes < top; bytes += step) {
    parts.push(make("line", { class: "grid", x1: left, x2: width, y1: y(bytes), y2: y(bytes) }));
    parts.push(make("text", { x: left - 6, y: y(bytes) + 4, "text-anchor": "end" }, bytes ? size(bytes).replace(".0 ", " ") : "0"));
  }
  if (history.length > 1) {
    parts.push(make("text", { x: left, y: height - 3 }, clock(first).slice(0, -3)));
    parts.push(make("text", { x: width, y: height - 3, "text-anchor": "end" }, clock(last).slice(0, -3)));
  }
  const names = []; // drawn last, so that no curve runs through them
  PLANS.forEach(([key, label], at) => {
    const bytes = plan[key];
    if (bytes === undefined || bytes === null || bytes > top) return;
    parts.push(make("line", { class: "plan", x1: left, x2: width, y1: y(bytes), y2: y(bytes) }));
    // At the left and right by turns: two lines may be close together.
    const side = at % 2 ? { x: width - 2, "text-anchor": "end" } : { x: left + 6 };
    names.push(make("text", { class: "plan-text", ...side, y: y(bytes) - 4 }, `plan: ${label}`));
  });
  say($("memory-plan"), memory.plan ? `Planned: ${PLANS.map(([key, label]) =>
    `${size(plan[key])} ${label}${plan[key] > top ? " (above the picture)" : ""}`).join(", ")}.` : "No plan is known.");
  // The middle one of all steps: while no recorder ran there are none, and nothing is drawn.
  const steps = history.slice(1).map((one, at) => ms(one.t_ns) - ms(history[at].t_ns)).sort((a, b) => a - b);
  const usual = steps[steps.length >> 1] || 0;
  for (const { key, kind } of CURVES) {
    let path = "";
    let before = null;
    for (const one of history) {
      const at = ms(one.t_ns);
      if (one[key] === null || one[key] === undefined) { before = null; continue; }
      path += `${before !== null && at - before < 4 * usual ? "L" : "M"}${x(at).toFixed(1)} ${y(one[key]).toFixed(1)}`;
      before = at;
    }
    parts.push(make("path", { class: kind, d: path }));
  }
  const pointed = history[memoryAt];
  if (pointed) parts.push(make("line", { class: "cursor", x1: x(ms(pointed.t_ns)), x2: x(ms(pointed.t_ns)), y1: 8, y2: bottom }));
  if (history.length < 2) names.push(make("text", { x: (left + width) / 2, y: bottom - 12, "text-anchor": "middle" }, "no history yet"));
  chart.replaceChildren(...parts, ...names);
  set(chart, { "aria-valuemax": Math.max(0, history.length - 1), "aria-valuenow": Math.max(0, memoryAt), "aria-valuetext": memoryWords(pointed || history.at(-1)) });
  chart.xOf = x;
}
function memoryWords(sample) {
  if (!sample) return "no history yet";
  return [clock(ms(sample.t_ns)), ...CURVES.map(({ key, label }) => `${label} ${size(sample[key])}`),
    `cgroup usage ${size(sample.cgroup_usage_bytes)}`].join("\n");
}
function pointMemory(index) {
  memoryAt = index;
  drawMemory();
  const sample = memory?.history?.[index];
  if (!sample) return hideTip();
  const box = $("memory-chart").getBoundingClientRect();
  showTip(memoryWords(sample), box.left + $("memory-chart").xOf(ms(sample.t_ns)), box);
}

// ---- disk and queue ----

/** A bar filled to a share (null is unknown), with a mark at another. */
function meter(node, share, bad, mark, what) {
  const parts = [];
  if (share !== null) parts.push(make("rect", { class: bad ? "fill bad" : "fill", height: "100%", width: `${Math.min(100, share * 100)}%` }));
  if (mark !== null) parts.push(make("rect", { class: "mark", height: "100%", width: 2, x: `${Math.min(99, mark * 100)}%` }));
  node.replaceChildren(...parts);
  set(node, { "aria-label": share === null ? `How much ${what} is unknown` : `${Math.round(share * 100)} % ${what}` });
}

function showStore({ disk, queue }) {
  const { total_bytes: total, free_bytes: free, min_free_bytes: least, written_per_day_bytes: daily, full_in_s: left } = disk || {};
  const bad = Boolean(disk?.stalled) || (free ?? Infinity) < (least ?? 0);
  say($("disk-free"), total ? `${size(free)} of ${size(total)}` : size(free));
  meter($("disk-bar"), total ? 1 - free / total : null, bad, total ? 1 - (least ?? 0) / total : null, "of the disk is used");
  say($("disk-text"), [
    disk?.stalled ? "The disk takes no data." : "",
    known(daily, (bytes) => `${size(bytes)} are written a day.`).replace(/^unknown$/, "How much is written a day is unknown."),
    known(left, (s) => `Full in ${span(s * 1000)}.`).replace(/^unknown$/, "When it is full is unknown."),
    `Recording stops below ${size(least)}.`].filter(Boolean).join(" "));
  set($("disk-text"), { class: bad ? "soft error" : "soft" });
  const share = queue?.bytes_max ? queue.bytes / queue.bytes_max : null;
  say($("queue-now"), `${size(queue?.bytes)} of ${size(queue?.bytes_max)}`);
  meter($("queue-bar"), share, share > 0.8, null, "of the queue is filled");
  say($("queue-text"), `${count(queue?.blocks_out)} of ${count(queue?.blocks)} blocks are out.`
    + (share > 0.8 ? " The disk is slower than the feeds." : ""));
}

// ---- log ----

let following = true;

function takeEvents(answer) {
  if (answer.missed) logBreak(eventsNext === 0 ? "earlier lines are not kept" : "lines were missed here");
  const lines = answer.events.filter((event) => event.seq >= eventsNext);
  eventsNext = answer.next;
  appendLog(lines.map((event) => make("li", { class: event.level, "data-seq": event.seq },
    make("time", {}, clock(ms(event.at_ns))), make("span", { class: "lvl" }, event.level),
    ...logText(event))));
}
/** The feed stands out; the recorder's lines begin with it. */
function logText({ feed, text }) {
  if (!feed) return [text];
  const rest = text.startsWith(`${feed}: `) ? text.slice(feed.length + 2) : text;
  return [make("span", { class: "from" }, `${feed}: `), rest];
}
const logBreak = (words) => appendLog([make("li", { class: "break" }, words)]);

function appendLog(nodes) {
  if (!nodes.length) return;
  const lines = $("lines");
  lines.append(...nodes);
  // Reading further up stays undisturbed, also when the oldest lines go.
  const before = lines.scrollHeight;
  while (lines.childElementCount > LOG_LINES_MAX) lines.firstElementChild.remove();
  if (following) lines.scrollTop = lines.scrollHeight;
  else lines.scrollTop -= before - lines.scrollHeight;
  showFollowing();
}
function showFollowing() {
  say($("log-follow"), following ? "" : "Stands still while you read.");
  show($("log-end"), !following);
}

// ---- orders ----

/** Asks in a dialog, sends it, and says what came of it. */
function confirmOrder(title, text, verb, path) {
  const dialog = $("ask");
  say($("ask-title"), title);
  say($("ask-text"), text);
  say($("ask-yes"), verb);
  say($("ask-error"), "");
  const yes = $("ask-yes");
  yes.disabled = false;
  dialog.firstElementChild.onsubmit = async (event) => {
    event.preventDefault();
    yes.disabled = true;
    say($("ask-error"), "");
    try {
      const answer = await ask(path, "POST");
      dialog.close();
      toast(answer.done || "done");
      due.gaps = 0;
      soon();
    } catch (error) {
      say($("ask-error"), `That did not work: ${error.message}`);
      if (error.status === 401) wantToken(error);
    }
    yes.disabled = false;
  };
  dialog.showModal();
  $("ask-no").focus();
}
function confirmFeed({ name }, verb) {
  const texts = {
    pause: "Its connection is closed, and nothing of it is recorded until it is resumed. The tape will hold a gap for that time.",
    resume: "It connects at once and records on.",
    reconnect: "Its connection is closed and made anew. What the venue sends meanwhile is lost, and the tape will say so.",
  };
  const word = verb[0].toUpperCase() + verb.slice(1);
  confirmOrder(`${word} ${name}?`, texts[verb], word, `/api/feeds/${encodeURIComponent(name)}/${verb}`);
}
const ORDERS_FOR_ALL = {
  "pause-all": ["Pause all feeds?", "All connections are closed, and nothing is recorded until you resume. Each tape will hold a gap for that time.", "Pause all", "/api/pause"],
  "resume-all": ["Resume all feeds?", "All feeds connect at once and record on.", "Resume all", "/api/resume"],
  "rotate": ["Rotate now?", "The open segment of each feed ends, is sealed, and a new one begins. Nothing is lost.", "Rotate", "/api/rotate"],
  "reload": ["Read the feeds file again?", "New feeds start, removed ones end, and changed ones connect anew. A file with mistakes changes nothing.", "Reload", "/api/reload"],
};

let toastTimer = 0;
function toast(text) {
  say($("toast"), text);
  show($("toast"), true);
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => show($("toast"), false), 6000);
}

// ---- the whole in one sentence ----

function overall() {
  const feeds = now.feeds || [];
  if (lost) {
    return lastAnswer === null ? ["bad", "failed", "The recorder does not answer"]
      : ["bad", "failed", `Connection to the recorder lost since ${clock(lastAnswer)}`];
  }
  if (!now.recorder || !now.feeds) return ["none", "unknown", "Asking the recorder"];
  if (now.recorder.disk?.stalled) return ["bad", "failed", "The disk takes no data"];
  if (now.recorder.paused) return ["off", "paused", "The recorder is paused: nothing is recorded"];
  const paused = feeds.filter((feed) => feed.state === "paused").length;
  const ended = feeds.filter((feed) => feed.state === "ended").length;
  const down = feeds.filter((feed) => !["live", "paused", "ended"].includes(feed.state));
  const aside = [[paused, "paused"], [ended, "ended"]].filter(([n]) => n).map(([n, word]) => `; ${n} ${n === 1 ? "is" : "are"} ${word}`).join("");
  if (down.length) {
    const names = down.length > 3 ? "" : `: ${down.map((feed) => feed.name).join(", ")}`;
    const first = down.every((feed) => tone(feed) === "busy");
    return [first ? "busy" : "bad", first ? "connecting" : "waiting",
      `${down.length} of ${plural(feeds.length, "feed")} ${down.length === 1 ? "is" : "are"} not live${names}${aside}`];
  }
  const live = feeds.length - paused - ended;
  if (!feeds.length) return ["off", "unknown", "No feeds are recorded"];
  if (!live) return ["off", "paused", `No feed is live${aside}`];
  if (aside) return ["ok", "live", `${plural(live, "feed")} ${live === 1 ? "is" : "are"} live${aside}`];
  return ["ok", "live", live === 1 ? "The feed is live" : `All ${live} feeds are live`];
}

function showWhole() {
  const [tint, state, sentence] = overall();
  const node = $("overall");
  set(node, { class: `tone-${tint}` });
  set(node.querySelector("use"), { href: shape(state) });
  say(node.lastElementChild, sentence);
  document.body.classList.toggle("old", lost);
  show($("note"), lost || unanswered.length > 0);
  if (lost) say($("note"), `${lastAnswer === null ? "" : "What is shown is old. "}Still trying: ${trouble}.`);
  else say($("note"), `Not answered, and old where it is shown: ${unanswered.join(", ")}.`);
  const recorder = now.recorder;
  document.title = recorder ? `${tint === "ok" ? "" : "! "}${sentence} - feedtape ${recorder.host}` : "feedtape";
  show($("main"), Boolean(recorder && now.feeds));
  if (!recorder) return;
  say($("host"), `on ${recorder.host}`);
  say($("about"), `version ${recorder.feedtape}, up ${span(ms(recorder.now_ns) - ms(recorder.started_ns))}, PID ${recorder.pid}, ${recorder.out}`);
  const anyPaused = recorder.paused || (now.feeds || []).some((feed) => feed.state === "paused");
  show($("pause-all"), !recorder.paused);
  show($("resume-all"), anyPaused);
  show($("rotate"), true);
  show($("reload"), true);
}

function wantToken(error) {
  const form = $("token-form");
  const first = form.hidden;
  show(form, true);
  say($("token-error"), token ? `Not taken: ${error.message}` : "");
  say($("overall").lastElementChild, "A token is needed to look at this recorder");
  set($("overall"), { class: "tone-warn" });
  show($("note"), false);
  if (first && !$("ask").open) $("token").focus();
}

// ---- the loop: one round at a time, none while the tab is hidden ----

let timer = 0;
let running = false;
let again = false;

async function round() {
  const recorder = await ask("/api/recorder");
  if (now.recorder && now.recorder.started_ns !== recorder.started_ns) {
    forget();
    logBreak(`the recorder was started anew at ${clock(ms(recorder.started_ns))}`);
  }
  now.recorder = recorder;
  const time = performance.now();
  // Before what is drawn first has a width.
  const first = !now.feeds;
  const feeds = await ask("/api/feeds");
  if (first) show($("main"), true);
  showFeeds(feeds);
  showStore(recorder);
  unanswered = [];
  await part("log", async () => takeEvents(await ask(`/api/events?since=${eventsNext}`)));
  if (time >= due.gaps) {
    due.gaps = time + GAPS_EVERY_MS;
    const from = Math.max(0, Math.floor(gapsSince ?? now.at - DAY_MS));
    await part("gaps", async () => takeGaps(await ask(`/api/gaps?since=${from}000000`)));
    if (first) arrange(true);
  }
  if (time >= due.memory) {
    due.memory = time + MEMORY_EVERY_MS;
    await part("memory", async () => takeMemory(await ask("/api/memory")));
  }
}

/** One part without an answer must not take the feeds out of sight. */
async function part(name, work) {
  try {
    await work();
  } catch (error) {
    // No status: the recorder is gone, and with it all parts.
    if (!error.status || error.status === 401) throw error;
    unanswered.push(`${name} (${error.message})`);
    due[name] = 0;
  }
}

async function tick() {
  if (document.hidden) return;
  if (running) { again = true; return; }
  running = true;
  again = false;
  clearTimeout(timer);
  const begun = performance.now();
  let stop = false;
  try {
    await round();
    lost = false;
    lastAnswer = Date.now();
    show($("token-form"), false);
    showWhole();
  } catch (error) {
    if (error.status === 401) {
      // Trying on with a wrong token would only lock it up.
      wantToken(error);
      stop = true;
    } else {
      lost = true;
      trouble = error.message;
      if (!(error instanceof Refused)) {
        trouble = `this page fails: ${error.message}`;
        console.error(error);
      }
      due = { gaps: 0, memory: 0 };
      showWhole();
    }
  } finally {
    running = false;
    // A slow recorder is asked less often: three quarters of the time it is left alone.
    const wait = Math.max(FEEDS_EVERY_MS - (performance.now() - begun), 3 * Math.min(performance.now() - begun, 3000) - 400, 250);
    if (!stop) timer = setTimeout(tick, again ? 0 : wait);
  }
}
function soon() {
  clearTimeout(timer);
  tick();
}

// ---- what people do ----

document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(timer) : soon()));
document.addEventListener("keydown", (event) => {
  const typing = event.target.closest?.("input, select, textarea, dialog");
  if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    $("filter").focus();
  }
});
$("filter").addEventListener("input", () => arrange());
$("filter").addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  event.target.value = "";
  arrange();
});
$("sort").addEventListener("change", () => arrange(true));
$("ask-no").addEventListener("click", () => $("ask").close());
for (const [id, order] of Object.entries(ORDERS_FOR_ALL)) $(id).addEventListener("click", () => confirmOrder(...order));
$("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  keepToken($("token").value.trim());
  $("token").value = "";
  soon();
});
$("log-level").addEventListener("change", (event) => {
  set($("lines"), { "data-level": event.target.value });
  if (following) $("lines").scrollTop = $("lines").scrollHeight;
});
$("lines").addEventListener("scroll", () => {
  const { scrollTop, scrollHeight, clientHeight } = $("lines");
  following = scrollHeight - scrollTop - clientHeight < 24;
  showFollowing();
});
$("log-end").addEventListener("click", () => { $("lines").scrollTop = $("lines").scrollHeight; });
const chart = $("memory-chart");
chart.addEventListener("pointermove", (event) => {
  const history = memory?.history || [];
  if (history.length < 2 || !chart.xOf) return;
  const at = event.clientX - chart.getBoundingClientRect().left;
  const away = (index) => Math.abs(chart.xOf(ms(history[index].t_ns)) - at);
  let best = 0;
  for (let index = 1; index < history.length; index++) if (away(index) < away(best)) best = index;
  pointMemory(best);
});
for (const event of ["pointerleave", "blur"]) chart.addEventListener(event, () => pointMemory(-1));
chart.addEventListener("focus", () => pointMemory((memory?.history?.length ?? 0) - 1));
chart.addEventListener("keydown", (event) => {
  const last = (memory?.history?.length ?? 0) - 1;
  const leap = Math.ceil((last + 1) / 60);
  const to = { ArrowLeft: memoryAt - leap, ArrowRight: memoryAt + leap, Home: 0, End: last }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  pointMemory(Math.min(Math.max(to, 0), last));
});
new ResizeObserver(() => {
  rows.forEach((row) => row.visible && row.day.draw());
  drawMemory();
}).observe($("main"));
addEventListener("scroll", hideTip, { passive: true });

tick();
