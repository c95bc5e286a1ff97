"""A headless Chromium, driven over a pipe by the DevTools protocol, with the standard library.

The protocol: https://chromedevtools.github.io/devtools-protocol/, JSON messages that end in NUL;
the browser reads them from its file descriptor 3 and answers on 4.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

EXECUTABLE = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-default-apps", "--disable-extensions", "--hide-scrollbars",
    "--remote-debugging-pipe",
)  # fmt: skip

PATIENCE_S = 60

COLOURS = """(() => {
  const found = {};
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walk.nextNode(); node; node = walk.nextNode()) {
    const element = node.parentElement;
    if (!node.data.trim() || !element.getClientRects().length) continue;
    if (element.matches("title, desc")) continue;
    const ink = element.closest("text")
      ? getComputedStyle(element).fill : getComputedStyle(element).color;
    let behind = element;
    while (behind && /rgba\\(.*, 0\\)|transparent/.test(getComputedStyle(behind).backgroundColor))
      behind = behind.parentElement;
    const paper = getComputedStyle(behind || document.body).backgroundColor;
    found[ink + " on " + paper] = node.data.trim().slice(0, 40);
  }
  return found;
})()"""
"""The colour of every piece of text, and of the first thing behind it that is not transparent."""


class ProtocolError(AssertionError):
    """The browser refused a command."""


class Browser:
    """One page of a browser."""

    def __init__(self, write: int, read: int) -> None:
        self._write, self._read = write, read
        self._last = 0
        self._buffer = b""
        self._session: str | None = None
        self.requests: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        answer = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = answer["sessionId"]
        for domain in ("Page", "Network", "Runtime"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its answer."""
        self._last += 1
        message: dict[str, Any] = {"id": self._last, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._write, data) :]
        while True:
            answer = self._next()
            if answer.get("id") == self._last:
                if "error" in answer:
                    raise ProtocolError(f"{method}: {answer['error']}")
                result: dict[str, Any] = answer["result"]
                return result

    def show(
        self,
        page: Path,
        width: int,
        *,
        dark: bool = False,
        media: str = "screen",
        height: int = 800,
    ) -> None:
        """Open a page as a screen of that width shows it, or as it is printed."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media=media, features=[scheme])
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 700,
        )  # fmt: skip
        self.requests.clear()
        self.call("Page.navigate", url=page.as_uri())
        deadline = time.monotonic() + PATIENCE_S
        while self.loaded() != page.as_uri():
            assert time.monotonic() < deadline, f"{page} was not loaded"
            time.sleep(0.02)

    def loaded(self) -> str | None:
        """The address of the page; None while another one is on its way."""
        try:
            found = self.run("document.readyState == 'complete' ? location.href : null")
        except ProtocolError as error:
            if "navigated" not in str(error):
                raise
            return None  # the page went while it was asked
        return None if found is None else str(found)

    def run(self, expression: str) -> Any:
        """Evaluate JavaScript in the page and take its value."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def press(self, key: str, code: int) -> None:
        """Press and release a key, as a hand does."""
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code,
                **({"text": "\r"} if key == "Enter" and kind == "keyDown" else {}),
            )  # fmt: skip

    def picture(self, *, whole: bool = False) -> bytes:
        """Take a PNG of what is shown, or of the whole page."""
        found = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        return base64.b64decode(found["data"])

    def pdf(self) -> bytes:
        """Print the page on A4."""
        found = self.call("Page.printToPDF", paperWidth=8.27, paperHeight=11.69)
        return base64.b64decode(found["data"])

    def spoken(self) -> list[Mapping[str, Any]]:
        """List what assistive technology is told: role, name and description of each node."""
        nodes = self.call("Accessibility.getFullAXTree")["nodes"]
        return [
            {
                "role": node.get("role", {}).get("value", ""),
                "name": node.get("name", {}).get("value", ""),
                "description": node.get("description", {}).get("value", ""),
            }
            for node in nodes
            if not node.get("ignored")
        ]

    def _next(self) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE_S
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(deadline - time.monotonic(), 0))
            assert ready, f"Chromium did not answer within {PATIENCE_S} s"
            data = os.read(self._read, 1 << 20)
            assert data, "Chromium is gone"
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        if message.get("method") == "Network.requestWillBeSent":
            self.requests.append(message["params"]["request"]["url"])
        return message


@contextlib.contextmanager
def chromium(profile: Path, *flags: str) -> Iterator[Browser]:
    """Start a browser with a profile of its own, and end it with all its processes."""
    assert EXECUTABLE is not None
    ours, theirs = [os.pipe(), os.pipe()], []
    # Out of the way of 3 and 4, onto which they are put in the browser.
    for end in (ours[0][0], ours[1][1]):
        theirs.append(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10))
        os.close(end)
    write, read = ours[0][1], ours[1][0]
    pid = os.posix_spawn(
        EXECUTABLE,
        [EXECUTABLE, *FLAGS, *flags, f"--user-data-dir={profile}", "about:blank"],
        {**os.environ, "HOME": str(profile)},
        file_actions=[
            *((os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)),
            (os.POSIX_SPAWN_DUP2, theirs[0], 3),
            (os.POSIX_SPAWN_DUP2, theirs[1], 4),
        ],
        setpgroup=0,
    )
    for end in theirs:
        os.close(end)
    try:
        yield Browser(write, read)
    finally:
        os.close(write)  # the end of its commands is the end of the browser
        deadline = time.monotonic() + 10
        while os.waitpid(pid, os.WNOHANG) == (0, 0):
            if time.monotonic() > deadline:
                os.killpg(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                break
            time.sleep(0.02)
        os.close(read)
