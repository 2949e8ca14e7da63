"""Inboxes of the bus under test: connections to NATS that come back quickly, and what the entries tell."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from hubwire.bus.client import BusClient
from hubwire.bus.envelopes import pack
from hubwire.bus.inbox_entries import unpack_batch
from hubwire.bus.inbox_reader import read_inbox
from hubwire.bus.inbox_writer import InboxWriter
from hubwire.model.errors import HubwireError

GATEWAY = "0123abcd0"


async def connect(urls: Sequence[str]) -> BusClient:
    return await BusClient.connect(
        {
            "servers": list(urls),
            "max_reconnect_attempts": -1,
            "reconnect_time_wait": 0.05,
            "ping_interval": 1,
            "max_outstanding_pings": 2,
            "connect_timeout": 2,
        }
    )


class Outcomes(dict[bytes, tuple[int, HubwireError | None]]):
    """What became of each submitted entry; says so when none is left."""

    def __init__(self, writer: InboxWriter, gateway: str = GATEWAY) -> None:
        self.writer = writer
        self.gateway = gateway
        self.submitted: list[bytes] = []
        self.all = asyncio.Event()

    def submit(self, text: str, wanted: object = None, size: int = 0) -> bytes:
        entry = pack([text, b"x" * size])

        def done(seq: int, error: HubwireError | None) -> None:
            assert entry not in self, "told twice"
            self[entry] = (seq, error)
            if len(self) == len(self.submitted):
                self.all.set()

        self.writer.submit(self.gateway, entry, done, wanted)  # type: ignore[arg-type]
        self.submitted.append(entry)
        self.all.clear()
        return entry

    async def wait(self, seconds: float = 20.0) -> None:
        async with asyncio.timeout(seconds):
            await self.all.wait()

    @property
    def positions(self) -> list[int]:
        """Of all that is stored, in the order of submission."""
        return [self[entry][0] for entry in self.submitted if self[entry][1] is None]


class Folded:
    """What a fold makes of a log: batches that a repeat stored twice count once."""

    def __init__(self) -> None:
        self.entries: list[bytes] = []
        self.repeats = 0
        self.seqs: list[int] = []
        self.times: list[float] = []
        self._highest: dict[str, int] = {}

    def apply(self, seq: int, time: float, data: bytes) -> None:
        self.seqs.append(seq)
        self.times.append(time)
        writer, number, entries = unpack_batch(data)
        if number <= self._highest.get(writer, 0):
            self.repeats += 1
            return
        self._highest[writer] = number
        self.entries += [pack(entry) for entry in entries]


async def folded(bus: BusClient, from_seq: int = 1, to_seq: int | None = None) -> Folded:
    found = Folded()
    async for page in read_inbox(bus, GATEWAY, from_seq, to_seq):
        for message in page:
            found.apply(*message)
    return found
