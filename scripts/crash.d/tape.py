"""Tapes as they stand on disk, read with code of their own, and compared with what was sent."""

import base64
import bisect
import gzip
import json
import re
import subprocess
from dataclasses import dataclass, field

from common import NS, Failure, find_tool

NAME = re.compile(r"(?P<feed>.+)\.(?P<at>\d{8}T\d{6}Z)\.(?P<number>\d{6,})\.tape(?P<form>|\.open|\.zst|\.gz)")
LINES = re.compile(rb"(?:[0-9]{19}[ !~\\][^\n\0]*+\n)++")
BEST_LAST = ["", ".open", ".gz", ".zst"]
FINDINGS_MAX = 20
# Two clocks of one machine are compared here, and a stamp is taken somewhat before or after what
# it stands for: by a few scheduler slices.
TIMES_DIFFER_NS = 50_000_000


@dataclass
class Gap:
    """A gap event."""

    reason: str
    messages: int | None
    from_ns: int | None
    to_ns: int


@dataclass
class Result:
    """What comparing one feed showed."""

    recorded: int = 0
    missing: int = 0
    counted: int = 0  # of these, counted exactly by gaps
    segments: int = 0
    gaps: dict = field(default_factory=dict)
    lost_age_ns: list = field(default_factory=list)  # one a kill: how old the oldest loss was
    events: dict = field(default_factory=dict)
    findings: list = field(default_factory=list)

    def add(self, other):
        """Sums over feeds."""
        self.recorded += other.recorded
        self.missing += other.missing
        self.counted += other.counted
        self.segments += other.segments
        for reason, count in other.gaps.items():
            self.gaps[reason] = self.gaps.get(reason, 0) + count
        for name, count in other.events.items():
            self.events[name] = self.events.get(name, 0) + count
        self.lost_age_ns += other.lost_age_ns
        self.findings += other.findings


def segments(out, feed):
    """The feed's segment files in order, each in its best form: (number, path)."""
    found = {}
    for path in sorted((out / f"feed={feed}").glob("date=*/*")):
        match = NAME.fullmatch(path.name)
        if not match:
            if path.name != "_SHA256SUMS":
                found.setdefault("odd", []).append(path)
            continue
        number = int(match["number"])
        rank = BEST_LAST.index(match["form"])
        found.setdefault(number, []).append((rank, path))
    odd = found.pop("odd", [])
    chosen = [(number, max(forms)[1]) for number, forms in sorted(found.items())]
    return chosen, odd


def read_segment(path):
    """All its bytes, plain."""
    if path.suffix == ".zst":
        done = subprocess.run([find_tool("zstd"), "-dcq", str(path)], capture_output=True)
        if done.returncode:
            raise Failure(f"zstd -dc '{path}': {done.stderr.decode().strip()}")
        return done.stdout
    data = path.read_bytes()
    return gzip.decompress(data) if path.suffix == ".gz" else data


def payload_of(kind, raw):
    """The message's bytes as they came."""
    if kind == 0x20:
        return raw
    if kind == 0x7E:
        return base64.b64decode(raw, validate=True)
    return re.sub(rb"\\(.)", lambda m: b"\n" if m[1] == b"n" else m[1], raw)


