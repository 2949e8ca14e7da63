"""A real headless Chromium under a test's control, and a little server for its pages.

    with PageServer() as pages, Chromium(tmp_path) as browser:
        async with browser.page(pages.url) as page:
            assert await page.run("document.title") == "..."

The browser is driven over the DevTools protocol (a WebSocket of its own). It has a fresh profile, and asks
nothing of the network beyond what its pages do.
"""

from __future__ import annotations

import asyncio
import http.server
import itertools
import json
import os
import shutil
import signal
import subprocess
import threading
import time
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from support.inventory import JS_FOLDER
from websockets.asyncio.client import ClientConnection, connect

START_SECONDS = 30.0
RUN_SECONDS = 20.0
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--no-first-run",
    "--no-default-browser-check",
    "--remote-debugging-port=0",
)
# What the client package's browser build imports, by the path of its own browser build.
MODULES = (
    "@azure/web-pubsub-client",
    "@azure/abort-controller",
    "@azure/core-util",
    "@azure/logger",
    "@typespec/ts-http-runtime",
    "@typespec/ts-http-runtime/internal/logger",
    "@typespec/ts-http-runtime/internal/util",
)


def find_chromium() -> str | None:
    """The browser's command. As root, where there is none, Debian's package is installed first."""
    found = next((path for path in map(shutil.which, NAMES) if path), None)
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        for command in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", "chromium"]):
            environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
            subprocess.run(
                ["apt-get", *command], capture_output=True, timeout=400, check=False, env=environment
            )
        found = next((path for path in map(shutil.which, NAMES) if path), None)
    return found


class Page:
    """One tab."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._ids = itertools.count(1)

    async def run(self, script: str) -> Any:
        """The value of an expression, awaited if it is a promise. Raises AssertionError if it throws."""
        told = await self.call(
            "Runtime.evaluate",
            expression=script,
            awaitPromise=True,
            returnByValue=True,
        )
        fault = told.get("exceptionDetails")
        assert fault is None, fault["exception"].get("description", fault)
        return told["result"].get("value")

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._ids)
        await self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        async with asyncio.timeout(RUN_SECONDS):
            while True:
                answer = json.loads(await self._socket.recv())
                if answer.get("id") == number:
                    assert "error" not in answer, answer
                    return dict(answer["result"])


class Chromium:
    """The browser process; ended by its process group, which it has for itself."""

    def __init__(self, command: str, folder: Path) -> None:
        self._command = command
        self._profile = folder / "profile"
        self._log = folder / "chromium.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0

    def __enter__(self) -> Self:
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(
                [self._command, *FLAGS, f"--user-data-dir={self._profile}", "about:blank"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._port = self._wait_for_port()
        except BaseException:
            self._end()
            raise
        return self

    def _wait_for_port(self) -> int:
        assert self._process is not None
        told, deadline = self._profile / "DevToolsActivePort", time.monotonic() + START_SECONDS
        while True:
            lines = told.read_text().splitlines() if told.exists() else []
            if len(lines) > 1:
                return int(lines[0])
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"Chromium did not start: {self._log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.05)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        assert self._process is not None
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._process.wait()

    @asynccontextmanager
    async def page(self, url: str) -> AsyncIterator[Page]:
        """A new tab with this page, loaded."""
        target = await asyncio.to_thread(self._new_tab)
        async with connect(target["webSocketDebuggerUrl"], max_size=None, compression=None) as socket:
            page = Page(socket)
            await page.call("Page.navigate", url=url)
            async with asyncio.timeout(RUN_SECONDS):
                while await page.run(f"document.readyState + location.href != 'complete{url}'"):  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            yield page
            await page.call("Page.navigate", url="about:blank")  # closes its sockets

    def _new_tab(self) -> dict[str, Any]:
        request = urllib.request.Request(f"http://127.0.0.1:{self._port}/json/new", method="PUT")
        with urllib.request.urlopen(request, timeout=RUN_SECONDS) as answer:
            return dict(json.load(answer))


class PageServer:
    """Serves one page, with the browser builds of the vendor's JavaScript packages behind an import map."""

    def __init__(self, title: str = "hubwire") -> None:
        imports = {name: f"/modules/{_browser_build(name)}" for name in MODULES} | {"events": "/events.js"}
        self._html = (
            f'<!doctype html><meta charset="utf-8"><title>{title}</title>'
            f'<script type="importmap">{json.dumps({"imports": imports})}</script>'
        )
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body, content_type = outer._answer(self.path)
                self.send_response(200 if body is not None else 404)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body or b"")))
                self.end_headers()
                self.wfile.write(body or b"")

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/"

    def _answer(self, path: str) -> tuple[bytes | None, str]:
        modules = JS_FOLDER / "node_modules"
        if path == "/":
            return self._html.encode(), "text/html"
        if path == "/events.js":
            # The one package that is no module: wrapped, as a bundler does.
            source = (modules / "events" / "events.js").read_text()
            wrapped = f"const module = {{ exports: {{}} }};\n{source}\nexport default module.exports;\n"
            return wrapped.encode(), "text/javascript"
        file = (modules / path.removeprefix("/modules/")).resolve()
        if not path.startswith("/modules/") or not file.is_relative_to(modules) or not file.is_file():
            return None, "text/plain"
        return file.read_bytes(), "text/javascript"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


def _browser_build(name: str) -> str:
    """Where a package says that its build for browsers is, below node_modules."""
    scope, package, *rest = name.split("/")
    folder = f"{scope}/{package}"
    exports = json.loads((JS_FOLDER / "node_modules" / folder / "package.json").read_text())["exports"]
    build = exports["/".join([".", *rest])]["browser"]
    return f"{folder}/{(build['default'] if isinstance(build, dict) else build).removeprefix('./')}"
