"""Mosquitto's WebSocket listener: MQTT, which asks for the subprotocol `mqtt`.

feedtape sends texts, and MQTT's packets are binary. But mosquitto takes texts for packets too, and
a CONNECT and a SUBSCRIBE can be chosen such that together they are UTF-8.
"""

import json

import common
import taped
from common import PACKAGES, Failure, need_tools, wait_until
from daemon import LIMIT_S, Daemon, free_port
from players import Way
from venue import end, recorder

PACKAGES.update({"mosquitto": "mosquitto", "mosquitto_pub": "mosquitto-clients"})
# CONNECT (user, password, clean session; its flags C2 and the keepalive's 80 are one character, as
# are the password C2 and the 82 that SUBSCRIBE begins with), then SUBSCRIBE of `t`.
CONNECT = (b"\x10\x12\x00\x04MQTT\x04\xc2\x80\x3c\x00\x00" b"\x00\x01u" b"\x00\x01\xc2")
SUBSCRIBE = b"\x82\x06\x00\x01\x00\x01t\x00"
CONNACK, SUBACK = b"\x20\x02\x00\x00", b"\x90\x03\x00\x01\x00"
MESSAGES = [b'{"n":1}', b"a\nb", b"x" * 100]
CONFIG = """\
allow_anonymous true
persistence false
listener {mqtt} 127.0.0.1
listener {ws} 127.0.0.1
protocol websockets
"""


def run(args, places):
    """Runs it; returns the report's lines."""
    need_tools("mosquitto", "mosquitto_pub")
    mqtt, ws = free_port(), free_port()
    config = places.folder / "mosquitto.conf"
    config.write_text(CONFIG.format(mqtt=mqtt, ws=ws))
    Daemon(places, ws, "mosquitto", "-c", config).start()
    way = Way("mosquitto", f"ws://127.0.0.1:{ws}", None, "/mqtt")
    return [*subprotocols(args, places, way), not_mqtt(args, places, way),
            messages(args, places, way, mqtt)]


def subprotocols(args, places, way):
    """What it makes of the subprotocols that are offered."""
    cases = [("none", [], None), ("mqtt", ["mqtt"], "mqtt"), ("soap", ["soap"], None),
             ("soap, mqtt", ["soap", "mqtt"], "mqtt")]
    runs = []
    for number, (name, offered, wanted) in enumerate(cases):
        options = [word for one in offered for word in ("--subprotocol", one)]
        runs.append((name, wanted, recorder(args, places, way, f"offer-{number}",
                                            [*options, "--duration", "3s"]).start()))
    lines = []
    for name, wanted, one in runs:
        code = one.wait(LIMIT_S)
        tape = taped.read(args.program, one.out)
        agreed = {connection.connected["subprotocol"] for connection in tape.connections}
        what = (f"agreed on {', '.join(map(str, agreed))}" if agreed
                else f"{len(tape.failed)} attempts: {'; '.join(sorted(set(tape.failed)))}")
        if code != 0 or (wanted and agreed != {wanted}) or (agreed - {wanted}):
            raise Failure(f"offered {name}: exit {code}: {what}\n{one.tail()}")
        lines.append(f"  offered {name}: {what}")
    return lines


def not_mqtt(args, places, way):
    """A text that is no MQTT: it hangs up, and we connect again with growing waits."""
    options = ["--subprotocol", "mqtt", "--subscribe", "hello"]
    one = recorder(args, places, way, "not-mqtt", [*options, "--duration", "2s"]).start()
    code = one.wait(LIMIT_S)
    tape = taped.read(args.program, one.out)
    ends = sorted({connection.end["reason"] for connection in tape.connections[:-1]})
    # 100 to 300 ms between two.
    if code != 0 or not 5 <= len(tape.connections) <= 40 or tape.messages():
        raise Failure(f"no MQTT: exit {code}, {len(tape.connections)} connections\n{one.tail()}")
    return f"  a text that is no MQTT: {len(tape.connections)} connections in 2 s: {'; '.join(ends)}"


def messages(args, places, way, mqtt):
    """Packets of messages that somebody publishes."""
    config = places.folder / "feeds.toml"
    text = json.dumps((CONNECT + SUBSCRIBE).decode())
    config.write_text(f'[feed.f]\nurl = "{way.base}{way.path}"\nsubprotocol = "mqtt"\n'
                      f"subscribe = [{text}]\n")
    one = recorder(args, places, way.to(None), "messages", ["--config", config], pace=()).start()
    received = lambda: b"".join(taped.read(args.program, one.out, verified=False).messages())
    wait_until(f"acknowledged\n{one.tail()}",
               lambda: list(one.out.rglob("*.open")) and SUBACK in received(), LIMIT_S)
    for message in MESSAGES:
        common.run("mosquitto_pub", "-p", mqtt, "-t", "t", "-m", message.decode())
    expected = CONNACK + SUBACK + b"".join(
        bytes([0x30, 3 + len(message)]) + b"\x00\x01t" + message for message in MESSAGES)
    wait_until(f"published messages\n{one.tail()}", lambda: len(received()) >= len(expected),
               LIMIT_S)
    end(one)
    tape = taped.read(args.program, one.out)
    if b"".join(tape.messages()) != expected:
        raise Failure(f"other packets than were sent: {tape.messages()}")
    return f"  {len(MESSAGES)} messages published: {len(tape.messages())} packets, 1 connection"
