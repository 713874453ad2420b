"""What is checked of feedtape under systemd, in the order in which an operator would meet it."""

import json
import re
import subprocess
import time

from common import Failure, run, wait_until
from machine import Machine

SECRET = "s3cret-of-the-venue"
TOKEN = "s3cret-token-of-the-endpoint"
STATE = "/var/lib/private/feedtape"
UNIT = "feedtape.service"
WRITTEN = "/run/e2e/written"
FEEDS_FILE = "/etc/feedtape/feeds.toml"
# As the unit has it.
MEMORY_MAX = 256 << 20
EXPOSURE_MAX = 1.5
# The unit's is 30 s; the checks have no time for that.
WATCHDOG_S = 3
# As --rotate-bytes below.
SEGMENT = 4 << 20
VENUE = """\
[Service]
ExecStart=feedtape simulate --listen 127.0.0.1:9001 --rate {rate}
DynamicUser=yes
"""
FEEDS = """\
fsync = "200ms"
rotate-bytes = "4MiB"
admin = "unix:/run/feedtape/admin.sock"
admin-token-file = "/run/credentials/feedtape.service/admin-token"

[defaults]
backoff-max = "2s"
headers = {{ Authorization = "Bearer ${{cred:venue-token}}" }}

[feed.trades]
url = "ws://127.0.0.1:9001/trades?symbols=btcusdt"

[feed.dead]
url = "ws://127.0.0.1:9/?key=${{cred:venue-token}}"
{more}"""
TWO = """\
[feed.trades]
url = "ws://127.0.0.1:9001/trades"
"""
BOOK = """
[feed.book]
url = "ws://127.0.0.1:9001/book?symbols=btcusdt"
"""
DROP_IN = f"""\
[Service]
LoadCredential=venue-token:/etc/feedtape/venue-token
LoadCredential=admin-token:/etc/feedtape/admin-token
WatchdogSec={WATCHDOG_S}
"""


def expect(holds, what):
    """Fails with a sentence."""
    if not holds:
        raise Failure(what)


