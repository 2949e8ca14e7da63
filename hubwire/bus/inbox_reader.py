"""Reads the log of another gateway: from the first message to the end, then on to a mark.

A pull consumer, asked for pages of bounded size, one of them ahead of what is worked on: a long log neither
fills the memory nor holds up for long what else comes over the connection.

Guarantee: the messages of one incarnation, each once, in order, without gaps; anything else raises.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from secrets import token_hex
from typing import Any, Final, NamedTuple

from hubwire.bus.client import BusClient
from hubwire.bus.inbox import inbox_info
from hubwire.bus.jetstream import StreamMissing, make_consumer, place_of
from hubwire.bus.subjects import inbox_stream
from hubwire.model.errors import NotFound, Unavailable

PAGE_MESSAGES: Final = 2000
PAGE_BYTES: Final = 1024 * 1024
"""A bigger message comes on a page of its own."""
SILENCE_SECONDS: Final = 4.0
"""How long a page may take; what must be there and does not come is asked for once more after that."""
TRIES: Final = 3
"""How many pages in a row may bring nothing before the reading is given up."""
INACTIVE_SECONDS: Final = 90
"""How long the server keeps a consumer of which nothing is asked."""


class LogTrimmed(Unavailable):
    """What comes next was trimmed away by now: read again, from the stream's first message on."""


class LogMessage(NamedTuple):
    """`time` is when it was stored, in Unix seconds."""

    seq: int
    time: float
    data: bytes


class _Page:
    """What one request brings: complete at `count` messages, or when the server says that it is."""

    def __init__(self, subject: str, count: int, after: int, loop: asyncio.AbstractEventLoop) -> None:
        self.subject = subject
        self.count = count
        self.next = after + 1
        self.messages: list[LogMessage] = []
        self.last_time_ns = 0
        self.broken = False  # something else came than what comes next
        self.refused = False  # the server ended it before the first message
        self.complete: asyncio.Future[None] = loop.create_future()

    def end(self) -> None:
        if not self.complete.done():
            self.complete.set_result(None)


