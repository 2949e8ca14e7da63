"""A real headless Chromium, driven over the DevTools protocol.

    with Chromium(tmp_path) as chromium:
        page = chromium.open("http://127.0.0.1:3000/")
        page.run("document.querySelector('button').click()")
        page.wait("document.title === 'Done'")

The profile is new for each browser and lies in the test's folder. What a page throws or logs as an error
is in `page.errors`.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from websockets.sync.client import ClientConnection, connect

SECONDS = 20.0
_PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-proxy-server",
    "--remote-debugging-port=0",
)
_LISTENING = "DevTools listening on "


def find_chromium() -> str | None:
    """The browser's program: HUBWIRE_TEST_CHROMIUM, or the first that is on PATH; None when there is none."""
    named = os.environ.get("HUBWIRE_TEST_CHROMIUM")
    return named or next((found for name in _PROGRAMS if (found := shutil.which(name))), None)


class BrowserError(Exception):
    """The browser refused a command, or a script that it ran threw."""


class Page:
    """One tab."""

    def __init__(self, chromium: Chromium, session: str) -> None:
        self._chromium, self._session = chromium, session
        self.errors: list[str] = []

    def command(self, method: str, **params: Any) -> dict[str, Any]:
        """A command of the DevTools protocol, to this tab."""
        return self._chromium.command(method, self._session, **params)

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression, awaited when it is a promise. Raises BrowserError."""
        answer = self.command(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True, userGesture=True
        )
        if "exceptionDetails" in answer:
            raise BrowserError(_said(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def wait(self, condition: str, seconds: float = SECONDS) -> Any:
        """Until the expression is true; its value. Raises TimeoutError with what the page shows."""
        deadline = time.monotonic() + seconds
        while not (value := self.run(condition)):
            if time.monotonic() > deadline:
                shown = self.run("document.body?.innerText")
                raise TimeoutError(f"never: {condition}; the page shows {shown!r}, errors: {self.errors}")
            time.sleep(0.02)
        return value

    def fill(self, selector: str, text: str) -> None:
        """Put text into a field, as typing would."""
        self.run(f"document.querySelector({json.dumps(selector)}).focus()")
        self.command("Input.insertText", text=text)

    def press_enter(self) -> None:
        key = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"}
        self.command("Input.dispatchKeyEvent", type="keyDown", **key)
        self.command("Input.dispatchKeyEvent", type="keyUp", **key)

    def note(self, method: str, params: dict[str, Any]) -> None:
        """An event of this tab."""
        if method == "Runtime.exceptionThrown":
            self.errors.append(_said(params["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert"):
            said = [str(one.get("value", one.get("description"))) for one in params["args"]]
            self.errors.append(" ".join(said))
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")


def _said(details: dict[str, Any]) -> str:
    return str(details.get("exception", {}).get("description") or details["text"])


class Chromium:
    """One browser with a profile of its own. Not for use by several threads."""

    def __init__(self, folder: Path) -> None:
        self._profile = Path(folder) / "chromium"
        self._process: subprocess.Popen[str] | None = None
        self._socket: ClientConnection | None = None
        self._close = ExitStack()
        self._ids = itertools.count(1)
        self._pages: dict[str, Page] = {}
        self._said: list[str] = []

    def open(self, url: str) -> Page:
        """A new tab, once its document is loaded."""
        target = self.command("Target.createTarget", url="about:blank")["targetId"]
        session = self.command("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self._pages[session] = Page(self, session)
        page.command("Runtime.enable")
        page.command("Log.enable")
        failure = page.command("Page.navigate", url=url).get("errorText")
        if failure:
            raise BrowserError(f"{url}: {failure}")
        page.wait("location.href !== 'about:blank' && document.readyState === 'complete'")
        return page

    def command(self, method: str, session: str = "", **params: Any) -> dict[str, Any]:
        """Send a command and return its result; events that come meanwhile go to their pages."""
        assert self._socket is not None, "the browser does not run"
        number = next(self._ids)
        request: dict[str, Any] = {"id": number, "method": method, "params": params}
        if session:
            request["sessionId"] = session
        self._socket.send(json.dumps(request))
        while True:
            told = json.loads(self._socket.recv(SECONDS))
            if told.get("id") == number:
                if "error" in told:
                    raise BrowserError(f"{method}: {told['error']['message']}")
                return dict(told["result"])
            page = self._pages.get(told.get("sessionId", ""))
            if page is not None and "method" in told:
                page.note(told["method"], told["params"])

    def _start(self) -> None:
        program = find_chromium()
        assert program is not None, "there is no Chromium on this machine"
        self._profile.mkdir(parents=True)
        self._process = subprocess.Popen(
            [program, *_FLAGS, f"--user-data-dir={self._profile}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        address = self._address(self._process)
        opening = connect(address, max_size=None, open_timeout=SECONDS, proxy=None)
        self._socket = self._close.enter_context(opening)

    def _address(self, process: subprocess.Popen[str]) -> str:
        """Where DevTools listens, from the browser's output, which is read to its end meanwhile."""
        found: list[str] = []
        news = threading.Event()

        def read() -> None:
            assert process.stderr is not None
            for line in process.stderr:
                self._said = [*self._said[-20:], line.rstrip()]
                if line.startswith(_LISTENING):
                    found.append(line.removeprefix(_LISTENING).strip())
                    news.set()
            process.stderr.close()
            news.set()

        threading.Thread(target=read, daemon=True).start()
        news.wait(SECONDS)
        if not found:
            raise BrowserError(f"the browser did not start: {self._said}")
        return found[0]

    def _end(self) -> None:
        process = self._process
        if self._socket is not None:
            try:
                self.command("Browser.close")
            except Exception:  # it may be gone before it answers
                pass
            self._close.close()
        if process is not None:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)  # our own session: the browser and its children
                process.wait()

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()
