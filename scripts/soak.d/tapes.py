"""What is on our tapes after the run, against what the venue says that it sent."""

import re
import subprocess
from dataclasses import dataclass, field

HEAD = b'{"seq":'
# Behind the stamp and the kind; the last ten digits count.
NUMBER = slice(20 + len(HEAD) + 5, 20 + len(HEAD) + 15)
CONNECTED = b'!{"event":"connected"'
REPORT = re.compile(r"^(\S+): (\d+) messages?, (\d+) bytes?, (\d+) connections?, (\d+) gaps?\b"
                    r".*?(\d+) dropped;", re.MULTILINE)


@dataclass
class Counts:
    """Of all feeds together."""

    sent: int = 0
    recorded: int = 0
    connections: int = 0
    gaps: int = 0
    dropped: int = 0
    polled: int = 0
    more_than_sent: list = field(default_factory=list)

    @property
    def missing(self):
        """Messages that were given to a socket and are not on a tape."""
        return self.sent - self.recorded


def closing_counts(log_text, sent):
    """By the recorder's closing report; `sent` are the venue's numbers by feed."""
    counts = Counts(sent=sum(sent))
    for name, messages, _, connections, gaps, dropped in REPORT.findall(log_text):
        counts.dropped += int(dropped)
        if name == "book":
            counts.polled = int(messages)
        elif not name.startswith("_"):
            counts.recorded += int(messages)
            counts.connections += int(connections)
            counts.gaps += int(gaps)
            if int(messages) > sent[int(name[1:])]:
                counts.more_than_sent.append(name)
    return counts


@dataclass
class Kept:
    """The tapes that pruning left."""

    messages: int = 0
    holes: int = 0  # between two connections
    holes_messages: int = 0
    wrong: list = field(default_factory=list)


def read_kept(program, out):
    """Goes through the numbers on all tapes that are left."""
    kept = Kept()
    for tape in sorted(out.glob("feed=f*")):
        # Of a feed that ended, pruning may leave nothing.
        if any(tape.glob("date=*/*.tape*")):
            read_tape(program, tape, kept)
    return kept


def read_tape(program, tape, kept):
    """Numbers must follow each other; only a new connection may begin further on."""
    cat = subprocess.Popen([str(program), "cat", str(tape)], stdout=subprocess.PIPE,
                           stderr=subprocess.PIPE)
    expected, may_jump = None, True
    for line in cat.stdout:
        if line[19:27] == b" " + HEAD:
            number = int(line[NUMBER])
            if number != expected and expected is not None:
                if number > expected and may_jump:
                    kept.holes += 1
                    kept.holes_messages += number - expected
                else:
                    kept.wrong.append(f"{tape.name}: {number} where {expected} should be")
            expected, may_jump = number + 1, False
            kept.messages += 1
        elif line[19:].startswith(CONNECTED):
            may_jump = True
    complaint = cat.stderr.read().decode(errors="replace").strip()
    if cat.wait():
        kept.wrong.append(f"{tape.name}: cat: exit {cat.returncode}: {complaint}")
