"""Networks that fail: a recorder and a venue in two network namespaces, and a firewall between."""

import os
import shutil
import subprocess
import time
from pathlib import Path

from common import Failure, find_tool, need_tools, run, wait_until
from venue import Venue, check_tape, end, recorder

HERE, THERE = "10.77.0.1", "10.77.0.2"
# As near to HERE as THERE is, so that both stay in the order of the hosts file.
SILENT = "10.77.0.3"
PORT = 9001
LIMIT_S = 30
# src/feed/socket.rs: what the kernel needs to find that nobody is there, and some to spare.
KERNEL_S, SPARE_S = 60, 15


class Net:
    """Two namespaces with a cable between them; firewall rules are those of the venue's side."""

    def __init__(self, places):
        need_tools("ip", "nft")
        if os.geteuid() != 0:
            raise Failure("network namespaces need root")
        self.near, self.far = (f"feedtape-{os.getpid()}-{side}" for side in ("near", "far"))
        for name in (self.near, self.far):
            run("ip", "netns", "add", name)
            places.defer(lambda name=name: run("ip", "netns", "delete", name))
            run("ip", "-n", name, "link", "set", "lo", "up")
        run("ip", "-n", self.near, "link", "add", "cable", "type", "veth", "peer", "name", "cable",
            "netns", self.far)
        for name, addresses in ((self.near, [HERE]), (self.far, [THERE, SILENT])):
            for address in addresses:
                run("ip", "-n", name, "address", "add", f"{address}/24", "dev", "cable")
            run("ip", "-n", name, "link", "set", "cable", "up")

    def near_prefix(self):
        """Before a command that runs beside the recorder."""
        return [find_tool("ip"), "netns", "exec", self.near]

    def far_prefix(self):
        """Before a command that runs beside the venue."""
        return [find_tool("ip"), "netns", "exec", self.far]

    def rules(self, *lines, chains=("input", "output")):
        """These rules from now on, for what comes to the venue and what leaves it."""
        text = "flush ruleset\ntable ip faults {\n"
        for chain in chains:
            text += f" chain {chain} {{ type filter hook {chain} priority 0; policy accept;\n"
            text += "".join(f"  {line}\n" for line in lines) + " }\n"
        done = subprocess.run([*self.far_prefix(), find_tool("nft"), "-f", "-"],
                              input=text + "}\n", capture_output=True, text=True)
        if done.returncode:
            raise Failure(f"nft: {done.stderr.strip()}")

    def no_rules(self):
        """All packets pass again."""
        self.rules()

    def venue(self, args, places, rate=500):
        """A venue on the far side."""
        return Venue(places, args.program, "venue", f"{THERE}:{PORT}", rate,
                     prefix=self.far_prefix())

    def recorder(self, args, places, venue, name, *options):
        """A recorder on the near side."""
        return recorder(args, places, venue, name, options, prefix=self.near_prefix())


def wait_for_data(one):
    """Some messages are on the tape: the connection is up and in use."""
    def bytes_on_tape():
        return sum(path.stat().st_size for path in one.out.rglob("*.open"))
    wait_until(f"data on the tape\n{one.tail()}", lambda: bytes_on_tape() > 20_000, LIMIT_S)


