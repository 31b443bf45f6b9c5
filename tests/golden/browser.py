"""Chromium without a window, driven as developers' tools drive it: the DevTools protocol over a pair of pipes.

https://chromedevtools.github.io/devtools-protocol: with --remote-debugging-pipe the browser reads JSON messages, each
ended by a zero byte, from file descriptor 3 and writes answers and events to 4.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path

PROGRAM = next((found for name in ("chromium", "google-chrome") if (found := shutil.which(name))), None)
SECONDS = 60


class Browser:
    """One page in one browser; `events` is all that it has reported."""

    def __init__(self, profile: Path):
        to_browser, self.write_end = os.pipe()
        self.read_end, from_browser = os.pipe()
        # The shell gives the two pipes the numbers that the browser expects (the second is 6 at least, so the first does not
        # hide it). Root may not have a sandbox.
        command = ['exec "$0" "$@" 3<&%d 4>&%d' % (to_browser, from_browser), PROGRAM, "--headless=new", "--no-sandbox",
                   "--disable-gpu", "--remote-debugging-pipe", "--no-first-run", "--disable-background-networking", "--hide-scrollbars",
                   "--disable-dev-shm-usage", f"--user-data-dir={profile}", "about:blank"]  # fmt: skip
        with (profile / "log").open("w") as log:
            self.process = subprocess.Popen(["bash", "-c", *command], pass_fds=(to_browser, from_browser), stdout=log, stderr=log)
        os.close(to_browser)
        os.close(from_browser)
        self.unread, self.events, self.count, self.session = b"", [], 0, None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(domain + ".enable")

    def close(self) -> None:
        self.session = None
        try:
            self.call("Browser.close")
            self.process.wait(SECONDS)
        finally:
            self.process.kill()
            os.close(self.write_end)
            os.close(self.read_end)

    def receive(self, until: float) -> dict:
        """The next message."""
        while b"\0" not in self.unread:
            assert select.select([self.read_end], [], [], max(0.0, until - time.monotonic()))[0], f"Chromium said nothing for {SECONDS} s"
            more = os.read(self.read_end, 1 << 16)
            assert more, f"Chromium has ended, with status {self.process.wait()}"
            self.unread += more
        message, _, self.unread = self.unread.partition(b"\0")
        return json.loads(message)

    def call(self, method: str, **parameters) -> dict:
        """One command and its result."""
        self.count += 1
        message = {"id": self.count, "method": method, "params": parameters} | ({"sessionId": self.session} if self.session else {})
        os.write(self.write_end, json.dumps(message).encode() + b"\0")
        until = time.monotonic() + SECONDS
        while (answer := self.receive(until)).get("id") != self.count:
            self.events.append(answer)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def run(self, script: str):
        """The value of a JavaScript expression; a promise is waited for."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, script: str) -> None:
        """Until an expression is true."""
        until = time.monotonic() + SECONDS
        while not self.run(script):
            assert time.monotonic() < until, f"not true within {SECONDS} s: {script}"
            time.sleep(0.02)

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        self.wait_for("document.readyState === 'complete'")

    def looks(self, width: int, height: int, dark: bool = False) -> None:
        """The window's size in CSS pixels, and the reader's preference."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])

    def click(self, selector: str, x: float = 0.5, y: float = 0.5) -> None:
        """A real click at a share of an element's width and height."""
        left, top = self.run(f"""(() => {{ const e = document.querySelector({json.dumps(selector)}); e.scrollIntoView({{block: 'center'}});
            const r = e.getBoundingClientRect(); return [r.left + {x} * r.width, r.top + {y} * r.height]; }})()""")
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=left, y=top, button="left", clickCount=1)

    def press(self, key: str) -> None:
        """A key, to whatever has the focus."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    def picture(self, path: Path) -> None:
        """The whole page as a PNG."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)["data"]))

    def complaints(self) -> list[str]:
        """Errors and warnings of the console and of scripts."""
        wrong = []
        for event in self.events:
            said = event.get("params", {})
            if event.get("method") == "Runtime.exceptionThrown":
                wrong.append(said["exceptionDetails"].get("exception", {}).get("description", said["exceptionDetails"]["text"]))
            elif event.get("method") == "Runtime.consoleAPICalled" and said["type"] in ("error", "warning", "assert"):
                wrong.append(str(said["args"]))
            elif event.get("method") == "Log.entryAdded" and said["entry"]["level"] in ("error", "warning"):
                wrong.append(said["entry"]["text"])
        return wrong

    def requests(self) -> list[str]:
        """Every address that was asked for."""
        return [e["params"]["request"]["url"] for e in self.events if e.get("method") == "Network.requestWillBeSent"]
