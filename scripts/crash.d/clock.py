"""`scripts/crash clock`: the wall clock of a running recorder is stepped, forward and back.

libfaketime shifts what the recorder takes for wall time while it records with `--clock user`: steps
of 10 ms to a day, both ways, across midnight and across the boundaries of segments, and a clock
that runs 10 % too fast and too slow. Looked at: the stamps of each segment never decrease, each
step back begins one segment a feed and no more, rotation goes on by time and by size, `clock`
events tell each step, all messages are there once and in order, for `cat` as well, and `verify`
finds nothing.
"""

import json
import random
import subprocess
import time
from pathlib import Path

from common import NS, Failure, Recorder, need_tools, verify, wait_until
from server import Server
from tape import check, compare, read_segment, segments

FEEDS = 2
# The clocks are compared every second; then there is a while to record at the new time.
PAUSE_S = 3.0
TOLERANCE_NS = 5_000_000
DAY_S = 86400
# Where time begins: just before 00:00Z, so that steps cross midnight.
BEGIN_BEFORE_MIDNIGHT_S = 10
# Steps in seconds, each from where the one before left the clock. Their order takes it across
# boundaries of minutes, hours and days, back to times that are on tape already, and back twice.
STEPS = [0.01, -0.01, -0.1, 0.1, 1, -1, -1, 1, 60, -60, 3600, -3600, DAY_S, -DAY_S, -DAY_S, DAY_S,
         -30, 30, -15, -0.02, 0.05]
SLEW = [1.1, 0.9]
SLEW_S = 15
LIBRARY = "libfaketimeMT.so.1"
ROTATE_BYTES = 4 << 20


def add_arguments(parser):
    """Options of the subcommand."""
    parser.add_argument("--times", type=int, default=20, help="random steps more (default 20)")
    parser.add_argument("--rate", type=int, default=4000,
                        help="messages a second over both feeds (default 4000)")


def run(args, places):
    """Runs it; returns the report's lines."""
    need_tools("zstd", "faketime")
    server = Server(FEEDS, args.rate)
    places.defer(server.stop)
    out = places.folder / "out"
    faked = Faked(places.folder / "time")
    recorder = Recorder(
        args.program, out, server, places.folder / "recorder.log",
        ["--clock", "user", "--rotate-every", "1m", "--rotate-bytes", "4MiB", "--min-free", "0"],
        env=faked.env())
    places.defer(recorder.kill_if_running)
    recorder.start()
    server.start()
    wait_until("all feeds are connected", server.all_connected, 10)
    time.sleep(PAUSE_S)
    rng = random.Random(args.seed)
    more = [rng.choice([-1, 1]) * 10 ** rng.uniform(-1.5, 5) for _ in range(args.times)]
    begun = time.monotonic()
    done = [step for step in map(faked.step, STEPS + more)]
    stepped_s = time.monotonic() - begun
    slews = slew(faked)
    server.pause()
    time.sleep(1)
    code = recorder.end()
    if code != 0:
        raise Failure(f"exit {code}\n{recorder.tail()}")
    server.stop()
    result = check(compare(server, out))
    sent = sum(batch.count for feed in server.feeds for batch in feed.batches
               if batch.run is not None)
    if result.recorded != sent or result.gaps:
        raise Failure(f"{sent} sent, {result.recorded} recorded, gaps {result.gaps}")
    verify(args.program, out)
    tapes = [Tape(out, feed.name) for feed in server.feeds]
    worst = max(tape.check_steps(done) for tape in tapes)
    opened = [tape.check_rotation(done, stepped_s) for tape in tapes]
    check_cat(args.program, out, tapes)
    log = log_is_sane(recorder, done)
    return [
        f"{len(done)} steps of {min(done) / NS:+.3f} to {max(done) / NS:+.3f} s, each told by a "
        f"clock event on each of {FEEDS} feeds, to {worst / 1e6:.3f} ms; {slews}",
        f"{sent} messages sent, all recorded, in {result.segments} segments; per feed "
        + ", ".join(f"{back} begun by steps back, {forward} by time, {size} by size"
                    for back, forward, size in opened),
        "verify: ok; cat: each feed in the order it was sent",
        *log,
    ]


def slew(faked):
    """The clock runs too fast and too slow for a while."""
    for rate in SLEW:
        faked.run_at(rate)
        time.sleep(SLEW_S)
    faked.run_at(1)
    time.sleep(PAUSE_S)
    return f"then {SLEW_S} s at each of {' and '.join(str(rate) for rate in SLEW)} times real time"


