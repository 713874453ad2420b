"""What all parts of scripts/crash share: tools, places, the recorder as a process, figures."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
NS = 1_000_000_000
# Debian's package for each tool that is not part of every machine.
PACKAGES = {
    "zstd": "zstd",
    "mkfs.ext4": "e2fsprogs",
    "losetup": "mount",
    "nbdkit": "nbdkit nbdkit-plugin-python",
    "nbdfuse": "nbdfuse fuse3",
    "faketime": "faketime",
    "fuse2fs": "fuse2fs",
    "systemd-analyze": "systemd",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "ionice": "util-linux",
    "dpkg-deb": "dpkg",
    "ip": "iproute2",
}


class Failure(Exception):
    """Something is not as promised, or a step could not be done: the reason as a sentence."""


def say(text):
    """Talk goes to stderr, at once."""
    print(text, file=sys.stderr, flush=True)


def need_tools(*tools):
    """Installs what is missing, or says what to install."""
    missing = [tool for tool in tools if not find_tool(tool)]
    if not missing:
        return
    install_packages(*" ".join(PACKAGES[tool] for tool in missing).split())


def install_packages(*packages):
    """Installs Debian's packages, or says that they are missing."""
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise Failure(f"missing: install {' '.join(packages)}")
    say(f"installing {' '.join(packages)}")
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    apt = ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=60"]
    for command in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
        done = subprocess.run([*apt, *command], env=env, capture_output=True)
        if done.returncode:
            raise Failure(f"apt-get {' '.join(command)}: {done.stderr.decode().strip()}")


