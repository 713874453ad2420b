"""`feedtape simulate` as the venue, and what of it must be on the tape."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from common import PACKAGES, Failure, Recorder, verify, wait_until

PACKAGES.update({"tinyproxy": "tinyproxy", "microsocks": "microsocks", "nft": "nftables",
                 "ip": "iproute2"})
LIMIT_S = 30


@dataclass
class Feed:
    """What the recorder is told to record."""

    name: str


class Venue:
    """A simulated venue: numbers the messages of each connection from 1."""

    def __init__(self, places, program, name, listen="127.0.0.1:0", rate=1000, tls=False,
                 prefix=()):
        self.feeds = [Feed("f")]
        self.host = None
        self.cert = places.folder / f"{name}.pem"
        log = places.folder / f"{name}.log"
        command = [*prefix, program, "simulate", "--listen", listen, "--rate", rate]
        command += ["--tls", "--cert-out", self.cert] if tls else []
        command += [] if listen.startswith("127.") else ["--allow-remote"]
        with open(log, "wb") as out:
            self.process = subprocess.Popen([str(word) for word in command], stdout=out,
                                            stderr=out, stdin=subprocess.DEVNULL)
        places.defer(self.stop)
        lines = lambda: log.read_text(errors="replace").splitlines()
        ours = lambda: [line for line in lines() if "://" in line and "/trades" in line]
        wait_until(f"the venue listens; see {log}", ours, LIMIT_S)
        self.base = ours()[0].split("/trades")[0].strip()

    def url(self, _feed):
        """Where the feed is to be had."""
        base = self.base if self.host is None else f"ws://{self.host}"
        return f"{base}/trades?symbols=btcusdt"

    def stop(self):
        """Ends it."""
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait()


def recorder(args, places, venue, name, options, env=None, prefix=(), pace=Recorder.PACE):
    """A recorder of the venue, that is ended with the places; its proxies are only ours."""
    names = ["http_proxy", "https_proxy", "all_proxy", "no_proxy"]
    own = {**{key: "" for key in [*names, *map(str.upper, names)]}, **(env or {})}
    if venue.base.startswith("wss"):
        options = [*options, "--cacert", venue.cert]
    result = Recorder(args.program, places.folder / name, venue, places.folder / f"{name}.log",
                      ["--min-free", "0", *options], own, prefix, pace)
    places.defer(result.kill_if_running)
    return result


def end(recorder_):
    """Ends a recorder in order."""
    code = recorder_.end()
    if code != 0:
        raise Failure(f"the recorder's exit code is {code}\n{recorder_.tail()}")


def check_tape(program, out):
    """`verify`, and on each connection messages from 1 on with none missing; how many in all."""
    verify(program, out)
    done = subprocess.run([str(program), "cat", str(out)], capture_output=True, text=True)
    if done.returncode:
        raise Failure(f"cat: exit {done.returncode}: {done.stderr.strip()}")
    messages, expected = 0, 1
    for line in done.stdout.splitlines():
        kind, rest = line[19], line[20:]
        if kind == "!":
            expected = 1 if json.loads(rest)["event"] == "connected" else expected
            continue
        seq = json.loads(rest)["seq"]
        if seq != expected:
            raise Failure(f"message {seq} where {expected} should be, in {Path(out)}")
        messages, expected = messages + 1, expected + 1
    return messages
