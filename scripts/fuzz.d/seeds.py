#!/usr/bin/env python3
"""Writes the inputs that fuzzing starts with, from a recording that `feedtape demo` makes.

    seeds.py PROGRAM FOLDER

Each target's inputs go to FOLDER/TARGET; what is there stays. How an input is taken apart is in
the targets' own docs, tests/fuzz/TARGET.rs.
"""

import gzip
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

LINES = 12
NEXT = b'{"segment":1,"index":7}\n'


def sized(data):
    """Bytes after their length."""
    return struct.pack("<H", len(data)) + data


def orders(messages):
    """Orders to write a segment: texts, binary and long messages, marks, and time that passes."""
    made = b""
    for number in range(messages):
        made += b"\x00" + sized(b'{"n":%d}' % number)
        made += b"\x02" + sized(b"\x00\x01\x02") if number % 3 == 1 else b""
        made += b"\x05" if number % 5 == 4 else b""
        made += b"\x04\xc8" if number % 7 == 3 else b""
        made += b"\x03abcd\nfgh\\" if number % 11 == 10 else b""
    return made


def of_segment(number, sealed, plain):
    """Inputs from one recorded segment, by target and name."""
    lines = plain.splitlines(keepends=True)
    few = b"".join(lines[:LINES])
    for at, line in enumerate(lines[:LINES]):
        yield "line", f"line{number}-{at}", b"A" + line
    yield "line", f"lines{number}", b"Z" + few
    yield "sealed", f"zstd{number}", b"\x00" + sealed
    yield "sealed", f"gzip{number}", b"\x02" + gzip.compress(few) * 2
    for choice in range(3, 8):
        yield "sealed", f"lines{number}-{choice}", bytes([choice]) + few
    yield "recovery", f"open{number}", b"\x00" + sized(b"") * 2 + plain[:30000]
    for at, before in enumerate([few, sealed, gzip.compress(few), few]):
        yield "recovery", f"after{number}-{at}", bytes([3 | at << 6]) + sized(NEXT) + sized(
            before[:60000]) + few


def of_orders():
    """Open segments of either boot, cut and flipped."""
    for choice in (8, 8 | 4, 8 | 16, 8 | 4 | 16):
        for messages in (0, 1, 12, 60):
            for end in (b"", b"\x07\x00"):
                for cut in (0, 1, 30, 200):
                    name = f"orders{choice}-{messages}-{len(end)}-{cut}"
                    head = struct.pack("<HHB", cut, 3 * messages, messages)
                    yield "recovery", name, bytes([choice]) + sized(b"") * 2 + head + orders(
                        messages) + end


def main():
    """Makes the recording and writes the inputs."""
    program, folder = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
    inputs = list(of_orders())
    inputs.append(("line", "escaped", b"A1736682893953758185\\a\\nb\\\\c\n"))
    inputs.append(("line", "binary", b"A1736682893953758185~AP8=\n"))
    with tempfile.TemporaryDirectory() as made:
        subprocess.run([program, "demo", "--duration", "2s"], cwd=made, check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for number, sealed in enumerate(sorted(Path(made).rglob("*.tape.zst"))):
            plain = subprocess.run([program, "cat", sealed], check=True,
                                   stdout=subprocess.PIPE).stdout
            inputs.extend(of_segment(number, sealed.read_bytes(), plain))
    for target, name, data in inputs:
        path = folder / target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


if __name__ == "__main__":
    main()
