"""All cases of the Autobahn suite, which judges clients that send each message back.

A recorder sends nothing back, so the suite's own verdicts are explained one by one; beside them
each case is judged here by what the server put on the wire: all its valid messages are on the tape
and nothing else is, and the connection was closed with the right code.
"""

from collections import Counter, defaultdict

import taped
from common import Failure, say, verify, wait_until
from players import Way
from suite import CASES, Suite
from tap import TEXT, Tap
from venue import end, recorder

# The server is one thread of Python 2 with timers of half a second: with more at once, or the large
# messages beside them, it comes too late to its own deadlines.
RATE = "15/1s"
# The cases on limits: one large message each, then the suite waits minutes for it to come back.
LIMITS = "9."
LIMIT_S = 150
ROUNDS_MAX = 5
NOT_OFFERED = "permessage-deflate is not offered: the suite sends nothing"
NO_ECHO = "the message was not sent back, as a recorder doesn't"
NO_ECHO_STRICT = "closed rightly, but the valid message before was not sent back"
LATE = "UTF-8 of a frame is looked at when the frame is whole, not as its bytes come"
UNDEFINED = "for information: the RFC does not say what is right"


def run(args, places):
    """Runs it; returns the report's lines."""
    suite = Suite(args, places)
    tap = Tap(places, suite.daemon.port)
    names = names_of(suite)
    numbers = {name: number for number, name in enumerate(names, 1)}
    limits = [number for name, number in numbers.items() if name.startswith(LIMITS)]
    others = [number for name, number in numbers.items() if not name.startswith(LIMITS)]
    lines, rounds = [], [("others", others), ("limits", limits)]
    for out, cases in rounds:
        say(f"{out}: {len(cases)} cases")
        one = record(args, places, tap, out, cases)
        lines += judge(args, names, cases, tap.take_cases(), one.out)
        results = read_results(args, places, suite, names, out)
        late = [numbers[name] for name in names if out != "limits" and name in results
                and is_late(name, results[name])]
        # Right on the wire, but after the suite's own deadlines: once more, by themselves.
        if late and len(rounds) < ROUNDS_MAX:
            rounds.append((f"again-{len(rounds)}", late))
    missing = [name for name in names if name not in results]
    if missing:
        raise Failure(f"{len(missing)} cases were not run: {' '.join(missing[:20])}")
    return [*lines, *explain(names, results)]


def names_of(suite):
    """The cases' names, in the order of their numbers; it prints them when it starts."""
    text = suite.daemon.log.read_text()
    names = text.split("Cases = [", 1)[1].split("]")[0].replace("'", "").split(", ")
    if len(names) != CASES:
        raise Failure(f"the suite has {len(names)} cases, not {CASES}")
    return names


def record(args, places, tap, out, cases):
    """One feed a case, each connected once. The cases on limits end with their message, the others
    when the server has ended all of them."""
    config = places.folder / f"{out}.toml"
    feeds = [f'[feed.case-{n}]\nurl = "ws://127.0.0.1:{tap.port}/runCase?case={n}&agent=feedtape"'
             for n in cases]
    config.write_text("\n".join([
        'queue-bytes = "16MiB"', 'compress = "none"', "[defaults]", 'backoff-min = "1h"',
        'backoff-max = "24h"', f'connect-rate = "{RATE}"', 'connect-timeout = "60s"', *feeds]))
    limits = out == "limits"
    options = ["--config", config, *(["--max-messages", "1"] if limits else [])]
    way = Way(out, "ws:", None, None)
    one = recorder(args, places, way, out, options, pace=()).start()
    if limits:
        code = one.wait(LIMIT_S)
        if code != 0:
            raise Failure(f"{out}: exit {code}\n{one.tail()}")
    else:
        ended = lambda: (one.log_text().count(": disconnected after ")
                         + one.log_text().count(": can't connect: "))
        wait_until(f"all cases have ended\n{one.tail()}", lambda: ended() >= len(cases), LIMIT_S)
        end(one)
    verify(args.program, one.out)
    return one


def read_results(args, places, suite, names, after):
    """Has the suite write what it thinks of us, by the cases' names."""
    way = Way("reports", f"ws://127.0.0.1:{suite.daemon.port}", None, "/updateReports?agent=none")
    one = recorder(args, places, way, f"reports-{after}", ["--backoff-min", "1h", "--backoff-max", "24h"],
                   pace=()).start()
    one.wait_for_log("disconnected after", LIMIT_S)
    end(one)
    return suite.results()


def is_late(name, result):
    """Not as it should be, and the suite's timers may be why: it is slow, or the machine is."""
    is_ok = result["behavior"] == "OK" and result["behaviorClose"] == "OK"
    return not is_ok and why_not_ok(name, result) is None


