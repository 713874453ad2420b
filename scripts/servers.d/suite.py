"""The Autobahn test suite's fuzzing server. It needs Python 2, and gets a Debian 11 of its own."""

import json
import os
import shutil
import subprocess
from pathlib import Path

from common import PACKAGES, Failure, need_tools, say
from daemon import Daemon, free_port

PACKAGES.update({"mmdebstrap": "mmdebstrap"})
CASES = 517
DEBIAN = "python2,python2-dev,ca-certificates,gcc,libc6-dev,libffi-dev,libssl-dev"
# What the suite asks for, but for the accelerators of `autobahn[accelerate]`, which do not build.
PACKAGES_2 = """\
txaio==2.1.0 incremental==16.10.1 pyOpenSSL==19.1.0 cryptography==3.3.2 Twisted==19.10.0
zope.interface==4.6.0 jinja2==2.11.3 markupsafe==1.1.1 Werkzeug==1.0.1 klein==17.10.0
service_identity==18.1.0 unittest2==1.1.0 six==1.16.0 autobahn==0.10.9
"""
# The last pip for Python 2; Debian's own has been patched for Python 3 only.
PIP = "pip-20.3.4"
INSTALL = f"""\
set -e
export PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root PIP_NO_CACHE_DIR=1
python2 /root/{PIP}-py2.py3-none-any.whl/pip install -q pip==20.3.4 wheel setuptools==44.0.0
python2 -m pip install -q {" ".join(PACKAGES_2.split())}
python2 -m pip install -q --no-deps autobahntestsuite==25.10.1
"""
# The suite's program listens on all addresses of the machine; here on loopback alone.
LAUNCH = """\
from twisted.internet import posixbase
listen = posixbase.PosixReactorBase.listenTCP
posixbase.PosixReactorBase.listenTCP = lambda self, port, factory, backlog=50, interface='': \\
    listen(self, port, factory, 600, '127.0.0.1')
from autobahntestsuite.wstest import run
run()
"""
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
INSTALL_S = 600


class Suite:
    """The server; its reports are written when it is asked for them."""

    def __init__(self, args, places):
        if os.geteuid() != 0:
            raise Failure("the Autobahn suite's folder needs root")
        self.root = args.suite or places.folder / "suite"
        self.reports = self.root / "reports"
        install(self.root)
        if self.reports.exists():
            shutil.rmtree(self.reports)
        port = free_port()
        (self.root / "spec.json").write_text(json.dumps({
            "url": f"ws://127.0.0.1:{port}", "outdir": "/reports", "cases": ["*"],
            "exclude-cases": [], "exclude-agent-cases": {}}))
        # Its own page about itself would take another port, which is the same each time.
        (self.root / "launch.py").write_text(LAUNCH)
        wstest = ["/usr/bin/python2", "-u", "/launch.py", "-m", "fuzzingserver", "-s",
                  "/spec.json", "-w", "0"]
        env = {"PATH": "/usr/local/bin:/usr/bin:/bin"}
        self.daemon = Daemon(places, port, "chroot", self.root, *wstest, name="wstest", env=env)
        self.daemon.start()

    def results(self):
        """What it wrote of each case, by its name."""
        index = json.loads((self.reports / "index.json").read_text())
        read = lambda entry: json.loads((self.reports / entry["reportfile"]).read_text())
        return {name: read(entry) for name, entry in index.get("feedtape", {}).items()}


def install(root):
    """Debian 11, and the suite in it; nothing where it is there already."""
    done = root / "installed"
    if done.exists():
        return
    need_tools("mmdebstrap", "chroot")
    say(f"installing the Autobahn suite in {root}: about a minute")
    run_limited("mmdebstrap", "--quiet", "--variant=minbase", f"--include={DEBIAN}", "bullseye",
                root)
    run_limited("python3", "-m", "pip", "download", "--quiet", "--no-deps", "--dest",
                root / "root", PIP.replace("-", "=="))
    for path in (Path("/etc/resolv.conf"), CERTIFICATES):
        shutil.copy(path, root / path.relative_to("/"))
    run_limited("chroot", root, "/bin/sh", "-c", INSTALL,
                env={**os.environ, "PIP_CERT": str(CERTIFICATES), "PIP_FIND_LINKS": ""})
    done.touch()


def run_limited(*command, env=None):
    """Runs a command to its end, which comes in some minutes."""
    words = [str(word) for word in command]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=INSTALL_S, env=env)
    except subprocess.TimeoutExpired:
        raise Failure(f"{words[0]} did not end within {INSTALL_S} s") from None
    if done.returncode:
        raise Failure(f"{words[0]}: exit {done.returncode}: {done.stderr[-2000:].strip()}")
