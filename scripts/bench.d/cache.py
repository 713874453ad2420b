"""`scripts/bench cache`: what recording does to the memory figure of a container.

The recorder runs in a memory cgroup of its own (made and removed here: it needs root), with a hard
limit and without swap, one feed, as fast as it will go or at a pace. What the cgroup counts is read all the
time, and printed for each part of the bytes recorded: its usage, the page cache in it, and what
`docker stats` would make of it. The load server runs outside of it.
"""

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "crash.d"))

import common  # noqa: E402
from oom import Cgroup  # noqa: E402

HELP_END = """\
columns:
  usage      memory.usage_in_bytes, with version 2 memory.current
  inactive, active   page cache on the kernel's two lists
  docker     usage - inactive_file: docker stats since 20.10, and kubectl top
  older      usage - all page cache: docker stats before
  kernel     memory of the kernel itself, with version 1 memory.kmem.usage_in_bytes
  All are medians since the line before; peak is the highest usage. The end is the sealing of what
  is left: the sealer has the lowest priority, and on a busy machine it takes its time.

examples:
  scripts/bench cache                                  10 GiB sealed, drop and keep, 64 MiB
  scripts/bench cache --compress none --limit none     cheapest recording, cgroup without a limit
  scripts/bench cache --page-cache drop --verify       `feedtape verify` runs in the cgroup too
  scripts/bench cache --pace 50                        slower than the disk, as feeds are
  scripts/bench cache --gib 1 -- --fsync never         more options for feedtape record

exit: 0 with `drop` the usage was flat; 1 it was not, or a run failed; 2 usage
"""

MIB = 1 << 20
# From the first part to the last the usage may grow by so much, and is flat.
FLAT_MIB = 8
SAMPLE_S = 0.02
MESSAGE_BYTES = 1000
MESSAGES_IN_FILE = 4096
SEALED_WITHIN_S = 1800


