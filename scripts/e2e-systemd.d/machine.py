"""A systemd of its own as process 1 of new namespaces, over the machine's own root, of which nothing
is changed. Needs root; no container engine, no image, no network but loopback."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from common import Failure, wait_until

CGROUPS = Path("/sys/fs/cgroup")
# With cgroup v1 each is a tree of its own.
CONTROLLERS = ["cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids",
               "systemd", "unified"]
BOOT_MAX_S = 60
END_MAX_S = 30


class Machine:
    """From boot to power-off."""

    def __init__(self, places):
        self.folder = places.folder
        self.name = f"feedtape-e2e-{os.getpid()}"
        self.pid = None
        self.outer = None
        self.cgroups = []
        for name in ("root", "layer", "extra"):
            places.make(name)
        places.defer(self.stop)

    def put(self, path, content, mode=0o644):
        """A file in its root; before the boot."""
        place = self.folder / "extra" / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content if isinstance(content, bytes) else content.encode())
        place.chmod(mode)

    def start(self):
        """Boots it."""
        controllers = []
        if not (CGROUPS / "cgroup.controllers").exists():
            controllers = [name for name in CONTROLLERS if (CGROUPS / name).is_dir()]
        for name in controllers or ["."]:
            self.add_cgroup(CGROUPS / name)
        joins = "".join(f"echo $$ >'{group}/cgroup.procs'; " for group in self.cgroups)
        inside = Path(__file__).resolve().parent / "inside"
        command = (f"{joins}exec unshare --mount --pid --fork --kill-child --uts --ipc --net "
                   f"--cgroup --propagation private '{inside}' '{self.folder}' "
                   f"'{' '.join(controllers)}'")
        with open(self.folder / "console", "wb") as console:
            self.outer = subprocess.Popen(["bash", "-c", command], stdin=subprocess.DEVNULL,
                                          stdout=console, stderr=console, start_new_session=True)
        try:
            wait_until("systemd is up", self.is_up, BOOT_MAX_S)
        except Failure as failure:
            console = (self.folder / "console").read_text(errors="replace")
            raise Failure(f"{failure}; its console:\n{console}") from failure

    def add_cgroup(self, above):
        group = above / self.name
        group.mkdir()
        self.cgroups.append(group)
        if above.name == "cpuset":
            # Empty at first, and nothing can be put into it then.
            for name in ("cpuset.cpus", "cpuset.mems"):
                (group / name).write_text((above / name).read_text())

    def is_up(self):
        if self.outer.poll() is not None:
            raise Failure(f"it ended with {self.outer.returncode}")
        children = Path(f"/proc/{self.outer.pid}/task/{self.outer.pid}/children").read_text()
        if not children.split():
            return False
        self.pid = int(children.split()[0])
        state = self.run("systemctl", "is-system-running", check=False).stdout.strip()
        return state in ("running", "degraded")

    def run(self, *command, check=True, user=None, text=True):
        """Runs a command in it."""
        enter = ["nsenter", "-t", str(self.pid), "-m", "-p", "-C", "-n", "-u", "-i"]
        if user is not None:
            enter += ["--setuid", str(user), "--setgid", str(user)]
        words = [*enter, *(str(word) for word in command)]
        done = subprocess.run(words, capture_output=True, text=text, cwd="/", timeout=120)
        if check and done.returncode:
            shown = " ".join(str(word) for word in command)
            raise Failure(f"{shown}: exit {done.returncode}: {done.stdout}{done.stderr}")
        return done

    def shell(self, script, check=True):
        """Runs a shell's script in it; what it prints."""
        return self.run("bash", "-c", script, check=check).stdout

    def write(self, path, content):
        """Replaces a file in it."""
        enter = ["nsenter", "-t", str(self.pid), "-m", "tee", path]
        subprocess.run(enter, input=content.encode(), stdout=subprocess.DEVNULL, check=True)

    def show(self, unit, *names):
        """Properties of a unit."""
        done = self.run("systemctl", "show", unit, *(f"-p{name}" for name in names))
        pairs = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
        return [pairs.get(name, "") for name in names]

    def stop(self):
        """Ends it, and all that runs in it."""
        if self.outer is not None and self.outer.poll() is None:
            if self.pid is not None:
                self.run("systemctl", "poweroff", "--no-wall", check=False)
            try:
                self.outer.wait(END_MAX_S)
            except subprocess.TimeoutExpired:
                # --kill-child: process 1 goes with it, and all others with process 1.
                os.kill(self.outer.pid, signal.SIGKILL)
                self.outer.wait()
        for group in self.cgroups:
            self.remove_cgroup(group)
        self.cgroups = []

    @staticmethod
    def remove_cgroup(group):
        until = time.monotonic() + 5
        while True:
            folders = sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True)
            try:
                for folder in [*folders, group]:
                    folder.rmdir()
                return
            except OSError as error:
                # The last processes are still going.
                if time.monotonic() > until:
                    print(f"can't remove '{group}': {error}", file=sys.stderr)
                    return
                time.sleep(0.05)
