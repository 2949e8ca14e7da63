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
import socket
from collections.abc import Callable
from typing import Any

import structlog
from aiohttp import web
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler, _ErrInfo

from controlplane.bare_http import SERVER, body_bytes_of, raw_response, refusal_of
from controlplane.express import EXPRESS, Express, read_head
from controlplane.problems import BAD_REQUEST, Problem, response_of
from hubwire.runtime.certificates import Around
from hubwire.runtime.limits import Reserve, max_plain_sockets
from hubwire.runtime.linger import MAX_FORGOTTEN_BYTES, say_last
from hubwire.runtime.listen import BACKLOG
from hubwire.runtime.plain_http import HEAD_SECONDS, AcceptSide

KEEP_ALIVE_SECONDS = 75.0
"""How long a connection may lie idle between requests; reverse proxies give theirs up after 60."""
LINGER_SECONDS = 1.0
"""How long the rest of a body that nobody wants is read, so that the answer is not lost."""
WRITE_SECONDS = 30.0
"""How long a client may take over reading an answer."""
MAX_LINE_BYTES = 32 * 1024
MAX_HEAD_BYTES = 80 * 1024
"""The SDKs put the whole URL into the token too, where it is a third longer."""
BODY_SECONDS = 0.05
"""How long the body of a request for the short way may come after its head: clients send them apart."""
_LOOK_AT = 256  # connections, when an idle one is looked for

_log = structlog.get_logger(__name__)


class RestHandler(RequestHandler):
    """One connection. Requests that are pipelined are handed to aiohttp one by one, each when complete up
    to its body, so that one for a client endpoint is seen before its parser takes it. What may go the
    short way (controlplane.express) does so whole, when nothing else is in progress."""

    __slots__ = (
        "_accept_side",
        "_body_due",
        "_body_left",
        "_express",
        "_head",
        "_late",
        "_payload",
        "_pending",
        "_secure",
        "_short",
        "_timer",
    )

    def __init__(self, manager: RestServer, accept_side: AcceptSide | None, **settings: Any) -> None:
        super().__init__(manager, **settings)
        self._accept_side = accept_side
        self._express: Express | None = manager.express
        self._body_due = 0.0  # until when the short way waits for a body; 0 when it does not
        self._secure = False
        self._short = False  # a request goes the short way: nothing is looked at before it is answered
        self._head = bytearray()  # of the next request, while it is incomplete
        self._body_left: int | None = 0  # of the present request; None where only aiohttp knows
        self._payload: StreamReader | None = None  # the body of the present request
        self._late = 0  # bytes that came for an answered request
        self._timer: asyncio.TimerHandle | None = None
        self._pending: Callable[[], None] | None = None  # how we leave, once nothing is in progress

    @property
    def idle(self) -> bool:
        """Whether no request is in progress, nor one waiting for its turn."""
        if self._force_close or self.transport is None or self._messages or self._short:
            return False
        return self._request_count == 0 or (self._waiter is not None and not self._waiter.done())

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._secure = transport.get_extra_info("sslcontext") is not None
        self._time_the_head()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._stop_timer()
        self._pending = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not data:  # aiohttp itself, to go on parsing
            super().data_received(data)
            return
        if self._pending is not None or self._short:
            self._head += data
            self._hold_back()
            return
        while data and not self._force_close and self._pending is None and not self._short:
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
        if self._goes_short(end + 4):
            return b""
        return self._to_aiohttp(end + 4)

    def _to_aiohttp(self, end: int) -> bytes:
        """Give aiohttp the head that ends there; returns what comes behind it."""
        head, rest = bytes(self._head[:end]), bytes(self._head[end:])
        self._head.clear()
        self._body_left = body_bytes_of(head)
        self._late = 0
        super().data_received(head)
        self._payload = self._messages[-1][1] if self._messages else None
        return rest

    # -- the short way ---------------------------------------------------------------------------------

    def _goes_short(self, end: int) -> bool:
        """Whether the request whose head ends there is taken, or its body awaited, by the short way."""
        if self._express is None or not self.idle or self._upgraded or self._paused or self._close:
            return False
        head = read_head(bytes(self._head[:end]))
        if head is None:
            return False
        whole = end + head.body_bytes
        if len(self._head) < whole:
            self._body_due = self._body_due or self._loop.time() + BODY_SECONDS
            self._timer = self._loop.call_at(self._body_due, self._goes_long, end)
            return True
        self._body_due = 0.0
        body = bytes(self._head[end:whole])
        held, self._head = self._head, self._head[whole:]
        self._short = self._request_in_progress = True  # before it is answered, perhaps at once
        if self._express.take(head, body, self._secure, self._answer):
            assert self._manager is not None
            self._manager.requests_count += 1
            self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
            return True
        self._short = self._request_in_progress = False
        self._head = held
        return False

    def _goes_long(self, end: int) -> None:
        """The body did not come with the head."""
        self._timer, self._body_due = None, 0.0
        rest = self._to_aiohttp(end)
        if rest:
            self.data_received(rest)

    def _answer(self, head: str, body: bytes) -> None:
        if self.transport is not None:
            head = f"{head}Date: {rfc822_formatted_time()}\r\n\r\n"
            self.transport.write(head.encode("latin-1", "replace") + body)
            self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        self._short = self._request_in_progress = False
        if self._handler_waiter is not None and not self._handler_waiter.done():  # aiohttp's shutdown
            self._handler_waiter.set_result(None)
        if self._head or self._buffer_paused:
            self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        """Take what came while a request went the short way."""
        if self._short or self.transport is None:
            return
        data, self._head = bytes(self._head), bytearray()
        if data:
            self.data_received(data)
        if self._buffer_paused and not self._short:
            self._resume_reading_for_buffer()

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
            problem = refusal_of(status, exc, message or "")
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
        self.express: Express | None = settings.pop("express", None)
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
            express=self._app.get(EXPRESS),
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
