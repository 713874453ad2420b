#!/usr/bin/env python3
"""A recorder that isn't one: serves the dashboard, and an API with made-up figures that move.

    scripts/e2e-dashboard.d/mock.py [--feeds N] [--port P] [--token T] [--seed S] [--empty]

The page's three files are read anew for each request, so that work on them shows after a reload.
Of the feeds one is cut and one paused, others have gaps in the last hours; the memory climbs.
POST /mock/VERB changes what is told: cut?feed=F, heal?feed=F, stall, calm, flood (of the log),
restart, refuse (no answers but 503), lame (none of memory), hang (none at all), answer. Orders work as the recorder's do.
"""

import argparse
import json
import math
import random
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

PAGE = Path(__file__).resolve().parent.parent.parent / "src" / "admin" / "page"
FILES = {"/": ("index.html", "text/html; charset=utf-8"),
         "/app.js": ("app.js", "text/javascript; charset=utf-8"),
         "/style.css": ("style.css", "text/css; charset=utf-8")}
CSP = ("default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
       "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
NS = 1_000_000_000
MIB = 1 << 20
HOUR = 3600 * NS
NAMES = ("binance-btcusdt-trades", "binance-btcusdt-depth", "binance-ethusdt-trades", "okx-trades",
         "okx-books5", "bybit-linear-tickers", "coinbase-matches", "kraken-ohlc", "deribit-options",
         "hyperliquid-l2", "binance-snapshots", "kraken-trades-of-many-symbols-with-a-long-name")
EVENTS_MAX = 500


def now_ns():
    """Wall time."""
    return time.time_ns()


class Feed:
    """What is told of one feed."""

    def __init__(self, name, number, rng, started):
        self.name = name
        self.url = f"wss://stream.example.com:9443/ws/{name}"
        self.kind = "http" if "snapshot" in name else "ws"
        self.rate = 0.2 if self.kind == "http" else (2000, 600, 850, 40, 3, 0.4)[number % 6]
        self.phase = rng.random() * 60
        self.messages = rng.randrange(10 ** 5, 10 ** 8)
        self.state, self.since, self.trouble = "live", started, None
        self.last_data = now_ns()
        self.connections, self.failures = 1, 0
        self.reconnects = {}
        self.gaps = []
        self.rng = rng

    def add_gap(self, reason, begin, end, messages=None):
        """One more, open where it has no end."""
        gap = {"feed": self.name, "reason": reason, "from_ns": begin, "to_ns": end,
               "messages": messages}
        self.gaps.append(gap)

    def go_on(self, seconds, now):
        """So much time has passed."""
        if self.state != "live":
            return
        wave = 1 + 0.6 * math.sin((now / NS + self.phase) / 9) + 0.3 * self.rng.random()
        came = self.rate * wave * seconds
        came = int(came) + (self.rng.random() < came % 1)
        self.messages += came
        if came:
            self.last_data = now - int(self.rng.random() * min(1, 1 / self.rate) * NS)

    def change(self, state, now, trouble=None):
        """To another state."""
        self.state, self.since, self.trouble = state, now, trouble

    def close_gap(self, now):
        """The open one, if any, ends; as in the recorder its beginning is known better then."""
        for gap in self.gaps:
            if gap["to_ns"] is None:
                gap["to_ns"], gap["from_ns"] = now, gap["from_ns"] - NS // 10

    def told(self):
        """As in /api/feeds."""
        gaps = {}
        for gap in self.gaps:
            figures = gaps.setdefault(gap["reason"], {"holes": 0, "messages": 0, "bytes": 0})
            figures["holes"] += 1
            figures["messages"] += gap["messages"] or 0
        return {"name": self.name, "url": self.url, "kind": self.kind, "state": self.state,
                "since_ns": self.since, "conn": self.connections, "messages": self.messages,
                "bytes": self.messages * 180, "wire_bytes": self.messages * 61,
                "last_data_ns": self.last_data, "connections": self.connections,
                "connect_failures": self.failures, "reconnects": self.reconnects, "gaps": gaps,
                "trouble": self.trouble, "refusals": 0, "silent_keys": 0,
                "tape_bytes": self.messages * 201, "sealed_bytes": self.messages * 24}


class Mock:
    """The recorder that is told of."""

    def __init__(self, args):
        self.args = args
        self.lock = threading.Lock()
        self.mode = "answer"
        self.asked = self.refused = 0
        self.answering = threading.Event()
        self.answering.set()
        self.rng = random.Random(args.seed)
        age = 5 * NS if args.empty else 9 * HOUR
        self.start(now_ns() - age, full=not args.empty)

    def start(self, started, full):
        """A new run; a full one has a past."""
        self.started = self.at = started
        self.at = now_ns()
        self.pid = self.rng.randrange(1000, 30000)
        self.paused = self.stalled = False
        names = [NAMES[i] if i < len(NAMES) else f"feed-{i:03}" for i in range(self.args.feeds)]
        self.feeds = {name: Feed(name, i, self.rng, started) for i, name in enumerate(names)}
        self.events, self.seq = [], 0
        self.tell("info", None, f"feedtape 0.1.0 records {len(names)} feeds to /var/lib/feedtape")
        for feed in self.feeds.values():
            self.tell("info", feed.name, f"conn 1: connected to 203.0.113.7:9443 in "
                                         f"{self.rng.randrange(9, 90)} ms")
        if full:
            self.make_past()
        elif self.args.empty:
            feed = next(iter(self.feeds.values()))
            feed.change("connecting", started)
            feed.messages = feed.connections = 0
            feed.last_data = None

    def make_past(self):
        """Gaps of the last hours, a cut feed and a paused one."""
        feeds, now = list(self.feeds.values()), self.at
        kinds = (("reconnect", None), ("reconnect", None), ("stall", 4211), ("paused", None))
        for number, feed in enumerate(feeds[1:10:2]):
            for _ in range(1 + 3 * number):
                reason, messages = self.rng.choice(kinds)
                begin = now - int(self.rng.random() * 8.5 * HOUR)
                feed.add_gap(reason, begin, begin + int(self.rng.random() ** 3 * 900 * NS), messages)
                word = self.rng.choice(("closed by the server", "no pong", "stale"))
                feed.reconnects[word] = feed.reconnects.get(word, 0) + 1
                feed.connections += 1
        if len(feeds) > 8:
            self.cut(feeds[6], now - 95 * NS)
            self.pause(feeds[8], now - 1500 * NS)

    def tell(self, level, feed, text):
        """One line of the log."""
        self.seq += 1
        self.events.append({"seq": self.seq, "at_ns": now_ns(), "level": level, "feed": feed,
                            "text": f"{feed}: {text}" if feed else text})
        del self.events[:-EVENTS_MAX]

    def cut(self, feed, now, why="connection refused (os error 111)"):
        """Its venue is gone."""
        feed.last_data = now - NS
        feed.change("waiting", now, f"{why}; next try in 31 s")
        feed.failures += 3
        feed.add_gap("reconnect", feed.last_data, None)
        self.tell("warn", feed.name, "conn 1: disconnected: the connection was lost: connection "
                                     "reset by peer (os error 104)")

    def heal(self, feed, now):
        """It is there again."""
        feed.change("live", now)
        feed.connections += 1
        feed.reconnects["lost"] = feed.reconnects.get("lost", 0) + 1
        feed.close_gap(now)
        self.tell("info", feed.name, f"conn {feed.connections}: connected in 17 ms")

    def pause(self, feed, now):
        """By an operator."""
        feed.change("paused", now, "paused by an operator")
        feed.add_gap("paused", now, None)
        self.tell("info", feed.name, "paused")

    def go_on(self):
        """Up to now."""
        now = now_ns()
        seconds = (now - self.at) / NS
        self.at = now
        for feed in self.feeds.values():
            feed.go_on(seconds, now)

    # ---- answers ----

    def recorder(self):
        """/api/recorder"""
        total, free = 500 << 30, (180 << 30) - (self.at - self.started) // 40000
        return {"feedtape": "0.1.0", "host": "rec-fra-1", "pid": self.pid,
                "started_ns": self.started, "now_ns": self.at, "out": "/var/lib/feedtape",
                "paused": self.paused,
                "disk": {"total_bytes": None if self.args.empty else total,
                         "free_bytes": None if self.args.empty else free, "min_free_bytes": 25 << 30,
                         "written_per_day_bytes": None if self.args.empty else 11 << 30,
                         "full_in_s": None if self.args.empty else 1220000,
                         "stalled": self.stalled},
                "queue": {"bytes": 4 << 20 if self.stalled else self.rng.randrange(90000, 700000),
                          "bytes_max": 4 << 20, "blocks_out": 64 if self.stalled else 3,
                          "blocks": 64},
                "plan": self.plan()}

    def plan(self):
        """Its rows."""
        if self.args.empty:
            return None
        return {"idle_bytes": 12 * MIB, "full_bytes": 17 * MIB, "large_bytes": 66 * MIB}

    def figures_at(self, when):
        """Memory climbs, with a wave on it."""
        hours = (when - self.started) / HOUR
        anon = int((5.8 + 0.22 * hours + 0.5 * math.sin(hours * 3) ** 2) * MIB)
        return {"rss_bytes": anon + int(5.1 * MIB), "rss_anon_bytes": anon,
                "heap_in_use_bytes": int(anon * 0.7),
                "cgroup_usage_bytes": 48 * MIB + int(hours * MIB)}

    def memory(self):
        """/api/memory"""
        figures = self.figures_at(self.at)
        step = 60 * NS
        begun = max(self.started, self.at - 6 * HOUR)
        history = [] if self.args.empty else [
            {"t_ns": t, **self.figures_at(t)} for t in range(begun, self.at, step)
            if not 2.0 < (self.at - t) / HOUR < 2.3]
        sentences = [
            ("rss_bytes", "RSS", "bytes",
             "Resident, as ps shows it; worry only if the anonymous part grows."),
            ("rss_anon_bytes", "RSS, anonymous", "bytes",
             "Heap and stacks: counts, can't be taken back without swap; what grows here for days "
             "is a leak."),
            ("threads", "threads", "count",
             "Each costs its stack, as far as it is touched; worry if the number grows."),
            ("heap_in_use_bytes", "in use", "bytes",
             "Allocated and not freed: counts, as part of RSS anonymous; if this grows for days, "
             "the program leaks."),
            ("vsz_bytes", "VSZ", "bytes",
             "Addresses, not memory: counts against nothing but ulimit -v. Don't worry."),
            ("cgroup_usage_bytes", "usage", "bytes",
             "Anonymous, page cache and kernel: what the OOM killer looks at; the page cache is "
             "taken back before anything is killed.")]
        sections = {"heap_in_use_bytes": "HEAP", "vsz_bytes": "ADDRESS SPACE",
                    "cgroup_usage_bytes": "CGROUP v2: /system.slice/feedtape.service (this process "
                                          "alone is in it)"}
        figures["threads"] = 23
        return {"now_ns": self.at, "figures": {**figures, "vsz_bytes": None},
                "sentences": [{"section": sections.get(key, "PROCESS"),
                               "key": key, "label": label, "unit": unit,
                               "value": figures.get(key), "text": text}
                              for key, label, unit, text in sentences],
                "verdict": "No limit is set: the OOM killer acts only when the whole machine has "
                           "no memory left.",
                "leak": None if self.args.empty else
                        {"word": "flat", "text": "heap in use: flat"},
                "plan": self.plan(), "history": history}

    def gaps(self, since):
        """/api/gaps: what ended after `since` or is open."""
        told = [gap for feed in self.feeds.values() for gap in feed.gaps
                if gap["to_ns"] is None or gap["to_ns"] >= since]
        return {"known_since_ns": self.started,
                "gaps": sorted(told, key=lambda gap: gap["from_ns"])}

    def events_since(self, since):
        """/api/events"""
        kept = [event for event in self.events if event["seq"] >= since]
        first = self.events[0]["seq"] if self.events else 0
        return {"next": self.seq + 1, "missed": max(since, 1) < first, "events": kept}

    def get(self, path, query):
        """The answer to a GET, or none."""
        self.go_on()
        self.asked += 1
        if path == "/api/recorder":
            return self.recorder()
        if path == "/api/feeds":
            return {"now_ns": self.at, "feeds": [feed.told() for feed in self.feeds.values()]}
        if path == "/api/gaps":
            return self.gaps(int(query.get("since", ["0"])[0]))
        if path == "/api/memory":
            return self.memory()
        if path == "/api/events":
            return self.events_since(int(query.get("since", ["0"])[0]))
        return None

    # ---- orders ----

    def order(self, path):
        """The recorder's own: status and answer."""
        self.go_on()
        words = [unquote(word) for word in path.strip("/").split("/")]
        if len(words) == 4 and words[:2] == ["api", "feeds"]:
            return self.order_feed(words[2], words[3])
        if path == "/api/reload":
            return 409, {"error": "there is no feeds file: it was started with feeds on the "
                                  "command line"}
        if path == "/api/rotate":
            self.tell("info", None, "rotated, as asked for")
            return 200, {"done": f"{len(self.feeds)} segments end now"}
        if path in ("/api/pause", "/api/resume"):
            self.paused = path == "/api/pause"
            for feed in self.feeds.values():
                if self.paused and feed.state != "paused":
                    self.pause(feed, self.at)
                elif not self.paused:
                    self.heal(feed, self.at)
            return 200, {"done": "all feeds are paused" if self.paused else "all feeds go on"}
        return 404, {"error": f"there is no '{path}'"}

    def order_feed(self, name, verb):
        """Of one feed."""
        feed = self.feeds.get(name)
        if feed is None or verb not in ("pause", "resume", "reconnect"):
            return 404, {"error": f"there is no feed '{name}', or no order '{verb}'"}
        if verb == "pause":
            self.pause(feed, self.at)
        else:
            self.heal(feed, self.at)
        return 200, {"done": f"{name}: {verb} is under way"}

    def script(self, path, query):
        """What only a mock can: /mock/.."""
        verb = path.removeprefix("/mock/")
        feed = self.feeds.get(query.get("feed", [""])[0])
        self.go_on()
        if verb == "cut":
            self.cut(feed, self.at, *query.get("why", []))
        elif verb == "heal":
            self.heal(feed, self.at)
        elif verb == "stall":
            self.stalled = True
            self.tell("error", None, "the disk takes no data: no space left on device")
        elif verb == "calm":
            for feed in self.feeds.values():
                self.heal(feed, self.at)
        elif verb == "restart":
            self.start(self.at, full=False)
        elif verb == "flood":
            for number in range(EVENTS_MAX + 100):
                self.tell("info", None, f"line {number} of a flood")
        elif verb in ("refuse", "lame", "hang", "answer"):
            self.mode = verb
            if verb == "hang":
                self.answering.clear()
            else:
                self.answering.set()
        return {"done": verb}


class Handler(BaseHTTPRequestHandler):
    """One request."""

    # A connection for each request, so that none outlives a server that is stopped.
    protocol_version = "HTTP/1.0"
    mock = None

    def log_message(self, *_):
        """Silent."""

    def reply(self, status, body, kind="application/json"):
        """Headers as the recorder's."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in (("Content-Type", kind), ("Content-Length", str(len(data))),
                            ("Content-Security-Policy", CSP), ("Cache-Control", "no-store"),
                            ("X-Content-Type-Options", "nosniff")):
            self.send_header(name, value)
        self.end_headers()
        try:
            self.wfile.write(data)
        except BrokenPipeError:
            pass  # the page waited long enough

    def is_let_in(self):
        """By its token, where one is wanted; says no otherwise."""
        token = self.mock.args.token
        if token is None or self.headers.get("Authorization") == f"Bearer {token}":
            return True
        self.mock.refused += 1
        self.reply(401, {"error": "the token is missing or wrong"})
        return False

    def is_answering(self):
        """As scripted; says no otherwise."""
        self.mock.answering.wait(60)
        if self.mock.mode == "refuse":
            self.reply(503, {"error": "too many connections"})
            return False
        if self.mock.mode == "lame" and self.path == "/api/memory":
            self.reply(500, {"error": "no figures"})
            return False
        return True

    def do_GET(self):
        """Page and figures."""
        url = urlsplit(self.path)
        if url.path in FILES:
            name, kind = FILES[url.path]
            return self.reply(200, (PAGE / name).read_bytes(), kind)
        if not self.is_answering() or not self.is_let_in():
            return None
        with self.mock.lock:
            body = self.mock.get(url.path, parse_qs(url.query))
        if body is None:
            return self.reply(404, {"error": f"there is no '{url.path}'"})
        return self.reply(200, body)

    def do_POST(self):
        """Orders."""
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urlsplit(self.path)
        if url.path.startswith("/mock/"):
            with self.mock.lock:
                return self.reply(200, self.mock.script(url.path, parse_qs(url.query)))
        if not self.is_answering() or not self.is_let_in():
            return None
        if self.headers.get("X-Feedtape") != "1":
            return self.reply(403, {"error": "the header X-Feedtape: 1 is missing"})
        with self.mock.lock:
            status, body = self.mock.order(url.path)
        return self.reply(status, body)


def serve(args):
    """A server that is not running yet; its port is in server_address."""
    handler = type("Bound", (Handler,), {"mock": Mock(args)})
    server = ThreadingHTTPServer(("127.0.0.1", args.port), handler)
    server.daemon_threads = True
    return server


def parse(words=None):
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--feeds", type=int, default=12, metavar="N")
    parser.add_argument("--port", type=int, default=0, help="default: a free one")
    parser.add_argument("--token", help="wanted with each request for figures")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--empty", action="store_true", help="as if started now: little is known")
    return parser.parse_args(words)


if __name__ == "__main__":
    server = serve(parse())
    print(f"http://127.0.0.1:{server.server_address[1]}/", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
