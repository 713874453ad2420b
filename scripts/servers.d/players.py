"""Python's websockets and Node's ws: plain, and behind nginx and haproxy that speak TLS."""

import time
from dataclasses import dataclass
from pathlib import Path

import plan
import taped
from common import PACKAGES, Failure, need_tools, run, wait_until
from daemon import LIMIT_S, Daemon, free_port
from suite import run_limited
from venue import Feed, end, recorder

PACKAGES.update({"nginx": "nginx-light", "haproxy": "haproxy", "openssl": "openssl",
                 "node": "nodejs", "npm": "npm"})
HERE = Path(__file__).resolve().parent
# The proxies end a connection on which nothing passes for so long.
IDLE_S = 2
KEPT_S = 3 * IDLE_S + 1

NGINX = """\
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/nginx-error.log;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/nginx-body;
    proxy_temp_path {folder}/nginx-proxy;
    fastcgi_temp_path {folder}/nginx-fastcgi;
    uwsgi_temp_path {folder}/nginx-uwsgi;
    scgi_temp_path {folder}/nginx-scgi;
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {cert};
        ssl_certificate_key {key};
        location / {{
            proxy_pass http://127.0.0.1:{backend};
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection upgrade;
            proxy_read_timeout {idle}s;
        }}
    }}
}}
"""
HAPROXY = """\
defaults
    mode http
    timeout connect 2s
    timeout client 5s
    timeout server 5s
    timeout tunnel {idle}s
frontend tls
    bind 127.0.0.1:{port} ssl crt {both}
    default_backend player
backend player
    server player 127.0.0.1:{backend}
"""


@dataclass
class Way:
    """One way to the server; the recorder takes it for a venue."""

    name: str
    base: str
    cert: Path
    path: str | None = "/"  # None: the feeds are those of a file

    @property
    def feeds(self):
        """What the recorder is told to record."""
        return [] if self.path is None else [Feed("f")]

    def url(self, _feed):
        """Where it is to be had."""
        return self.base + self.path

    def to(self, path):
        """Another path on this way."""
        return Way(self.name, self.base, self.cert, path)


def python(args, places):
    """Runs it with Python's websockets; returns the report's lines."""
    venv = places.folder / "venv"
    run_limited("python3", "-m", "venv", venv)
    run_limited(venv / "bin" / "pip", "install", "--quiet", "websockets")
    server = lambda port, plan_path: Daemon(
        places, port, venv / "bin" / "python", HERE / "play.py", port, plan_path, name="python")
    return play(args, places, server)


def node(args, places):
    """Runs it with Node's ws; returns the report's lines."""
    need_tools("node", "npm")
    folder = places.make("node")
    run_limited("npm", "install", "--silent", "--prefix", folder, "ws")
    env = {"NODE_WS": str(folder / "node_modules" / "ws")}
    server = lambda port, plan_path: Daemon(
        places, port, "node", HERE / "play.js", port, plan_path, name="node", env=env)
    return play(args, places, server)


def play(args, places, server):
    """The server, the ways to it, and all that is tried on them."""
    need_tools("nginx", "haproxy", "openssl")
    plan_path = places.folder / "plan.json"
    plan.write(plan_path)
    backend = server(free_port(), plan_path).start()
    cert, key = make_certificate(places.folder)
    nginx = start_nginx(places, backend.port, cert, key).start()
    haproxy = start_haproxy(places, backend.port, cert, key).start()
    ways = [Way("plain", f"ws://127.0.0.1:{backend.port}", cert),
            Way("nginx", f"wss://localhost:{nginx.port}", cert),
            Way("haproxy", f"wss://localhost:{haproxy.port}", cert)]
    return [*play_all(args, places, ways), *idle(args, places, ways[1:]),
            *fail(args, places, ways, backend, nginx, haproxy)]


def make_certificate(folder):
    """A certificate of its own authority, and its key."""
    cert, key = folder / "cert.pem", folder / "key.pem"
    run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-keyout", key,
        "-out", cert, "-subj", "/CN=localhost", "-addext",
        "subjectAltName=DNS:localhost,IP:127.0.0.1")
    return cert, key


def start_nginx(places, backend, cert, key):
    """nginx before the server."""
    port, config = free_port(), places.folder / "nginx.conf"
    config.write_text(NGINX.format(folder=places.folder, port=port, backend=backend, cert=cert,
                                   key=key, idle=IDLE_S))
    return Daemon(places, port, "nginx", "-e", places.folder / "nginx-error.log", "-c", config)


def start_haproxy(places, backend, cert, key):
    """haproxy before the server."""
    port, config = free_port(), places.folder / "haproxy.cfg"
    both = places.folder / "both.pem"
    both.write_text(cert.read_text() + key.read_text())
    config.write_text(HAPROXY.format(port=port, backend=backend, both=both, idle=IDLE_S))
    return Daemon(places, port, "haproxy", "-db", "-f", config)


