"""`scripts/crash oom`: the kernel's OOM killer ends the recorder under load, in a memory cgroup.

The recorder is alone in a cgroup with a hard limit, and its folder is a file system in memory: what
it records counts as its own memory, can't be reclaimed without swap, and so reaches the limit after
a while. The limit is lowered once all feeds are connected: below its plan it would not start. Each
run is started on the folder that the one before left behind. That it was the OOM killer each time
is read from the cgroup's own count. At the end all that the server published is compared with what
is on the tapes.
"""

import os
import random
import signal
import time

from cgroup import Cgroup
from common import Failure, Recorder, need_tools, wait_until
from kill import last_run, progress, report
from server import Server

START_BYTES = 128 << 20
# Beyond what it takes once all are connected a run may record so much, chosen at random.
ROOM_BYTES = (256 << 10, 6 << 20)
DISK = "900m"
CONNECT_S_MAX = 30
RUN_S_MAX = 180
POLL_S = 0.002


def add_arguments(parser):
    """Options of the subcommand."""
    parser.add_argument("--times", type=int, default=20, help="kills (default 20)")
    parser.add_argument("--feeds", type=int, default=4, help="feeds (default 4)")
    parser.add_argument("--rate", type=int, default=10000,
                        help="messages a second over all feeds (default 10000)")


def run(args, places):
    """Runs it; returns the report's lines."""
    need_tools("zstd")
    server = Server(args.feeds, args.rate)
    places.defer(server.stop)
    out = places.mount_tmpfs("tmpfs", DISK) / "out"
    recorder = Recorder(args.program, out, server, places.folder / "recorder.log")
    places.defer(recorder.kill_if_running)
    server.start()
    kills, peaks = kill_all(args, places, server, recorder, random.Random(args.seed))
    recorder.prefix = []
    last_run(args.times, server, recorder)
    ended_ns = time.time_ns()
    code = recorder.end()
    if code != 0:
        raise Failure(f"the last run, ended in order: exit {code}\n{recorder.tail()}")
    server.stop()
    lines = report(args, server, out, "OOM kills", kills, ended_ns)
    return [*lines, f"each counted by its cgroup ({Cgroup.version()}) as oom_kill; the recorder's "
                    f"resident memory at the end {min(peaks)} to {max(peaks)} KiB"]


def kill_all(args, places, server, recorder, rng):
    """`--times` runs, each until it was killed."""
    kills, peaks = {}, []
    for turn in range(args.times):
        server.run = turn
        group = Cgroup(f"feedtape-crash-{os.getpid()}-{turn}")
        places.defer(group.remove)
        group.limit(START_BYTES)
        recorder.prefix = group.prefix()
        size = rng.choice(["64KiB", "256KiB", "1MiB"])
        form = rng.choice(["zstd", "none", "none"])
        recorder.start("--rotate-bytes", size, "--compress", form, "--min-free", "0")
        wait_until("all feeds are connected", server.all_connected, CONNECT_S_MAX)
        limit = group.usage() + rng.randint(*ROOM_BYTES)
        group.limit(limit)
        peak = 0
        begun = time.monotonic()
        while not group.oom_kills():
            if not recorder.is_running():
                raise Failure(f"run {turn} ended by itself: {recorder.wait(0)}\n{recorder.tail()}")
            if time.monotonic() - begun > RUN_S_MAX:
                raise Failure(f"run {turn} was not killed at its limit of {limit} bytes, usage "
                              f"{group.usage()}")
            peak = recorder.rss_kib() or peak
            time.sleep(POLL_S)
        kills[turn] = time.time_ns()
        code = recorder.wait(10)
        if code != -signal.SIGKILL:
            raise Failure(f"run {turn}: the OOM killer killed, and it ended by {code}")
        peaks.append(peak)
        progress(turn + 1, args.times, server)
    return kills, peaks
