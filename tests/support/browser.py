"""Drive a real Chromium by the DevTools protocol, without a package.

Messages are JSON, each followed by a zero byte, on the browser's file descriptors 3 and 4
(``--remote-debugging-pipe``).
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self

EXECUTABLE = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ANSWER_TIMEOUT_S = 30.0
_OPTIONS = (
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-sandbox",  # tests may run as root
    "--no-first-run",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
)

_WITH_PIPE = """
import os, sys
reads, writes = (os.dup(int(number)) for number in sys.argv[1:3])
for number, wanted in ((reads, 3), (writes, 4)):
    os.dup2(number, wanted)
    os.set_inheritable(wanted, True)
os.execv(sys.argv[3], sys.argv[3:])
"""
"""Move the pipe to the descriptors that the browser expects, which Popen can't, and become the browser."""


class Chromium:
    """A headless browser with one tab. Use it as a context manager.

    Args:
        profile: An empty folder for its profile.
    """

    def __init__(self, profile: Path) -> None:
        browser_reads, self._out = os.pipe()
        self._in, browser_writes = os.pipe()
        arguments = [str(EXECUTABLE), *_OPTIONS, f"--user-data-dir={profile}", "about:blank"]
        self._process = subprocess.Popen(  # noqa: S603 - the installed browser, without foreign input
            [sys.executable, "-c", _WITH_PIPE, str(browser_reads), str(browser_writes), *arguments],
            pass_fds=(browser_reads, browser_writes),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(browser_reads)
        os.close(browser_writes)
        self._buffer = b""
        self._n_sent = 0
        self._session: str | None = None
        self.complaints: list[str] = []
        """Errors, warnings, exceptions and refused resources that the console has reported."""

    def __enter__(self) -> Self:
        try:
            target = self.call("Target.createTarget", url="about:blank")["targetId"]
            self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Log"):
                self.call(f"{domain}.enable")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._out)
        os.close(self._in)
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        self._process.kill()
        self._process.wait()

    def call(self, method: str, **parameters: Any) -> Any:
        """Call a protocol method and return its result."""
        self._n_sent += 1
        message = {"id": self._n_sent, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._n_sent:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]

    def show(self, *, width: int = 1200, height: int = 900, scheme: str = "light") -> None:
        """Set the window's size, in CSS pixels, and the preferred colour scheme."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def open(self, url: str) -> None:
        """Go to a page and wait until it is complete."""
        self.call("Page.navigate", url=url)
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    def ask(self, expression: str) -> Any:
        """Return the value of a JavaScript expression."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True, userGesture=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def until(self, expression: str, timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        """Wait until a JavaScript expression is truthy."""
        deadline_s = time.monotonic() + timeout_s
        while not self.ask(f"Boolean({expression})"):
            assert time.monotonic() < deadline_s, f"never true: {expression}"
            time.sleep(0.1)

    def press(self, key: str, code: int) -> None:
        """Press and release a key.

        Args:
            key: Its name.
            code: Its Windows key code.
        """
        for kind in ("keyDown", "keyUp"):
            text = {"text": "\r"} if key == "Enter" and kind == "keyDown" else {}
            self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text
            )

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        """Write the window, or the whole page, as PNG."""
        options: dict[str, Any] = {"format": "png"}
        if whole:
            size = self.call("Page.getLayoutMetrics")["cssContentSize"]
            options |= {"captureBeyondViewport": True, "clip": {**size, "scale": 1}}
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", **options)["data"]))

    def _receive(self) -> Any:
        while b"\0" not in self._buffer:
            waiting = select.poll()  # select() refuses descriptors above 1,023
            waiting.register(self._in, select.POLLIN)
            assert waiting.poll(1000 * ANSWER_TIMEOUT_S), "the browser does not answer"
            received = os.read(self._in, 1 << 16)
            assert received, "the browser is gone"
            self._buffer += received
        message, self._buffer = self._buffer.split(b"\0", 1)
        event = json.loads(message)
        self._listen(event.get("method"), event.get("params", {}))
        return event

    def _listen(self, method: str | None, parameters: Any) -> None:
        if method == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(parameters["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and parameters["type"] in {"error", "warning", "assert"}:
            self.complaints.append(json.dumps(parameters["args"]))
        elif method == "Log.entryAdded" and parameters["entry"]["level"] in {"error", "warning"}:
            self.complaints.append(f"{parameters['entry']['text']} {parameters['entry'].get('url', '')}")