def find_tool(tool):
    """Where it is, also for those whose PATH lacks the system's folders."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    return shutil.which(tool, path=path)


def run(*command, check=True):
    """Runs a command to its end; its output is only shown where it fails."""
    words = [str(word) for word in command]
    words[0] = find_tool(words[0]) or words[0]
    done = subprocess.run(words, capture_output=True, text=True)
    if check and done.returncode:
        raise Failure(f"{' '.join(words)}: exit {done.returncode}: {done.stderr.strip()}")
    return done


def wait_until(what, condition, limit_s):
    """Looks until the condition holds; returns how long that took."""
    begun = time.monotonic()
    while not condition():
        if time.monotonic() - begun > limit_s:
            raise Failure(f"after {limit_s} s still not: {what}")
        time.sleep(0.02)
    return time.monotonic() - begun


class Places:
    """Folders, mounts and processes that are undone at the end, last first."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.undo = []

    def defer(self, undo):
        """Calls `undo` at the end."""
        self.undo.append(undo)

    def make(self, name):
        """A new folder."""
        path = self.folder / name
        path.mkdir(parents=True)
        return path

    def clear(self):
        """Undoes all so far; one that fails doesn't keep the others from it."""
        while self.undo:
            try:
                self.undo.pop()()
            except (Failure, OSError) as error:
                say(f"can't clear up: {error}")

    def mount_tmpfs(self, name, size):
        """A file system in memory, full after `size`."""
        path = self.make(name)
        run("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path)
        self.defer(lambda: run("umount", "-l", path))
        return path

    def mount_image(self, name, image, mkfs=None, options="defaults"):
        """A file or device with ext4 on it, by a loop device."""
        path = self.folder / name
        path.mkdir(parents=True, exist_ok=True)
        if mkfs is not None:
            run("mkfs.ext4", "-q", "-F", "-E", "nodiscard,lazy_itable_init=0", *mkfs, image)
        loop = run("losetup", "--find", "--show", image).stdout.strip()
        detach = lambda: run("losetup", "--detach", loop)
        try:
            run("mount", "-t", "ext4", "-o", options, loop, path)
        except Failure:
            detach()
            raise
        mount = Mount(path, loop)
        self.defer(detach)
        self.defer(mount.umount)
        return mount


class Mount:
    """A mounted loop device."""

    def __init__(self, path, loop):
        self.path = path
        self.loop = loop
        self.mounted = True

    def umount(self):
        """Unmounts; more than once is fine."""
        if self.mounted:
            # Who used it a moment ago may still be ending.
            for attempt in range(50):
                if run("umount", self.path, check=False).returncode == 0:
                    self.mounted = False
                    return
                time.sleep(0.1)
            raise Failure(f"'{self.path}' can't be unmounted")

    def mount(self):
        """Mounts it again."""
        run("mount", "-t", "ext4", self.loop, self.path)
        self.mounted = True


class Recorder:
    """`feedtape record` on one folder, started as often as needed."""

    # Connects again soon, so that a run takes seconds.
    PACE = ("--backoff-min", "100ms", "--backoff-max", "300ms")

    def __init__(self, program, out, server, log, options=(), env=None, prefix=(), pace=PACE):
        self.program = program
        self.out = Path(out)
        self.server = server
        self.log = Path(log)
        self.options = list(options)
        self.env = {**os.environ, **(env or {})}
        self.prefix = list(prefix)
        self.pace = list(pace)
        self.process = None

    def start(self, *more):
        """Starts it; doesn't wait for anything."""
        assert self.process is None
        feeds = [f"{feed.name}={self.server.url(feed)}" for feed in self.server.feeds]
        command = [*self.prefix, self.program, "record", "--out", self.out, *self.pace]
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [str(word) for word in [*command, *self.options, *more, *feeds]],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.env)
        return self

    def send(self, number):
        """Sends it a signal."""
        self.process.send_signal(number)

    def is_running(self):
        """Whether it has not ended."""
        return self.process is not None and self.process.poll() is None

    def wait(self, limit_s):
        """Waits for its end; its exit code."""
        try:
            code = self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            raise Failure(f"the recorder did not end within {limit_s} s") from None
        self.process = None
        return code

    def end(self, number=signal.SIGTERM, limit_s=30):
        """Signals it and waits for its end; its exit code."""
        if self.process.poll() is None:
            self.send(number)
        return self.wait(limit_s)

    def kill_if_running(self):
        """For clearing up."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def log_text(self):
        """All that it said so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def wait_for_log(self, text, limit_s):
        """Waits until it said `text`; how long that took."""
        def said():
            if text in self.log_text():
                return True
            if not self.is_running():
                raise Failure(f"the recorder ended; it did not say '{text}'\n{self.tail()}")
            return False
        return wait_until(f"the recorder says '{text}'\n{self.tail()}", said, limit_s)

    def tail(self, lines=15):
        """The end of what it said."""
        return "\n".join(self.log_text().splitlines()[-lines:])

    def rss_kib(self):
        """Memory in use, KiB; 0 once it has ended."""
        return self._status("VmRSS")

    def rss_peak_kib(self):
        """The most that was in use, KiB."""
        return self._status("VmHWM")

    def _status(self, key):
        try:
            text = Path(f"/proc/{self.process.pid}/status").read_text()
        except OSError:
            return 0
        rows = [row.split() for row in text.splitlines() if row.startswith(key + ":")]
        return int(rows[0][1]) if rows else 0


def verify(program, out, expected=(0,)):
    """`feedtape verify`: fails where its exit code is not one of the expected."""
    done = subprocess.run([str(program), "verify", str(out)], capture_output=True, text=True)
    if done.returncode not in expected:
        text = "\n".join(done.stdout.splitlines()[-30:])
        raise Failure(f"verify: exit {done.returncode}\n{text}\n{done.stderr.strip()}")
    return done


def milliseconds(ns):
    """For people."""
    return f"{ns / 1e6:.1f} ms"


def distribution(values):
    """Median, 99th percentile and maximum of nanoseconds, for people."""
    if not values:
        return "none"
    values = sorted(values)
    at = lambda share: values[min(len(values) - 1, int(len(values) * share))]
    return f"median {milliseconds(at(0.5))}, p99 {milliseconds(at(0.99))}, " \
           f"max {milliseconds(values[-1])}"
