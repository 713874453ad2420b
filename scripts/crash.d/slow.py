"""`scripts/crash slow`: the disk stalls for a while under load, or is slow all the time.

The recording is on an ext4 of its own, frozen with `fsfreeze`: whoever writes waits, and can't even
be killed, until it is thawed. Each case is a recording of its own: `--on-stall block` with a
deadline beyond the stall, and one within it; `--on-stall drop`; a stop during the stall; and, last,
a disk that takes 50 ms for each write, by nbdkit. In one more the folder is on FUSE, and hangs for everybody. What was sent is compared with the tapes, exactly
per feed; memory, the log, the answers to signals and what systemd is told are looked at.
"""

import os
import re
import signal
import socket
import subprocess
import threading
import time

from common import NS, Failure, Recorder, find_tool, need_tools, run as tool, say, verify, wait_until
from server import Server
from tape import check, compare

FEEDS = 4
QUEUE_KIB = 4096
# Beyond the queue: the kernel's sockets are not ours; stacks and buffers touched for the first
# time are.
RSS_SLACK_KIB = 3072
STOP_TIMEOUT_S = 6
# A thread that waits for the disk is given a second more than the stop timeout; then a moment for
# the others.
STOP_MARGIN_S = 2
# What a slow disk has not taken yet is synced before the end.
SLOW_STOP_TIMEOUT_S = 120
WATCHDOG_S = 2
STALLS = "the disk stalls"
RECOVERS = "the disk takes data again"
# While the recorder doesn't read, what the venue has sent stands in the venue's socket, and is stamped
# when it arrives: after as long as the recorder waits before it drops (with `drop` up to a second,
# for a large message), and somewhat more.
HELD_BACK_S = 1
CASES = ["wait", "deadline", "drop", "stop", "hang", "delay"]


def add_arguments(parser):
    """Options of the subcommand."""
    parser.add_argument("--stall", type=int, default=30, help="seconds (default 30)")
    parser.add_argument("--rate", type=int, default=50000,
                        help="messages a second over all 4 feeds (default 50000)")
    parser.add_argument("--case", choices=CASES, action="append", help="only this (default all)")


def run(args, places):
    """Runs it; returns the report's lines."""
    need_tools("zstd", "mkfs.ext4", "losetup")
    cases = {"wait": wait_case, "deadline": deadline_case, "drop": drop_case, "stop": stop_case,
             "hang": hang_case, "delay": delay_case}
    lines = []
    for name in args.case or CASES:
        say(f"case {name}")
        told = [f"{name}: {line}" for line in cases[name](Stage(args, places, name))]
        say(f"  ok: {told[0]}")
        lines += told
    return lines


