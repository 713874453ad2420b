"""A headless Chromium, driven by chromedriver's WebDriver HTTP API; the standard library only.

Owns the browser's process and its session. Knows nothing of the page.
"""

import base64
import json
import re
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

from common import Failure, wait_until

# WebDriver's code points for keys that are no characters.
KEYS = {"Tab": "\ue004", "Enter": "\ue007", "Escape": "\ue00c", "ArrowLeft": "\ue012",
        "ArrowRight": "\ue014", "Home": "\ue011", "Space": "\ue00d", "Shift": "\ue008"}
START_S = 30
ANSWER_S = 60


class Browser:
    """One page in one browser. `close` ends it."""

    def __init__(self, folder):
        self.log = folder / "chromedriver.log"
        with open(self.log, "wb") as log:
            self.driver = subprocess.Popen(["chromedriver", "--port=0"], stdout=log, stderr=log,
                                           stdin=subprocess.DEVNULL)
        self.session = None
        self.root = None
        try:
            wait_until(f"chromedriver says its port\n{self.log}", self._port, START_S)
            options = {"args": ["--headless=new", "--no-sandbox", "--disable-gpu",
                                "--disable-dev-shm-usage", "--hide-scrollbars",
                                "--window-size=1200,900", f"--user-data-dir={folder}/profile"]}
            self.session = self._send("POST", "/session", {"capabilities": {"alwaysMatch": {
                "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}}},
            )["sessionId"]
        except BaseException:
            self.close()
            raise

    def _port(self):
        found = re.search(r"successfully on port (\d+)", self.log.read_text(errors="replace"))
        if found:
            self.root = f"http://127.0.0.1:{found[1]}"
        elif self.driver.poll() is not None:
            raise Failure(f"chromedriver ended\n{self.log.read_text(errors='replace')}")
        return found

    def _send(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.root + path, data, method=method,
                                         headers={"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=ANSWER_S) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            said = json.load(error)["value"]
            raise Failure(f"browser: {path}: {said['error']}: {said['message']}") from None

    def _do(self, method, path, body=None):
        return self._send(method, f"/session/{self.session}{path}", body)

    def close(self):
        """Ends both programs; more than once is fine."""
        if self.session is not None:
            self._do("DELETE", "")
            self.session = None
        self.driver.terminate()
        self.driver.wait()

    def tool(self, command, **params):
        """A command of the DevTools protocol."""
        return self._do("POST", "/goog/cdp/execute", {"cmd": command, "params": params})

    def look(self, width, height=900, scheme="light", phone=False):
        """The size of the window, in CSS pixels, and the colours that the user prefers."""
        self.tool("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=1, mobile=phone)
        self.tool("Emulation.setTouchEmulationEnabled", enabled=phone)
        self.tool("Emulation.setEmulatedMedia", features=[
            {"name": "prefers-color-scheme", "value": scheme}])

    def open(self, url):
        """Loads a page."""
        self._do("POST", "/url", {"url": url})

    def run(self, script, *args):
        """The value of an expression in the page; in it arguments are `arguments[0]`, .."""
        return self._do("POST", "/execute/sync", {"script": f"return ({script});",
                                                  "args": list(args)})

    def wait(self, what, script, *args, limit_s=15):
        """Until the expression is true."""
        return wait_until(what, lambda: self.run(script, *args), limit_s)

    def press(self, *keys, holding=None):
        """Keys one after the other: names of KEYS, or characters."""
        actions = []
        if holding:
            actions.append({"type": "keyDown", "value": KEYS[holding]})
        for key in keys:
            value = KEYS.get(key, key)
            actions += [{"type": "keyDown", "value": value}, {"type": "keyUp", "value": value}]
        if holding:
            actions.append({"type": "keyUp", "value": KEYS[holding]})
        self._do("POST", "/actions", {"actions": [{"type": "key", "id": "keys",
                                                   "actions": actions}]})

    def click(self, selector):
        """As a user would: scrolls there, and fails where something else lies on top."""
        found = self._do("POST", "/element", {"using": "css selector", "value": selector})
        self._do("POST", f"/element/{next(iter(found.values()))}/click", {})

    def picture(self, path):
        """A screenshot of what the window shows."""
        shot = self.tool("Page.captureScreenshot", format="png")
        Path(path).write_bytes(base64.b64decode(shot["data"]))

    def errors(self, expected=()):
        """What the console said since the last call, warnings and worse; without what holds one
        of the expected texts."""
        said = self._do("POST", "/se/log", {"type": "browser"})
        return [entry["message"] for entry in said
                if entry["level"] in ("WARNING", "SEVERE")
                and not any(text in entry["message"] for text in expected)]
