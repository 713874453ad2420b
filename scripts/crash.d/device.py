"""Block devices that fail when told to: nbdkit behind nbdfuse, for a loop device to sit on."""

import subprocess
from pathlib import Path

from common import find_tool, run, wait_until

PLUGIN = Path(__file__).resolve().parent / "powerdisk.py"


class NbdDisk:
    """A file that is a disk, served by nbdkit with the given words."""

    def __init__(self, places, name, *words):
        folder = places.make(f"{name}-nbd")
        self.path = folder / "disk"
        command = [find_tool("nbdfuse"), self.path, "--command", find_tool("nbdkit"), "-s", *words]
        with open(places.folder / f"{name}-nbd.log", "wb") as log:
            self.process = subprocess.Popen(
                [str(word) for word in command], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.folder = folder
        places.defer(self.end)
        wait_until("nbdfuse shows the disk", self.path.exists, 10)

    def end(self):
        """Takes it away."""
        run("umount", self.folder, check=False)
        self.process.wait(20)


class FailingDisk(NbdDisk):
    """Its writes fail while a flag is up: all, or those of tapes' bytes only."""

    def __init__(self, places, name, size, only_data):
        image = places.folder / f"{name}.img"
        with open(image, "wb") as file:
            file.truncate(size)
        self.flag = places.folder / f"{name}.fail"
        if only_data:
            words = ["python", PLUGIN, f"image={image}", f"fail={self.flag}"]
        else:
            words = ["--filter=error", "file", image, "error=EIO", "error-pwrite-rate=100%",
                     "error-zero-rate=100%", "error-trim-rate=100%", f"error-file={self.flag}"]
        super().__init__(places, name, *words)

    def fail(self):
        """From now on."""
        self.flag.touch()

    def heal(self):
        """No more."""
        self.flag.unlink(missing_ok=True)