class Checks:
    """One machine, from its boot on."""

    def __init__(self, places, package):
        self.places = places
        self.package = package
        self.machine = Machine(places)
        # The unit's properties right after the package was installed.
        self.fresh = []

    def prepare(self):
        """What an operator does: installs the package, and says what to record."""
        machine = self.machine
        machine.put("/root/feedtape.deb", self.package.read_bytes())
        machine.put("/root/newer.deb", self.newer_revision().read_bytes())
        machine.put(f"/etc/systemd/system/{UNIT}.d/e2e.conf", DROP_IN)
        machine.put("/etc/systemd/system/venue.service", VENUE.format(rate=200))
        machine.put("/etc/systemd/system/flood.service",
                    VENUE.format(rate=0).replace("9001", "9002"))
        machine.put("/etc/feedtape/venue-token", SECRET + "\n", 0o600)
        machine.put("/etc/feedtape/admin-token", TOKEN + "\n", 0o600)
        machine.start()
        machine.run("dpkg", "-i", "/root/feedtape.deb")
        self.fresh = machine.show(UNIT, "LoadState", "ActiveState", "UnitFileState", "FragmentPath")
        machine.write(FEEDS_FILE, FEEDS.format(more=""))
        machine.run("systemctl", "start", "venue", "flood")

    def newer_revision(self):
        """The same package with a higher number."""
        tree, newer = self.places.folder / "newer", self.places.folder / "newer.deb"
        run("dpkg-deb", "-R", self.package, tree)
        control = tree / "DEBIAN" / "control"
        text, count = re.subn(r"(?m)^(Version: .*)$", r"\1.e2e", control.read_text())
        expect(count == 1, f"'{self.package}' has no version")
        control.write_text(text)
        run("dpkg-deb", "--root-owner-group", "-Znone", "-b", tree, newer)
        return newer

    # --- Helpers -----------------------------------------------------------------------------

    def version(self):
        """Of the installed package."""
        return self.machine.run("dpkg-query", "-W", "-f", "${Version}", "feedtape").stdout

    def main_pid(self):
        return int(self.machine.show(UNIT, "MainPID")[0])

    def status(self):
        return self.machine.show(UNIT, "StatusText")[0]

    def journal(self, *match):
        done = self.machine.run("journalctl", "-o", "json", "-q", "--no-pager", *match)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def said(self, text, *match):
        entries = self.journal(*match)
        return [entry for entry in entries if text in str(entry.get("MESSAGE", ""))]

    def tape(self, feed, state=STATE):
        return self.machine.shell(f"feedtape cat {state}/feed={feed} 2>/dev/null", check=False)

    def messages(self, feed, state=STATE):
        lines = self.tape(feed, state).splitlines()
        return sum(1 for line in lines if line[19:20] == " ")

    def records(self, feed, state=STATE):
        """Waits for messages that come from now on."""
        before = self.messages(feed, state)
        wait_until(f"{feed} is recorded", lambda: self.messages(feed, state) > before + 50, 30)

    def restarts(self, count):
        def is_back():
            shown = self.machine.show(UNIT, "NRestarts", "ActiveState", "SubState")
            return shown == [str(count), "active", "running"]
        wait_until(f"restart {count}", is_back, 60)

    def gaps(self, feed, reason, state=STATE):
        return len(self.holes(feed, reason, state))

    def holes(self, feed, reason, state=STATE):
        """The gaps of a reason: how long each is, in seconds."""
        begin = f'!{{"event":"gap","reason":"{reason}"'
        lines = [line[19:] for line in self.tape(feed, state).splitlines()]
        gaps = [json.loads(line[1:]) for line in lines if line.startswith(begin)]
        return [(gap["to_ts"] - gap["from_ts"]) / 1e9 for gap in gaps]

    # --- Checks ------------------------------------------------------------------------------

    def check_package(self):
        """dpkg installs it under a running systemd, and enables and starts nothing"""
        place = f"/lib/systemd/system/{UNIT}"
        expect(self.fresh[:3] == ["loaded", "inactive", "disabled"], str(self.fresh))
        expect(self.fresh[3] in (place, f"/usr{place}"), str(self.fresh))
        return f"{self.version()}, {self.fresh[3]}"

    def check_exposure(self):
        """systemd-analyze finds the units in order, and the exposure small"""
        shown = []
        for name in (UNIT, "feedtape@one.service"):
            done = self.machine.run("systemd-analyze", "verify", "--man=no", name, check=False)
            expect(not done.stderr.strip(), f"{name}: {done.stderr}")
            done = self.machine.run("systemd-analyze", "security", "--no-pager", name, check=False)
            line = next(line for line in done.stdout.splitlines() if "Overall" in line)
            exposure = float(line.split(": ")[1].split()[0])
            expect(exposure <= EXPOSURE_MAX, line)
            shown.append(f"{name} {exposure}")
        return ", ".join(shown)

    def check_ready(self):
        """READY comes when every feed has tried, STATUS has one useful line"""
        begun = time.monotonic()
        self.machine.run("systemctl", "start", UNIT)
        took = time.monotonic() - begun
        active, sub, status = self.machine.show(UNIT, "ActiveState", "SubState", "StatusText")
        expect((active, sub) == ("active", "running"), f"{active} {sub}")
        expect(status.startswith("1 of 2 feeds live (not: dead), "), status)
        self.records("trades")
        program = self.machine.run("readlink", f"/proc/{self.main_pid()}/exe").stdout.strip()
        expect(program == "/usr/bin/feedtape", f"it runs '{program}', not the package's")
        return f"after {took:.1f} s: {self.status()}"

    def check_endpoint(self):
        """the endpoint has its token from a file that only root can read"""
        ctl = ("feedtape", "ctl", "status")
        done = self.machine.run(*ctl, "--token-file", "/etc/feedtape/admin-token", check=False)
        expect(done.returncode == 0, f"{done.stdout}{done.stderr}")
        done = self.machine.run(*ctl, check=False)
        expect(done.returncode == 1 and "token" in done.stderr, f"{done.stdout}{done.stderr}")

    def check_journal(self):
        """priorities and fields in the journal"""
        entries = self.journal("FEEDTAPE_FEED=trades", "FEEDTAPE_CONN=1")
        expect(entries, "nothing of connection 1 of trades")
        for entry in entries:
            for name, value in (("SYSLOG_IDENTIFIER", "feedtape"), ("_TRANSPORT", "journal"),
                                ("_SYSTEMD_UNIT", UNIT), ("PRIORITY", "6")):
                expect(entry.get(name) == value, f"{name} is {entry.get(name)}: {entry}")
            expect(entry["CODE_FILE"].endswith(".rs") and int(entry["CODE_LINE"]) > 0, str(entry))
            expect(entry["MESSAGE"].startswith("trades: conn 1: "), entry["MESSAGE"])
        warnings = self.journal("-u", UNIT, "-p", "warning")
        expect(warnings, "dead could not connect: a warning")
        for entry in warnings:
            told = (entry.get("FEEDTAPE_FEED"), entry["PRIORITY"])
            expect(told == ("dead", "4"), f"{told}: {entry['MESSAGE']}")
        return f"{len(entries)} entries of trades, {len(warnings)} warnings of dead"

    def check_folding(self):
        """a venue that is down does not fill the log"""
        wait_until("dead has tried ten times", lambda: self.tape("dead").count("connecting") > 10,
                   60)
        attempts = self.tape("dead").count('!{"event":"connecting"')
        told = len(self.said("can't connect", "FEEDTAPE_FEED=dead"))
        expect(told <= 4, f"{told} lines for {attempts} attempts")
        return f"{told} lines for {attempts} attempts"

    def check_sandbox(self):
        """no privileges, and all works: sealer, clock, boot id, descriptors"""
        pid = self.main_pid()
        words = self.machine.shell(f"cat /proc/{pid}/status").splitlines()
        status = dict(line.split(":\t", 1) for line in words if ":\t" in line)
        expect(status["NoNewPrivs"] == "1" and status["Seccomp"] == "2", str(status))
        for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb"):
            expect(int(status[name], 16) == 0, f"{name} {status[name]}")
        expect(status["Uid"].split()[0] != "0", "it runs as root")
        sealer = self.machine.shell(
            f"cd /proc/{pid}/task; grep -lx sealer */comm | cut -d/ -f1").strip()
        nice = self.machine.shell(f"ps -L -p {pid} -o comm=,ni= | grep sealer").split()[-1]
        idle = self.machine.shell(f"ionice -p {sealer}").strip()
        expect((nice, idle) == ("19", "idle"), f"the sealer has nice {nice}, {idle}")
        header = json.loads(self.tape("trades").splitlines()[0][20:])
        boot_id = self.machine.shell("cat /proc/sys/kernel/random/boot_id").strip()
        expect(header["boot_id"] == boot_id, f"boot_id {header['boot_id']}")
        expect(header["clock_sync"] in ("yes", "no"), f"clock_sync {header['clock_sync']}")
        unwanted = [entry["MESSAGE"] for entry in self.journal("-u", UNIT)
                    if "can't raise" in entry["MESSAGE"] or "LimitNOFILE" in entry["MESSAGE"]]
        expect(not unwanted, str(unwanted))
        return f"uid {status['Uid'].split()[0]}, clock_sync {header['clock_sync']}"

    def check_files(self):
        """the dynamic user's files and modes"""
        listed = self.machine.shell(f"find {STATE} -printf '%y %m %U %p\\n'").split("\n")
        entries = [line.split(" ", 3) for line in listed if line]
        owner = self.machine.shell(f"stat -c %u /proc/{self.main_pid()}").strip()
        expect(owner != "0", "root's process")
        for kind, mode, uid, path in entries:
            expect((kind, mode) in (("d", "750"), ("f", "640")), f"{kind} {mode} {path}")
            expect(uid == owner, f"{path} belongs to {uid}, not {owner}")
        runtime = self.machine.shell("stat -L -c '%a %u' /run/feedtape").strip()
        expect(runtime == f"750 {owner}", f"/run/feedtape: {runtime}")
        return f"{len(entries)} of uid {owner}"

    def check_outside(self):
        """nothing is written outside of the state directory"""
        owner = self.machine.shell(f"stat -c %u /proc/{self.main_pid()}").strip()
        script = (f"find {WRITTEN} /var/lib/private /tmp /var/tmp /dev/shm /run -xdev -uid {owner} "
                  "-printf '%p\\n' 2>/dev/null")
        own = (STATE, "/run/feedtape", "/run/private/feedtape", "/run/credentials/feedtape.service")
        found = [path for path in self.machine.shell(script, check=False).splitlines()
                 if not any(path == place or path.startswith(f"{place}/") for place in own)]
        expect(not found, f"written: {found}")
        denied = self.machine.shell(
            f"nsenter -t {self.main_pid()} -m -- sh -c 'touch /etc/x /usr/x /home/x /var/lib/x' "
            "2>&1; true")
        expect(denied.count("Read-only") + denied.count("No such") >= 3, denied)

    def check_secrets(self):
        """the credential is in no journal, no tape, and not in /proc as others see it"""
        pid = self.main_pid()
        places = {
            "journal": self.machine.shell("journalctl -o json --no-pager -q"),
            "tapes": self.machine.shell(f"feedtape cat {STATE}; grep -rac {SECRET} {STATE} | "
                                        f"grep -v ':0$' | sed 's/^/{SECRET} /'", check=False),
            "command line": self.machine.shell(f"tr '\\0' ' ' </proc/{pid}/cmdline"),
            "environment": self.machine.shell(f"tr '\\0' ' ' </proc/{pid}/environ"),
            "systemctl show": self.machine.run("systemctl", "show", UNIT).stdout,
        }
        for name, content in places.items():
            expect(content, f"nothing read of the {name}")
            expect(SECRET not in content and TOKEN not in content, f"in the {name}")
        expect("key=***" in places["tapes"], "the URL of dead on its tape")
        for path in (f"/proc/{pid}/environ", f"/proc/{pid}/mem",
                     "/run/credentials/feedtape.service/venue-token"):
            done = self.machine.run("head", "-c1", path, check=False, user=65534, text=False)
            expect(done.returncode != 0, f"nobody can read {path}")

    def check_reload(self):
        """reload: a feed more, and the others don't notice; a file with mistakes changes nothing"""
        pid = self.main_pid()
        self.machine.write(FEEDS_FILE, FEEDS.format(more=BOOK))
        self.machine.run("systemctl", "reload", UNIT)
        wait_until("book is live", lambda: "2 of 3 feeds live" in self.status(), 20)
        self.records("book")
        told = "reloaded: 1 feeds added, 0 removed, 0 changed, 2 as they were"
        expect(self.said(told, "-u", UNIT), "the log tells it")
        self.machine.write(FEEDS_FILE, FEEDS.format(more="[feed.x]\nurl = 1\n"))
        self.machine.run("systemctl", "reload", UNIT, check=False)
        wait_until("the mistake is told", lambda: self.said("not reloaded", "-p", "err"), 20)
        self.machine.write(FEEDS_FILE, FEEDS.format(more=BOOK))
        expect(self.main_pid() == pid, "it is another process")
        expect(self.tape("trades").count('!{"event":"connected"') == 1, "trades was disturbed")
        active = self.machine.show(UNIT, "ActiveState", "SubState")
        expect(active == ["active", "running"], str(active))

    def check_watchdog(self):
        """a process that is stopped is killed by the watchdog and comes back"""
        begun = time.monotonic()
        self.machine.run("kill", "-STOP", self.main_pid())
        self.restarts(1)
        took = time.monotonic() - begun
        expect(self.said("Watchdog timeout", f"UNIT={UNIT}"), "it was not the watchdog")
        self.records("trades")
        expect(self.gaps("trades", "restart") == 1, "a restart gap on the tape")
        return f"back after {took:.1f} s (WatchdogSec={WATCHDOG_S}s)"

    def check_kill(self):
        """kill -9: it comes back, recovers, and says so on the tape"""
        self.machine.run("kill", "-KILL", self.main_pid())
        self.restarts(2)
        self.records("trades")
        expect(self.gaps("trades", "restart") == 2, "two restart gaps on the tape")
        recovered = self.said("recovered '", "FEEDTAPE_FEED=trades")
        expect(recovered, "the log tells of the recovery, with the feed")
        done = self.machine.run("feedtape", "verify", STATE, check=False)
        expect(done.returncode == 0, f"verify: {done.stdout}{done.stderr}")

    def check_memory(self):
        """MemoryMax holds, and a flood larger than it is no matter"""
        limit = 32 << 20
        self.machine.run("systemctl", "set-property", "--runtime", UNIT, f"MemoryMax={limit}")
        flood = BOOK + BOOK.replace("9001", "9002").replace("feed.book", "feed.flood")
        self.machine.write(FEEDS_FILE, FEEDS.format(more=flood))
        self.machine.run("systemctl", "reload", UNIT)

        def recorded():
            """Bytes of flood, as its segments before the open one tell."""
            path = f"{STATE}/feed=flood/.next"
            done = self.machine.run("cat", path, check=False)
            return json.loads(done.stdout)["segment"] * SEGMENT if done.stdout else 0
        wait_until("four times the limit is recorded", lambda: recorded() > 4 * limit, 120)
        current, maximum, restarts = self.machine.show(UNIT, "MemoryCurrent", "MemoryMax",
                                                       "NRestarts")
        expect(int(maximum) == limit and int(current) <= limit, f"{current} of {maximum}")
        expect(restarts == "2", "it was killed")
        rss = self.machine.shell(f"grep VmHWM /proc/{self.main_pid()}/status").split()[1]
        self.machine.run("systemctl", "set-property", "--runtime", UNIT, f"MemoryMax={MEMORY_MAX}")
        self.machine.write(FEEDS_FILE, FEEDS.format(more=BOOK))
        self.machine.run("systemctl", "reload", UNIT)
        return (f"{recorded() >> 20} MiB recorded, cgroup at "
                f"{int(current) >> 20} of {limit >> 20} MiB, peak RSS {int(rss) >> 10} MiB")

    def check_instance(self):
        """feedtape@.service records beside it, with its own user and folder"""
        self.machine.write("/etc/feedtape/two.toml", TWO)
        self.machine.run("systemctl", "start", "feedtape@two")
        state = "/var/lib/private/feedtape-two"
        self.records("trades", state)
        uids = {self.machine.shell(f"stat -c %u {place}").strip() for place in (STATE, state)}
        expect(len(uids) == 2, f"one user for both: {uids}")
        self.machine.run("systemctl", "stop", "feedtape@two")
        result = self.machine.show("feedtape@two", "Result", "ExecMainStatus")
        expect(result == ["success", "0"], str(result))

    def check_upgrade(self):
        """a newer revision: what runs goes on with it, and the tapes tell of the restart"""
        self.machine.write("/etc/feedtape/two.toml", TWO)
        self.machine.run("systemctl", "start", "feedtape@two")
        state = "/var/lib/private/feedtape-two"
        self.records("trades", state)
        units, states = (UNIT, "feedtape@two.service"), (STATE, state)
        pids = [self.machine.show(unit, "MainPID")[0] for unit in units]
        gaps = [self.gaps("trades", "restart", state) for state in states]
        before, feeds = self.version(), self.machine.run("cat", FEEDS_FILE).stdout
        begun = time.monotonic()
        self.machine.run("dpkg", "-i", "/root/newer.deb")
        took = time.monotonic() - begun
        expect(self.version() == f"{before}.e2e", f"{self.version()} after {before}")
        expect(self.machine.run("cat", FEEDS_FILE).stdout == feeds, "the feeds file is another")
        for unit, state, pid, count in zip(units, states, pids, gaps, strict=True):
            shown = self.machine.show(unit, "ActiveState", "SubState", "NRestarts")
            expect(shown == ["active", "running", "0"], f"{unit}: {shown}")
            expect(self.machine.show(unit, "MainPID")[0] != pid, f"{unit}: the old program runs on")
            self.records("trades", state)
            told = self.gaps("trades", "restart", state)
            expect(told == count + 1, f"{unit}: {told} restart gaps after {count}")
            done = self.machine.run("feedtape", "verify", state, check=False)
            expect(done.returncode == 0, f"verify: {done.stdout}{done.stderr}")
        self.machine.run("systemctl", "stop", "feedtape@two")
        hole = self.holes("trades", "restart")[-1]
        return f"{before} to {self.version()} in {took:.1f} s, of which {hole:.1f} s are missing"

    def check_stop(self):
        """stop is in order and in time: the tapes are ended, sealed, and right"""
        begun = time.monotonic()
        self.machine.run("systemctl", "stop", UNIT)
        took = time.monotonic() - begun
        state, result, code = self.machine.show(UNIT, "ActiveState", "Result", "ExecMainStatus")
        expect((state, result, code) == ("inactive", "success", "0"), f"{state} {result} {code}")
        expect(took < 25, f"{took:.1f} s")
        left = self.machine.shell(f"find {STATE} -name '*.open' -o -name '*.tmp'").split()
        expect(not left, f"left: {left}")
        done = self.machine.run("feedtape", "verify", STATE, check=False)
        expect(done.returncode == 0, f"verify: {done.stdout}{done.stderr}")
        return f"in {took:.1f} s"

    def check_mistakes(self):
        """a feeds file that can't be right: exit 2, told, and no restart"""
        self.machine.write(FEEDS_FILE, "[feed.x]\nurl = 1\nstale = 2\n")
        done = self.machine.run("systemctl", "start", UNIT, check=False)
        expect(done.returncode != 0, "it started")
        state, code, restarts = self.machine.show(UNIT, "ActiveState", "ExecMainStatus", "NRestarts")
        expect((state, code, restarts) == ("failed", "2", "0"), f"{state} {code} {restarts}")
        expect(len(self.said("feeds.toml:", "-u", UNIT, "-p", "err")) >= 2, "all mistakes are told")

    def check_remove(self):
        """removed while it records: it is ended in order, and tapes and feeds file stay"""
        self.machine.write(FEEDS_FILE, FEEDS.format(more=""))
        self.machine.run("systemctl", "start", UNIT)
        self.records("trades")
        pid = self.main_pid()
        self.machine.run("dpkg", "-r", "feedtape")
        expect(self.machine.run("test", "-e", f"/proc/{pid}", check=False).returncode, "it runs on")
        load, active = self.machine.show(UNIT, "LoadState", "ActiveState")
        expect(active != "active" and load in ("masked", "not-found"), f"{load} {active}")
        left = self.machine.shell(f"find {STATE} -name '*.open'").split()
        expect(not left, f"left open: {left}")
        self.machine.run("test", "-e", f"{STATE}/feed=trades/.next")
        self.machine.run("test", "-e", FEEDS_FILE)


def run_all(places, package, only):
    """Runs the checks in order; how many passed, and how many did not."""
    checks = Checks(places, package)
    checks.prepare()
    passed = failed = 0
    methods = [getattr(checks, name) for name in vars(Checks) if name.startswith("check_")]
    for method in methods:
        needed = method.__name__ == "check_ready"
        if only and only not in method.__name__ and not needed:
            continue
        what = method.__doc__
        try:
            figures = method()
        except (Failure, subprocess.SubprocessError, ValueError, KeyError, IndexError) as failure:
            failed += 1
            print(f"FAIL {what}: {failure!r}", flush=True)
        else:
            passed += 1
            print(f"PASS {what}{f': {figures}' if figures else ''}", flush=True)
    if failed:
        tail = checks.machine.run("journalctl", "--no-pager", "-n", "60", check=False).stdout
        print(f"the end of the journal:\n{tail}", flush=True)
    return passed, failed