class Comparison:
    """Walks one feed's tape beside what was published."""

    def __init__(self, feed, kills, loss_limit_ns, until_ns, times_differ_ns, damage):
        self.feed = feed
        self.kills = kills  # time of the kill of each run that was killed
        self.loss_limit_ns = loss_limit_ns
        self.until_ns = until_ns  # what was published later need not be there
        self.times_differ_ns = times_differ_ns
        # The machine or its disk failed: bytes may be kept aside, segments be damaged.
        self.damage = damage
        self.starts = [batch.first for batch in feed.batches]
        self.result = Result()
        self.index = None
        self.may_lack_lines = False  # the segment before was recovered: indices may be free
        self.next = 0
        self.last_ns = None  # stamp of the last message
        self.between = []  # gaps since the last message
        self.needs_restart_gap = False
        self.live_seen = False
        self.ages = {}

    def finding(self, text):
        """Notes what is wrong."""
        if len(self.result.findings) < FINDINGS_MAX:
            self.result.findings.append(f"{self.feed.name}: {text}")

    def run(self, out):
        """All segments, then what is missing at the end."""
        files, odd = segments(out, self.feed.name)
        for path in odd:
            if self.damage and path.suffix in (".tail", ".damaged"):
                continue
            if path.suffix == ".tmp" and path.with_suffix("").with_suffix("").exists():
                continue  # a seal that was cut off, which the next start makes anew
            self.finding(f"an odd file: '{path.name}'")
        for number, path in files:
            self.take_segment(number, path)
        last = self.feed.next
        for batch in reversed(self.feed.batches):
            if batch.after_ns <= self.until_ns:
                break
            last = batch.first
        self.missing_until(max(last, self.next), at_end=True)
        self.result.segments = len(files)
        self.result.lost_age_ns = list(self.ages.values())
        return self.result

    def take_segment(self, number, path):
        """One segment: its header, its lines, its indices, its stamps."""
        data = read_segment(path)
        if self.damage and not LINES.fullmatch(data):
            self.result.events["damaged"] = self.result.events.get("damaged", 0) + 1
            self.index = None
            return
        if not data.endswith(b"\n") and path.suffix != ".open":
            self.finding(f"'{path.name}' doesn't end with a line")
        lines = data.split(b"\n")
        rest = lines.pop()
        if rest and path.suffix != ".open":
            self.finding(f"'{path.name}': {len(rest)} bytes after the last line")
        if not lines:
            self.finding(f"'{path.name}' has no line")
            return
        header = json.loads(lines[0][20:])
        if header["segment"] != number:
            self.finding(f"'{path.name}' says that it is segment {header['segment']}")
        first = header["first_index"]
        if self.index is not None and first != self.index:
            if not (self.damage and self.may_lack_lines and first > self.index):
                self.finding(f"'{path.name}' begins with index {first} and not {self.index}")
        self.index = first + len(lines)
        self.may_lack_lines = len(lines) > 1 and b'{"event":"recovered",' in lines[-2]
        before = b""
        for line in lines:
            stamp, kind = line[:19], line[19]
            if stamp < before:
                self.finding(f"'{path.name}': stamp {stamp} after {before}")
            before = stamp
            if kind == 0x21:
                self.take_event(int(stamp), line[20:])
            else:
                self.take_message(int(stamp), kind, line[20:])

    def take_event(self, ts, raw):
        """Gaps are kept; a new run must write one."""
        event = json.loads(raw)
        name = event["event"]
        self.result.events[name] = self.result.events.get(name, 0) + 1
        if name == "connecting" and event["conn"] == 1 and self.live_seen:
            self.needs_restart_gap = True
        if name != "gap":
            return
        self.live_seen = True
        to_ns = ts if event["to_ts"] is None else event["to_ts"]
        gap = Gap(event["reason"], event["messages"], event["from_ts"], to_ns)
        self.result.gaps[gap.reason] = self.result.gaps.get(gap.reason, 0) + 1
        if gap.reason == "restart":
            self.needs_restart_gap = False
        if gap.from_ns is not None and gap.from_ns > gap.to_ns:
            self.finding(f"a gap from {gap.from_ns} back to {gap.to_ns}")
        # What a failed sync was about may be there all the same.
        is_doubt = gap.reason == "disk" and gap.messages is None
        if (self.last_ns and gap.from_ns is not None and gap.from_ns < self.last_ns
                and not is_doubt):
            self.finding(f"a gap ({gap.reason}) from {gap.from_ns}, before the last message, "
                         f"{self.last_ns}")
        self.between.append(gap)

    def take_message(self, ts, kind, raw):
        """It must be one that was sent, byte for byte, after the one before."""
        payload = payload_of(kind, raw)
        at = payload.find(b'"n":') + 4
        number = int(payload[at:payload.index(b",", at)])
        if self.feed.message(number)[1] != payload:
            self.finding(f"message {number} is not as it was sent")
        if number < self.next:
            self.finding(f"message {number} stands after message {self.next - 1}")
            return
        self.live_seen = True
        if self.needs_restart_gap:
            self.finding(f"message {number} stands after a restart with no gap for it")
            self.needs_restart_gap = False
        if number > self.next or any(gap.messages for gap in self.between):
            self.missing_until(number)
        for gap in self.between:
            if gap.to_ns > ts + self.times_differ_ns:
                self.finding(f"a gap ({gap.reason}) to {gap.to_ns}, "
                             f"{(gap.to_ns - ts) / NS:.3f} s after the next message")
        self.between.clear()
        self.next, self.last_ns = number + 1, ts
        self.result.recorded += 1

    def missing_until(self, number, at_end=False):
        """Messages from `self.next` on are not there: gaps must say so, and kills explain it."""
        missing = range(self.next, number)
        self.result.missing += len(missing)
        counts = [gap.messages for gap in self.between]
        if missing or any(counts):
            if counts and None not in counts:
                self.result.counted += len(missing)
                if sum(counts) != len(missing):
                    self.finding(f"{len(missing)} messages from {self.next} on are missing, "
                                 f"gaps count {sum(counts)}")
            elif None in counts and sum(n or 0 for n in counts) > len(missing):
                self.finding(f"gaps count {counts}, only {len(missing)} messages are missing")
        if not missing:
            return
        first = bisect.bisect_right(self.starts, missing.start) - 1
        for batch in self.feed.batches[first:]:
            if batch.first >= number:
                break
            self.explain(batch, max(batch.first, self.next), at_end)

    def explain(self, batch, first, at_end):
        """One batch of which messages are missing."""
        covered = any(
            (gap.from_ns or 0) - self.times_differ_ns <= batch.after_ns
            and batch.before_ns <= gap.to_ns + self.times_differ_ns
            for gap in self.between)
        # Before its first message a tape misses nothing that it could know of.
        if not covered and not at_end and self.last_ns is not None:
            self.finding(f"message {first} is missing, published at {batch.before_ns}; gaps: "
                         f"{self.between}")
        if batch.run is None:
            return
        killed_ns = self.kills.get(batch.run)
        if killed_ns is None:
            if not any(gap.messages for gap in self.between):
                self.finding(f"message {first} is missing, sent to run {batch.run}, which was "
                             "not killed")
            return
        age = killed_ns - batch.after_ns
        self.ages[batch.run] = max(age, self.ages.get(batch.run, age))
        if age > self.loss_limit_ns:
            self.finding(f"message {first} is missing, sent {age / 1e6:.1f} ms before the kill "
                         f"of run {batch.run}")


def compare(server, out, kills=None, loss_limit_ns=0, until_ns=None,
            times_differ_ns=TIMES_DIFFER_NS, damage=False):
    """Compares all feeds; fails with what was found."""
    total = Result()
    for feed in server.feeds:
        until = until_ns if until_ns is not None else 1 << 63
        walk = Comparison(feed, kills or {}, loss_limit_ns, until, times_differ_ns, damage)
        total.add(walk.run(out))
    if server.errors:
        total.findings += server.errors
    return total


def check(result):
    """Fails where something was found."""
    if result.findings:
        raise Failure("what is on the tapes is not what was sent:\n  "
                      + "\n  ".join(result.findings[:FINDINGS_MAX]))
    return result