class Faked:
    """Wall time as the recorder sees it."""

    def __init__(self, path):
        self.path = path
        real = time.time()
        midnight = (real // DAY_S + 1) * DAY_S
        self.offset_ns = int((midnight - BEGIN_BEFORE_MIDNIGHT_S - real) * NS)
        self.write(self.text())

    def env(self):
        """For a program that is to see it."""
        found = sorted(Path("/usr/lib").glob(f"*/faketime/{LIBRARY}"))
        if not found:
            raise Failure(f"{LIBRARY} is not below /usr/lib")
        return {"LD_PRELOAD": str(found[0]), "FAKETIME_TIMESTAMP_FILE": str(self.path),
                "FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}

    def text(self):
        """The offset, as libfaketime reads it."""
        return f"{self.offset_ns / NS:+.9f}"

    def write(self, text):
        """Replaces the file at once: it is read all the time."""
        new = self.path.with_suffix(".new")
        new.write_text(text + "\n")
        new.rename(self.path)

    def step(self, seconds):
        """Sets the clock, and records on for a while; how far it was set, in ns."""
        step_ns = int(seconds * NS)
        self.offset_ns += step_ns
        self.write(self.text())
        time.sleep(PAUSE_S)
        return step_ns

    def run_at(self, rate):
        """From now on it is so fast. libfaketime counts from the program's start, so that a rate
        brings a step along."""
        self.write(f"{self.text()} x{rate}")


class Tape:
    """What one feed's segments say of time."""

    def __init__(self, out, feed):
        self.feed = feed
        self.headers = []  # (stamp, stamp of the last line before, bytes of the segment before)
        self.steps = []  # step_ns, cause
        self.numbers = []
        last, size = None, 0
        for _, path in segments(out, feed)[0]:
            data = read_segment(path)
            for line in data.splitlines():
                stamp = int(line[:19])
                if line[19] == 0x21:
                    event = json.loads(line[20:])
                    if event["event"] == "segment":
                        self.headers.append((stamp, last, size))
                    elif event["event"] == "clock":
                        self.steps.append((event["step_ns"], event["cause"]))
                else:
                    at = line.find(b'"n":')
                    if at > 0:
                        self.numbers.append(int(line[at + 4:line.index(b",", at)]))
                last = stamp
            size = len(data)

    def check_steps(self, done):
        """The first clock events are the steps that were made, in order; the worst error, ns."""
        worst = 0
        for n, (expected, (got, cause)) in enumerate(zip(done, self.steps)):
            worst = max(worst, abs(expected - got))
            if worst > TOLERANCE_NS or cause != "step":
                raise Failure(f"{self.feed}: step {n} of {expected} ns is told as {got}, {cause}")
        if len(self.steps) < len(done):
            raise Failure(f"{self.feed}: {len(done)} steps, {len(self.steps)} told")
        return worst

    def check_rotation(self, done, stepped_s):
        """How many segments steps back, time and size began. Neither a storm nor a standstill."""
        back = forward = size = 0
        for stamp, last, before in self.headers[1:]:
            if stamp < last:
                back += 1
            elif stamp // (60 * NS) > last // (60 * NS):
                forward += 1
            elif before > ROTATE_BYTES * 0.9:
                size += 1
            else:
                raise Failure(f"{self.feed}: a segment begins at {stamp}, after {last}, for no "
                              "reason")
        steps_back = sum(step < -10_000_000 for step in done)
        # Each change of the rate brings a step along, back or forward.
        if not steps_back <= back <= steps_back + len(SLEW) + 1:
            raise Failure(f"{self.feed}: {steps_back} steps back began {back} segments")
        minutes = sum(step > 0 for step in done) + stepped_s / 60 + 2 * SLEW_S / 60 + 3 + len(SLEW)
        if forward > minutes:
            raise Failure(f"{self.feed}: {forward} segments by time, at most {minutes:.0f} minutes "
                          "began")
        if not size or not forward:
            raise Failure(f"{self.feed}: {forward} segments by time, {size} by size")
        return back, forward, size


def check_cat(program, out, tapes):
    """`cat` of one feed keeps the order of what was sent."""
    for tape in tapes:
        done = subprocess.run([str(program), "cat", str(out / f"feed={tape.feed}")],
                              capture_output=True)
        if done.returncode:
            raise Failure(f"cat: exit {done.returncode}: {done.stderr.decode()}")
        numbers = [int(line[at + 4:line.index(b",", at)]) for line in done.stdout.splitlines()
                   if line[19] != 0x21 and (at := line.find(b'"n":')) > 0]
        if numbers != tape.numbers or numbers != sorted(set(numbers)):
            raise Failure(f"{tape.feed}: cat shows {len(numbers)} messages, not the "
                          f"{len(tape.numbers)} of the segments in their order")


def log_is_sane(recorder, done):
    """The log tells of steps, and not once for each feed."""
    lines = [line for line in recorder.log_text().splitlines() if "wall clock" in line]
    if not lines or len(lines) > len(done) + 2 * SLEW_S:
        raise Failure(f"{len(lines)} lines about the clock for {len(done)} steps")
    return [f"log: {line}" for line in lines[:4]]