class InboxReader:
    """Reads one gateway's inbox, further with each `read`. One reading at a time. `close` it when done.

    `position` is the number of the last message that was given out; `created` names the incarnation of the
    log that it belongs to ("" before the first reading).
    """

    def __init__(self, bus: BusClient, gateway: str, *, from_seq: int = 1, created: str = "") -> None:
        self._bus = bus
        self._gateway = gateway
        self._stream = inbox_stream(gateway)
        self._loop = asyncio.get_running_loop()
        self._prefix = bus.new_inbox()
        self._name = f"reader-{token_hex(6)}"
        self._consumer = ""
        self._counter = 0
        self._page: _Page | None = None
        self._unsubscribe: Callable[[], Any] | None = None
        self._last_time_ns = 0  # of the message at `position`, when it was read by us
        self._page_bytes = PAGE_BYTES
        self.created = created
        self.position = from_seq - 1

    async def read(self, to_seq: int | None = None) -> AsyncGenerator[list[LogMessage]]:
        """Give out what comes next, page by page, up to and with `to_seq`, or to what is the end now.

        Begins at the stream's first message when nothing was read before and the beginning was trimmed.
        Raises StreamMissing when the log is not there or is another one by now, LogTrimmed, and Unavailable
        when NATS does not bring it in time: read on with another call then.
        """
        last = await self._look()
        end = last if to_seq is None else to_seq
        failures = 0
        try:
            while self.position < end:
                page = self._page
                try:
                    page = page or await self._ask(end)
                    async with asyncio.timeout(SILENCE_SECONDS):
                        await page.complete
                except (TimeoutError, NotFound) as error:
                    why = repr(error)
                except StreamMissing:
                    raise
                except Unavailable as error:
                    why = str(error)
                else:
                    why = "it did not bring what comes next"
                messages = self._take(page)
                if messages and page is not None and not page.broken:
                    failures, self._page_bytes = 0, PAGE_BYTES
                    if self.position < end and self._consumer and self._bus.connected:
                        await self._ask(end)  # brought while these are worked on; it waits for nothing
                    yield messages
                    continue
                if messages:
                    yield messages  # before anything that may raise: they do not come again
                if page is not None and page.refused and self._page_bytes == PAGE_BYTES:
                    self._page_bytes = 2 * self._bus.max_payload  # the next message is bigger than a page
                else:
                    failures += not messages
                    if failures >= TRIES:
                        raise Unavailable(f"The inbox of {self._gateway} cannot be read: {why}.")
                    self._drop_consumer()
                    await self._look()
        finally:
            self._page = None

    async def close(self) -> None:
        """Idempotent. A reading that goes on ends with Unavailable."""
        self._drop_consumer()
        unsubscribe, self._unsubscribe = self._unsubscribe, None
        if unsubscribe is not None:
            await unsubscribe()

    # -- the stream --------------------------------------------------------------------------------

    async def _look(self) -> int:
        """Whether it is still the same log, and what comes next still there: its last number."""
        info = await inbox_info(self._bus, self._gateway)
        if self.created and info.created != self.created:
            raise StreamMissing(f"The inbox of {self._gateway} was lost and made again.")
        if not self.created and self.position == 0:
            self.position = info.first - 1
        self.created = info.created
        if info.first > self.position + 1:
            raise LogTrimmed(f"The inbox of {self._gateway} begins at {info.first} now.")
        return info.last

    async def _make_consumer(self) -> None:
        if self._unsubscribe is None:
            self._unsubscribe = await self._bus.subscribe_raw(f"{self._prefix}.*", self._arrived)
        self._counter += 1
        name = f"{self._name}-{self._counter}"
        # The last message that we had must be the same as before, so it is asked for again.
        start = self.position if self._last_time_ns else self.position + 1
        config = {
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": start,
            "ack_policy": "none",
            "inactive_threshold": INACTIVE_SECONDS * 10**9,
            "mem_storage": True,
            "num_replicas": 1,
        }
        await make_consumer(self._bus, self._stream, name, config)
        self._consumer = name
        if self._last_time_ns:
            await self._compare()

    async def _compare(self) -> None:
        page = self._request(1, self.position - 1)
        async with asyncio.timeout(SILENCE_SECONDS):
            await page.complete
        self._page = None
        if not page.messages:
            await self._look()  # it was trimmed with what is before it, which is legal
            self._last_time_ns = 0
            self._drop_consumer()
            raise Unavailable("the last message that was read is not there any more")
        if page.last_time_ns != self._last_time_ns:
            raise StreamMissing(f"The log of {self._gateway} is another one.")

    def _drop_consumer(self) -> None:
        name, self._consumer, self._page = self._consumer, "", None
        if name and self._bus.connected:
            self._bus.publish(f"$JS.API.CONSUMER.DELETE.{self._stream}.{name}", b"")

    # -- pages -------------------------------------------------------------------------------------

    async def _ask(self, end: int) -> _Page:
        if not self._consumer:
            await self._make_consumer()
        return self._request(min(PAGE_MESSAGES, end - self.position), self.position)

    def _request(self, count: int, after: int) -> _Page:
        self._counter += 1
        page = self._page = _Page(f"{self._prefix}.{self._counter}", count, after, self._loop)
        request = {"batch": count, "max_bytes": self._page_bytes, "expires": int(SILENCE_SECONDS * 1e9)}
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._consumer}"
        self._bus.publish(subject, json.dumps(request).encode(), page.subject)
        return page

    def _arrived(self, subject: str, reply: str, data: bytes, _headers: bytes) -> None:
        page, place = self._page, place_of(reply)
        if page is None or page.complete.done():
            return
        if place is None:
            if subject == page.subject:
                page.refused = not page.messages
                page.end()  # no room for more, time over, no such consumer
            return
        if place.consumer != self._consumer:
            return
        if place.seq != page.next:
            page.broken = True
            page.end()
            return
        page.next += 1
        page.last_time_ns = place.time_ns
        page.messages.append(LogMessage(place.seq, place.time_ns / 1e9, data))
        if len(page.messages) == page.count:
            page.end()

    def _take(self, page: _Page | None) -> list[LogMessage]:
        self._page = None
        if page is None or not page.messages:
            return []
        self.position = page.messages[-1].seq
        self._last_time_ns = page.last_time_ns
        return page.messages


async def read_inbox(
    bus: BusClient, gateway: str, from_seq: int = 1, to_seq: int | None = None
) -> AsyncIterator[list[LogMessage]]:
    """Read a range of an inbox once, page by page (see InboxReader.read)."""
    reader = InboxReader(bus, gateway, from_seq=from_seq)
    try:
        async for page in reader.read(to_seq):
            yield page
    finally:
        await reader.close()
