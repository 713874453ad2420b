"""NATS's WebSocket listener: lines that end with CR LF, of which frames hold any number."""

import json
import socket

import taped
from common import PACKAGES, Failure, need_tools, wait_until
from daemon import LIMIT_S, Daemon, free_port
from players import Way
from venue import end, recorder

PACKAGES.update({"nats-server": "nats-server"})
# It asks so often whether we are there, and hangs up when two of its pings were not answered.
PING_S, PINGS = 1, 4
CONNECT, SUB, PONG = 'CONNECT {"verbose":false}\r\n', "SUB t 1\r\n", "PONG\r\n"
MESSAGES = [b'{"n":1}', b"a\nb\r\nc", b"", "Zoë".encode(), bytes(range(256)), b"x" * 100_000]
CONFIG = """\
host: 127.0.0.1
port: {nats}
ping_interval: "{ping}s"
ping_max: 2
websocket {{ host: 127.0.0.1, port: {ws}, no_tls: true }}
"""


def run(args, places):
    """Runs it; returns the report's lines."""
    need_tools("nats-server")
    nats, ws = free_port(), free_port()
    config = places.folder / "nats.conf"
    config.write_text(CONFIG.format(nats=nats, ws=ws, ping=PING_S))
    Daemon(places, ws, "nats-server", "-c", config).start()
    way = Way("nats", f"ws://127.0.0.1:{ws}", None)
    subscribe = ["--subscribe", CONNECT, "--subscribe", SUB]
    line = recorder(args, places, way, "line", [*subscribe, "--reply", f"PING => {PONG}"]).start()
    file = recorder(args, places, way.to(None), "file", ["--config", feeds(places, way)],
                    pace=()).start()
    silent = recorder(args, places, way, "silent", subscribe).start()
    for one in (line, file):
        # What was sent to it before its first ping it has taken by then.
        wait_for(args, one, lambda tape: b"PING\r\n" in joined(tape))
    publish(nats)
    for one in (line, file):
        wait_for(args, one, lambda tape: joined(tape).count(b"PING\r\n") >= PINGS)
    silent.wait_for_log("closed by server", LIMIT_S)
    lines = []
    for name, one in (("options of the command line", line), ("a feeds file", file)):
        end(one)
        lines.append(f"  {name}: {check(args, one)}")
    end(silent)
    ended = taped.read(args.program, silent.out).connections[0].end
    lines.append(f"  pings that are not answered: {ended['reason']} after "
                 f"{ended['duration_ms'] / 1000:.1f} s")
    return lines


def feeds(places, way):
    """The same as a feeds file."""
    path = places.folder / "feeds.toml"
    reply = f'{{ match = "PING", send = {json.dumps(PONG)} }}'
    path.write_text(f'[feed.f]\nurl = "{way.base}/"\nreply = [{reply}]\n'
                    f"subscribe = {json.dumps([CONNECT, SUB])}\n")
    return path


def joined(tape):
    """All bytes; frames and lines are not cut at the same places."""
    return b"".join(tape.messages())


def wait_for(args, one, condition):
    """Waits until what is on the tape fulfils it."""
    def fulfilled():
        if not list(one.out.rglob("*.open")):
            return False
        return condition(taped.read(args.program, one.out, verified=False))
    wait_until(f"what should be on the tape\n{one.tail()}", fulfilled, LIMIT_S)


def publish(port):
    """Publishes the messages by NATS's own protocol, and waits until it has taken them."""
    with socket.create_connection(("127.0.0.1", port), LIMIT_S) as client:
        client.sendall(CONNECT.encode())
        for message in MESSAGES:
            client.sendall(b"PUB t %d\r\n%s\r\n" % (len(message), message))
        client.sendall(b"PING\r\n")
        answer = b""
        while b"PONG\r\n" not in answer:
            more = client.recv(4096)
            if not more:
                raise Failure(f"NATS hung up: {answer}")
            answer += more


def check(args, one):
    """INFO first, then the messages in order, with pings between; one connection."""
    tape = taped.read(args.program, one.out)
    if len(tape.connections) != 1:
        raise Failure(f"{len(tape.connections)} connections, not 1\n{one.tail()}")
    wire = joined(tape)
    info, _, rest = wire.partition(b"\r\n")
    if not info.startswith(b"INFO ") or "server_id" not in json.loads(info[5:]):
        raise Failure(f"not INFO first: {info[:200]}")
    found, pings = [], 0
    while rest:
        head, _, rest = rest.partition(b"\r\n")
        if head == b"PING":
            pings += 1
        elif head != b"PONG":
            words = head.split()
            if words[:3] != [b"MSG", b"t", b"1"]:
                raise Failure(f"not NATS: {head[:200]}")
            length = int(words[3])
            found.append(rest[:length])
            rest = rest[length + 2:]
    if found != MESSAGES:
        raise Failure(f"{len(found)} messages, not the {len(MESSAGES)} that were published")
    return f"{len(found)} messages and {pings} pings in {len(tape.messages())} frames, 1 connection"
