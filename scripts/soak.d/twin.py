"""The other recorder: any command, or the small Go one of this folder."""

import os
import shlex
import shutil
import subprocess
from pathlib import Path

from common import Failure, find_tool, install_packages

SOURCE = Path(__file__).resolve().parent / "twin" / "main.go"
GOPATH = Path("/usr/share/gocode")
GORILLA = GOPATH / "src" / "github.com" / "gorilla" / "websocket"
GO = "go"
GO_COMMAND = "{program} -feeds {feeds} -out {out} {ca} {url}"


def command(text, values, folder):
    """The words of the command; `values` are what its placeholders stand for."""
    if text == GO:
        ca = f"-ca {shlex.quote(values['cacert'])}" if values["cacert"] else ""
        values = {**values, "program": str(build(folder)), "ca": ca}
        text = GO_COMMAND
    try:
        return shlex.split(text.format_map(values))
    except (KeyError, ValueError, IndexError) as error:
        raise Failure(f"--twin '{text}': {error!r}; there are {{url}}, {{urls}}, {{feeds}}, "
                      "{out}, {cacert}") from None


def build(folder):
    """The Go twin, built with Debian's packages alone."""
    if not find_tool("go") or not GORILLA.is_dir():
        install_packages("golang-go", "golang-github-gorilla-websocket-dev")
    program = folder / "twin"
    env = {**os.environ, "GO111MODULE": "off", "GOPATH": str(GOPATH), "GOFLAGS": "",
           "GOCACHE": str(folder / "go-cache")}
    built = subprocess.run([find_tool("go"), "build", "-o", program, SOURCE], env=env,
                           capture_output=True, text=True)
    shutil.rmtree(folder / "go-cache", ignore_errors=True)
    if built.returncode:
        raise Failure(f"the twin can't be built: {built.stderr.strip()}")
    return program
