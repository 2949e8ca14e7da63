"""nats-py's client, changed where it would lose messages, wake tasks for nothing, or give up.

It uses and overrides parts of nats-py that are not public API (`_process_msg`, `_process_err`, its pings,
`_pending`, `_transport`, the reconnection): the version is pinned and tests/integration/test_bus_client.py
checks the contract.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import nats.errors
import structlog
from nats.aio.client import Client as NatsClient

log = structlog.get_logger(__name__)

Handler = Callable[[str, str, bytes], None]
"""Called with subject, reply subject ("" for none) and data, in the order of arrival. Must not block."""

RawHandler = Callable[[str, str, bytes, bytes], None]
"""Like Handler, with the header block, for what is told in headers (a consumer's heartbeats)."""


class DirectClient(NatsClient):
    """nats-py's client, whose messages for some subscriptions go straight to a function, and which never
    gives up: nothing but our own `close` ends it."""

    def __init__(self) -> None:
        super().__init__()
        self.direct: dict[int, Handler] = {}
        self.direct_raw: dict[int, RawHandler] = {}
        self.on_reply: Callable[[str, bytes, bool], None] | None = None
        self.reply_sid = -1

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        try:
            if sid == self.reply_sid and self.on_reply is not None:
                # The server answers a request that nobody is subscribed to with status 503 and no body.
                nobody = bool(headers) and not data and b" 503" in bytes(headers[:16])
                self.on_reply(subject.decode(), bytes(data), nobody)
                return
            handler = self.direct.get(sid)
            if handler is not None:
                handler(subject.decode(), reply.decode(), bytes(data))
                return
            raw = self.direct_raw.get(sid)
            if raw is not None:
                raw(subject.decode(), reply.decode(), bytes(data), bytes(headers or b""))
                return
        except Exception:
            # Whatever escapes from here ends nats-py's read loop, and nobody would notice.
            log.exception("bus_handler_failed", subject=repr(subject))
            return
        await super()._process_msg(sid, subject, reply, data, headers)

    async def _process_err(self, err_msg: str) -> None:
        """An error that the server tells. nats-py closes the client for good after most of them; for us
        the connection is lost, and we come back, also after new credentials were refused for a while."""
        if "permissions violation" in err_msg:
            await super()._process_err(err_msg)
        else:
            log.error("nats_told_an_error", error=err_msg)
            await self._process_op_err(nats.errors.Error(f"nats: {err_msg}"))

    async def _send_ping(self, future: asyncio.Future[bool] | None = None) -> None:
        """nats-py writes its ping past what still waits in `_pending`: the pong would prove nothing of that,
        and a flush returned before the server knew of a subscription."""
        if future is not None and self.is_connected and self._pending and self._transport is not None:
            pending, self._pending, self._pending_data_size = self._pending, [], 0
            self._transport.writelines(pending)
        await super()._send_ping(future)

    async def _process_pong(self) -> None:
        # The pong of a flush that has given up: nats-py would set its future, fail, and read no more.
        if self._pongs and self._pongs[0].done():
            self._pongs[0] = asyncio.Future()
        await super()._process_pong()

    def _cut(self) -> None:
        """Drop the socket now. `close` would first wait for a server that may not read any more."""
        writer: Any = getattr(self._transport, "_io_writer", None)
        if writer is not None:
            writer.transport.abort()

    async def _attempt_reconnect(self) -> None:
        self._cut()
        while not self.is_closed:
            try:
                await super()._attempt_reconnect()
                return
            except Exception:  # what nats-py does not foresee would leave us disconnected for ever
                log.exception("nats_reconnect_failed")
                self._status = NatsClient.RECONNECTING
                await asyncio.sleep(0.5)

    async def _connect_to_server(self, s: Any) -> None:
        # After a failed attempt the tasks of its socket would go on to read from the next one.
        for task in (self._reading_task, self._ping_interval_task, self._flusher_task):
            if task is not None and not task.done():
                task.cancel()
        self._cut()
        self._ps.reset()
        await super()._connect_to_server(s)
