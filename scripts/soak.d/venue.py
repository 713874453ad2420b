"""The load of scripts/soak: a venue that numbers what it sends, in a process of its own.

    ws://127.0.0.1:PORT/GROUP/FEED     messages of that feed, at a steady rate
    http://127.0.0.1:PORT/book         a snapshot, to be polled

A group is one recorder: each has the same feeds, with numbers of its own. A number counts what was
given to the sockets of its feed in its group, over all connections, so that on a tape a number may
be missing only where one connection ended and the next one began.

Messages are made before the first client comes; what is due is sent each TICK_S in one piece, the
feeds one after the other. Now and then a connection is cut, by turns with a close frame, without
one, and by a reset. One thread, one epoll. It is told what to do on stdin, a word a line, and
answers on stdout in JSON, a line each; the end of stdin ends it.
"""

import argparse
import base64
import hashlib
import json
import random
import selectors
import socket
import ssl
import struct
import sys
import time

TICK_S = 0.02
# Between two looks at what is due, so that many feeds don't mean as many wake-ups.
NAP_S = 0.001
# A feed that was held up for longer goes on from here, and doesn't send what it missed.
LATE_S = 1.0
MESSAGES = 4096
DIGITS = 15
BOOK_BYTES = 16 << 10
# For a request, and for the other side's end after a close.
PATIENCE_S = 5
TEXT, CLOSE, PING, PONG = 1, 8, 9, 10
MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
UPGRADED = ("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Accept: {}\r\n\r\n")
GOING_AWAY = struct.pack(">H", 1001)
CUTS = ("close frame", "end", "reset")


def make_messages(count, wanted_bytes, rng):
    """What is before and after the number in each of the messages, as frames: trades and changes
    of a book, about as well compressible as those of venues."""
    made = []
    for ordinal in range(count):
        symbol, cents = rng.choice((("BTC-USD", 6412345), ("ETH-USD", 345678), ("SOL-USD", 14321)))
        text = (f',"channel":"book","symbol":"{symbol}","time":{1700000000000 + ordinal * 7},'
                f'"trade":{{"price":"{(cents + rng.randrange(200)) / 100:.2f}",'
                f'"size":"{rng.random() * 20:.6f}"}},"bids":[')
        levels = []
        size = wanted_bytes - len('{"seq":') - DIGITS - len(text) - len("]}")
        while size > 24:
            level = f'["{(cents - rng.randrange(4000)) / 100:.2f}","{rng.random() * 90:.4f}"]'
            levels.append(level)
            size -= len(level) + 1
        payload = b'{"seq":%0*d' % (DIGITS, 0) + (text + ",".join(levels) + "]}").encode()
        wire = frame(TEXT, payload)
        at = wire.index(b'{"seq":') + len(b'{"seq":')
        made.append((wire[:at], wire[at + DIGITS:], len(payload)))
    return made


def frame(opcode, payload):
    """A whole message in one unmasked frame."""
    length = len(payload)
    if length < 126:
        return struct.pack(">BB", 0x80 | opcode, length) + payload
    if length < 65536:
        return struct.pack(">BBH", 0x80 | opcode, 126, length) + payload
    return struct.pack(">BBQ", 0x80 | opcode, 127, length) + payload


class Feed:
    """One feed of one group."""

    def __init__(self, number):
        self.first = 10 ** (DIGITS - 1) + number * 10 ** 10
        self.sent = 0  # messages, over all connections
        self.connection = None


class Connection:
    """One client: a request, then messages, then perhaps a close."""

    def __init__(self, sock, now):
        self.socket = sock
        self.state = "request"  # handshake before it with TLS; then open, closing
        self.by = now + PATIENCE_S
        self.input = b""
        self.output = b""
        self.feed = None
        self.group = None
        self.since = now  # messages are due from here on
        self.due_done = 0
        self.cut_at = None
        self.writing = False