class Stage:
    """One case: a disk, a venue, a recorder, and somebody who plays systemd."""

    def __init__(self, args, places, name):
        self.args, self.places, self.name = args, places, name
        self.server = Server(FEEDS, args.rate)
        places.defer(self.server.stop)
        self.systemd = Systemd(str(places.folder / f"{name}.notify"))
        places.defer(self.systemd.close)
        self.frozen = None
        self.recorder = None
        self.until_ns = None
        self.held_back_s = HELD_BACK_S

    def start(self, *options, disk=None, stop_timeout_s=STOP_TIMEOUT_S):
        """Starts it on a disk of its own; returns once all feeds are connected."""
        disk = disk or self.new_disk()
        self.recorder = Recorder(
            self.args.program, disk / "out", self.server, self.places.folder / f"{self.name}.log",
            ["--min-free", "0", "--stop-timeout", f"{stop_timeout_s}s", *options],
            env=self.systemd.env())
        self.places.defer(self.recorder.kill_if_running)
        self.places.defer(self.thaw)
        self.recorder.start()
        self.server.start()
        wait_until("all feeds are connected", self.server.all_connected, 10)
        time.sleep(3)

    def new_disk(self):
        """An ext4 of its own."""
        image = self.places.folder / f"{self.name}.img"
        with open(image, "wb") as file:
            file.truncate(3 << 30)
        return self.places.mount_image(self.name, image, mkfs=[]).path

    def freeze(self):
        """From now on the disk takes nothing."""
        assert self.frozen is None
        tool("fsfreeze", "--freeze", self.recorder.out.parent)
        self.frozen = time.monotonic()

    def thaw(self):
        """It takes everything again."""
        if self.frozen is not None:
            tool("fsfreeze", "--unfreeze", self.recorder.out.parent)
            self.frozen = None

    def stall(self):
        """A stall with a look at the recorder; returns RSS before and at the end, in KiB."""
        before = self.recorder.rss_peak_kib()
        self.freeze()
        begun = time.monotonic()
        time.sleep(self.args.stall / 2)
        self.signal_is_heard()
        time.sleep(begun + self.args.stall - time.monotonic())
        self.systemd.check(begun, time.monotonic(), STALLS)
        text = self.recorder.log_text()
        if RECOVERS in text:
            raise Failure("the log tells of a recovery during the stall")
        self.thaw()
        self.recorder.wait_for_log(RECOVERS, 10)
        after = self.recorder.rss_peak_kib()
        if after > before + QUEUE_KIB + RSS_SLACK_KIB:
            raise Failure(f"peak RSS rose from {before} to {after} KiB in the stall, with a queue "
                          f"of {QUEUE_KIB}")
        return before, after

    def signal_is_heard(self):
        """SIGUSR1 is answered at once, although the disk takes nothing."""
        self.recorder.send(signal.SIGUSR1)
        self.recorder.wait_for_log("SIGUSR1", 2)

    def end(self, expected):
        """Records on for a while, then ends in order and compares."""
        time.sleep(3)
        return self.stop_and_compare(expected)

    def stop_and_compare(self, expected):
        """The last message that was sent is read before it stops."""
        self.server.pause()
        time.sleep(1)
        self.until_ns = time.time_ns()
        code = self.recorder.end(limit_s=SLOW_STOP_TIMEOUT_S)
        if code != expected:
            raise Failure(f"exit {code}, not {expected}\n{self.recorder.tail()}")
        self.server.stop()
        return self.compare()

    def compare(self, **more):
        """What was sent and what is on the tapes."""
        result = check(compare(self.server, self.recorder.out, until_ns=self.until_ns,
                               times_differ_ns=(self.held_back_s + 1) * NS, **more))
        verify(self.args.program, self.recorder.out)
        return result

    def sent(self):
        """Messages sent to a recorder: what was published before it connected is nobody's."""
        return sum(batch.count for feed in self.server.feeds for batch in feed.batches
                   if batch.run is not None)

    def log_is_sane(self):
        """A stall is told once, with its end, not per message."""
        text = self.recorder.log_text()
        for what in (STALLS, RECOVERS):
            if text.count(what) != 1:
                raise Failure(f"the log says {text.count(what)} times '{what}'\n{text[-3000:]}")
        lines = [line for line in text.splitlines()
                 if re.search(r"ERROR|WARN", line) or "stall" in line]
        if len(lines) > 6 * FEEDS:
            raise Failure(f"{len(lines)} lines of trouble for one stall:\n" + "\n".join(lines[:40]))
        return [f"log: {line}" for line in lines]


def totals(stage, result, rss):
    """The figures of one case."""
    return [f"{stage.sent()} sent, {result.recorded} recorded, {result.missing} "
            f"missing, {result.counted} of them counted by gaps; gaps {result.gaps or 'none'}",
            f"peak RSS before the stall {rss[0]} KiB, after it {rss[1]} KiB; watchdog at most "
            f"{stage.systemd.longest_s:.2f} s apart"]


def wait_case(stage):
    """Block: the venue is held back for as long as it takes; nothing is lost."""
    stage.start("--on-stall", "block", "--stall-deadline", f"{stage.args.stall * 2}s")
    rss = stage.stall()
    result = stage.end(0)
    nothing_missing(stage, result)
    return totals(stage, result, rss) + stage.log_is_sane()


