"""What the servers of the parts `python` and `node` play to each connection, as JSON that both
read; payloads are base64."""

import base64
import json

# Closed by the server with these in turn, one a connection.
CODES = [1000, 1001, 1012, 4000]
MIB = 1 << 20


def repertoire():
    """Steps: ("text" or "binary", frames) or ("ping", [payload])."""
    every_byte = bytes(range(256))
    word = "Zoë → 日本\n\\n".encode()
    large = (b'{"n":1,"pad":"' + b"0123456789abcdef\\\n" * (MIB // 18))[:MIB]
    return [
        ("text", [b'{"first":true}']),
        ("text", [b""]),
        ("binary", [b""]),
        ("text", [b"\n"]),
        ("text", [b"a\nb\r\n\\n\\\\"]),
        ("ping", [b"are you there?"]),
        ("text", [b"\x00\x7f\t\r"]),
        ("text", [word]),
        # Cut inside a character.
        ("text", [word[:3], word[3:8], b"", word[8:]]),
        ("binary", [every_byte]),
        ("binary", [every_byte[:100], b"", every_byte[100:]]),
        ("ping", [b""]),
        ("text", [large]),
        ("binary", [large[:1000], large[1000:MIB // 2], large[MIB // 2:]]),
        ("binary", [every_byte * (MIB // 256)]),
        ("ping", [b"x" * 125]),
        ("text", [b"last"]),
    ]


def expected():
    """What of it must be on the tape, in order."""
    return [(kind, b"".join(frames)) for kind, frames in repertoire() if kind != "ping"]


def stream_message(number):
    """The n-th message of a connection to /stream; the servers make it themselves."""
    return b'{"n":%d,"pad":"%s"}\n' % (number, b"x" * (number * 37 % 200))


def write(path):
    """The file for the servers."""
    encode = lambda frames: [base64.b64encode(frame).decode() for frame in frames]
    steps = [[kind, encode(frames)] for kind, frames in repertoire()]
    path.write_text(json.dumps({"codes": CODES, "steps": steps}))
