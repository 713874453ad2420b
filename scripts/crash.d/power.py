"""`scripts/crash power`: the power goes, at many moments of one run.

The recorder writes to a file system on a disk that notes each write and flush (powerdisk.py).
Afterwards the disk is built up again as a power cut at a random moment could have left it: all
that was flushed, and of the writes after it a random part, some torn at sectors. On each such
disk the recorder is started, sees another boot than the one before, records some more, ends; then
the tapes are compared with what was sent.
"""

import bisect
import os
import random
import time
import uuid

from common import NS, Failure, Recorder, distribution, need_tools, run as run_tool, say, verify
from common import wait_until
from device import PLUGIN, NbdDisk
from powerlog import Disk, read_log
from server import Server
from tape import check, compare

FEEDS, RATE = 3, 3000
RUN_S = 20
FSYNC_NS = NS
# What one sync round may take on this machine while it does other things: a limit that was chosen,
# not measured. What was really lost is printed.
ROUND_NS = NS
# With `--fsync segment` a segment is durable once it is finished. It may take twice the run's mean
# time to fill --rotate-bytes; the rest is as above.
SIZES = {"ext4": 96 << 20, "xfs": 320 << 20}
MKFS = {"ext4": ["mkfs.ext4", "-q", "-F", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0"],
        "xfs": ["mkfs.xfs", "-q", "-f", "-K"]}
# The namespace of the recorder before may still hold the disk before, of the same UUID.
OPTIONS = {"ext4": "defaults", "xfs": "nouuid"}
# Another boot: the file where the kernel says which one it is, replaced for one process.
OTHER_BOOT = 'mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@"'


def add_arguments(parser):
    """Options of the subcommand."""
    parser.add_argument("--times", type=int, default=60, help="power cuts in all (default 60)")
    parser.add_argument("--filesystem", choices=sorted(MKFS), default="ext4",
                        help="what is on the disk (default ext4)")


def run(args, places):
    """Runs it; returns the report's lines."""
    need_tools("zstd", MKFS[args.filesystem][0], "losetup", "nbdkit", "nbdfuse")
    if os.geteuid() != 0:
        raise Failure("mounting takes root")
    rng = random.Random(args.seed)
    lines = []
    policies = ["1s", "segment"]
    for n, fsync in enumerate(policies):
        times = args.times // 2 + (args.times % 2 if n == 0 else 0)
        lines += cuts(args, places, fsync, times, rng)
    return lines


def cuts(args, places, fsync, times, rng):
    """One run and all its power cuts."""
    folder = places.make(f"fsync-{fsync}")
    size = SIZES[args.filesystem]
    image, base = folder / "disk.img", folder / "base.img"
    with open(image, "wb") as file:
        file.truncate(size)
    run_tool(*MKFS[args.filesystem], image)
    run_tool("cp", "--sparse=always", image, base)
    server = Server(FEEDS, RATE)
    places.defer(server.stop)
    server.start()
    begun_ns, fill_ns = record(args, places, folder, server, fsync)
    limit = FSYNC_NS + ROUND_NS if fsync == "1s" else fill_ns + ROUND_NS
    log = read_log(folder / "disk.log")
    moments = pick(log, begun_ns, times, rng)
    disk = Disk(base, log)
    total, said = None, {"tail": 0, "recovered": 0}
    for number, moment in enumerate(moments):
        seed = rng.randrange(1 << 32)
        cut = f"cut {number} ({fsync}): record {moment} of {len(log)}, subset seed {seed}"
        try:
            result = look(args, places, folder, server, disk.cut(moment, seed), number, limit, said)
        except Failure as failure:
            raise Failure(f"{cut}\n{failure}") from None
        if total is None:
            total = result
        else:
            total.add(result)
        if (number + 1) % 10 == 0:
            say(f"  --fsync {fsync}: {number + 1} of {times} power cuts")
    flushes = sum(record.kind == b"F" for record in log)
    return [
        f"{args.filesystem}, --fsync {fsync}: {times} power cuts among {len(log) - flushes} writes "
        f"and {flushes} flushes; all mounted, recovered, went on; verify ok",
        f"  messages recorded {total.recorded}; lost at the cut, by feed and cut: "
        f"{distribution(total.lost_age_ns)} old; allowed {limit / 1e6:.0f} ms",
        f"  segments recovered {said['recovered']}, with bytes set aside {said['tail']}; "
        f"gaps: {total.gaps}",
    ]


def record(args, places, folder, server, fsync):
    """Records for a while on the noting disk: when it began, and how long a segment took."""
    mount = places.make(f"{folder.name}/mnt")
    nbd = NbdDisk(places, folder.name, "python", PLUGIN, f"image={folder / 'disk.img'}",
                  f"log={folder / 'disk.log'}")
    loop = run_tool("losetup", "--find", "--show", nbd.path).stdout.strip()
    detach = lambda: run_tool("losetup", "--detach", loop, check=False)
    places.defer(detach)
    run_tool("mount", "-t", args.filesystem, loop, mount)
    umount = lambda: run_tool("umount", mount, check=False)
    places.defer(umount)
    recorder = Recorder(args.program, mount / "out", server, folder / "recorder.log",
                        ["--min-free", "0", "--fsync", fsync, "--rotate-bytes", "256KiB"])
    places.defer(recorder.kill_if_running)
    begun_ns = time.time_ns()
    recorder.start()
    time.sleep(RUN_S)
    server.pause()
    time.sleep(1)
    code = recorder.end()
    if code != 0:
        raise Failure(f"the run before the cuts: exit {code}\n{recorder.tail()}")
    result = check(compare(server, mount / "out"))
    fill_ns = RUN_S * NS * FEEDS // max(1, result.segments)
    umount()
    detach()
    return begun_ns, 2 * fill_ns


def pick(log, begun_ns, times, rng):
    """Moments of the log: after which record the power goes; a random flush, then some writes."""
    first = bisect.bisect_left(log, begun_ns, key=lambda record: record.at_ns)
    flushes = [n for n in range(first, len(log)) if log[n].kind == b"F"]
    if not flushes:
        raise Failure("the file system never flushed the disk")
    moments = []
    for _ in range(times):
        at = rng.randrange(len(flushes))
        until = flushes[at + 1] if at + 1 < len(flushes) else len(log)
        moments.append(rng.randrange(flushes[at], until))
    return sorted(moments)


def look(args, places, folder, server, cut, number, limit_ns, said):
    """Mounts what a power cut left, records on it, and compares."""
    # Each in a file of its own: what ends late may still hold the one before.
    image, mount = folder / f"cut-{number}.img", folder / "cut"
    mount.mkdir(exist_ok=True)
    cut.write_to(image)
    loop = run_tool("losetup", "--find", "--show", image).stdout.strip()
    try:
        run_tool("mount", "-t", args.filesystem, "-o", OPTIONS[args.filesystem], loop, mount)
        try:
            return go_on(args, places, folder, server, mount / "out", cut.at_ns, number, limit_ns,
                         said)
        finally:
            run_tool("umount", mount)
    finally:
        # It may have gone with the mount.
        run_tool("losetup", "--detach", loop, check=False)
        image.unlink()


def go_on(args, places, folder, server, out, cut_ns, number, limit_ns, said):
    """The recorder on the disk after the cut; then the comparison."""
    boot = folder / "boot_id"
    boot.write_text(f"{uuid.UUID(int=number + 1)}\n")
    prefix = ["unshare", "--mount", "sh", "-c", OTHER_BOOT, boot]
    log = folder / f"cut-{number}.log"
    recorder = Recorder(args.program, out, server, log, ["--min-free", "0"], prefix=prefix)
    places.defer(recorder.kill_if_running)
    # Of what is sent to later runs nothing is on this disk.
    server.run = number + 1
    recorder.start()
    try:
        connected = lambda: recorder.log_text().count(": connected to ") == FEEDS
        wait_until("all feeds are connected", connected, 20)
        before = server.published()
        server.pause(False)
        wait_until("messages are sent", lambda: server.published() >= before + 60, 10)
        server.pause()
        time.sleep(0.1)
        code = recorder.end()
    except Failure as failure:
        raise Failure(f"{failure}\n{recorder.tail()}") from None
    finally:
        recorder.kill_if_running()
        places.undo.pop()
    if code != 0:
        raise Failure(f"started after the cut: exit {code}\n{recorder.tail()}")
    kills = {turn: 0 for turn in range(1, number + 1)} | {None: 0, 0: cut_ns}
    result = check(compare(server, out, kills, limit_ns, damage=True))
    text = recorder.log_text()
    said["recovered"] += text.count("after a crash of the machine")
    said["tail"] += sum(1 for _ in out.glob("feed=*/date=*/*.tail"))
    if text.count("after a crash of the recorder"):
        raise Failure(f"it took this for the same boot\n{recorder.tail()}")
    if "gap" in result.events and not result.gaps.get("restart"):
        raise Failure(f"no restart gap: {result.gaps}")
    result.lost_age_ns = [age for age in result.lost_age_ns if age >= 0]
    verify(args.program, out, expected=(0, 3))
    log.unlink()
    return result
