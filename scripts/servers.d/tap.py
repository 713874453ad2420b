"""Between the recorder and a server: passes all bytes on, keeps them, and says what they mean.

What RFC 6455 makes of the bytes is decided here with code of its own, not with the recorder's.
"""

import codecs
import re
import socket
import struct
import threading
from dataclasses import dataclass, field

from common import Failure

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
CHUNK_BYTES = 1 << 16


@dataclass
class Stream:
    """What one side sent, up to its close or its first violation of the RFC."""

    messages: list = field(default_factory=list)  # (TEXT or BINARY, bytes)
    pings: list = field(default_factory=list)
    pongs: list = field(default_factory=list)
    closed: bool = False
    code: int | None = None  # of its close frame
    wrong: int | None = None  # the close code that a violation must be answered with
    why: str = ""


def decode(wire, masked):
    """Reads frames until they end."""
    stream, begun = Stream(), None
    while stream.wrong is None and not stream.closed and len(wire) >= 2:
        head, second = wire[0], wire[1]
        why = wrong_head(head, second, masked, begun)
        if why:
            return violation(stream, 1002, why)
        size = {126: 2, 127: 8}.get(second & 127, 0)
        start = 2 + size + (4 if masked else 0)
        if len(wire) < start:
            break
        length = int.from_bytes(wire[2:2 + size], "big") if size else second & 127
        payload = wire[start:start + length]
        if masked:
            payload = unmask(payload, wire[start - 4:start])
        whole = len(payload) == length
        wire = wire[start + length:]
        opcode, fin = head & 15, bool(head & 128)
        if opcode >= CLOSE:
            if whole:
                take_control(stream, opcode, payload)
            continue
        if opcode != CONTINUATION:
            begun = (opcode, bytearray())
        begun[1].extend(payload)
        if begun[0] == TEXT and not is_utf8(begun[1], fin and whole):
            return violation(stream, 1007, "not UTF-8")
        if fin and whole:
            stream.messages.append((begun[0], bytes(begun[1])))
            begun = None
    return stream


def wrong_head(head, second, masked, begun):
    """What the first two bytes of a frame break; nothing where all is right."""
    opcode, fin = head & 15, bool(head & 128)
    if head & 0x70:
        return "reserved bits"
    if opcode in (3, 4, 5, 6, 7) or opcode > PONG:
        return "reserved opcode"
    if bool(second & 128) != masked:
        return "mask"
    if opcode >= CLOSE and (not fin or second & 127 > 125):
        return "control frame in pieces or too long"
    if opcode == CONTINUATION and begun is None:
        return "continuation of nothing"
    if opcode in (TEXT, BINARY) and begun is not None:
        return "message inside a message"
    return ""


def take_control(stream, opcode, payload):
    """A whole control frame."""
    if opcode == PING:
        stream.pings.append(payload)
    elif opcode == PONG:
        stream.pongs.append(payload)
    elif len(payload) == 1:
        violation(stream, 1002, "close of one byte")
    elif not is_utf8(payload[2:], True):
        violation(stream, 1007, "close reason that is not UTF-8")
    elif payload and not is_close_code(struct.unpack(">H", payload[:2])[0]):
        violation(stream, 1002, "close code")
    else:
        stream.closed = True
        stream.code = struct.unpack(">H", payload[:2])[0] if payload else None


def is_close_code(code):
    """RFC 6455 section 7.4 and IANA's registry."""
    return 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999


def is_utf8(data, final):
    """Whether it is; where it isn't `final`, whether it can become so."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(bytes(data), final)
    except UnicodeDecodeError:
        return False
    return True


def unmask(payload, key):
    """RFC 6455 section 5.3."""
    repeated = (key * (len(payload) // 4 + 1))[:len(payload)]
    number = int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")
    return number.to_bytes(len(payload), "big")


def violation(stream, code, why):
    """Nothing after it counts."""
    stream.wrong, stream.why = code, why
    return stream


@dataclass
class Taken:
    """One connection's bytes."""

    to_server: bytearray = field(default_factory=bytearray)
    to_client: bytearray = field(default_factory=bytearray)

    def case(self):
        """Number of the case that was asked for."""
        match = re.match(rb"GET /runCase\?case=(\d+)&", self.to_server)
        return int(match[1]) if match else None

    def streams(self):
        """What the server sent and what the client sent, after the upgrade."""
        after = lambda wire: bytes(wire).partition(b"\r\n\r\n")[2]
        return decode(after(self.to_client), False), decode(after(self.to_server), True)


class Tap:
    """Listens, and passes each connection on to a port."""

    def __init__(self, places, port):
        self.to = port
        self.connections = []
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = self.listener.getsockname()[1]
        places.defer(self.listener.close)
        threading.Thread(target=self._accept, daemon=True).start()

    def take_cases(self):
        """The connection of each case since the last call; there must not be two."""
        connections, self.connections = self.connections, []
        found = {}
        for taken in connections:
            case = taken.case()
            if case in found:
                raise Failure(f"two connections for case {case}")
            found[case] = taken
        return found

    def _accept(self):
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self.to))
            taken = Taken()
            self.connections.append(taken)
            for pair in ((near, far, taken.to_server), (far, near, taken.to_client)):
                for end in pair[:2]:
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self._pass_on, args=pair, daemon=True).start()

    def _pass_on(self, source, sink, taken):
        # Some servers want their own port in the request's Host.
        host, to = (b"127.0.0.1:%d\r\n" % port for port in (self.port, self.to))
        try:
            while data := source.recv(CHUNK_BYTES):
                taken += data
                sink.sendall(data.replace(host, to, 1) if len(taken) == len(data) else data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            # One side is gone: so must the other be.
            for end in (source, sink):
                try:
                    end.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
