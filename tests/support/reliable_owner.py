"""The owner of a partition, and what is under way to inboxes, for the schedules of reliable_moves."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

HUB = "hub"
GROUPS = ["a", "171", "c"]
"""The first two are of one partition: what is said to one stands between what is said to the other."""


@dataclass(eq=False)
class Publish:
    uid: int
    group: str
    sender: str
    number: int
    publisher: str | None
    ack_id: int | None
    sent_at: int
    acked_at: int | None = None


@dataclass(eq=False)
class Write:
    """An entry on its way to some inboxes."""

    left: set[str]
    publish: Publish | None


class Owner:
    """The owner of one partition in one epoch. A lane an inbox: what is not stored there yet, in order."""

    def __init__(self, partition: int, epoch: int, unsynced: set[str], lost: set[str]) -> None:
        self.partition = partition
        self.epoch = epoch
        self.stamp = 0
        self.members: dict[str, set[str]] = {}
        self.unsynced = unsynced
        self.lost = lost
        self.lanes: dict[str, deque[tuple[bytes, Write]]] = {}
        self.writes: list[Write] = []
        self.forwarded: dict[str, int] = {}
        self.ids: set[tuple[str, int]] = set()
        self.barriers: list[tuple[list[Write], Registration]] = []

    def targets(self, key: str) -> set[str]:
        return self.members.get(key, set()) | self.unsynced | self.lost


@dataclass(eq=False)
class Registration:
    key: str
    gateway: str
    confirmed: bool = False
    sent: int = 0  # the epoch of the owner that it was sent to
