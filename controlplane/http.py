"""The HTTP server of the control plane: aiohttp's, with deadlines, bounds, and answers in our shape.

aiohttp leaves open how long the head of a request may take and how many sockets may lie idle, and quotes
the offending line, which may hold a credential, when it refuses a request. So the heads are collected
here before its parser sees them, and whatever it would say by itself is said in the service's words.

Parts of aiohttp that are not public API are used in this file only; tests/unit/test_rest_server.py fails
when a new version changes them.
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket
from collections.abc import Callable
from typing import Any

import structlog
from aiohttp import web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler, _ErrInfo

from controlplane.problems import BAD_REQUEST, Problem, body_of, response_of
from hubwire.runtime.certificates import Around
from hubwire.runtime.limits import Reserve, max_plain_sockets
from hubwire.runtime.linger import MAX_FORGOTTEN_BYTES, say_last
from hubwire.runtime.listen import BACKLOG
from hubwire.runtime.plain_http import HEAD_SECONDS, AcceptSide

SERVER = "Hubwire"
KEEP_ALIVE_SECONDS = 75.0
"""How long a connection may lie idle between requests; reverse proxies give theirs up after 60."""
LINGER_SECONDS = 1.0
"""How long the rest of a body that nobody wants is read, so that the answer is not lost."""
WRITE_SECONDS = 30.0
"""How long a client may take over reading an answer."""
MAX_LINE_BYTES = 32 * 1024
MAX_HEAD_BYTES = 80 * 1024
"""The SDKs put the whole URL into the token too, where it is a third longer."""
_LOOK_AT = 256  # connections, when an idle one is looked for

_LENGTH = re.compile(rb"\n(?:content-length)[ \t]*:[ \t]*([^\r\n]*?)[ \t]*\r", re.IGNORECASE)
_ENCODED = re.compile(rb"\n(?:transfer-encoding|upgrade)[ \t]*:", re.IGNORECASE)

_log = structlog.get_logger(__name__)


class RestHandler(RequestHandler):
    """One connection. Requests that are pipelined are handed to aiohttp one by one, each when complete up
    to its body, so that one for a client endpoint is seen before its parser takes it."""

    __slots__ = ("_accept_side", "_body_left", "_head", "_late", "_payload", "_pending", "_timer")

    def __init__(self, manager: RestServer, accept_side: AcceptSide | None, **settings: Any) -> None:
        super().__init__(manager, **settings)
        self._accept_side = accept_side
        self._head = bytearray()  # of the next request, while it is incomplete
        self._body_left: int | None = 0  # of the present request; None where only aiohttp knows
        self._payload: StreamReader | None = None  # the body of the present request
        self._late = 0  # bytes that came for an answered request
        self._timer: asyncio.TimerHandle | None = None
        self._pending: Callable[[], None] | None = None  # how we leave, once nothing is in progress

    @property
    def idle(self) -> bool:
        """Whether no request is in progress, nor one waiting for its turn."""
        if self._force_close or self.transport is None or self._messages:
            return False
        return self._request_count == 0 or (self._waiter is not None and not self._waiter.done())

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._time_the_head()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._stop_timer()
        self._pending = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not data:  # aiohttp itself, to go on parsing
            super().data_received(data)
            return
        if self._pending is not None:
            self._head += data
            self._hold_back()
            return
        while data and not self._force_close and self._pending is None:
            if self._body_left is None and self.idle:
                self._body_left = 0
            if self._body_left is None:
                self._feed_body(data)
                return
            if self._body_left:
                piece = data[: self._body_left]
                self._body_left -= len(piece)
                data = data[len(piece) :]
                self._feed_body(piece)
            else:
                data = self._feed_head(data)

    def _feed_body(self, data: bytes) -> None:
        if not self._request_in_progress and self._request_count and not self._messages:
            self._late += len(data)
            if self._late > MAX_FORGOTTEN_BYTES:
                self.force_close()
                return
        super().data_received(data)
        if self._messages and isinstance(self._messages[-1][0], _ErrInfo) and self._payload is not None:
            # aiohttp would answer this after the present request, which waits for the rest of its body.
            self._payload.set_exception(web.RequestPayloadError("The body is malformed."))

    def _feed_head(self, data: bytes) -> bytes:
        """Take the head of the next request; returns what comes behind it."""
        self._head += data
        if self._head.startswith((b"\r", b"\n")):  # RFC 9112, 2.2
            self._head = self._head.lstrip(b"\r\n")
        if not self._head:
            return b""
        line_end = self._head.find(b"\r\n")
        end = self._head.find(b"\r\n\r\n")
        if (line_end if line_end >= 0 else len(self._head)) > MAX_LINE_BYTES:
            self._leave_with(414, f"The request target is limited to {MAX_LINE_BYTES} bytes.")
            return b""
        if (end if end >= 0 else len(self._head)) > MAX_HEAD_BYTES:
            self._leave_with(431, f"The head of a request is limited to {MAX_HEAD_BYTES} bytes.")
            return b""
        if not 65 <= self._head[0] <= 122:  # TLS, for instance: it would never be complete
            self._leave_with(400, "The request is not one of HTTP/1.1.")
            return b""
        if end < 0:
            if self._timer is None:
                self._time_the_head()
            return b""
        self._stop_timer()
        side = self._accept_side
        if side is not None and side.wants(bytes(self._head[:line_end])):
            self._leave(lambda: self._give_back(side))
            return b""
        head, rest = bytes(self._head[: end + 4]), bytes(self._head[end + 4 :])
        self._head.clear()
        self._body_left = _body_bytes(head)
        self._late = 0
        super().data_received(head)
        self._payload = self._messages[-1][1] if self._messages else None
        return rest

    # -- leaving the connection to somebody else -------------------------------------------------------

    def _leave_with(self, status: int, message: str) -> None:
        self._stop_timer()

        def leave() -> None:
            say_last(self._detach(), raw_response(Problem(status, BAD_REQUEST, message, "Request")))

        self._leave(leave)

    def _give_back(self, side: AcceptSide) -> None:
        data = bytes(self._head)
        transport = self._detach()
        if not transport.is_reading():
            transport.resume_reading()
        side.take_back(transport, data)

    def _leave(self, how: Callable[[], None]) -> None:
        """Now, or when the requests in progress are answered."""
        self._pending = how
        self._try_to_leave()

    def _try_to_leave(self) -> None:
        if self._pending is None or self._force_close or self.transport is None or self._close:
            return
        if self.idle:
            self._pending()
            return
        # aiohttp tells nobody when it is; requests in front of another one are rare.
        self._loop.call_later(0.01, self._try_to_leave)

    def _hold_back(self) -> None:
        if len(self._head) > MAX_HEAD_BYTES and self.transport is not None:
            self._pause_reading_for_buffer()

    def _detach(self) -> asyncio.Transport:
        """Make aiohttp forget the socket without closing it."""
        transport = self.transport
        assert transport is not None
        if self._task_handler is not None:
            self._task_handler.cancel()  # it may not have begun, and must not find itself without a server
        self.transport = None
        self.connection_lost(None)
        return transport

    def _time_the_head(self) -> None:
        self._timer = self._loop.call_later(HEAD_SECONDS, self._too_late)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_late(self) -> None:
        self._timer = None
        if self._pending is None:
            self._leave_with(408, "The request did not arrive in time.")

    # -- what aiohttp says by itself ---------------------------------------------------------------------

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to what the parser refused, or to an error outside the application. `message` quotes
        the request and is not passed on."""
        if request.writer.output_size > 0:
            raise ConnectionError("The answer has begun already.")
        if status >= 500:
            _log.error("http_server_failed", error=type(exc).__name__, exc_info=exc)
            problem = Problem(500, "Error.InternalServerError", "The service failed to handle the request.")
        else:
            problem = _refusal(status, exc, message or "")
        response = response_of(problem)
        response.force_close()
        return response

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        if isinstance(resp, web.HTTPException):  # not one of ours: they are no exceptions
            resp = response_of(Problem(resp.status, BAD_REQUEST, f"{resp.reason}.", "Request"))
        resp.headers.setdefault("Server", SERVER)
        try:
            async with asyncio.timeout(WRITE_SECONDS):
                return await super().finish_response(request, resp, start_time)
        except TimeoutError:
            if self.transport is not None:
                self.transport.abort()
            return resp, True


