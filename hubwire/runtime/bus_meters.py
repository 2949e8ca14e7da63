"""What every process measures of the bus: the connection to NATS, its lease, what it sends to routers."""

from __future__ import annotations

import asyncio

from hubwire.bus.client import BusClient
from hubwire.bus.dispatcher import Dispatcher
from hubwire.model.buckets import SHORT_SECONDS, Buckets
from hubwire.runtime.leases import Lease
from hubwire.runtime.meters import Meter, Reader

EVERY_SECONDS = 5.0
ANSWER_SECONDS = 5.0

CONNECTED = Meter("hubwire.bus.connected", "gauge", "1", "1 while there is a connection to NATS, else 0.")
RECONNECTIONS = Meter(
    "hubwire.bus.reconnections",
    "counter",
    "{connection}",
    "How often the connection to NATS had to be made anew.",
)
PING = Meter(
    "hubwire.bus.ping.duration",
    "histogram",
    "s",
    f"How long NATS takes to answer a ping, asked every {EVERY_SECONDS:g} s.",
)
PINGS_LOST = Meter(
    "hubwire.bus.pings_lost",
    "counter",
    "{ping}",
    f"Pings that NATS did not answer within {ANSWER_SECONDS:g} s, or for which there was no connection.",
)
BUS_WAITING = Meter("hubwire.bus.waiting", "gauge", "By", "What waits to be written to NATS.")
LEASE_VALID = Meter("hubwire.lease.valid", "gauge", "1", "1 while the lease of the process is valid, else 0.")
LEASE_LEFT = Meter(
    "hubwire.lease.remaining", "gauge", "s", "How long the lease is still good if it is not renewed."
)
LEASE_RENEWALS = Meter(
    "hubwire.lease.renewals",
    "counter",
    "{renewal}",
    "Attempts to renew the lease: `stored`, or `failed` when that is not known.",
    ("outcome",),
)
DISPATCH_WAITING = Meter(
    "hubwire.dispatch.waiting", "gauge", "By", "Publishes and changes of members that no router has answered."
)
DISPATCH = Meter(
    "hubwire.dispatch.duration",
    "histogram",
    "s",
    "From sending a batch to a router to its answer: the way over the bus and back, and the router's work.",
)
DISPATCHED = Meter("hubwire.dispatch.entries", "counter", "{entry}", "Entries that were sent to routers.")
DISPATCH_REPEATS = Meter(
    "hubwire.dispatch.repeats",
    "counter",
    "{batch}",
    "Batches that had to be sent again, or to another owner.",
)
METERS = (
    CONNECTED, RECONNECTIONS, PING, PINGS_LOST, BUS_WAITING, LEASE_VALID, LEASE_LEFT, LEASE_RENEWALS,
    DISPATCH_WAITING, DISPATCH, DISPATCHED, DISPATCH_REPEATS,
)  # fmt: skip


class BusWatch:
    """Pings NATS now and then. `run()` in the service's task group, until cancelled."""

    def __init__(
        self, bus: BusClient, *, lease: Lease | None = None, dispatcher: Dispatcher | None = None
    ) -> None:
        self._bus = bus
        self._ping = Buckets(SHORT_SECONDS)
        self._lost = 0
        self.readers: dict[Meter, Reader] = {
            CONNECTED: lambda: int(bus.connected),
            RECONNECTIONS: lambda: bus.reconnections,
            PING: lambda: self._ping,
            PINGS_LOST: lambda: self._lost,
            BUS_WAITING: lambda: bus.waiting_bytes,
        }
        if lease is not None:
            self.readers |= _lease_readers(lease)
        if dispatcher is not None:
            self.readers |= _dispatch_readers(dispatcher)

    async def run(self) -> None:
        while True:
            seconds = await self._bus.ping(ANSWER_SECONDS)
            if seconds is None:
                self._lost += 1
            else:
                self._ping.record(seconds)
            await asyncio.sleep(EVERY_SECONDS)


def _lease_readers(lease: Lease) -> dict[Meter, Reader]:
    return {
        LEASE_VALID: lambda: int(lease.valid),
        LEASE_LEFT: lambda: lease.seconds_left,
        LEASE_RENEWALS: lambda: [(("stored",), lease.renewals), (("failed",), lease.failed_renewals)],
    }


def _dispatch_readers(dispatcher: Dispatcher) -> dict[Meter, Reader]:
    return {
        DISPATCH_WAITING: lambda: dispatcher.waiting_bytes,
        DISPATCH: lambda: dispatcher.round_trip,
        DISPATCHED: lambda: dispatcher.entries_sent,
        DISPATCH_REPEATS: lambda: dispatcher.repeats,
    }
