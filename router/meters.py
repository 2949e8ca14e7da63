"""What a router measures: its metrics, and where each is read."""

from __future__ import annotations

from hubwire.bus.keys import PARTITIONS
from hubwire.runtime.leases import LeaseWatch
from hubwire.runtime.meters import Meter, Reader
from router.ownership import Ownership
from router.service import RouterService

OWNED = Meter(
    "hubwire.router.partitions",
    "updown",
    "{partition}",
    f"Partitions that this router speaks for; all routers together should have {PARTITIONS}.",
)
HANDOVERS = Meter(
    "hubwire.router.handovers",
    "counter",
    "{partition}",
    "Partitions that came to this router (`gained`) and went from it (`lost`).",
    ("direction",),
)
KEYS = Meter("hubwire.router.keys", "updown", "{key}", "Hubs, groups and users that have members.")
UNSYNCED = Meter(
    "hubwire.router.unsynced",
    "gauge",
    "{snapshot}",
    "Of gateways and partitions together: how many snapshots of members are missing. They get everything "
    "until then.",
)
GATEWAYS = Meter("hubwire.router.gateways", "updown", "{gateway}", "Gateways whose lease this router sees.")
PUBLISHES = Meter("hubwire.router.publishes", "counter", "{message}", "Publishes that were accepted.")
FORWARDED = Meter(
    "hubwire.router.forwarded",
    "counter",
    "{envelope}",
    "Envelopes to gateways: `known` to have members, or `broad` because it was not known whether they have.",
    ("reason",),
)
WRITTEN = Meter(
    "hubwire.router.inbox.entries", "counter", "{entry}", "Entries for the inboxes of reliable sessions."
)
WRITING = Meter("hubwire.router.inbox.waiting", "gauge", "By", "Of those, what is not known to be stored.")
BATCHES = Meter("hubwire.router.batches", "counter", "{batch}", "Batches that came from gateways and REST.")
NOT_MINE = Meter(
    "hubwire.router.refused",
    "counter",
    "{entry}",
    "Entries for partitions that this router does not speak for; they are sent again, to who does.",
)
METERS = (
    OWNED, HANDOVERS, KEYS, UNSYNCED, GATEWAYS, PUBLISHES, FORWARDED, WRITTEN, WRITING, BATCHES, NOT_MINE,
)  # fmt: skip


def readers(service: RouterService, ownership: Ownership, gateways: LeaseWatch) -> dict[Meter, Reader]:
    """Where the metrics of one run are read."""

    def owned() -> int:
        return sum(ownership.speaks_for(number) is not None for number in range(PARTITIONS))

    def of_members(name: str) -> int:
        return sum(getattr(one.members, name) for one in list(ownership.partitions.values()))

    return {
        OWNED: owned,
        HANDOVERS: lambda: [(("gained",), ownership.gained), (("lost",), ownership.lost)],
        KEYS: lambda: of_members("key_count"),
        UNSYNCED: lambda: sum(len(one.members.unsynced) for one in list(ownership.partitions.values())),
        GATEWAYS: lambda: len(gateways.alive),
        PUBLISHES: lambda: service.publishes,
        FORWARDED: lambda: [
            (("known",), service.forwarded - service.broad),
            (("broad",), service.broad),
        ],
        WRITTEN: lambda: service.written,
        WRITING: lambda: service.writer.waiting_bytes,
        BATCHES: lambda: service.batches,
        NOT_MINE: lambda: service.refused,
    }
