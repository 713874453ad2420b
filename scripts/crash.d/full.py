"""`scripts/crash full`: the disk runs full under the recorder, in each way in which it can.

Small file systems, real ones. Somebody else's file, the ballast, takes the room and gives it back
some seconds later. The recorder must say why it stopped, go on by itself, and account on the tape
for each message that was sent to it. (Removing old segments by itself, `--keep-bytes`, would be
one more case here.)
"""

import errno
import os
import random
import time
from dataclasses import dataclass

from common import Failure, Recorder, need_tools, say, verify, wait_until
from server import Server
from tape import check, compare

FEEDS, RATE = 2, 3000
DISK_BYTES = 32 << 20
# The recorder tries every 2 s; a machine that is busy with other things gets some more.
GOES_ON_S = 6
# Its `--stall-deadline` here: what is held longer is dropped.
DEADLINE_S = 2
LOST = 3


@dataclass
class Case:
    """One way of running full."""

    name: str
    what: str  # "bytes" or "inodes" run out
    options: list
    said: str  # the recorder's words for it
    disk: str = "ext4"
    leave: int = 0  # bytes that the ballast leaves
    hold_s: float = 1.0


FULL = "the disk is full"
LOW = "the disk is nearly full"
NO_FILES = "no more files"
BLOCK, DROP = ["--on-stall", "block"], ["--on-stall", "drop"]
PLAIN, SEALED = ["--compress", "none"], ["--compress", "zstd"]
CASES = [
    Case("taken at once, waits", "bytes", BLOCK + PLAIN, FULL),
    Case("taken at once, waits too long", "bytes", BLOCK + PLAIN, FULL, hold_s=DEADLINE_S + 4),
    Case("taken at once, drops", "bytes", DROP + PLAIN, FULL, hold_s=4),
    Case("taken at once, drops, sealing", "bytes", DROP + SEALED, FULL, hold_s=4),
    Case("filled by itself, waits", "bytes", BLOCK + PLAIN, FULL, leave=2 << 20),
    Case("filled by itself, drops, sealing", "bytes", DROP + SEALED, FULL, leave=300 << 10,
         hold_s=4),
    Case("memory disk, drops", "bytes", DROP + PLAIN, FULL, disk="tmpfs", hold_s=4),
    Case("memory disk, waits", "bytes", BLOCK + SEALED, FULL, disk="tmpfs"),
    Case("below --min-free, waits", "bytes", BLOCK + PLAIN + ["--min-free", "4MiB"], LOW,
         leave=6 << 20),
    Case("below --min-free, drops, sealing", "bytes", DROP + SEALED + ["--min-free", "4MiB"], LOW,
         leave=(4 << 20) + (300 << 10), hold_s=4),
    Case("no inodes, waits", "inodes", BLOCK + PLAIN, NO_FILES),
    Case("no inodes, drops, sealing", "inodes", DROP + SEALED, NO_FILES, hold_s=4),
]


def add_arguments(parser):
    """Options of the subcommand."""
    parser.add_argument("--times", type=int, default=1, help="rounds of all cases (default 1)")
    parser.add_argument("--only", default="", help="only cases with this in their names")


def run(args, places):
    """Runs it; returns the report's lines."""
    need_tools("zstd", "mkfs.ext4", "losetup")
    if os.geteuid() != 0:
        raise Failure("mounting takes root")
    rng = random.Random(args.seed)
    lines = []
    for turn in range(args.times):
        for number, case in enumerate(CASES):
            if args.only in case.name:
                lines.append(trial(args, places, case, f"{turn}-{number}", rng))
                say(f"  {lines[-1]}")
    return lines


def mount(places, case, name):
    """A small file system; its path."""
    if case.disk == "tmpfs":
        return places.mount_tmpfs(name, DISK_BYTES)
    image = places.folder / f"{name}.img"
    with open(image, "wb") as file:
        file.truncate(DISK_BYTES)
    inodes = 64 if case.what == "inodes" else 4096
    return places.mount_image(name, image, ["-N", inodes, "-m", "0"]).path


