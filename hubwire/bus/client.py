"""The NATS connection: nats-py, with a direct way in and out for the hot path.

nats-py queues each message for a task of its subscription, and each publish for a flusher task: two
wake-ups a message. On the paths that carry every client message we skip both: `subscribe` here calls a
plain function from the read loop, and `publish` appends to the connection's buffer and writes it once
at the end of the turn of the event loop. JetStream and everything rare go through nats-py unchanged.

This uses `Client._process_msg`, `_pending`, `_pending_data_size` and `_transport`, which are not public
API: the version is pinned and tests/integration/test_bus_client.py checks the contract.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count
from secrets import token_hex
from typing import Any

import structlog
from nats.aio.client import Client as NatsClient
from nats.js import JetStreamContext

from hubwire.model.errors import Unavailable

log = structlog.get_logger(__name__)

Handler = Callable[[str, str, bytes], None]
"""Called with subject, reply subject ("" for none) and data, in the order of arrival. Must not block."""

ReplyHandler = Callable[[bytes | None, str], None]
"""Called once with the answer and "", or with None and why there is none: NO_RESPONDERS, TIMEOUT, LOST."""

NO_RESPONDERS = "no responders"
TIMEOUT = "timeout"
LOST = "connection lost"

MAX_BUFFERED_BYTES = 32 * 1024 * 1024
"""What may wait for the NATS socket; past it `publish` raises Unavailable."""


class _DirectClient(NatsClient):
    """nats-py's client, whose messages for some subscriptions go straight to a function."""

    def __init__(self) -> None:
        super().__init__()
        self.direct: dict[int, Handler] = {}
        self.on_reply: Callable[[str, bytes, bool], None] | None = None
        self.reply_sid = -1

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        if sid == self.reply_sid and self.on_reply is not None:
            # The server answers a request that nobody is subscribed to with status 503 and no body.
            nobody = bool(headers) and not data and b" 503" in bytes(headers[:16])
            self.on_reply(subject.decode(), bytes(data), nobody)
            return
        handler = self.direct.get(sid)
        if handler is None:
            await super()._process_msg(sid, subject, reply, data, headers)
            return
        try:
            handler(subject.decode(), reply.decode(), bytes(data))
        except Exception:
            log.exception("bus_handler_failed", subject=subject.decode())


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
        self._nats = _DirectClient()
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[str, _Waiting] = {}
        self._inbox = f"_INBOX.{token_hex(12)}"
        self._ids = count(1)
        self._flush_scheduled = False
        self._on_reconnect: list[Callable[[], None]] = []
        self._on_disconnect: list[Callable[[], None]] = []
        self.js: JetStreamContext

    @classmethod
    async def connect(cls, options: dict[str, Any]) -> BusClient:
        """Connect with nats-py's options (see hubwire.runtime.nats_options). Raises Unavailable."""
        self = cls()

        async def reconnected() -> None:
            log.info("nats_reconnected", server=self.server)
            for listener in self._on_reconnect:
                listener()

        async def disconnected() -> None:
            if not self._nats.is_closed:
                log.warning("nats_disconnected")
            self._fail_waiting()
            for listener in self._on_disconnect:
                listener()

        async def failed(error: Exception) -> None:
            log.debug("nats_error", error=repr(error))

        try:
            await self._nats.connect(
                **options, reconnected_cb=reconnected, disconnected_cb=disconnected, error_cb=failed
            )
        except Exception as error:
            raise Unavailable(f"NATS cannot be reached at {options.get('servers')}: {error}") from error
        self.js = self._nats.jetstream(timeout=5)
        subscription = await self._nats.subscribe(f"{self._inbox}.*", cb=_unused)
        self._nats.reply_sid = subscription._id
        self._nats.on_reply = self._reply
        return self

    @property
    def nats(self) -> NatsClient:
        return self._nats

    @property
    def connected(self) -> bool:
        return bool(self._nats.is_connected)

    @property
    def server(self) -> str:
        url = self._nats.connected_url
        return f"{url.hostname}:{url.port}" if url is not None else ""

    def on_reconnect(self, listener: Callable[[], None]) -> None:
        self._on_reconnect.append(listener)

    def on_disconnect(self, listener: Callable[[], None]) -> None:
        self._on_disconnect.append(listener)

    async def subscribe(self, subject: str, handler: Handler) -> Callable[[], Any]:
        """Call `handler` for every message on the subject until the returned coroutine function is
        awaited. An exception of the handler is logged and loses only its own message."""
        subscription = await self._nats.subscribe(subject, cb=_unused)
        self._nats.direct[subscription._id] = handler
        await self._nats.flush(timeout=5)

        async def unsubscribe() -> None:
            self._nats.direct.pop(subscription._id, None)
            if not self._nats.is_closed:
                await subscription.unsubscribe()

        return unsubscribe

    def publish(self, subject: str, payload: bytes, reply: str = "") -> None:
        """Hand a message to the connection; it is written at the end of this turn of the loop.

        Raises Unavailable, and sends nothing, while NATS is not connected or when it does not take
        what it is given (MAX_BUFFERED_BYTES wait). Subjects are our own and are not checked.
        """
        nats = self._nats
        if not nats.is_connected:
            raise Unavailable("NATS is not connected.")
        if nats._pending_data_size > MAX_BUFFERED_BYTES:
            raise Unavailable("NATS does not take messages fast enough.")
        head = f"PUB {subject} {reply} {len(payload)}\r\n" if reply else f"PUB {subject} {len(payload)}\r\n"
        command = b"".join((head.encode(), payload, b"\r\n"))
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

    def request(self, subject: str, payload: bytes, handler: ReplyHandler, timeout: float) -> None:
        """Send, and call `handler` exactly once: with the answer, or with None and the reason.

        Raises Unavailable like `publish`; the handler is not called then.
        """
        token = f"{self._inbox}.{next(self._ids)}"
        self.publish(subject, payload, token)
        timer = self._loop.call_later(timeout, self._expire, token)
        self._waiting[token] = _Waiting(handler, timer)

    async def ask(self, subject: str, payload: bytes, timeout: float) -> bytes:
        """`request` to await. Raises Unavailable whose text is the reason (NO_RESPONDERS, ...)."""
        future: asyncio.Future[bytes] = self._loop.create_future()

        def answered(data: bytes | None, reason: str) -> None:
            if future.done():
                return
            if data is None:
                future.set_exception(Unavailable(reason))
            else:
                future.set_result(data)

        self.request(subject, payload, answered, timeout)
        return await future

    def _reply(self, token: str, data: bytes, nobody: bool) -> None:
        waiting = self._waiting.pop(token, None)
        if waiting is not None:
            waiting.timer.cancel()
            self._answer(waiting.handler, None if nobody else data, NO_RESPONDERS if nobody else "")

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
    def _answer(handler: ReplyHandler, data: bytes | None, reason: str) -> None:
        try:
            handler(data, reason)
        except Exception:
            log.exception("bus_reply_handler_failed")

    async def close(self) -> None:
        """Send what waits, then close. Idempotent."""
        if self._nats.is_closed:
            return
        self._flush()
        try:
            if self._nats.is_connected:
                await self._nats.flush(timeout=2)
        except Exception as error:
            log.debug("nats_flush_at_close_failed", error=repr(error))
        await self._nats.close()
        self._fail_waiting()


async def _unused(_message: Any) -> None:
    """nats-py wants a callback; ours is called by _DirectClient instead."""
