"""A memory cgroup of one program's own, of version 1 or 2: its limit, and what it says."""

import os
from pathlib import Path

from common import Failure, wait_until

ROOT_V1 = Path("/sys/fs/cgroup/memory")
ROOT_V2 = Path("/sys/fs/cgroup")


class Cgroup:
    """One, without swap."""

    @staticmethod
    def version():
        """Which of the two this machine has."""
        return "v1" if ROOT_V1.is_dir() else "v2"

    def __init__(self, name):
        self.is_v1 = self.version() == "v1"
        self.path = (ROOT_V1 if self.is_v1 else self._parent_v2()) / name
        try:
            self.path.mkdir()
            self.usage()  # without the controller it has no such file
        except OSError as error:
            if self.path.is_dir():
                self.path.rmdir()
            raise Failure(f"no memory cgroup to be had (root, or a delegated one?): "
                          f"{error}") from None

    @staticmethod
    def _parent_v2():
        """The root for those who may write there; else the group that this process is in, where
        it was delegated: this process then moves one down, so that its group may have others."""
        errors = []
        for parent, leaf in ((ROOT_V2, None), (_own_v2(), f"script-{os.getpid()}")):
            try:
                if leaf is not None:
                    (parent / leaf).mkdir(exist_ok=True)
                    (parent / leaf / "cgroup.procs").write_text(str(os.getpid()))
                (parent / "cgroup.subtree_control").write_text("+memory")
                return parent
            except OSError as error:
                errors.append(str(error))
        raise Failure(f"no memory cgroup to be had (root, or a delegated one?): "
                      f"{'; '.join(errors)}")

    def limit(self, limit_bytes):
        """Sets the hard limit."""
        if self.is_v1:
            (self.path / "memory.swappiness").write_text("0")
            (self.path / "memory.limit_in_bytes").write_text(str(limit_bytes))
        else:
            swap = self.path / "memory.swap.max"
            if swap.exists():
                swap.write_text("0")
            (self.path / "memory.max").write_text(str(limit_bytes))

    def prefix(self):
        """What to put before a command that is to run in it."""
        return ["sh", "-c", f'echo $$ > {self.path}/cgroup.procs && exec "$@"', "sh"]

    def usage(self):
        """Bytes in use."""
        return self._number("memory.usage_in_bytes" if self.is_v1 else "memory.current")

    def figures(self):
        """What it says of itself, bytes: usage, anonymous memory, page cache (inactive, active,
        dirty), the kernel's own, and what `docker stats` would show, by today's formula and by
        the one before 20.10 (which knew version 1 only)."""
        rows = (row.split() for row in (self.path / "memory.stat").read_text().splitlines())
        stat = {name: int(value) for name, value in rows}
        prefix = "total_" if self.is_v1 else ""
        usage = self.usage()
        inactive = stat[prefix + "inactive_file"]
        figures = {
            "usage": usage,
            "anon": stat[prefix + ("rss" if self.is_v1 else "anon")],
            "inactive_file": inactive,
            "active_file": stat[prefix + "active_file"],
            "dirty": stat.get(prefix + ("dirty" if self.is_v1 else "file_dirty"), 0),
            "kernel": self._kernel_v1() if self.is_v1 else stat.get("kernel", 0),
            "docker": max(0, usage - inactive),
        }
        if self.is_v1:
            figures["docker_old"] = max(0, usage - stat["total_cache"])
        return figures

    def limit_hits(self):
        """How often its limit was run into."""
        return self._number("memory.failcnt") if self.is_v1 else self._events()["max"]

    def oom_kills(self):
        """How often the OOM killer killed in it."""
        return self._events()["oom_kill"]

    def remove(self):
        """Removes it; nobody may run in it."""
        wait_until(f"'{self.path}' can be removed", self._rmdir, 5)

    def _events(self):
        name = "memory.oom_control" if self.is_v1 else "memory.events"
        rows = (row.split() for row in (self.path / name).read_text().splitlines())
        return {name: int(value) for name, value in rows}

    def _kernel_v1(self):
        """Newer kernels may leave the file out."""
        name = "memory.kmem.usage_in_bytes"
        return self._number(name) if (self.path / name).exists() else 0

    def _number(self, name):
        return int((self.path / name).read_text())

    def _rmdir(self):
        try:
            self.path.rmdir()
        except OSError:  # busy as long as the killed process is not quite gone
            return False
        return True


def _own_v2():
    """The cgroup of version 2 that this process is in."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        if line.startswith("0::"):
            return ROOT_V2 / line[len("0::"):].strip("/")
    return ROOT_V2