class Ballast:
    """What somebody else keeps on the disk."""

    def __init__(self, folder, case):
        self.folder = folder / "ballast"
        self.folder.mkdir()
        self.case = case

    def take(self):
        """All room but what is to be left."""
        try:
            if self.case.what == "inodes":
                for number in range(1 << 20):
                    (self.folder / str(number)).touch()
            stat = os.statvfs(self.folder)
            size = stat.f_bavail * stat.f_frsize - self.case.leave
            with open(self.folder / "bytes", "wb", buffering=0) as file:
                os.posix_fallocate(file.fileno(), 0, max(size, 1))
                while not self.case.leave:
                    file.seek(0, os.SEEK_END)
                    file.write(bytes(4096))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            if self.case.leave:
                raise Failure("the ballast does not fit") from error

    def take_more(self):
        """What was freed since: a segment that is sealed leaves more room than it takes."""
        if self.case.leave or self.case.what == "inodes":
            return
        try:
            with open(self.folder / "bytes", "ab", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise

    def give_back(self):
        """All of it."""
        for path in list(self.folder.iterdir()):
            path.unlink()


def trial(args, places, case, name, rng):
    """One case, on a file system of its own; what there is to say about it."""
    path = mount(places, case, name)
    server = Server(FEEDS, RATE)
    places.defer(server.stop)
    options = ["--min-free", "0", "--rotate-bytes", "64KiB", "--queue-bytes", "1MiB"]
    if "drop" not in case.options:
        options += ["--stall-deadline", f"{DEADLINE_S}s"]
    options += case.options
    if "--min-free" in case.options:
        options = options[2:]
    recorder = Recorder(args.program, path / "out", server, places.folder / f"{name}.log", options)
    places.defer(recorder.kill_if_running)
    ballast = Ballast(path, case)
    server.start()
    recorder.start()
    wait_until("all feeds are connected", server.all_connected, 20)
    time.sleep(rng.uniform(0.2, 1.2))
    ballast.take()
    wait_until(f"it says '{case.said}'", lambda: is_said(recorder, ballast), 60)
    time.sleep(case.hold_s * rng.uniform(0.8, 1.2))
    ballast.give_back()
    took = wait_until("it goes on by itself", lambda: goes_on(recorder), GOES_ON_S)
    time.sleep(1)
    server.pause()
    time.sleep(1)
    code = recorder.end()
    result = check_trial(args, recorder, server, path / "out", code)
    server.stop()
    return f"{case.name}: went on after {took:.1f} s; {summary(result, code)}"


def is_said(recorder, ballast):
    """Whether it says that the disk is full, which it is kept until then."""
    ballast.take_more()
    return ballast.case.said in recorder.log_text()


def goes_on(recorder):
    """Whether the last that it said of the disk is good."""
    text = recorder.log_text()
    return max(text.rfind(word) for word in ("the disk takes data", "the disk has room")) > max(
        text.rfind(trouble) for trouble in ("can't write to the tape", LOW))


def check_trial(args, recorder, server, out, code):
    """What holds after all of it; the comparison's result."""
    result = check(compare(server, out, until_ns=time.time_ns()))
    sent = sum(batch.count for feed in server.feeds for batch in feed.batches
               if batch.run is not None)
    # Only what was published while nobody was connected can't be counted by anybody.
    result.missing = sent - result.recorded
    if not result.gaps.get("reconnect") and result.missing != result.counted:
        raise Failure(f"{result.missing} messages are missing, gaps count {result.counted}")
    lost = any(result.gaps.get(reason) for reason in ("disk", "stall"))
    if code != (LOST if lost else 0):
        raise Failure(f"exit {code}, with gaps {result.gaps}\n{recorder.tail()}")
    verify(args.program, out)
    return result


def summary(result, code):
    """Of a comparison, for people."""
    gaps = ", ".join(f"{count} {reason}" for reason, count in sorted(result.gaps.items()))
    return f"{result.recorded} recorded in {result.segments} segments, {result.missing} lost, all " \
           f"counted (gaps: {gaps or 'none'}), exit {code}, verify ok"
