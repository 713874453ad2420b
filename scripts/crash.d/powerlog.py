"""What powerdisk.py noted, and disks as a power cut would have left them."""

import random
from dataclasses import dataclass
from pathlib import Path

from common import Failure
from common import run as run_tool

HEAD_BYTES = 21
SECTOR = 512
# Of the writes after the last flush: so many are lost whole, so many torn.
LOST, TORN = 0.4, 0.2


@dataclass
class Record:
    """A write or a flush."""

    kind: bytes
    at_ns: int
    offset: int
    data: bytes


def read_log(path):
    """All records, in order."""
    data, at, records = memoryview(Path(path).read_bytes()), 0, []
    while at < len(data):
        head = data[at:at + HEAD_BYTES]
        number = lambda start, end: int.from_bytes(head[start:end], "little")
        length = number(17, 21)
        at += HEAD_BYTES
        if at + length > len(data):
            raise Failure(f"'{path}' ends within a record")
        records.append(Record(bytes(head[:1]), number(1, 9), number(9, 17), data[at:at + length]))
        at += length
    return records


class Disk:
    """Goes through the log once, from cut to cut."""

    def __init__(self, base, log):
        self.durable = base  # changed as it goes
        self.log = log
        self.applied = 0

    def cut(self, moment, seed):
        """The power goes after record `moment`. Cuts come in order."""
        log = self.log
        flush = max((n for n in range(self.applied, moment + 1) if log[n].kind == b"F"),
                    default=self.applied)
        with open(self.durable, "r+b") as file:
            for record in log[self.applied:flush]:
                file.seek(record.offset)
                file.write(record.data)
        self.applied = flush
        return Cut(self.durable, log[flush:moment + 1], log[moment].at_ns, random.Random(seed))


class Cut:
    """A disk after the power went."""

    def __init__(self, durable, tail, at_ns, rng):
        self.durable, self.tail, self.at_ns, self.rng = durable, tail, at_ns, rng

    def write_to(self, image):
        """Of the writes since the last flush some are there, some not, some in part."""
        run_tool("cp", "--sparse=always", self.durable, image)
        with open(image, "r+b") as file:
            for record in self.tail:
                self.write_part(file, record)

    def write_part(self, file, record):
        """One write, or what became of it: sectors are whole, in whatever order."""
        luck = self.rng.random()
        if luck < LOST:
            return
        for at in range(0, len(record.data), SECTOR):
            if luck >= LOST + TORN or self.rng.random() < 0.5:
                file.seek(record.offset + at)
                file.write(record.data[at:at + SECTOR])