class Venue:
    """All of it."""

    def __init__(self, args):
        self.args = args
        self.rng = random.Random(args.seed)
        self.messages = make_messages(MESSAGES, args.message_bytes, self.rng)
        self.groups = [[Feed(n) for n in range(args.feeds)] for _ in range(args.groups)]
        # By turns one of each group: both get theirs at the same times.
        self.turns = [feed for feeds in zip(*self.groups) for feed in feeds]
        self.connections = set()
        self.counts = {"bytes": [0] * args.groups, "connections": [0] * args.groups,
                       "cuts": {kind: 0 for kind in CUTS}, "polls": 0}
        self.cut_number = 0
        self.book = make_messages(1, BOOK_BYTES, self.rng)[0]
        self.tls = None
        if args.certificate:
            self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.tls.load_cert_chain(args.certificate, args.key)
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.listener.setblocking(False)
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.listener, selectors.EVENT_READ, self.accept)
        self.selector.register(sys.stdin.buffer.raw, selectors.EVENT_READ, self.obey)
        self.ended = False

    def run(self):
        """Until stdin ends."""
        say({"port": self.listener.getsockname()[1]})
        step = TICK_S / len(self.turns)
        begun, turn, tidied = time.monotonic(), 0, 0
        while not self.ended:
            now = time.monotonic()
            # After having been held up, one round for all of them is enough.
            turn = max(turn, int((now - begun) / step) - len(self.turns))
            while begun + turn * step <= now:
                self.publish(self.turns[turn % len(self.turns)], now)
                turn += 1
            if now - tidied > 1:
                tidied = now
                self.tidy(now)
            wait = max(NAP_S, begun + turn * step - time.monotonic())
            for key, events in self.selector.select(wait):
                if isinstance(key.data, Connection):
                    self.serve(key.data, events)
                else:
                    key.data()

    # ---- what is sent ----

    def publish(self, feed, now):
        """What is due of a feed, and its cut where that is due."""
        connection = feed.connection
        if connection is None or connection.state != "open":
            return
        if connection.output:
            # It doesn't read; what waits longer than this is never sent.
            late = now - LATE_S - connection.since
            connection.due_done = max(connection.due_done, int(late * self.args.rate))
            return
        if connection.cut_at is not None and now >= connection.cut_at:
            self.cut(connection)
            return
        due = int((now - connection.since) * self.args.rate)
        count = due - connection.due_done
        if count <= 0:
            return
        connection.due_done = due
        pieces, first = [], feed.sent
        payload_bytes = 0
        for number in range(first, first + count):
            head, rest, size = self.messages[number % MESSAGES]
            pieces += (head, b"%d" % (feed.first + number), rest)
            payload_bytes += size
        feed.sent += count
        self.counts["bytes"][connection.group] += payload_bytes
        connection.output = b"".join(pieces)
        self.write(connection)

    def cut(self, connection):
        """Ends a connection that has all that was sent."""
        kind = CUTS[self.cut_number % len(CUTS)]
        self.cut_number += 1
        self.counts["cuts"][kind] += 1
        if kind == "reset":
            linger = struct.pack("ii", 1, 0)
            connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.drop(connection)
            return
        if kind == "close frame":
            connection.output = frame(CLOSE, GOING_AWAY)
        self.begin_close(connection)

    def begin_close(self, connection):
        """No more than what is in its output; then the socket's end is its last word."""
        connection.state = "closing"
        connection.by = time.monotonic() + PATIENCE_S
        self.write(connection)

    def write(self, connection):
        """As much as the socket takes."""
        try:
            while connection.output:
                sent = connection.socket.send(connection.output)
                connection.output = connection.output[sent:]
            if connection.state == "closing":
                connection.socket.shutdown(socket.SHUT_WR)
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            pass
        except OSError:
            self.drop(connection)
            return
        wanted = bool(connection.output)
        if wanted != connection.writing:
            connection.writing = wanted
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if wanted else 0)
            self.selector.modify(connection.socket, events, connection)

    # ---- connections ----

    def accept(self):
        """One more client."""
        try:
            sock, _ = self.listener.accept()
        except OSError:
            return
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = Connection(sock, time.monotonic())
        if self.tls:
            connection.socket = self.tls.wrap_socket(sock, server_side=True,
                                                     do_handshake_on_connect=False)
            connection.state = "handshake"
        self.connections.add(connection)
        self.selector.register(connection.socket, selectors.EVENT_READ, connection)

    def drop(self, connection):
        """Gone at once; more than once is fine."""
        if connection not in self.connections:
            return
        self.connections.discard(connection)
        if connection.feed is not None and connection.feed.connection is connection:
            connection.feed.connection = None
        self.selector.unregister(connection.socket)
        connection.socket.close()

    def tidy(self, now):
        """Drops those who don't say what they want, or don't end."""
        for connection in [c for c in self.connections if c.state != "open" and now > c.by]:
            self.drop(connection)

    def serve(self, connection, events):
        """The socket has something, or has room."""
        try:
            if connection.state == "handshake":
                connection.socket.do_handshake()
                connection.state = "request"
            if events & selectors.EVENT_READ:
                self.read(connection)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
        except (OSError, ValueError):
            self.drop(connection)
        if events & selectors.EVENT_WRITE and connection in self.connections:
            self.write(connection)

    def read(self, connection):
        """All that is there; the end of it is the end of the connection."""
        while connection in self.connections:
            more = connection.socket.recv(4096)
            if not more:
                self.drop(connection)
                return
            connection.input += more
            while connection in self.connections and self.take(connection):
                pass

    def take(self, connection):
        """One request or frame off the input; whether there was one."""
        if connection.state == "request":
            end = connection.input.find(b"\r\n\r\n")
            if end < 0:
                return False
            request, connection.input = connection.input[:end], connection.input[end + 4:]
            self.answer(connection, request.decode("latin-1").split("\r\n"))
            return True
        return self.take_frame(connection)

    def answer(self, connection, lines):
        """The answer to a request."""
        path = lines[0].split()[1]
        headers = {name.lower(): value for name, _, value in
                   (line.partition(": ") for line in lines[1:])}
        if "sec-websocket-key" not in headers:
            self.counts["polls"] += 1
            head, rest, _ = self.book
            number = b"%d" % (10 ** (DIGITS - 1) + self.counts["polls"])
            body = head[head.index(b"{"):] + number + rest
            connection.output = (b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                                 b"Content-Length: %d\r\n\r\n" % len(body)) + body
            connection.by = time.monotonic() + 60 * PATIENCE_S
            self.write(connection)
            return
        group, number = map(int, path.strip("/").split("/"))
        feed = self.groups[group][number]
        if feed.connection is not None:
            self.drop(feed.connection)
        feed.connection, connection.feed = connection, feed
        connection.group = group
        self.counts["connections"][group] += 1
        key = headers["sec-websocket-key"].strip().encode()
        accept = base64.b64encode(hashlib.sha1(key + MAGIC).digest()).decode()
        connection.state, connection.since = "open", time.monotonic()
        if self.args.cut_every:
            connection.cut_at = connection.since + self.rng.expovariate(1 / self.args.cut_every)
        connection.output = UPGRADED.format(accept).encode()
        self.write(connection)

    def take_frame(self, connection):
        """One masked frame; pings and closes are answered."""
        have = connection.input
        if len(have) < 2:
            return False
        opcode, length, at = have[0] & 15, have[1] & 127, 2
        if length >= 126:
            wide = 2 if length == 126 else 8
            length, at = int.from_bytes(have[2:2 + wide], "big"), 2 + wide
        end = at + 4 + length
        if len(have) < end:
            return False
        mask, body = have[at:at + 4], have[at + 4:end]
        connection.input = have[end:]
        payload = bytes(b ^ mask[i % 4] for i, b in enumerate(body))
        if connection.state == "closing":
            return True
        if opcode == PING:
            connection.output += frame(PONG, payload)
            self.write(connection)
        elif opcode == CLOSE:
            connection.output += frame(CLOSE, payload)
            self.begin_close(connection)
        return True

    # ---- stdin ----

    def obey(self):
        """One line of what the script wants to know."""
        line = sys.stdin.buffer.raw.readline()
        if not line:
            self.ended = True
        elif line == b"figures\n":
            say({**self.counts, "sent": [sum(f.sent for f in feeds) for feeds in self.groups],
                 "open": [sum(f.connection is not None for f in feeds) for feeds in self.groups],
                 "cpu_s": time.process_time()})
        elif line == b"feeds\n":
            say([[feed.sent for feed in feeds] for feeds in self.groups])


def say(answer):
    """One line of JSON."""
    print(json.dumps(answer), flush=True)


def main():
    """The command line is made by the script alone."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--feeds", type=int, required=True)
    parser.add_argument("--groups", type=int, default=1)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--message-bytes", type=int, required=True)
    parser.add_argument("--cut-every", type=float, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--certificate")
    parser.add_argument("--key")
    Venue(parser.parse_args()).run()


if __name__ == "__main__":
    main()
