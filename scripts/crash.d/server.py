"""A venue that remembers what it published.

Each feed publishes numbered messages at a steady rate, whether anybody is connected or not, and
keeps for each batch its numbers, the times just before and after, and the connection that it was
sent to. What a message holds follows from its feed and number, so nothing else need be kept.
"""

import base64
import hashlib
import socket
import struct
import threading
import time
from dataclasses import dataclass

TICK_S = 0.005
# After having been held back a feed goes on from here, and doesn't publish what it missed.
BATCH_MAX = 2000
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
UPGRADED = ("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Accept: {}\r\n\r\n")
MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
PAD = bytes(32 + n * 7 % 95 for n in range(1000)).replace(b'"', b"'").replace(b"\\", b"/")


def message(name, number):
    """Opcode and payload of a feed's n-th message: mostly JSON of some 60 to 260 bytes, now and
    then binary, with line feeds and backslashes, or larger than a block of the recorder."""
    head = b'{"feed":"%s","n":%d,"pad":"' % (name, number)
    length = number * 7919 % 200
    if number % 97 == 0:
        return BINARY, head + bytes((number + i) % 256 for i in range(64))
    if number % 89 == 0:
        return TEXT, head + b'\n\\n\\\\"}\n'
    if number % 5003 == 0:
        return TEXT, head + PAD * 100 + b'"}'
    return TEXT, head + PAD[:length] + b'"}'


def frame(opcode, payload):
    """A whole message in one unmasked frame."""
    length = len(payload)
    if length < 126:
        return struct.pack(">BB", 0x80 | opcode, length) + payload
    if length < 65536:
        return struct.pack(">BBH", 0x80 | opcode, 126, length) + payload
    return struct.pack(">BBQ", 0x80 | opcode, 127, length) + payload


@dataclass
class Batch:
    """Messages that were published together."""

    first: int
    count: int
    before_ns: int
    after_ns: int
    run: int | None  # run of the recorder that they were sent to; None: nobody was connected


class Feed:
    """One feed: publishes from the start on."""

    def __init__(self, name, rate):
        self.name = name
        self.wire_name = name.encode()
        self.rate = rate
        self.lock = threading.Lock()  # held while publishing and while a connection begins or ends
        self.socket = None
        self.run = None
        self.next = 0
        self.batches = []
        self.connections = 0
        self.paused = False

    def message(self, number):
        """See the function."""
        return message(self.wire_name, number)

    def publish(self, count):
        """One batch. Who is connected gets it, and holds it up where he doesn't read."""
        with self.lock:
            first, self.next = self.next, self.next + count
            run, before = self.run, time.time_ns()
            if self.socket is not None:
                wire = b"".join(frame(*self.message(n)) for n in range(first, first + count))
                before = time.time_ns()
                try:
                    self.socket.sendall(wire)
                except OSError:
                    self.hang_up()
            self.batches.append(Batch(first, count, before, time.time_ns(), run))

    def hang_up(self):
        """Ends the connection; needs the lock."""
        if self.socket is not None:
            self.socket.close()
            self.socket, self.run = None, None


class Server:
    """All feeds on one port of the loopback interface."""

    def __init__(self, feeds, rate):
        self.feeds = [Feed(f"f{n}", rate / feeds) for n in range(feeds)]
        self.run = 0  # counted up by who starts the recorder
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self.listener.getsockname()[1]
        self.ended = threading.Event()
        self.threads = []
        self.errors = []

    def url(self, feed):
        """Where a feed is to be had."""
        return f"ws://127.0.0.1:{self.port}/{feed.name}"

    def start(self):
        """Publishes from now on."""
        for target, args in [(self._accept, ())] + [(self._publish, (f,)) for f in self.feeds]:
            thread = threading.Thread(target=self._guard, args=(target, *args), daemon=True)
            thread.start()
            self.threads.append(thread)
        return self

    def stop(self):
        """Publishes nothing from now on, and hangs up."""
        self.ended.set()
        self.listener.close()
        for feed in self.feeds:
            if not feed.lock.acquire(timeout=5):
                # Held up by a recorder that doesn't read: closing under it ends that.
                feed.socket.close()
                continue
            feed.hang_up()
            feed.lock.release()

    def pause(self, paused=True):
        """No more messages, but connections stay."""
        for feed in self.feeds:
            feed.paused = paused
            with feed.lock:
                pass

    def published(self):
        """Messages so far."""
        return sum(feed.next for feed in self.feeds)

    def all_connected(self):
        """Whether somebody of this run listens to each feed."""
        return all(feed.socket is not None and feed.run == self.run for feed in self.feeds)

    def _guard(self, target, *args):
        try:
            target(*args)
        except Exception as error:  # whatever it is, the run is worth nothing
            if not self.ended.is_set():
                self.errors.append(f"{target.__name__}: {error!r}")

    def _publish(self, feed):
        begun, done = time.monotonic(), 0
        while not self.ended.wait(TICK_S):
            due = int((time.monotonic() - begun) * feed.rate) - done
            if feed.paused:
                done += due
            elif due > 0:
                feed.publish(min(due, BATCH_MAX))
                done += due

    def _accept(self):
        while True:
            connection, _ = self.listener.accept()
            target = self._serve
            threading.Thread(target=self._guard, args=(target, connection), daemon=True).start()

    def _serve(self, connection):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        run = self.run
        try:
            feed = self._upgrade(connection, run)
            if feed is not None:
                self._read_frames(feed, connection)
        except OSError:
            pass  # the recorder was killed: that is what this is about
        finally:
            connection.close()

    def _upgrade(self, connection, run):
        request = b""
        while b"\r\n\r\n" not in request:
            more = connection.recv(4096)
            if not more:
                return None
            request += more
        lines = request.decode("latin-1").split("\r\n")
        name = lines[0].split()[1].strip("/")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
        key = next(line.split(": ", 1)[1] for line in lines if line.lower().startswith("sec-websocket-key"))
        assert headers["upgrade"] == "websocket"
        accept = base64.b64encode(hashlib.sha1(key.encode() + MAGIC).digest()).decode()
        feed = next(feed for feed in self.feeds if feed.name == name)
        # What is published after the 101 is for this connection: nothing comes between.
        with feed.lock:
            feed.hang_up()
            connection.sendall(UPGRADED.format(accept).encode())
            feed.socket, feed.run = connection, run
            feed.connections += 1
        return feed

    def _read_frames(self, feed, connection):
        stream = connection.makefile("rb")
        while True:
            head = stream.read(2)
            if len(head) < 2:
                break
            opcode, length = head[0] & 15, head[1] & 127
            if length >= 126:
                length = int.from_bytes(stream.read(2 if length == 126 else 8), "big")
            mask = stream.read(4)
            payload = bytes(b ^ mask[i % 4] for i, b in enumerate(stream.read(length)))
            if opcode == PING:
                with feed.lock:
                    connection.sendall(frame(PONG, payload))
            elif opcode == CLOSE:
                with feed.lock:
                    if feed.socket is connection:
                        feed.socket, feed.run = None, None
                    connection.sendall(frame(CLOSE, payload))
                    connection.shutdown(socket.SHUT_WR)
        with feed.lock:
            if feed.socket is connection:
                feed.hang_up()