class RestServer(web.Server):
    """Makes a RestHandler for each connection, and bounds their number: over it, idle ones go first."""

    def __init__(self, handler: Any, **settings: Any) -> None:
        super().__init__(handler, request_factory=settings.pop("request_factory"))
        self._settings = settings
        self._reserve = Reserve()
        self.max_connections = max_plain_sockets()

    def __call__(self, accept_side: AcceptSide | None = None) -> RestHandler:
        return RestHandler(self, accept_side, loop=self._loop, **self._settings)

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        full = len(self._connections) > self.max_connections and not self._drop_an_idle_one(handler)
        if full or not self._reserve.admits(transport):
            problem = Problem(503, "Error.ServiceUnavailable", "Too many connections.")
            transport.write(raw_response(problem, "Retry-After: 1\r\n"))
            handler.force_close()
            transport.close()

    def _drop_an_idle_one(self, but: RequestHandler) -> bool:
        for _, one in zip(range(_LOOK_AT), self._connections, strict=False):
            if one is not but and isinstance(one, RestHandler) and one.idle:
                one.force_close()
                return True
        return False


class RestRunner(web.AppRunner):
    """aiohttp's runner of an application, with this server in place of its own."""

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        # aiohttp's own logger quotes request lines, and those may hold tokens; what our handlers fail at
        # is logged by the application and here.
        silent = logging.getLogger("hubwire.http")
        silent.setLevel(logging.CRITICAL + 1)
        return RestServer(
            made.request_handler,
            request_factory=made.request_factory,
            keepalive_timeout=KEEP_ALIVE_SECONDS,
            lingering_time=LINGER_SECONDS,
            max_line_size=MAX_HEAD_BYTES,
            max_field_size=MAX_HEAD_BYTES,
            access_log=None,
            logger=silent,
        )


