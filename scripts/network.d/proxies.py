"""Real proxies: what is recorded through them, and what they refuse."""

from common import Failure, need_tools
from daemon import Daemon, free_port
from venue import LIMIT_S, Venue, check_tape, recorder

MESSAGES = 1000
USER, PASSWORD = "me", "pa:ss@word"
ENCODED = f"{USER}:pa%3Ass%40word"


def run(args, places):
    """Runs it; returns the report's lines."""
    need_tools("tinyproxy", "microsocks")
    venues = [Venue(places, args.program, "ws"), Venue(places, args.program, "wss", tls=True)]
    # tinyproxy's passwords can't hold special characters.
    proxies = [
        ("tinyproxy", "http", "", start_tinyproxy(places, "open", "")),
        ("tinyproxy with a password", "http", f"{USER}:word@",
         start_tinyproxy(places, "closed", f"BasicAuth {USER} word\n")),
        ("microsocks", "socks5h", "", start_microsocks(places, ())),
        ("microsocks with a password", "socks5", f"{ENCODED}@",
         start_microsocks(places, ("-u", USER, "-P", PASSWORD))),
    ]
    lines = []
    for number, (name, scheme, credentials, port) in enumerate(proxies):
        for venue in venues:
            kind = venue.base.split(":")[0]
            out = f"{kind}-{number}"
            record(args, places, venue, out, f"{scheme}://{credentials}127.0.0.1:{port}", port)
            lines.append(f"  {name}, {kind}: {MESSAGES} messages")
        if credentials:
            for given, words in [("", "wants authentication"), (f"{USER}:no@", "not accept")]:
                url = f"{scheme}://{given}127.0.0.1:{port}"
                lines.append(f"  {name}: {refused(args, places, venues[0], url, words)}")
    return lines


def record(args, places, venue, out, url, port):
    """Records some messages, with the proxy from the environment."""
    options = ["--max-messages", MESSAGES]
    one = recorder(args, places, venue, out, options, {"all_proxy": url})
    code = one.start().wait(LIMIT_S)
    if code != 0:
        raise Failure(f"{out}: exit {code}\n{one.tail()}")
    if f"through proxy 127.0.0.1:{port}" not in one.log_text():
        raise Failure(f"{out}: it did not say that it went through the proxy\n{one.tail()}")
    if "word" in one.log_text():
        raise Failure(f"{out}: the password is in the log\n{one.tail()}")
    messages = check_tape(args.program, one.out)
    if messages != MESSAGES:
        raise Failure(f"{out}: {messages} messages on the tape, not {MESSAGES}")


def refused(args, places, venue, url, words):
    """A proxy that would not have us; what the recorder says of it."""
    count = len(list(places.folder.glob("refused-*.log")))
    one = recorder(args, places, venue, f"refused-{count}", ["--proxy", url]).start()
    one.wait_for_log(words, LIMIT_S)
    line = next(line for line in one.log_text().splitlines() if words in line)
    one.end()
    return line.split("can't connect: ")[-1].split("; next")[0]


def start_tinyproxy(places, name, more):
    """Its port."""
    port = free_port()
    config = places.folder / f"tinyproxy-{name}.conf"
    config.write_text(f"Port {port}\nListen 127.0.0.1\nTimeout 60\nAllow 127.0.0.1\n{more}")
    Daemon(places, port, "tinyproxy", "-d", "-c", config).start()
    return port


def start_microsocks(places, options):
    """Its port."""
    port = free_port()
    Daemon(places, port, "microsocks", "-i", "127.0.0.1", "-p", port, *options).start()
    return port
