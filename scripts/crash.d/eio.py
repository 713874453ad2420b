"""`scripts/crash eio`: the disk fails under the recorder, heals or doesn't.

A real block device (nbdkit's error filter, nbdfuse, a loop device) with ext4 on it. Where the file
system can go on after healing, so must the recorder, by itself. Where it can't (ext4 ends its
journal for good), the recorder must keep trying, say why, and end with 3 or 1; and after a check of
the file system all that was written before must be there.
"""

import os
import random
import signal
import time
from dataclasses import dataclass

from common import Failure, Recorder, need_tools, run as run_tool, say, verify, wait_until
from device import FailingDisk
from full import goes_on, summary
from server import Server
from tape import check, compare

FEEDS, RATE = 2, 1500
DISK_BYTES = 64 << 20
GOES_ON_S = 6
FAILED, LOST = 1, 3
ROUND_S = 4
SYNCED_NS = 2_000_000_000


@dataclass
class Case:
    """One way of failing."""

    name: str
    fail: object  # what is done to the disk, and undone
    heals: bool
    said: str  # the recorder's words
    options: tuple = ()
    mount: str = "defaults"
    only_data: bool = False


def writes_fail(device, mount):
    """Every write and flush of the device fails with EIO."""
    device.fail()
    return device.heal


def journal_is_aborted(_device, mount):
    """What the kernel does itself after an error of the journal; never healed."""
    run_tool("mount", "-o", "remount,abort", mount.path, check=False)
    return lambda: None


def hangs(_device, mount):
    """Every write waits, as on a network disk whose server is away."""
    run_tool("fsfreeze", "-f", mount.path)
    return lambda: run_tool("fsfreeze", "-u", mount.path)


def is_mounted_read_only(device, mount):
    """An operator's `mount -o remount,ro`: refused while files are open for writing."""
    refused = run_tool("mount", "-o", "remount,ro", mount.path, check=False)
    if refused.returncode == 0:
        raise Failure("remounted read-only under open files: this kernel allows it")
    return lambda: run_tool("mount", "-o", "remount,rw", mount.path)


DROP, BLOCK = ("--on-stall", "drop"), ("--on-stall", "block")
CASES = [
    Case("bad sectors, heals, drops", writes_fail, True, "can't sync", DROP, only_data=True),
    Case("bad sectors, heals, waits", writes_fail, True, "can't sync", BLOCK, only_data=True),
    Case("bad sectors, heals, --fsync segment", writes_fail, True, "can't sync",
         (*BLOCK, "--fsync", "segment"), only_data=True),
    Case("writes fail, no journal", writes_fail, False, "can't sync", DROP, "nojournal"),
    Case("writes fail, errors=continue", writes_fail, False, "can't sync", DROP,
         "errors=continue"),
    Case("writes fail, errors=remount-ro", writes_fail, False, "can't sync", BLOCK,
         "errors=remount-ro"),
    Case("journal aborted", journal_is_aborted, False, "the file system is read-only", DROP,
         "errors=remount-ro"),
    Case("hangs, waits", hangs, True, "", BLOCK),
    Case("hangs, drops", hangs, True, "", DROP),
    Case("remounted read-only", is_mounted_read_only, True, "", BLOCK),
]
AWAY = [("moved away", lambda out: out.rename(out.with_name("elsewhere"))),
        ("deleted", lambda out: run_tool("rm", "-rf", out))]


def add_arguments(parser):
    """Options of the subcommand."""
    parser.add_argument("--times", type=int, default=1, help="rounds of all cases (default 1)")
    parser.add_argument("--only", default="", help="only cases with this in their names")


def run(args, places):
    """Runs it; returns the report's lines."""
    need_tools("zstd", "mkfs.ext4", "losetup", "nbdkit", "nbdfuse")
    if os.geteuid() != 0:
        raise Failure("mounting takes root")
    rng = random.Random(args.seed)
    lines = []
    for turn in range(args.times):
        for number, case in enumerate(CASES):
            if args.only in case.name:
                lines.append(trial(args, places, case, f"{turn}-{number}", rng))
                say(f"  {lines[-1]}")
        for name, take in AWAY:
            if args.only in name:
                lines.append(folder_goes(args, places, name, take, f"{turn}-{name[:5]}"))
                say(f"  {lines[-1]}")
    return lines


def start(args, places, out, name, options=(), queue="1MiB"):
    """A server, and a recorder that is connected to it."""
    server = Server(FEEDS, RATE)
    places.defer(server.stop)
    recorder = Recorder(args.program, out, server, places.folder / f"{name}.log", [
        "--min-free", "0", "--rotate-bytes", "256KiB", "--queue-bytes", queue,
        *([] if "drop" in options else ["--stall-deadline", "2s"]),
        "--stop-timeout", "4s", *options])
    places.defer(recorder.kill_if_running)
    server.start()
    recorder.start()
    wait_until("all feeds are connected", server.all_connected, 20)
    return server, recorder


