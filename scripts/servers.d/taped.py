"""What is on one feed's tape, connection by connection."""

import json
from dataclasses import dataclass, field

from common import Failure, verify
from tape import payload_of, read_segment, segments

TEXT, BINARY, EVENT = "text", "binary", 0x21


@dataclass
class Connection:
    """What came on one connection."""

    connected: dict
    messages: list = field(default_factory=list)  # (TEXT or BINARY, bytes)
    gaps: int = 0
    end: dict | None = None

    def code(self):
        """The close code; None where there was none."""
        return self.end and self.end["code"]


@dataclass
class Taped:
    """One feed's tape."""

    connections: list = field(default_factory=list)
    failed: list = field(default_factory=list)  # reasons of attempts that led to no connection

    def messages(self):
        """All of them, as bytes."""
        return [payload for one in self.connections for _, payload in one.messages]


def read(program, out, feed="f", verified=True):
    """Verifies the recording, then reads the feed's tape. A gap stands at the first message after
    each disconnect, or at the end, and nowhere else."""
    if verified:
        verify(program, out)
    taped, live = Taped(), False
    for kind, rest in lines_of(out, feed):
        if kind != EVENT:
            if not live:
                raise Failure(f"'{out}': a message where there is no connection")
            take_message(taped, kind, rest, out)
            continue
        event = json.loads(rest)
        name = event["event"]
        if name == "connected":
            taped.connections.append(Connection(event))
            live = True
        elif name == "disconnected" and live:
            taped.connections[-1].end = event
            live = False
        elif name == "disconnected":
            taped.failed.append(event["reason"])
        elif name == "gap" and live:
            if event["reason"] != "reconnect" or taped.connections[-1].messages:
                raise Failure(f"'{out}': a gap where nothing is missing: {event}")
            taped.connections[-1].gaps += 1
    return taped


def take_message(taped, kind, rest, out):
    """One message; only the first connection may begin without a gap."""
    one = taped.connections[-1]
    wanted = 0 if one is taped.connections[0] else 1
    if not one.messages and one.gaps != wanted:
        raise Failure(f"'{out}': {one.gaps} gaps before the first message of connection "
                      f"{len(taped.connections)}, not {wanted}")
    one.messages.append((BINARY if kind == 0x7E else TEXT, payload_of(kind, rest)))


def lines_of(out, feed):
    """All lines of the feed: (kind, what follows it)."""
    files, odd = segments(out, feed)
    if odd or not files:
        raise Failure(f"'{out}': segments of {feed}: {files}, odd files: {odd}")
    for _, path in files:
        for line in read_segment(path).split(b"\n")[:-1]:
            yield line[19], line[20:]
