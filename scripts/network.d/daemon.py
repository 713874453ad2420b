"""A server or proxy that others wrote, as a process that is ended with the places."""

import os
import socket
import subprocess

from common import Failure, find_tool, wait_until

LIMIT_S = 30


class Daemon:
    """Listens on one port of the loopback interface; started as often as needed."""

    def __init__(self, places, port, *command, name=None, env=None):
        self.port = port
        self.command = [str(word) for word in command]
        self.command[0] = find_tool(self.command[0]) or self.command[0]
        self.name = name or os.path.basename(self.command[0])
        self.env = {**os.environ, **(env or {})}
        self.log = places.folder / f"{self.name}-{port}.log"
        self.process = None
        places.defer(self.stop)

    def start(self):
        """Starts it and waits until it listens."""
        assert self.process is None
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log,
                                            stdin=subprocess.DEVNULL, env=self.env)
        wait_until(f"{self.name} listens; see {self.log}", self._listens, LIMIT_S)
        return self

    def _listens(self):
        if self.process.poll() is not None:
            raise Failure(f"{self.name} ended at once with {self.process.returncode}: see "
                          f"{self.log}")
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def kill(self):
        """As a crash would end it."""
        self.process.kill()
        self.wait()

    def stop(self):
        """Ends it in order; more than once is fine."""
        if self.process is not None:
            self.process.terminate()
            self.wait()

    def wait(self):
        """Waits for its end; who doesn't end is killed."""
        try:
            self.process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None


def free_port():
    """A port that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
