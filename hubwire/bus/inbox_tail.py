"""Follows an inbox: every message once, in order, until the log is lost.

A push consumer without acknowledgements. What it brings is checked: its own count for gaps on the way, the
stream's numbers for gaps in the log, and its heartbeats for messages that were the last before a silence.
After a gap, a silence or a reconnection it is made again, from the last message that was handled; that one
must come once more and be the same (number and time), or it is another log.

Guarantee: `handler` gets each message of one incarnation exactly once, in order, without gaps; or `lost` is
told, once, and then nothing more comes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from secrets import token_hex
from typing import Any, Final

import structlog

from hubwire.bus.client import BusClient
from hubwire.bus.inbox import inbox_info
from hubwire.bus.jetstream import StreamMissing, make_consumer, place_of
from hubwire.bus.subjects import inbox_stream
from hubwire.model.errors import HubwireError, Unavailable

log = structlog.get_logger(__name__)

LogHandler = Callable[[int, float, bytes], None]
"""Called with a message's number, when it was stored (Unix seconds) and its data. Must not block. An
exception of it ends the tail as `lost`: what was folded is not known any more."""

HEARTBEAT_SECONDS: Final = 1.0
SILENT_HEARTBEATS: Final = 3
MAKE_SECONDS: Final = 3.0
LOOK_SECONDS: Final = 0.5
MAX_LOOK_SECONDS: Final = 4.0
"""How long the stream's answer is waited for before it is asked anew, longer each time: a leader that is just
elected has not heard what was asked before."""
RETRY_SECONDS: Final = 0.05
MAX_RETRY_SECONDS: Final = 1.0
LOOKS: Final = 3
"""How often the leader must say that the log ends before what was handled: one that was just elected might
not have caught up yet."""
INACTIVE_SECONDS: Final = 30


class _Lost(Exception):
    """It is another log, or what comes next was trimmed away."""


class InboxTail:
    """One reader that follows the inbox of `gateway`. `start` it once, `stop` it when done.

    `position` is the number of the last message that was handled.
    """

    def __init__(
        self,
        bus: BusClient,
        gateway: str,
        handler: LogHandler,
        lost: Callable[[str], None],
        *,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
    ) -> None:
        self._bus = bus
        self._gateway = gateway
        self._stream = inbox_stream(gateway)
        self._handler = handler
        self._lost = lost
        self._heartbeat = heartbeat_seconds
        self._loop = asyncio.get_running_loop()
        self._prefix = bus.new_inbox()
        self._name = f"tail-{token_hex(6)}"
        self._consumer = ""
        self._made = 0
        self._subject = ""  # of the consumer that counts now; "" for none
        self._delivered = 0  # its count
        self._overlap = False  # the next message is the last one handled, again
        self._last_time_ns = 0
        self._heard = 0.0
        self._short = 0
        self._patience = LOOK_SECONDS
        self._created = ""
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._unsubscribe: Callable[[], Any] | None = None
        self._ended = False
        self.position = 0
        self.remakes = 0

    def start(self, created: str, from_seq: int = 1) -> None:
        """Follow the incarnation `created` of the inbox, from a number on."""
        self._created = created
        self.position = from_seq - 1
        self._bus.on_reconnect(self._remake)
        self._task = self._loop.create_task(self._run())

    async def stop(self) -> None:
        """Nothing is handled afterwards, and `lost` is not told. Idempotent."""
        self._ended = True
        self._subject = ""
        task, self._task = self._task, None
        if task is not None and task is not asyncio.current_task():
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await self._leave()

    async def _leave(self) -> None:
        """Give up the consumer that there is."""
        if self._consumer and self._bus.connected:
            with contextlib.suppress(Unavailable):  # the server drops it by itself after a while
                self._bus.publish(f"$JS.API.CONSUMER.DELETE.{self._stream}.{self._consumer}", b"")
        unsubscribe, self._unsubscribe = self._unsubscribe, None
        if unsubscribe is not None:
            await unsubscribe()

    # -- what arrives ------------------------------------------------------------------------------

    def _arrived(self, subject: str, reply: str, data: bytes, headers: bytes) -> None:
        place = place_of(reply)
        if place is None:
            if subject == self._subject:
                self._heard = self._loop.time()
                self._control(reply, headers)
            return
        if place.consumer != self._consumer or not self._subject:
            return  # of a consumer that was given up
        self._heard = self._loop.time()
        self._delivered += 1
        if place.delivered != self._delivered:
            self._remake()  # one was lost on the way
            return
        if self._overlap:
            self._overlap = False
            if place.seq != self.position or place.time_ns != self._last_time_ns:
                self._end("the log is another one, or was trimmed")
            return
        if place.seq != self.position + 1:
            self._remake()  # the look at the stream tells what became of those between
            return
        self.position = place.seq
        self._last_time_ns = place.time_ns
        try:
            self._handler(place.seq, place.time_ns / 1e9, data)
        except Exception:
            log.exception("inbox_handler_failed", gateway=self._gateway, seq=place.seq)
            self._end("a message could not be handled")

    def _control(self, reply: str, headers: bytes) -> None:
        """A heartbeat, or the question whether we are still with it."""
        if reply:
            self._bus.publish(reply, b"")
            return
        stalled = _header(headers, b"Nats-Consumer-Stalled")
        if stalled:
            self._bus.publish(stalled.decode(), b"")
        last = _header(headers, b"Nats-Last-Consumer")
        if last and int(last) != self._delivered:
            self._remake()

    def _remake(self) -> None:
        self._subject = ""
        self._wake.set()

    def _end(self, why: str) -> None:
        if not self._ended:
            self._ended = True
            self._subject = ""
            self._wake.set()
            self._lost(why)

    # -- the consumer ------------------------------------------------------------------------------

    async def _run(self) -> None:
        pause = RETRY_SECONDS
        while not self._ended:
            self._wake.clear()
            try:
                if not self._subject and self._bus.connected:
                    await self._make()
                    pause, self._patience = RETRY_SECONDS, LOOK_SECONDS
            except _Lost as error:
                self._end(str(error))
                break
            except Exception as error:
                if not isinstance(error, HubwireError):
                    log.exception("inbox_consumer_failed", gateway=self._gateway)
                await asyncio.sleep(pause)
                pause = min(pause * 2, MAX_RETRY_SECONDS)
                self._patience = min(self._patience * 2, MAX_LOOK_SECONDS)
                continue
            try:
                async with asyncio.timeout(self._heartbeat):
                    await self._wake.wait()
            except TimeoutError:
                if self._subject and self._loop.time() - self._heard > SILENT_HEARTBEATS * self._heartbeat:
                    self._subject = ""
        await self._leave()

    async def _make(self) -> None:
        """Make a consumer from the last handled message on. Raises _Lost, and Unavailable: again then."""
        first = await self._look()
        self.remakes += self._made > 0
        await self._leave()
        self._made += 1
        self._consumer = f"{self._name}-{self._made}"
        # Only what was handled by us has a time to compare; a tail that begins in the middle has none yet.
        self._overlap = self._last_time_ns > 0 and first <= self.position
        start = self.position if self._overlap else self.position + 1
        self._delivered = 0
        # A literal subject: the server does not bring a consumer's messages to a wildcard.
        subject = f"{self._prefix}.{self._made}"
        self._unsubscribe = await self._bus.subscribe_raw(subject, self._arrived)
        self._heard = self._loop.time() + MAKE_SECONDS
        self._subject = subject
        try:
            await make_consumer(
                self._bus,
                self._stream,
                self._consumer,
                {
                    "deliver_subject": subject,
                    "deliver_policy": "by_start_sequence",
                    "opt_start_seq": start,
                    "ack_policy": "none",
                    "idle_heartbeat": int(self._heartbeat * 1e9),
                    "flow_control": True,
                    "inactive_threshold": INACTIVE_SECONDS * 10**9,
                    "mem_storage": True,
                    "num_replicas": 1,
                },
                MAKE_SECONDS,
            )
        except BaseException:
            self._remake()
            raise

    async def _look(self) -> int:
        """Whether it is still the same log, and what comes next still there: its first number."""
        try:
            info = await inbox_info(self._bus, self._gateway, self._patience)
        except StreamMissing:
            self._short += 1
            if self._short < LOOKS:
                raise Unavailable("The inbox is said not to be there.") from None
            raise _Lost("the inbox is not there any more") from None
        if info.created != self._created:
            raise _Lost("the inbox was lost and made again")
        if info.first > self.position + 1:
            raise _Lost("what comes next was trimmed")
        if info.last < self.position:
            self._short += 1
            if self._short < LOOKS:
                raise Unavailable("The log ends before what was read of it.")
            raise _Lost("the log ends before what was read of it")
        self._short = 0
        return info.first


def _header(headers: bytes, name: bytes) -> bytes:
    """The value of a header in a block, b"" when it is not there."""
    _, found, rest = headers.partition(b"\r\n" + name + b": ")
    return rest.partition(b"\r\n")[0] if found else b""