def half_open(args, places):
    """Runs it; returns the report's lines."""
    net = Net(places)
    venue = net.venue(args, places)
    silent = ["--ping-every", "0", "--stale-after", "0"]
    cases = [
        ("pong deadline", ["--ping-every", "2s", "--pong-deadline", "2s"], "timeout: pong", 4),
        ("keepalive, nothing sent", silent, "lost: Connection timed out", KERNEL_S),
        ("sends that nobody acknowledges",
         ["--ping-every", "2s", "--pong-deadline", "0", "--stale-after", "0"],
         "lost: Connection timed out", KERNEL_S),
    ]
    recorders = [net.recorder(args, places, venue, f"half-open-{n}", *options).start()
                 for n, (_, options, _, _) in enumerate(cases)]
    for one in recorders:
        wait_for_data(one)
    net.rules("drop")
    begun = time.monotonic()
    lines = []
    for one, (name, _, words, limit_s) in zip(recorders, cases):
        one.wait_for_log(words, limit_s + SPARE_S)
        lines.append(f"  {name}: found after {time.monotonic() - begun:.1f} s: {words}")
    net.no_rules()
    for one, line in zip(recorders, lines):
        wait_until(f"connected again\n{one.tail()}",
                   lambda one=one: one.log_text().count(": connected to ") >= 2, LIMIT_S)
        end(one)
        check_tape(args.program, one.out)
    return lines


def addresses(args, places):
    """Runs it; returns the report's lines."""
    net = Net(places)
    # ip netns exec puts these files over those of /etc.
    folder = Path("/etc/netns") / net.near
    folder.mkdir(parents=True)
    places.defer(lambda: clear_netns_folder(folder))
    (folder / "hosts").write_text(f"{SILENT} venue.test\n{THERE} venue.test\n")
    net.rules(f"ip daddr {SILENT} drop")
    venue = net.venue(args, places)
    venue.host = f"venue.test:{PORT}"
    one = net.recorder(args, places, venue, "addresses", "--connect-timeout", "4s",
                       "--max-messages", "500").start()
    code = one.wait(LIMIT_S)
    connected = next((line for line in one.log_text().splitlines() if "connected to" in line), "")
    if code != 0 or f"connected to {THERE}" not in connected:
        raise Failure(f"exit {code}\n{one.tail()}")
    messages = check_tape(args.program, one.out)
    # With the silent address alone it must give up in time.
    (folder / "hosts").write_text(f"{SILENT} venue.test\n")
    other = net.recorder(args, places, venue, "silent", "--connect-timeout", "1s").start()
    other.wait_for_log("timeout: connect (1s)", LIMIT_S)
    end(other)
    return [f"  {connected.split(': ', 2)[-1]}; {messages} messages",
            "  the silent address alone: timeout: connect (1s)"]


def clear_netns_folder(folder):
    """Removes it, and the folder around it where nobody else has anything there."""
    shutil.rmtree(folder)
    if not any(folder.parent.iterdir()):
        folder.parent.rmdir()


def loss(args, places):
    """Runs it; returns the report's lines."""
    net = Net(places)
    venue = net.venue(args, places, rate=50)
    net.rules("numgen random mod 100 < 30 drop")
    one = net.recorder(args, places, venue, "loss", "--max-messages", "500").start()
    begun = time.monotonic()
    code = one.wait(240)
    took = time.monotonic() - begun
    if code != 0:
        raise Failure(f"exit {code}\n{one.tail()}")
    messages = check_tape(args.program, one.out)
    connections = one.log_text().count(": connected to ")
    return [f"  {messages} messages in {took:.0f} s, {connections} connection(s), none missing"]


def reset(args, places):
    """Runs it; returns the report's lines."""
    net = Net(places)
    venue = net.venue(args, places)
    one = net.recorder(args, places, venue, "reset").start()
    wait_for_data(one)
    begun = time.monotonic()
    net.rules(f"tcp dport {PORT} reject with tcp reset", chains=("input",))
    one.wait_for_log("lost: reset by the server", LIMIT_S)
    found = time.monotonic() - begun
    one.wait_for_log("Connection refused", LIMIT_S)
    net.no_rules()
    begun = time.monotonic()
    wait_until(f"connected again\n{one.tail()}",
               lambda: one.log_text().count(": connected to ") >= 2, LIMIT_S)
    back = time.monotonic() - begun
    end(one)
    messages = check_tape(args.program, one.out)
    return [f"  found after {found * 1000:.0f} ms, connected again {back * 1000:.0f} ms after the "
            f"firewall let it; {messages} messages"]