def parse(arguments):
    more = []
    if "--" in arguments:
        cut = arguments.index("--")
        arguments, more = arguments[:cut], arguments[cut + 1 :]
    parser = argparse.ArgumentParser(
        prog="scripts/bench cache",
        description=__doc__,
        epilog=HELP_END,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--gib", type=float, default=10, metavar="N", help="to record (default 10)")
    parser.add_argument(
        "--limit", default="64", metavar="MIB", help="of the cgroup, or none (default 64)"
    )
    parser.add_argument(
        "--pace",
        type=int,
        metavar="MIB",
        help="MiB a second (default: as fast as it will go; faster than the disk, with any rule"
        " for the page cache what is not written yet is there)",
    )
    parser.add_argument("--compress", default="zstd", choices=["zstd", "gzip", "none"])
    parser.add_argument(
        "--page-cache", default="drop,keep", metavar="WHAT", help="drop, keep or drop,keep, in turn"
    )
    parser.add_argument(
        "--verify", action="store_true", help="run `feedtape verify` again and again meanwhile"
    )
    parser.add_argument(
        "--feedtape", type=Path, metavar="PROGRAM", help="default target/release/feedtape"
    )
    options = parser.parse_args(arguments)
    options.more = more
    options.caches = options.page_cache.split(",")
    if not set(options.caches) <= {"drop", "keep"}:
        parser.error("--page-cache: drop, keep or drop,keep")
    if options.limit != "none" and not options.limit.isdigit():
        parser.error("--limit: a number of MiB, or none")
    return options


class Group(Cgroup):
    """The recorder's cgroup, and its figures."""

    def read(self, name):
        return (self.path / name).read_text()

    def figures(self):
        """usage, inactive, active, docker, older, kernel, in bytes."""
        stat = dict(row.split() for row in self.read("memory.stat").splitlines())
        usage = self.usage()
        inactive, active = int(stat["inactive_file"]), int(stat["active_file"])
        cache = int(stat["cache" if self.is_v1 else "file"])
        if self.is_v1:
            kernel = int(self.read("memory.kmem.usage_in_bytes"))
        else:
            kernel = int(stat.get("kernel", stat["slab"]))
        return usage, inactive, active, max(0, usage - inactive), max(0, usage - cache), kernel


def write_messages(path):
    """Messages that compress like a feed's do, the same ones each time."""
    state = 1
    with open(path, "w") as file:
        for number in range(MESSAGES_IN_FILE):
            levels = []
            while len(levels) < MESSAGE_BYTES // 26:
                state = (state * 6364136223846793005 + 1442695040888963407) % (1 << 64)
                price, size = (state >> 33) % 100000, (state >> 20) % 10000
                levels.append(f'["{27000 + price / 100:.2f}","{size / 1000:.3f}"]')
            file.write(f'{{"stream":"depth","u":{number:012},"b":[{",".join(levels)}]}}\n')
    return path.stat().st_size // MESSAGES_IN_FILE - 1


def written_by(pid):
    """Bytes that the thread `writer` has handed to the kernel; None where it is gone."""
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            if (task / "comm").read_text().strip() == "writer":
                rows = dict(row.split(": ") for row in (task / "io").read_text().splitlines())
                return int(rows["wchar"])
    except OSError:
        pass
    return None


class Verifier(threading.Thread):
    """Verifies the recording again and again, within the cgroup."""

    def __init__(self, group, options, out):
        super().__init__()
        self.command = [*group.prefix(), options.feedtape, "verify", out]
        self.ends = threading.Event()
        self.runs, self.trouble = 0, None

    def run(self):
        while not self.ends.wait(0.2) and self.trouble is None:
            done = subprocess.run(self.command, capture_output=True, text=True)
            self.runs += 1
            if done.returncode not in (0, 3):
                self.trouble = f"verify ended with {done.returncode}: {done.stderr[-300:]}"


class Curve:
    """The figures over what was recorded, part by part."""

    def __init__(self):
        self.lines, self.usages, self.part = [], [], []

    def add(self, figures):
        self.part.append(figures)

    def end_part(self, at):
        if not self.part:
            return
        medians = [statistics.median(figures) for figures in zip(*self.part)]
        peak = max(figures[0] for figures in self.part)
        self.lines.append(f"{at:>12}" + "".join(f" {n / MIB:9.1f}" for n in [peak, *medians]))
        self.usages.append(medians[0])
        self.part = []

    def growth(self):
        """From the first part to the last, the end left out, in bytes."""
        return self.usages[-2] - self.usages[0] if len(self.usages) > 2 else 0


def sample(process, group, total, parts, begun):
    """Samples until the recorder ends; the curve, and the seconds until all was written."""
    curve, at, done_s = Curve(), 1, None
    while process.poll() is None:
        curve.add(group.figures())
        written = written_by(process.pid)
        seen = written is not None
        if done_s is None and (seen and written >= total or not seen and at > 1):
            done_s = time.monotonic() - begun
        while at <= parts and seen and written >= at * total / parts:
            curve.end_part(f"{at * total / parts / (1 << 30):.2f} GiB")
            at += 1
        time.sleep(SAMPLE_S)
    curve.end_part("the end")
    return curve, done_s or time.monotonic() - begun


def run_one(bench, options, load, page_cache, folder):
    out = folder / "tape"
    group = Group(f"feedtape-bench-{os.getpid()}-{page_cache}")
    try:
        if options.limit != "none":
            group.limit(int(options.limit) * MIB)
        with bench.LoadServer(load, None, 24 * 3600) as server:
            command = [
                *group.prefix(), options.feedtape, "record", f"bench=ws://127.0.0.1:{server.port}/0",
                *("--out", out, "--max-messages", str(load.messages_count)),
                *("--compress", options.compress, "--page-cache", page_cache),
                *("--stop-timeout", f"{SEALED_WITHIN_S}s", *options.more),
            ]
            log = folder / "log"
            begun = time.monotonic()
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            with open(log, "w") as talk:
                process = subprocess.Popen([*map(str, command)], stdout=talk, stderr=talk)
            verifier = Verifier(group, options, out) if options.verify else None
            try:
                if verifier:
                    verifier.start()
                sampled = sample(process, group, load.bytes, load.parts, begun)
            finally:
                if process.poll() is None:
                    process.kill()
                process.wait()
                if verifier:
                    verifier.ends.set()
                    verifier.join()
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if process.returncode != 0:
            raise bench.Failure(f"feedtape ended with {process.returncode}:\n{log.read_text()}")
        if verifier and verifier.trouble:
            raise bench.Failure(verifier.trouble)
        cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return (*sampled, cpu_s, verifier.runs if verifier else 0, group.oom_kills())
    finally:
        group.remove()
        shutil.rmtree(out, ignore_errors=True)


def report(options, load, page_cache, run):
    """Prints a run; whether it was flat."""
    curve, seconds, cpu_s, verified, kills = run
    limit = "no limit" if options.limit == "none" else f"{options.limit} MiB"
    more = "".join(f" {word}" for word in options.more)
    print(f"\n--page-cache {page_cache} --compress {options.compress}{more}, cgroup: {limit}")
    names = ["peak", "usage", "inactive", "active", "docker", "older", "kernel"]
    print(f"{'recorded':>12}" + "".join(f" {name:>9}" for name in names) + "   (MiB)")
    print("\n".join(curve.lines))
    print(
        f"{load.messages_count / seconds:.0f} messages/s, {load.bytes / seconds / MIB:.0f} MiB/s"
        f" for {seconds:.0f} s; {cpu_s:.1f} s of CPU in all, sealing included"
        + (f"; verified {verified} times meanwhile" if options.verify else "")
    )
    growth = curve.growth() / MIB
    print(f"usage, from the first part to the last: {growth:+.1f} MiB; OOM kills: {kills}")
    return page_cache == "keep" or growth <= FLAT_MIB


class Load:
    """What bench.LoadServer wants to know."""

    feeds, seed, mixed = 1, 1, False

    def __init__(self, path, gib, pace):
        self.messages = path
        # A line is a stamp, a space, the message and a line feed.
        line_bytes = write_messages(path) + 21
        self.rate = pace and pace * MIB // line_bytes
        self.messages_count = int(gib * (1 << 30) / line_bytes)
        self.bytes = self.messages_count * line_bytes
        self.parts = max(2, int(gib))


def main(arguments, bench):
    """Runs it; `bench` is the script that this is a part of."""
    options = parse(arguments)
    options.feedtape = (options.feedtape or bench.ROOT / "target/release/feedtape").resolve()
    if os.geteuid() != 0:
        print("bench cache: it makes a memory cgroup: run it as root", file=sys.stderr)
        return 1
    folder = Path(tempfile.mkdtemp(prefix="cache.", dir=os.environ.get("TMPDIR") or bench.BUILT))
    try:
        load = Load(folder / "messages", options.gib, options.pace)
        flat = True
        for page_cache in options.caches:
            run = run_one(bench, options, load, page_cache, folder)
            flat &= report(options, load, page_cache, run)
            sys.stdout.flush()
    except (bench.Failure, common.Failure) as failure:
        print(f"bench cache: FAILED: {failure}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0 if flat else 1