class RestSite(web.BaseSite):
    """A listening socket of a runner. `around` may put TLS below each connection."""

    def __init__(self, runner: RestRunner, sock: socket.socket, around: Around) -> None:
        super().__init__(runner)
        self._sock = sock
        self._around = around

    @property
    def name(self) -> str:
        return "rest"

    async def start(self) -> None:
        await super().start()
        server = self._runner.server
        assert server is not None
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._around(server), sock=self._sock, backlog=BACKLOG)


def raw_response(problem: Problem, more: str = "") -> bytes:
    """The bytes of an answer after which the connection ends, for where there is no request."""
    body = body_of(problem)
    response = response_of(problem)
    head = (
        f"HTTP/1.1 {problem.status} {response.reason}\r\n"
        + "".join(f"{name}: {value}\r\n" for name, value in response.headers.items())
        + f"{more}Server: {SERVER}\r\nConnection: close\r\n\r\n"
    )
    return head.encode("latin-1", "replace") + body


def _body_bytes(head: bytes) -> int | None:
    """How many bytes follow a head as its body; None where that is for aiohttp to find out or refuse."""
    if _ENCODED.search(head):
        return None
    lengths = _LENGTH.findall(head)
    if not lengths:
        return 0
    return int(lengths[0]) if len(lengths) == 1 and re.fullmatch(rb"[0-9]{1,15}", lengths[0]) else None


def _refusal(status: int, exc: BaseException | None, message: str) -> Problem:
    if isinstance(exc, LineTooLong):
        return Problem(431, BAD_REQUEST, "A line of the request is too long.", "Request")
    if "content-length" in message.lower():
        return Problem(status, BAD_REQUEST, "Invalid Content-Length header.", "Request")
    return Problem(status, BAD_REQUEST, "The request is not one of HTTP/1.1.", "Request")
