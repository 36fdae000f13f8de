"""A headless Chromium, driven through the DevTools protocol over two pipes, without a library.

Messages are JSON, each ended by a zero byte (``--remote-debugging-pipe``). Only what the tests of
reports need is here: open a file in a size and a theme, evaluate, take a screenshot, and collect
console messages and requests.
"""

from __future__ import annotations

import base64
import json
import os
import selectors
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any, Literal

Theme = Literal["light", "dark"]

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
_ANSWER_S = 60.0  # a loaded machine starts a browser slowly
_FLAGS = (
    "--headless",
    "--no-sandbox",  # tests may run as root in a container
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--hide-scrollbars",
    "--no-first-run",
    "--remote-debugging-pipe",
)


class Browser:
    """A running browser with one page.

    Attributes:
        console: Messages of the console and of the browser's log, in words.
        requested: Addresses that pages have requested.
    """

    def __init__(self, read: int, write: int) -> None:
        self.console: list[str] = []
        self.requested: list[str] = []
        self._read, self._write = read, write
        self._selector = selectors.DefaultSelector()
        self._selector.register(read, selectors.EVENT_READ)
        self._buffer = b""
        self._sent = 0
        self._events: list[str] = []
        self._session: str | None = None
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        attached = self._call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def open(self, file: Path, *, width: int, height: int = 900, theme: Theme = "light") -> None:
        """Open a file and wait until it is loaded and its charts are drawn."""
        phone = width < 600
        self._call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if phone else 1,
            mobile=phone,
        )
        self.emulate(theme)
        self._events.clear()
        self._call("Page.navigate", url=file.resolve().as_uri())
        self._wait_for("Page.loadEventFired")
        self.evaluate(
            "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
        )

    def emulate(self, theme: Theme, *, media: str = "") -> None:
        """Show the page in a theme, and as ``media``: an empty text is the screen."""
        features = [{"name": "prefers-color-scheme", "value": theme}]
        self._call("Emulation.setEmulatedMedia", media=media, features=features)

    def evaluate(self, expression: str) -> Any:
        """Value of an expression in the page; a promise is awaited."""
        found = self._call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def move_to(self, x: float, y: float) -> None:
        """Move the mouse."""
        self._call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def screenshot(self, file: Path, *, whole: bool = True) -> None:
        """Write a PNG of the window or of the whole page."""
        found = self._call("Page.captureScreenshot", captureBeyondViewport=whole, format="png")
        file.write_bytes(base64.b64decode(found["data"]))

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._sent += 1
        message: dict[str, Any] = {"id": self._sent, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message, allow_nan=False).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == message["id"]:
                assert "error" not in answer, answer
                return dict(answer["result"])

    def _wait_for(self, event: str) -> None:
        while event not in self._events:
            self._next()

    def _next(self) -> dict[str, Any]:
        """The next message; events are noted."""
        end = monotonic() + _ANSWER_S
        while b"\0" not in self._buffer:
            if not self._selector.select(max(0.0, end - monotonic())):
                raise TimeoutError(f"the browser was silent for {_ANSWER_S:.0f} s")
            chunk = os.read(self._read, 1 << 20)
            if not chunk:
                raise ConnectionError("the browser has ended")
            self._buffer += chunk
        raw, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(raw)
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _note(self, event: str, values: dict[str, Any]) -> None:
        self._events.append(event)
        if event == "Network.requestWillBeSent":
            self.requested.append(values["request"]["url"])
        elif event == "Runtime.consoleAPICalled":
            self.console.append(json.dumps(values["args"], allow_nan=False))
        elif event == "Runtime.exceptionThrown":
            self.console.append(json.dumps(values["exceptionDetails"], allow_nan=False))
        elif event == "Log.entryAdded":
            self.console.append(values["entry"]["text"])


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A browser that keeps its files in the folder ``profile`` and ends with the context."""
    assert CHROMIUM is not None
    to_read, to_write = os.pipe(), os.pipe()
    # the browser reads commands at descriptor 3 and writes answers at descriptor 4
    script = f'exec "$@" 3<&{to_write[0]} 4>&{to_read[1]}'
    command = [CHROMIUM, *_FLAGS, f"--user-data-dir={profile}", "about:blank"]
    process = subprocess.Popen(
        ["bash", "-c", script, "bash", *command],
        pass_fds=(to_write[0], to_read[1]),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(to_write[0])
    os.close(to_read[1])
    try:
        yield Browser(to_read[0], to_write[1])
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(to_read[0])
        os.close(to_write[1])