def judge(args, names, cases, taken, out):
    """By what was on the wire, whatever the suite says."""
    codes, messages, bytes_ = Counter(), 0, 0
    wrong = []
    for number in cases:
        name = names[number - 1]
        if number not in taken:
            wrong.append(f"{name}: no connection")
            continue
        server, client = taken[number].streams()
        tape = taped.read(args.program, out, f"case-{number}", verified=False)
        found = [one for connection in tape.connections for one in connection.messages]
        sent = [("text" if kind == TEXT else "binary", payload)
                for kind, payload in server.messages]
        if found != sent:
            wrong.append(f"{name}: {len(found)} messages on the tape, {len(sent)} were sent")
        wrong += [f"{name}: {what}" for what in wrong_ends(server, client, tape)]
        messages, bytes_ = messages + len(sent), bytes_ + sum(len(payload) for _, payload in sent)
        codes[(server.wrong, server.why)] += 1
    if wrong:
        raise Failure("what was recorded is not what was sent:\n  " + "\n  ".join(wrong[:40]))
    lines = [f"  {out.name}: {len(cases)} cases, {messages} messages, {bytes_} bytes sent, all on "
             "the tapes byte for byte"]
    for (code, why), count in sorted(codes.items(), key=lambda item: -item[1]):
        what = f"violation ({why}), answered with {code}" if code else "all frames valid"
        lines.append(f"  {count:4} {what}")
    return lines


def wrong_ends(server, client, tape):
    """What is wrong with how the connection ended."""
    if client.wrong is not None:
        yield f"the recorder broke the RFC: {client.why}"
    if client.messages:
        yield f"the recorder sent {len(client.messages)} messages"
    # A recorder that waits for its disk sends empty pongs that nobody asked for.
    answers = client.pongs if b"" in server.pings else [pong for pong in client.pongs if pong]
    if answers != server.pings:
        yield f"{len(server.pings)} pings, answered with {client.pongs}"
    if len(tape.connections) != 1:
        yield f"{len(tape.connections)} connections: {tape.failed}"
        return
    code = tape.connections[0].code()
    wanted = server.code if server.wrong is None else server.wrong
    if "asked for" in tape.connections[0].end["reason"]:
        wanted = 1000  # the recorder had its message, and closed first
    if not client.closed or client.code != wanted or code != wanted:
        yield f"closed with {client.code}, on the tape {code}, not {wanted} ({server.why})"


def explain(names, results):
    """Every verdict of the suite that is not OK."""
    verdicts = Counter((result["behavior"], result["behaviorClose"])
                       for result in results.values())
    groups, unexplained = defaultdict(list), []
    for name in names:
        result = results[name]
        if result["behavior"] == "OK" and result["behaviorClose"] == "OK":
            groups["OK"].append(name)
            continue
        why = why_not_ok(name, result)
        verdict = f"{result['behavior']}, close {result['behaviorClose']}"
        if why is None:
            unexplained.append(f"{name}: {verdict}: {result['result']} {result['resultClose']}")
        else:
            groups[f"{verdict}: {why}"].append(name)
    if unexplained:
        raise Failure("verdicts that nothing explains:\n  " + "\n  ".join(unexplained[:40]))
    lines = ["  the suite's verdicts: " + ", ".join(
        f"{count} {behavior}/{close}" for (behavior, close), count in verdicts.most_common())]
    for group, cases in sorted(groups.items(), key=lambda item: -len(item[1])):
        lines.append(f"  {len(cases):4} {group}: {ranges(cases)}")
    return lines


def why_not_ok(name, result):
    """A known reason for the verdict; `None`: there is none."""
    behavior, close = result["behavior"], result["behaviorClose"]
    wants_message = any(kind == "message" for kind, *_ in result["expected"].get("OK", []))
    got_message = any(kind == "message" for kind, *_ in result["received"])
    if behavior == "UNIMPLEMENTED" and close == "OK" and name.startswith(("12.", "13.")):
        return NOT_OFFERED
    if behavior == "INFORMATIONAL":
        return UNDEFINED
    if behavior == "NON-STRICT" and close == "OK":
        timeouts = [one for one in result["received"] if one[0] == "timeout"]
        return NO_ECHO_STRICT if wants_message else LATE if len(timeouts) == 2 else None
    # Not having got it back the suite gives up: it hangs up, or goes away with 1001, which is
    # answered with 1001, where it wanted its 1000 back.
    waited = result["result"].startswith(("Did not receive message", "Case did not finish"))
    if behavior == "FAILED" and not got_message and (wants_message or waited):
        code = result["remoteCloseCode"]
        if close == "OK" or (close == "WRONG CODE" and code == result["localCloseCode"] == 1001):
            return NO_ECHO
        if close == "FAILED" and waited and code == 1000:
            return f"{NO_ECHO}; the recorder, not the suite, ended it"
    return None


def ranges(cases):
    """Cases by what their names begin with."""
    groups = Counter(case.rsplit(".", 1)[0] + ".x" for case in cases)
    few = len(cases) <= 12
    return " ".join(cases if few else [f"{group} ({count})" for group, count in groups.items()])
