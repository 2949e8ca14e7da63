"""The NATS connection: nats-py, with a direct way in and out for the hot path.

nats-py queues each message for a task of its subscription, and each publish for a flusher task: two
wake-ups a message. On the paths that carry every client message we skip both: `subscribe` here calls a
plain function from the read loop, and `publish` appends to the connection's buffer and writes it once
at the end of the turn of the event loop. JetStream and everything rare go through nats-py unchanged.

This uses parts of nats-py that are not public API (`_pending`, `_transport`), as does its client in
hubwire.bus.direct_client: the version is pinned and tests/integration/test_bus_client.py checks the contract.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count
from secrets import token_hex
from typing import Any

import nats.errors
import structlog
from nats.aio.client import Client as NatsClient
from nats.js import JetStreamContext

from hubwire.bus.direct_client import DirectClient, Handler, RawHandler
from hubwire.bus.refusals import Refusals
from hubwire.bus.settle import settle
from hubwire.model.errors import LimitExceeded, Unavailable

log = structlog.get_logger(__name__)

ReplyHandler = Callable[[bytes | None, str], float | None]
"""Called with the answer and "", or with None and why there is none: NO_RESPONDERS, TIMEOUT, LOST. Once,
unless it returns for how many seconds one more answer to the same request is listened for."""

NO_RESPONDERS = "no responders"
TIMEOUT = "timeout"
LOST = "connection lost"

MAX_BUFFERED_BYTES = 32 * 1024 * 1024
"""What may wait for the NATS socket; past it `publish` raises Unavailable."""


class _Waiting:
    __slots__ = ("handler", "timer")

    def __init__(self, handler: ReplyHandler, timer: asyncio.TimerHandle) -> None:
        self.handler = handler
        self.timer = timer


class BusClient:
    """One process's connection to NATS. Reconnects for ever; says so to its listeners.

    Delivery is core NATS's: at most once, in order per publisher while one connection lasts.
    """

    def __init__(self) -> None:
        self._nats = DirectClient()
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[str, _Waiting] = {}
        self._inbox = ""  # with the connection
        self._ids = count(1)
        self._flush_scheduled = False
        self._on_reconnect: list[Callable[[], None]] = []
        self._on_disconnect: list[Callable[[], None]] = []
        self.js: JetStreamContext
        self.reconnections = 0
        self.refusals = Refusals()

    @classmethod
    async def connect(cls, options: dict[str, Any]) -> BusClient:
        """Connect with nats-py's options (see hubwire.runtime.nats_options). Raises Unavailable."""
        self = cls()

        async def reconnected() -> None:
            self.reconnections += 1
            log.info("nats_reconnected", server=self.server)
            self._tell(self._on_reconnect)

        async def disconnected() -> None:
            if not self._nats.is_closed:
                log.warning("nats_disconnected")
            self._fail_waiting()
            self._tell(self._on_disconnect)

        async def failed(error: Exception) -> None:
            if not self.refusals.heard(error):
                log.debug("nats_error", error=repr(error))

        try:
            await self._nats.connect(
                **options, reconnected_cb=reconnected, disconnected_cb=disconnected, error_cb=failed
            )
        except Exception as error:
            raise Unavailable(f"NATS cannot be reached at {options.get('servers')}: {error}") from error
        self.js = self._nats.jetstream(timeout=5)
        self._inbox = self.new_inbox()
        subscription = await self._nats.subscribe(f"{self._inbox}.*", cb=_unused)
        self._nats.reply_sid = subscription._id
        self._nats.on_reply = self._reply
        return self

    @property
    def nats(self) -> NatsClient:
        return self._nats

    def new_inbox(self) -> str:
        """A subject that nobody else has, for answers. It begins with what the options say
        (`inbox_prefix`): a user of NATS may be let see only the answers of its own role."""
        return f"{self._nats._inbox_prefix.decode()}.{token_hex(12)}"

    @property
    def connected(self) -> bool:
        return bool(self._nats.is_connected)

    @property
    def server(self) -> str:
        url = self._nats.connected_url
        return f"{url.hostname}:{url.port}" if url is not None else ""

    @property
    def waiting_bytes(self) -> int:
        """What waits to be written to the server."""
        return int(self._nats._pending_data_size)

    @property
    def max_payload(self) -> int:
        """The largest message that the server takes, in bytes."""
        return int(self._nats.max_payload)

    def on_reconnect(self, listener: Callable[[], None]) -> None:
        self._on_reconnect.append(listener)

    def on_disconnect(self, listener: Callable[[], None]) -> None:
        self._on_disconnect.append(listener)

    @staticmethod
    def _tell(listeners: list[Callable[[], None]]) -> None:
        for listener in listeners:
            try:
                listener()
            except Exception:
                log.exception("bus_listener_failed")

    async def synchronize(self) -> None:
        """Wait until the server has processed what was sent before, over any number of reconnections.

        Raises Unavailable when this client is closed.
        """
        while not self._nats.is_closed:
            if not self._nats.is_connected:
                await asyncio.sleep(0.02)
                continue
            try:
                await self._nats.flush(timeout=1)
            except nats.errors.Error:
                continue  # also when the connection was lost meanwhile: its pong never comes
            if self._nats.is_connected:
                return
        raise Unavailable("The connection to NATS is closed.")

    async def subscribe(self, subject: str, handler: Handler) -> Callable[[], Any]:
        """Call `handler` for every message on the subject until the returned coroutine function is
        awaited. Returns when the server has the subscription; it is renewed at every reconnection, before
        the listeners of `on_reconnect` are told. An exception of the handler is logged and loses only its
        own message. Raises Unavailable when this client is closed."""
        return await self._subscribe(subject, self._nats.direct, handler)

    async def subscribe_raw(self, subject: str, handler: RawHandler) -> Callable[[], Any]:
        """`subscribe` for a handler that is given the headers too."""
        return await self._subscribe(subject, self._nats.direct_raw, handler)

    async def _subscribe(self, subject: str, handlers: dict[int, Any], handler: Any) -> Callable[[], Any]:
        try:
            subscription = await self._nats.subscribe(subject, cb=_unused)
        except nats.errors.ConnectionClosedError as error:
            raise Unavailable("The connection to NATS is closed.") from error
        handlers[subscription._id] = handler
        await self.synchronize()

        async def unsubscribe() -> None:
            handlers.pop(subscription._id, None)
            if not self._nats.is_closed:
                await subscription.unsubscribe()

        return unsubscribe

    def publish(self, subject: str, payload: bytes, reply: str = "", headers: bytes = b"") -> None:
        """Hand a message to the connection; it is written at the end of this turn of the loop.

        Raises Unavailable, and sends nothing, while NATS is not connected or when it does not take
        what it is given (MAX_BUFFERED_BYTES wait); LimitExceeded for a message above `max_payload`, for
        which the server would cut the connection. Subjects are our own and are not checked. `headers` is
        a whole NATS header block.
        """
        nats = self._nats
        if not nats.is_connected:
            raise Unavailable("NATS is not connected.")
        if nats._pending_data_size > MAX_BUFFERED_BYTES:
            raise Unavailable("NATS does not take messages fast enough.")
        size = len(payload) + len(headers)
        if size > nats._max_payload:
            raise LimitExceeded("A message on the bus, in bytes,", nats._max_payload, size)
        to = f"{subject} {reply}" if reply else subject
        head = f"HPUB {to} {len(headers)} {size}\r\n" if headers else f"PUB {to} {size}\r\n"
        command = b"".join((head.encode(), headers, payload, b"\r\n"))
        nats._pending.append(command)
        nats._pending_data_size += len(command)
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_scheduled = False
        nats = self._nats
        # While reconnecting nats-py keeps _pending and writes it itself once connected.
        if nats._pending and nats.is_connected and nats._transport:
            writer: Any = nats._transport._io_writer  # type: ignore[attr-defined]  # its TcpTransport
            transport = writer.transport
            if transport.is_closing():
                return
            if transport.get_write_buffer_size() > MAX_BUFFERED_BYTES:
                self._flush_scheduled = True
                self._loop.call_later(0.005, self._flush)
                return
            pending, nats._pending, nats._pending_data_size = nats._pending, [], 0
            writer.write(b"".join(pending) if len(pending) > 1 else pending[0])

    def request(
        self, subject: str, payload: bytes, handler: ReplyHandler, timeout: float, headers: bytes = b""
    ) -> None:
        """Send, and call `handler` exactly once: with the answer, or with None and the reason. After an
        answer of which it says so (see ReplyHandler) it is called once more, and so on.

        Raises Unavailable like `publish`; the handler is not called then.
        """
        token = f"{self._inbox}.{next(self._ids)}"
        self.publish(subject, payload, token, headers)
        timer = self._loop.call_later(timeout, self._expire, token)
        self._waiting[token] = _Waiting(handler, timer)

    async def ask(self, subject: str, payload: bytes, timeout: float, headers: bytes = b"") -> bytes:
        """`request` to await. Raises Unavailable whose text is the reason (NO_RESPONDERS, ...)."""
        future: asyncio.Future[bytes] = self._loop.create_future()

        def answered(data: bytes | None, reason: str) -> None:
            settle(future, data or b"", Unavailable(reason) if data is None else None)

        self.request(subject, payload, answered, timeout, headers)
        return await future

    async def ping(self, seconds: float) -> float | None:
        """How long the server takes to answer, in seconds; None when it did not within that time, or there is
        no connection."""
        if not self.connected:
            return None
        begun = self._loop.time()
        try:
            await self._nats.flush(timeout=seconds)  # type: ignore[arg-type]  # it takes parts of a second
        except nats.errors.Error:
            return None
        return self._loop.time() - begun

    async def suspect(self, seconds: float) -> None:
        """Something was not answered that should have been: ask the server that we are on, and when it is
        silent for `seconds` too, leave it for another one, sooner than the regular pings would. Does nothing
        where there is no other: leaving would only lose what is on its way."""
        if not self.connected or len(self._nats._server_pool) < 2:
            return
        before = self._nats._transport
        try:
            await self._nats.flush(timeout=seconds)  # type: ignore[arg-type]  # it takes parts of a second
        except nats.errors.TimeoutError:
            if self.connected and self._nats._transport is before:
                log.warning("nats_server_silent", server=self.server)
                await self._nats._process_op_err(nats.errors.StaleConnectionError())
        except nats.errors.Error as error:  # lost meanwhile, or closed
            log.debug("nats_not_asked", error=repr(error))

    def _reply(self, token: str, data: bytes, nobody: bool) -> None:
        waiting = self._waiting.pop(token, None)
        if waiting is not None:
            waiting.timer.cancel()
            if nobody:
                self._answer(waiting.handler, None, NO_RESPONDERS)
            elif (more := self._answer(waiting.handler, data, "")) is not None:
                waiting.timer = self._loop.call_later(more, self._expire, token)
                self._waiting[token] = waiting

    def _expire(self, token: str) -> None:
        waiting = self._waiting.pop(token, None)
        if waiting is not None:
            self._answer(waiting.handler, None, TIMEOUT)

    def _fail_waiting(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for one in waiting.values():
            one.timer.cancel()
            self._answer(one.handler, None, LOST)

    @staticmethod
    def _answer(handler: ReplyHandler, data: bytes | None, reason: str) -> float | None:
        try:
            return handler(data, reason)
        except Exception:
            log.exception("bus_reply_handler_failed")
            return None

    async def close(self) -> None:
        """Send what waits, then close. Idempotent."""
        if self._nats.is_closed:
            return
        self._flush()
        try:
            if self._nats.is_connected:
                await self._nats.flush(timeout=2)
            await self._nats.close()
        except Exception as error:  # the server may have gone in the middle of it
            log.debug("nats_close_failed", error=repr(error))
        self._fail_waiting()


async def _unused(_message: Any) -> None:
    """nats-py wants a callback; ours is called by DirectClient instead."""
