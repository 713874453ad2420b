"""`scripts/crash kill`: the recorder is killed, stopped, terminated at random moments under load.

Each run is started on the folder that the one before left behind. At the end all that the server
published is compared with what is on the tapes.
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from common import NS, Failure, Recorder, distribution, need_tools, say, verify
from common import wait_until
from server import Server
from tape import check, compare

FLUSH_NS = 100_000_000
# Beyond the flush interval: from the server's send to the recorder's read both must be scheduled,
# on a machine that server, recorder, sealer and what else there is share. What was really needed
# is printed (`oldest loss`).
MARGIN_NS = 100_000_000
# So much of the kills hits the start: lock, recovery, threads, connecting.
SHARE_AT_START = 0.3
START_S = 0.06
RUN_S = 1.2
STOP_S_MAX = 2.0


def add_arguments(parser):
    """Options of the subcommand."""
    parser.add_argument("--times", type=int, default=300, help="kills (default 300)")
    parser.add_argument("--signal", choices=["KILL", "STOP", "TERM"], default="KILL",
                        help="STOP: stopped for up to 2 s and continued, TERM: ended in order "
                             "while it seals (default KILL)")
    parser.add_argument("--feeds", type=int, default=4, help="feeds (default 4)")
    parser.add_argument("--rate", type=int, default=10000,
                        help="messages a second over all feeds (default 10000)")


def run(args, places):
    """Runs it; returns the report's lines."""
    need_tools("zstd")
    server = Server(args.feeds, args.rate)
    places.defer(server.stop)
    out = places.folder / "out"
    recorder = Recorder(args.program, out, server, places.folder / "recorder.log")
    places.defer(recorder.kill_if_running)
    server.start()
    rng = random.Random(args.seed)
    if args.signal == "STOP":
        kills = stops(args, server, recorder, rng)
    else:
        kills = kills_and_terms(args, server, recorder, rng)
    ended_ns = time.time_ns()
    code = recorder.end()
    if code != 0:
        raise Failure(f"the last run, ended in order: exit {code}\n{recorder.tail()}")
    server.stop()
    return report(args, server, out, f"SIG{args.signal}", kills, ended_ns)


def options(rng):
    """Small segments, so that opening, closing and sealing happen all the time."""
    size = rng.choice(["64KiB", "64KiB", "256KiB", "1MiB"])
    form = rng.choice(["zstd", "zstd", "zstd", "gzip", "none"])
    return ["--rotate-bytes", size, "--compress", form, "--min-free", "0"]


def moment(rng):
    """How long after its start a run is hit, in seconds."""
    if rng.random() < SHARE_AT_START:
        return rng.uniform(0, START_S)
    return rng.uniform(START_S, RUN_S)


def kills_and_terms(args, server, recorder, rng):
    """`--times` runs, each ended at a random moment; then one that is left running."""
    kills = {}
    number = getattr(signal, f"SIG{args.signal}")
    for turn in range(args.times):
        server.run = turn
        recorder.start(*options(rng))
        time.sleep(moment(rng))
        if not recorder.is_running():
            raise Failure(f"run {turn} ended by itself: {recorder.wait(0)}\n{recorder.tail()}")
        if args.signal == "KILL":
            kills[turn] = time.time_ns()
        code = recorder.end(number)
        # A program that has not installed its handlers yet ends by the signal.
        if args.signal == "TERM" and code not in (0, -signal.SIGTERM):
            raise Failure(f"run {turn}, ended in order: exit {code}\n{recorder.tail()}")
        progress(turn + 1, args.times, server)
    last_run(args.times, server, recorder)
    return kills


def last_run(turn, server, recorder):
    """Starts it once more and lets it come to rest."""
    server.run = turn
    recorder.start("--rotate-bytes", "256KiB", "--min-free", "0")
    wait_until("all feeds are connected again", server.all_connected, 10)
    time.sleep(1)


def stops(args, server, recorder, rng):
    """One run, stopped and continued."""
    recorder.start("--rotate-bytes", "64KiB", "--min-free", "0")
    for turn in range(args.times):
        time.sleep(moment(rng))
        recorder.send(signal.SIGSTOP)
        time.sleep(rng.uniform(0, STOP_S_MAX))
        recorder.send(signal.SIGCONT)
        progress(turn + 1, args.times, server)
    time.sleep(1)
    return {}


def progress(done, times, server):
    """Now and then a line."""
    if done % max(1, times // 10) == 0:
        say(f"  {done} of {times}, {server.published()} messages published")


def report(args, server, out, what, kills, ended_ns):
    """Compares and verifies; what there is to say about it."""
    say("comparing")
    limit = FLUSH_NS + MARGIN_NS
    result = check(compare(server, out, kills, limit, ended_ns))
    verify(args.program, out)
    gaps = ", ".join(f"{count} {reason}" for reason, count in sorted(result.gaps.items()))
    hit = sum(batch.count for feed in server.feeds for batch in feed.batches
              if batch.run is not None and batch.after_ns <= ended_ns)
    # What was published before it connected, or after it left, nobody could record.
    if what == "SIGSTOP" and (result.recorded != hit or result.gaps):
        raise Failure(f"stopped only, yet of {hit} messages sent {result.recorded} are recorded, "
                      f"with gaps {result.gaps}")
    return [
        f"{args.times} {what}, {len(server.feeds)} feeds, {server.published()} messages published, "
        f"{hit} of them sent to a recorder",
        f"{result.recorded} recorded in {result.segments} segments, each as it was sent, in order, "
        f"once; {result.missing} missing, all covered by gaps ({gaps or 'none'}); "
        f"{result.events.get('recovered', 0)} segments recovered",
        f"sent and lost: oldest loss of a kill and feed ({len(result.lost_age_ns)} had any): "
        f"{distribution(result.lost_age_ns)}; allowed {limit / 1e6:.0f} ms",
        "verify: ok",
    ]