def play_all(args, places, ways):
    """The whole plan, on one connection more than there are codes."""
    expected = plan.expected()
    codes = [*plan.CODES, 1000]
    options = ["--max-messages", len(expected) * len(codes)]
    runs = [(way, recorder(args, places, way.to(f"/play?{way.name}"), f"play-{way.name}",
                           options).start()) for way in ways]
    lines = []
    for way, one in runs:
        code = one.wait(LIMIT_S)
        if code != 0:
            raise Failure(f"{way.name}: exit {code}\n{one.tail()}")
        connections = taped.read(args.program, one.out).connections
        found = [connection.code() for connection in connections]
        if found != codes:
            raise Failure(f"{way.name}: the connections ended with {found}, not {codes}")
        for number, connection in enumerate(connections, 1):
            if connection.messages != expected:
                at = next((n for n, pair in enumerate(zip(connection.messages, expected))
                           if pair[0] != pair[1]), len(connection.messages))
                raise Failure(f"{way.name}: connection {number}: message {at} is not as it was "
                              "sent")
        bytes_ = sum(len(payload) for _, payload in expected) * len(codes)
        lines.append(f"  {way.name:8} all kinds: {len(codes)} connections, "
                     f"{len(expected) * len(codes)} messages, {bytes_} bytes; closed with "
                     f"{', '.join(map(str, found))}")
    return lines


def idle(args, places, ways):
    """Where nothing comes, a proxy ends the connection unless pings pass."""
    kinds = [("kept", ["--ping-every", "500ms"]), ("cut", ["--ping-every", "0"])]
    runs = [(way, kind, recorder(args, places, way.to("/idle"), f"{kind}-{way.name}",
                                 [*options, "--duration", f"{KEPT_S}s"]).start())
            for way in ways for kind, options in kinds]
    lines = []
    for way, kind, one in runs:
        code = one.wait(KEPT_S + LIMIT_S)
        connections = taped.read(args.program, one.out).connections
        if code != 0 or (len(connections) == 1) != (kind == "kept"):
            raise Failure(f"{way.name}: {kind}: exit {code}, {len(connections)} connections\n"
                          f"{one.tail()}")
        if any(connection.messages != [("text", b"one")] for connection in connections):
            raise Failure(f"{way.name}: {kind}: other messages than were sent")
        first = connections[0].end
        lines.append(f"  {way.name:8} idle, {'with' if kind == 'kept' else 'without'} pings: "
                     f"{first['reason']} after {first['duration_ms'] / 1000:.1f} s")
    return lines


def fail(args, places, ways, backend, nginx, haproxy):
    """The server dies and comes back, then the proxies are reloaded, stopped and started."""
    words = {"plain": "Connection refused", "nginx": "502 Bad Gateway",
             "haproxy": "503 Service Unavailable"}
    runs = {way.name: recorder(args, places, way.to("/stream"), f"stream-{way.name}",
                               ["--ping-every", "500ms"]).start() for way in ways}
    for one in runs.values():
        wait_for_more(one)
    backend.kill()
    for name, one in runs.items():
        one.wait_for_log(words[name], LIMIT_S)
    backend.start()
    for one in runs.values():
        wait_for_connections(one, 2)
        wait_for_more(one)
    run("nginx", "-e", places.folder / "nginx-error.log", "-c", places.folder / "nginx.conf", "-s",
        "reload")
    # The old worker goes on with the connections that it has.
    time.sleep(1)
    wait_for_more(runs["nginx"])
    wait_for_connections(runs["nginx"], 2)
    for name, proxy in (("nginx", nginx), ("haproxy", haproxy)):
        proxy.stop()
        runs[name].wait_for_log("Connection refused", LIMIT_S)
        proxy.start()
        wait_for_connections(runs[name], 3)
        wait_for_more(runs[name])
    return [end_stream(args, name, one, 2 if name == "plain" else 3) for name, one in runs.items()]


def end_stream(args, name, one, count):
    """What is on the tape of a stream, and why its connections ended; a line for the report."""
    end(one)
    tape = taped.read(args.program, one.out)
    if len(tape.connections) != count:
        raise Failure(f"{name}: {len(tape.connections)} connections, not {count}\n{one.tail()}")
    for number, connection in enumerate(tape.connections, 1):
        for n, (_, payload) in enumerate(connection.messages):
            if payload != plan.stream_message(n):
                raise Failure(f"{name}: connection {number}: message {n} is not as it was sent")
    ends = [connection.end["reason"] for connection in tape.connections]
    attempts = sorted(set(tape.failed))
    return (f"  {name:8} stream: {len(tape.messages())} messages; ended by: {'; '.join(ends)}. "
            f"{len(tape.failed)} attempts between: {'; '.join(attempts)}")


def wait_for_more(one):
    """What is on the tape grows."""
    def size():
        return sum(path.stat().st_size for path in one.out.rglob("*.open"))
    before = size()
    wait_until(f"more on the tape\n{one.tail()}", lambda: size() > before + 2000, LIMIT_S)


def wait_for_connections(one, count):
    """It connected so often, and not more often."""
    connected = lambda: one.log_text().count(": connected to ")
    wait_until(f"{count} connections\n{one.tail()}", lambda: connected() >= count, LIMIT_S)
    if connected() > count:
        raise Failure(f"{connected()} connections, not {count}\n{one.tail()}")
