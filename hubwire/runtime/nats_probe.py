"""What `hubwire up` asks its nats-server, to know whether it lives and stores. Nothing here waits.

Two questions, each on a connection of its own:

- a store into a bucket that is kept in a file. A server that hangs does not answer; one that was started
  on a full disk refuses ("insufficient resources") for ever, also when there is room again, and calls
  itself healthy all the while;
- its own health check, through its system account. A stream whose file could not be written once stores
  nothing until the server is restarted; the check names it and says why.

While the disk is full a restart would not help, so then the server counts as well, and the log says what
is the matter. When there is room again, it does not answer as it should, and is restarted.
"""

from __future__ import annotations

import errno
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

from hubwire.bus.subjects import store_check_subject
from hubwire.runtime.logs import get_logger
from hubwire.runtime.nats_server import SYSTEM_USER, NatsServerSettings
from hubwire.runtime.vitals import Probe

NOTHING_STORED = "it stores nothing"
_INBOX = "_INBOX.supervisor"
_HEALTH_SUBJECT = "$SYS.REQ.SERVER.PING.HEALTHZ"
_MOST_BYTES = 1 << 20
_ROOM_BYTES = 64 * 1024
_FULL = (errno.ENOSPC, errno.EDQUOT)
_log = get_logger("supervisor")


class NatsQuestion:
    """One request to a nats-server on this machine, and what `judge` makes of its answer. `unanswered` is
    what is wrong with a server that is there and does not answer it."""

    def __init__(
        self,
        address: tuple[str, int],
        user: str,
        password: str,
        subject: str,
        payload: bytes,
        judge: Callable[[bytes], str],
        unanswered: str,
    ) -> None:
        options = {
            "user": user,
            "pass": password,
            "name": "hubwire-supervisor",
            "lang": "python",
            "version": "1",
            "verbose": False,
            "pedantic": False,
            "headers": True,
            "no_responders": True,
        }
        self._request = (
            f"CONNECT {json.dumps(options)}\r\nSUB {_INBOX} 1\r\nPUB {subject} {_INBOX} {len(payload)}\r\n"
        ).encode() + payload
        self._judge = judge
        self._unanswered = unanswered
        self._sent = False
        self._data = b""
        self._socket = socket.socket()
        self._socket.setblocking(False)
        # The server speaks first: what becomes of the attempt is read.
        self._socket.connect_ex(address)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def advance(self) -> str | None:
        """As `Probe.advance`."""
        while True:
            try:
                chunk = self._socket.recv(65536)
            except BlockingIOError:
                return None
            if not chunk:
                return "it closes connections"
            self._data += chunk
            if len(self._data) > _MOST_BYTES:
                return "it says too much"
            answer = self._read()
            if answer is not None:
                return answer

    def late(self) -> str:
        return self._unanswered if self._sent else "it does not answer"

    def _read(self) -> str | None:
        while True:
            line, found, rest = self._data.partition(b"\r\n")
            if not found:
                return None
            operation, *words = line.split()
            if operation == b"MSG":
                size = int(words[-1])
                return self._judge(rest[:size]) if len(rest) >= size + 2 else None
            if operation == b"HMSG":  # the server's own answer where nobody is subscribed
                return self._unanswered
            if operation == b"-ERR":
                return f"it says {b' '.join(words).decode(errors='replace')}"
            if operation == b"INFO":
                self._socket.sendall(self._request + b"\r\n")
                self._sent = True
            elif operation == b"PING":
                self._socket.sendall(b"PONG\r\n")
            self._data = rest


def stored(answer: bytes) -> str:
    """What JetStream's answer to a publish says is wrong, or ""."""
    try:
        content = json.loads(answer)
        error = content.get("error")
        if error is None and int(content["seq"]) > 0:
            return ""
        return f"{NOTHING_STORED} ({error['description']})"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{NOTHING_STORED} ({answer[:100]!r})"


def well(answer: bytes) -> str:
    """What the server's health check says is wrong, or ""."""
    try:
        health = json.loads(answer)["data"]
        return "" if health["status_code"] == 200 else str(health["error"])
    except (ValueError, KeyError, TypeError):
        return f"its health check cannot be read ({answer[:100]!r})"


class _UnlessFull:
    """A question whose bad answer counts only while there is room on the disk."""

    def __init__(self, question: NatsQuestion, has_room: Callable[[str], bool]) -> None:
        self._question = question
        self._has_room = has_room

    def fileno(self) -> int:
        return self._question.fileno()

    def close(self) -> None:
        self._question.close()

    def advance(self) -> str | None:
        answer = self._question.advance()
        return answer if not answer or self._has_room(answer) else ""

    def late(self) -> str:
        answer = self._question.late()
        return answer if self._has_room(answer) else ""


class NatsProbes:
    """Makes the questions. `server` tells the settings in force; `folder` is on the disk of its store."""

    def __init__(self, server: Callable[[], NatsServerSettings], folder: Path) -> None:
        self._server = server
        self._file = folder / ".room"
        self._full = False

    @property
    def questions(self) -> tuple[Callable[[], Probe], ...]:
        return (self._store, self._health)

    def _store(self) -> Probe:
        server = self._server()
        subject = store_check_subject("supervisor")
        address = (server.host, server.port)
        question = NatsQuestion(address, server.user, server.password, subject, b"?", stored, NOTHING_STORED)
        return _UnlessFull(question, self._has_room)

    def _health(self) -> Probe:
        server = self._server()
        address = (server.host, server.port)
        question = NatsQuestion(
            address, SYSTEM_USER, server.system_password, _HEALTH_SUBJECT, b"", well, "its health check hangs"
        )
        return _UnlessFull(question, self._has_room)

    def _has_room(self, fault: str) -> bool:
        """Whether a little can be written (a quota is not seen otherwise); tells when that changes."""
        full = False
        try:
            with open(os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(bytes(_ROOM_BYTES))
        except OSError as error:
            full = error.errno in _FULL
        self._file.unlink(missing_ok=True)
        if full and not self._full:
            _log.error("nats_disk_full", folder=str(self._file.parent), reason=fault)
        elif self._full and not full:
            _log.warning("nats_disk_has_room", folder=str(self._file.parent))
        self._full = full
        return not full
