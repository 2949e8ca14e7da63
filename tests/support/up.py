"""A real `hubwire up` as a subprocess, and a look at what it leaves behind.

with Up(tmp_path) as up:          # started and ready
    up.facts["endpoint"], up.facts["connectionString"]
"""

from __future__ import annotations

import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

SECONDS = 30.0


class Up:
    """`hubwire up --json --port 0` on a data folder of its own, logging JSON at info."""

    def __init__(self, folder: Path, *options: str, data: Path | None = None, port: str = "0") -> None:
        self.folder = Path(folder)
        self.data = data or self.folder / ".hubwire"
        self.command = [sys.executable, "-m", "hubwire.cli.main", "up", "--json", "--port", port]
        self.command += ["--data", str(self.data), "--log-format", "json", "--log-level", "info", *options]
        self.facts: dict[str, Any] = {}
        self.log: list[dict[str, Any]] = []
        self.printed: list[str] = []
        self._news: queue.Queue[object] = queue.Queue()
        self._process: subprocess.Popen[str] | None = None
        self._threads: list[threading.Thread] = []

    @property
    def process(self) -> subprocess.Popen[str]:
        assert self._process is not None, "not launched"
        return self._process

    @property
    def endpoint(self) -> str:
        return str(self.facts["endpoint"])

    def launch(self) -> Up:
        """Start the process without waiting."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HUBWIRE_")}
        self._process = subprocess.Popen(
            self.command,
            cwd=self.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._threads = [
            threading.Thread(target=self._read, args=(stream, kind), daemon=True)
            for stream, kind in ((self._process.stdout, "out"), (self._process.stderr, "err"))
        ]
        for thread in self._threads:
            thread.start()
        return self

    def _read(self, stream: Any, kind: str) -> None:
        for line in stream:
            try:
                told = json.loads(line)
            except ValueError:
                told = {"text": line.rstrip()}
            if kind == "out":
                self.facts = told
                self._news.put(None)
            elif "event" in told:
                self.log.append(told)
                self._news.put(told)
            else:
                self.printed.append(line.rstrip())
        stream.close()
        self._news.put(None)

    def wait_ready(self) -> None:
        deadline = time.monotonic() + SECONDS
        while not self.facts:
            assert self.process.poll() is None, f"hubwire up ended: {self.printed} {self.log[-5:]}"
            self._next(deadline)

    def wait_event(self, event: str, **facts: object) -> dict[str, Any]:
        """The first line of the log, from now on, with this event and these facts."""
        deadline = time.monotonic() + SECONDS
        while True:
            told = self._next(deadline)
            if isinstance(told, dict) and told["event"] == event and facts.items() <= told.items():
                return told

    def _next(self, deadline: float) -> object:
        try:
            return self._news.get(timeout=max(0.01, deadline - time.monotonic()))
        except queue.Empty:
            raise TimeoutError(f"nothing happened: {self.log[-10:]} {self.printed}") from None

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self, seconds: float = SECONDS) -> int:
        """Wait until the supervisor and everything that holds its outputs has ended; the exit code."""
        code = self.process.wait(seconds)
        for thread in self._threads:
            thread.join(seconds)
            assert not thread.is_alive(), "something still holds the output of hubwire up"
        return code

    def stop(self) -> int:
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
        return self.end()

    def errors(self) -> list[str]:
        """The sentences of a failure."""
        assert len(self.printed) == 1, self.printed
        return list(json.loads(self.printed[0])["error"])

    def children(self) -> dict[int, str]:
        """The processes below the supervisor now, by pid: their command names."""
        return children_of(self.process.pid)

    def __enter__(self) -> Up:
        self.launch()
        try:
            self.wait_ready()
        except BaseException:
            self.process.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def children_of(pid: int) -> dict[int, str]:
    """The direct children of a process (Linux)."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                name, _, rest = (entry / "stat").read_text().partition("(")[2].rpartition(")")
            except OSError:
                continue
            state, parent = rest.split()[:2]
            if int(parent) == pid and state != "Z":
                found[int(entry.name)] = name
    return found


def listening(port: int, host: str = "127.0.0.1") -> bool:
    with socket.socket() as one:
        one.settimeout(2)
        return one.connect_ex((host, port)) == 0


def processes_that_mention(text: str) -> list[str]:
    """The command lines, anywhere on the machine, that contain `text` (a test's own folder)."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if text in line:
                found.append(line)
    return found
