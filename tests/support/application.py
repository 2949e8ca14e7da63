"""An application server in a thread, for tests whose service and clients are other processes.

It lets clients in as their query says, and answers events by their name:

    ?deny=CODE       refused with that status and the body {"no": "way"}
    ?become=JSON     accepted with this answer
    event `quiet`    no content
    event `fail`     status 400
    event `count`    the connection's state, which is a number that goes up, as text
    anything else    the event's own data, in its own type

`Application.heard` has the names of the system events of each connection.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

HEAR_SECONDS = 15.0


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_OPTIONS(self) -> None:
        self._answer(200, {"WebHook-Allowed-Origin": "*"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        kind, name = self.headers["ce-type"].split(".")[2], self.headers["ce-eventName"]
        if kind != "user":
            self.server.heard[self.headers["ce-connectionId"]].append(name)  # type: ignore[attr-defined]
            self._system(name, json.loads(body))
        elif name == "fail":
            self._answer(400)
        elif name == "quiet":
            self._answer(204)
        elif name == "count":
            count = str(int(self.headers.get("ce-connectionState", "0")) + 1)
            self._answer(200, {"Content-Type": "text/plain", "ce-connectionState": count}, count.encode())
        else:
            self._answer(200, {"Content-Type": self.headers["Content-Type"]}, body)

    def _system(self, name: str, event: dict[str, Any]) -> None:
        query = event.get("query", {})
        if name == "connect" and "deny" in query:
            self._answer(int(query["deny"][0]), {"Content-Type": "application/json"}, b'{"no": "way"}')
        elif name == "connect" and "become" in query:
            self._answer(200, body=query["become"][0].encode())
        else:
            self._answer(204)

    def _answer(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        self.send_response(status)
        for header, value in (headers or {}).items():
            self.send_header(header, value)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_port = True  # the topology holds the port

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.heard: defaultdict[str, list[str]] = defaultdict(list)


class Application:
    """Serves while the context lasts."""

    def __init__(self, port: int) -> None:
        self._server = _Server(port)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def heard(self, connection_id: str) -> list[str]:
        """The system events of a connection so far."""
        return [*self._server.heard[connection_id]]

    async def hears(self, connection_id: str, event: str) -> None:
        """Wait for a system event."""
        async with asyncio.timeout(HEAR_SECONDS):
            while event not in self.heard(connection_id):  # noqa: ASYNC110 - a thread hears
                await asyncio.sleep(0.02)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)
