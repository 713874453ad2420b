"""A program under load in a cgroup of its own, and all that can be read of it from outside."""

import os
import signal
import subprocess
from pathlib import Path

from cgroup import Cgroup
from common import Failure, say

CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
STATUS = {"VmRSS": "rss", "RssAnon": "rss_anon", "RssFile": "rss_file", "VmHWM": "rss_peak",
          "VmSize": "vsz", "VmPeak": "vsz_peak"}


def make_cgroup(name, limit_bytes, places):
    """A cgroup with that limit, or None where there is none to be had, said so."""
    try:
        group = Cgroup(f"feedtape-soak-{os.getpid()}-{name}")
    except Failure as failure:
        say(f"{name}: {failure}: without one, and without a limit")
        return None
    places.defer(group.remove)
    group.limit(limit_bytes)
    return group


class Measured:
    """One program from its start to its end."""

    def __init__(self, name, command, folder, group, places):
        self.name = name
        self.group = group
        self.log = folder / f"{name}.log"
        command = [*(group.prefix() if group else []), *map(str, command)]
        # Only loopback is connected to, never through a proxy.
        env = {key: value for key, value in os.environ.items()
               if not key.lower().endswith("_proxy")}
        with open(self.log, "wb") as log:
            # In a session of its own: Ctrl-C is for the script, which ends it in order.
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log,
                                            stderr=log, env=env, start_new_session=True)
        places.defer(self.kill)

    def is_running(self):
        """Whether it has not ended."""
        return self.process.poll() is None

    def reload(self):
        """SIGHUP."""
        self.process.send_signal(signal.SIGHUP)

    def end(self, limit_s):
        """Asks it to end, waits for that; its exit code, or None where it had to be killed."""
        if self.is_running():
            self.process.terminate()
        try:
            return self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            self.kill()
            return None

    def kill(self):
        """For clearing up; more than once is fine."""
        if self.is_running():
            self.process.kill()
            self.process.wait()

    def tail(self, lines=15):
        """The end of what it said."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def figures(self):
        """All of them at this moment, bytes and counts; None once it has ended."""
        proc = Path("/proc") / str(self.process.pid)
        try:
            status = dict(line.split(":\t", 1) for line in
                          (proc / "status").read_text().splitlines() if ":\t" in line)
            if "VmRSS" not in status:
                return None
            figures = {name: int(status[key].split()[0]) << 10 for key, name in STATUS.items()}
            figures["threads"] = int(status["Threads"])
            figures["fds"] = len(os.listdir(proc / "fd"))
            # Behind the name, which may hold anything: fields 14 and 15.
            stat = (proc / "stat").read_text().rpartition(")")[2].split()
            figures["cpu_s"] = (int(stat[11]) + int(stat[12])) / CLOCK_TICKS
        except OSError:
            return None
        if self.group:
            figures.update({f"cgroup_{key}": value
                            for key, value in self.group.figures().items()})
        return figures