def nothing_missing(stage, result):
    """All is recorded, and no gap says anything else."""
    if result.recorded != stage.sent() or result.gaps:
        raise Failure(f"{stage.sent()} sent, {result.recorded} recorded, gaps {result.gaps}")


def deadline_case(stage):
    """Block with a deadline within the stall: then what is dropped is counted exactly."""
    stage.held_back_s = max(stage.args.stall // 6, 1)
    stage.start("--on-stall", "block", "--stall-deadline", f"{stage.held_back_s}s")
    return lossy(stage)


def drop_case(stage):
    """Drop: recorded and counted are all that was sent."""
    stage.start("--on-stall", "drop")
    return lossy(stage)


def lossy(stage):
    """Something is lost, and gaps say exactly how much."""
    rss = stage.stall()
    result = stage.end(3)
    if not result.missing or set(result.gaps) != {"stall"}:
        raise Failure(f"{result.missing} messages are missing, gaps {result.gaps}")
    if result.recorded + result.counted != stage.sent():
        raise Failure(f"{stage.sent()} sent, {result.recorded} recorded and "
                      f"{result.counted} counted by gaps")
    return totals(stage, result, rss) + stage.log_is_sane()


def stop_case(stage):
    """SIGTERM during the stall: it gives up in time and says so. No program can end while the
    kernel holds one of its threads in a call, so its end is taken from its last words; then the
    disk comes back, and with it the end of the process."""
    stage.start("--on-stall", "block", "--stall-deadline", "1h")
    frozen_ns = time.time_ns()
    stage.freeze()
    time.sleep(3)
    stage.recorder.send(signal.SIGTERM)
    limit = STOP_TIMEOUT_S + STOP_MARGIN_S
    took = stage.recorder.wait_for_log("not ended in order: ", limit)
    words = stage.recorder.tail(1)
    stopped_ns = time.time_ns()
    stage.thaw()
    code = stage.recorder.wait(10)
    if code != 1:
        raise Failure(f"exit {code}, not 1\n{stage.recorder.tail()}")
    if "feeds did not end" in words:
        raise Failure(f"the feeds were not ended: {words}")
    lost_at_most = stopped_ns - frozen_ns + 200_000_000
    stage.server.run = 1
    stage.recorder.start()
    wait_until("all feeds are connected", stage.server.all_connected, 10)
    time.sleep(1)
    stage.server.pause()
    time.sleep(1)
    stage.until_ns = time.time_ns()
    code = stage.recorder.end()
    if code != 0:
        raise Failure(f"the next run: exit {code}\n{stage.recorder.tail()}")
    stage.server.stop()
    result = stage.compare(kills={0: stopped_ns}, loss_limit_ns=lost_at_most)
    return [f"ended {took:.1f} s after SIGTERM, --stop-timeout {STOP_TIMEOUT_S}s, exit 1: {words}",
            f"{stage.server.published()} sent, {result.missing} missing, gaps {result.gaps}"]


def hang_case(stage):
    """A file system whose other end is gone (FUSE, its daemon stopped): whoever touches it waits.
    The main thread doesn't, so that systemd hears from it, and a stop ends the process."""
    need_tools("fuse2fs")
    image = stage.places.folder / "hang.img"
    with open(image, "wb") as file:
        file.truncate(1 << 30)
    tool("mkfs.ext4", "-q", "-F", "-E", "nodiscard,lazy_itable_init=0", image)
    disk = stage.places.make("hang")
    daemon = subprocess.Popen([find_tool("fuse2fs"), str(image), str(disk), "-f", "-o", "fakeroot"],
                              stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    stage.places.defer(lambda: daemon.wait(30))
    stage.places.defer(lambda: tool("umount", "-l", disk))
    stage.places.defer(lambda: daemon.send_signal(signal.SIGCONT))
    wait_until("fuse2fs has mounted it", lambda: os.path.ismount(disk), 10)
    stage.start("--on-stall", "block", "--stall-deadline", "1h", disk=disk)
    daemon.send_signal(signal.SIGSTOP)
    begun = time.monotonic()
    time.sleep(stage.args.stall / 2)
    stage.signal_is_heard()
    stage.systemd.check(begun, time.monotonic(), STALLS)
    stage.recorder.send(signal.SIGTERM)
    told = stage.recorder.wait_for_log("not ended in order: ", STOP_TIMEOUT_S + STOP_MARGIN_S)
    words = stage.recorder.tail(1)
    stage.server.stop()
    daemon.send_signal(signal.SIGCONT)
    code = stage.recorder.wait(10)
    if code != 1 or "feeds did not end" in words:
        raise Failure(f"exit {code}: {words}")
    verify(stage.args.program, stage.recorder.out, expected=(0, 3))
    return [f"gave up {told:.1f} s after SIGTERM, --stop-timeout {STOP_TIMEOUT_S}s, exit 1; "
            f"watchdog at most {stage.systemd.longest_s:.2f} s apart: {words}"]


def delay_case(stage):
    """A disk that takes 50 ms for each write: nothing is lost, nobody is alarmed."""
    need_tools("nbdkit", "nbdfuse")
    disk = slow_disk(stage)
    stage.start("--on-stall", "block", "--stall-deadline", "1m", disk=disk,
                stop_timeout_s=SLOW_STOP_TIMEOUT_S)
    before = stage.recorder.rss_peak_kib()
    begun = time.monotonic()
    time.sleep(stage.args.stall)
    stage.signal_is_heard()
    stage.systemd.check(begun, time.monotonic(), "recorded")
    after = stage.recorder.rss_peak_kib()
    result = stage.end(0)
    nothing_missing(stage, result)
    return totals(stage, result, (before, after))


def slow_disk(stage):
    """An ext4 on a device that delays each write by 50 ms."""
    image = stage.places.folder / "slow.img"
    with open(image, "wb") as file:
        file.truncate(3 << 30)
    tool("mkfs.ext4", "-q", "-F", "-E", "nodiscard,lazy_itable_init=0", image)
    exported = stage.places.make("slow.nbd") / "disk.img"
    exported.touch()
    command = [find_tool("nbdfuse"), exported, "--command", find_tool("nbdkit"), "-s",
               "--filter=delay", "file", image, "delay-write=50ms"]
    process = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL)
    stage.places.defer(lambda: process.wait(30))
    stage.places.defer(lambda: tool("fusermount3", "-u", exported))
    wait_until("nbdfuse exports the disk", lambda: exported.stat().st_size > 0, 10)
    return stage.places.mount_image("slow", exported).path


class Systemd:
    """The end of NOTIFY_SOCKET that is systemd's."""

    def __init__(self, path):
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(path)
        self.heard = []
        self.longest_s = 0
        self.thread = threading.Thread(target=self._listen, daemon=True)
        self.thread.start()

    def env(self):
        """What it would put into a service's environment."""
        return {"NOTIFY_SOCKET": self.path, "WATCHDOG_USEC": str(WATCHDOG_S * 1_000_000)}

    def _listen(self):
        while True:
            try:
                text = self.socket.recv(4096).decode()
            except OSError:
                return
            self.heard += [(time.monotonic(), line) for line in text.splitlines()]

    def check(self, begun, ended, status):
        """Between the two moments the watchdog was fed, and some status said `status`."""
        within = [(at, line) for at, line in self.heard if begun <= at <= ended]
        fed = [begun, *(at for at, line in within if line == "WATCHDOG=1"), ended]
        self.longest_s = max(b - a for a, b in zip(fed, fed[1:]))
        if self.longest_s > WATCHDOG_S:
            raise Failure(f"the watchdog was not fed for {self.longest_s:.1f} s")
        texts = [line for _, line in within if line.startswith("STATUS=")]
        if not any(status in line.lower() for line in texts):
            raise Failure(f"no status says '{status}': {texts[-1:]}")
        say(f"  {texts[-1]}")

    def close(self):
        """Nobody listens any more."""
        self.socket.close()
        os.unlink(self.path)
