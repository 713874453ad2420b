"""The load as the script sees it: the venue's process, the feeds file that changes, what is on
disk."""

import json
import re
import select
import subprocess
import sys
from pathlib import Path

from common import Failure, run

HERE = Path(__file__).resolve().parent
ANSWER_S = 30
UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
SEALED = re.compile(r": sealed segment \d+: ([0-9.]+)([KMGT]?i?B) to ")
RELOADED = re.compile(r"reloaded: (\d+) feeds added, (\d+) removed")


class Venue:
    """venue.py as a process; group 0 is for our recorder, 1 for the twin."""

    def __init__(self, args, groups, certificate, places):
        feeds = args.feeds + visitors(args.feeds)
        command = [sys.executable, HERE / "venue.py", "--feeds", feeds, "--groups", groups,
                   "--rate", args.rate, "--message-bytes", args.message_bytes,
                   "--cut-every", args.cut_every, "--seed", args.seed]
        if certificate:
            command += ["--certificate", certificate[0], "--key", certificate[1]]
        self.secure = "s" if certificate else ""
        # Like all that is measured, out of reach of Ctrl-C: it goes on until the recorders ended.
        self.process = subprocess.Popen([str(word) for word in command], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True, bufsize=1,
                                        start_new_session=True)
        places.defer(self.stop)
        self.port = self._read()["port"]

    def url(self, group):
        """What the feeds' URLs of a group begin with."""
        return f"ws{self.secure}://127.0.0.1:{self.port}/{group}/"

    def book_url(self):
        """What is polled."""
        return f"http{self.secure}://127.0.0.1:{self.port}/book"

    def ask(self, word):
        """Its answer to a word."""
        try:
            self.process.stdin.write(word + "\n")
        except OSError as error:
            raise Failure(f"the venue is gone: {error}") from None
        return self._read()

    def stop(self):
        """Ends it; more than once is fine."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def _read(self):
        ready, _, _ = select.select([self.process.stdout], [], [], ANSWER_S)
        line = self.process.stdout.readline() if ready else ""
        if not line:
            raise Failure(f"the venue does not answer within {ANSWER_S} s")
        return json.loads(line)


def visitors(feeds):
    """How many of the feeds come and go with reloads."""
    return feeds // 8


class FeedsFile:
    """The recorder's feeds; each reload takes some away and brings as many others."""

    def __init__(self, path, args, venue, certificate):
        self.path = path
        self.venue = venue
        self.certificate = certificate
        come_and_go = visitors(args.feeds)
        self.staying = range(args.feeds - come_and_go)
        self.sets = [range(args.feeds - come_and_go, args.feeds),
                     range(args.feeds, args.feeds + come_and_go)]
        self.turn = 0
        self.write()

    def change(self):
        """The other visitors."""
        self.turn += 1
        self.write()

    def write(self):
        """By a rename: a reload sees the old file or the new one."""
        lines = ["[defaults]", 'backoff-min = "100ms"', 'backoff-max = "2s"',
                 # Its messages are small: what the plan asks for fits the group.
                 'max-message = "1MiB"']
        if self.certificate:
            lines.append(f'cacert = "{self.certificate[0]}"')
        for number in [*self.staying, *self.sets[self.turn % 2]]:
            lines += [f"[feed.f{number:04}]", f'url = "{self.venue.url(0)}{number}"']
        lines += ["[feed.book]", f'url = "{self.venue.book_url()}"', 'every = "1s"',
                  'on = { feed = "f0000", events = ["connected", "gap"] }']
        unfinished = self.path.with_suffix(".unfinished")
        unfinished.write_text("\n".join(lines) + "\n")
        unfinished.rename(self.path)


class Recording:
    """What our recorder has written so far: what its log says was sealed, and what lies there
    unsealed."""

    def __init__(self, out, log):
        self.out = out
        self.log = log
        self.read = 0
        self.sealed = 0
        self.segments = 0
        self.reloads = 0

    def bytes(self):
        """Bytes of tape, as they were before they were sealed."""
        self._read_log()
        return self.sealed + sum(size_of(path) for pattern in ("*.open", "*.tape")
                                 for path in self.out.rglob(pattern))

    def _read_log(self):
        with open(self.log, "rb") as log:
            log.seek(self.read)
            text = log.read()
        whole = text.rfind(b"\n") + 1
        self.read += whole
        for line in text[:whole].decode(errors="replace").splitlines():
            sealed = SEALED.search(line)
            if sealed:
                self.sealed += int(float(sealed[1]) * UNITS[sealed[2]])
                self.segments += 1
            elif RELOADED.search(line):
                self.reloads += 1


class TwinFiles:
    """What the twin has written, of which only the newest is kept."""

    def __init__(self, out, keep_bytes):
        self.out = out
        self.keep_bytes = keep_bytes
        self.deleted = 0

    def bytes(self):
        """Bytes so far; deletes the oldest files beyond what is kept, never a folder's newest."""
        found = [(path.stat().st_mtime, path.stat().st_size, path)
                 for path in self.out.rglob("*") if path.is_file()]
        newest = {}
        for entry in sorted(found):
            newest[entry[2].parent] = entry[2]
        kept = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if kept <= self.keep_bytes:
                break
            if path not in newest.values():
                path.unlink()
                kept -= size
                self.deleted += size
        return self.deleted + kept


def size_of(path):
    """0 for one that has been sealed meanwhile."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def make_certificate(folder):
    """A certificate of a run's own, and its key."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
        "-nodes", "-days", "30", "-subj", "/CN=localhost", "-addext",
        "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", key, "-out", certificate)
    return certificate, key