def trial(args, places, case, name, rng):
    """One case, on a device of its own; what there is to say about it."""
    device = FailingDisk(places, name, DISK_BYTES, case.only_data)
    mkfs, options = [], case.mount
    if options == "nojournal":
        mkfs, options = ["-O", "^has_journal"], "errors=continue"
    mount = places.mount_image(f"{name}-mnt", device.path, mkfs, options)
    out = mount.path / "out"
    # What could not be synced is held in memory, up to half of it.
    queue = "4MiB" if case.only_data else "1MiB"
    server, recorder = start(args, places, out, name, case.options, queue)
    time.sleep(rng.uniform(1, 2))
    failed_ns = time.time_ns()
    heal = case.fail(device, mount)
    places.defer(device.heal)
    if case.said:
        recorder.wait_for_log(case.said, 40)
    time.sleep(rng.uniform(3, 5))
    heal()
    time.sleep(ROUND_S)
    if not recorder.is_running():
        raise Failure(f"{case.name}: it ended: {recorder.wait(0)}\n{recorder.tail()}")
    if case.heals and "can't write" in recorder.log_text():
        wait_until("it goes on by itself", lambda: goes_on(recorder), GOES_ON_S)
    server.pause()
    time.sleep(0.5)
    code = recorder.end(signal.SIGTERM, 40)
    # What is compared is what the disk has, not what the kernel remembers.
    mount.umount()
    mount.mount()
    if case.heals:
        text = healed(args, recorder, server, out, code)
    else:
        text = broken(args, recorder, server, mount, code, failed_ns)
    server.stop()
    mount.umount()
    return f"{case.name}: {text}"


def healed(args, recorder, server, out, code):
    """All is accounted for, and a failed sync stands on the tape."""
    result = check(compare(server, out, until_ns=time.time_ns()))
    sent = sum(batch.count for feed in server.feeds for batch in feed.batches
               if batch.run is not None)
    result.missing = sent - result.recorded
    if not result.gaps.get("reconnect") and result.missing != result.counted:
        raise Failure(f"{result.missing} messages are missing, gaps count {result.counted}")
    lost = any(result.gaps.get(reason) for reason in ("disk", "stall"))
    unsynced = "can't sync" in recorder.log_text()
    if unsynced and not result.gaps.get("disk"):
        raise Failure(f"a sync failed, and no gap says so: {result.gaps}\n{recorder.tail()}")
    if code != (LOST if lost or unsynced else 0):
        raise Failure(f"exit {code}, with gaps {result.gaps}\n{recorder.tail()}")
    verify(args.program, out)
    return summary(result, code)


def broken(args, recorder, server, mount, code, failed_ns):
    """The file system is beyond healing: the recorder said so, and what was there before is."""
    if code not in (LOST, FAILED):
        raise Failure(f"exit {code} on a broken file system\n{recorder.tail()}")
    if " disk" not in recorder.log_text().split("stopping")[-1]:
        raise Failure(f"the closing report does not name the disk\n{recorder.tail()}")
    mount.umount()
    run_tool("e2fsck", "-fy", mount.loop, check=False)
    mount.mount()
    found = restarted(args, recorder, server, mount, failed_ns)
    return f"exit {code}; after fsck {found}"


def restarted(args, recorder, server, mount, failed_ns):
    """Starts it again on the repaired file system; how many messages are there."""
    server.run = 1
    recorder.start()
    wait_until("all feeds are connected", server.all_connected, 20)
    server.pause(False)
    time.sleep(1)
    server.pause()
    time.sleep(0.5)
    # A large message may find no room where messages are dropped at once.
    if recorder.end() not in (0, LOST):
        raise Failure(f"it does not go on after the repair\n{recorder.tail()}")
    # What came later than a sync round before the failure may be lost.
    result = check(compare(server, mount.path / "out", {0: failed_ns}, SYNCED_NS, damage=True))
    verify(args.program, mount.path / "out", expected=(0, 3))
    damaged = result.events.get("damaged", 0)
    return f"{result.recorded} messages are there in {result.segments} segments, {damaged} of " \
           "them damaged"


def folder_goes(args, places, name, take, label):
    """The recording's folder is moved or deleted under the recorder."""
    out = places.make(f"{label}-parent") / "out"
    server, recorder = start(args, places, out, label)
    time.sleep(0.5)
    take(out)
    code = recorder.wait(20)
    server.stop()
    said = "the folder was moved or deleted while it was recorded to"
    if code != FAILED or said not in recorder.log_text():
        raise Failure(f"{name}: exit {code}\n{recorder.tail()}")
    return f"folder {name}: exit {code}, said so"
