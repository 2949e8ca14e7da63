"""What an inbox has had already: what writers and publishers repeat is dropped by it. Pure.

Time is the store time of entries, so that everybody who reads the log forgets at the same places.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, Final

from gateway.session import AckWindow

PUBLISHES_SECONDS: Final = 120.0
"""How long the numbers and ids of somebody's publishes are remembered after the last one; longer than anybody
repeats a publish."""
WRITERS_SECONDS: Final = 900.0
"""How long the number of a writer's last batch is: longer than a copy of it can be on its way."""


class Verdict(IntEnum):
    """Of a message: FRESH, a REPEAT of a publish that was here in another stamping, or STALE: stored twice,
    or by an owner of before. A stale one leaves no trace: if it counts it will be stamped once more."""

    FRESH = 0
    REPEAT = 1
    STALE = 2


Publish = tuple[int, int, str, int, str | None, int | None]
"""Epoch and stamp, sender and number, publisher and ack id of a message."""


class Publishes:
    """What was seen of one partition."""

    __slots__ = ("epoch", "ids", "numbers", "stamp")

    def __init__(self) -> None:
        self.epoch = 0
        self.stamp = 0
        self.numbers: dict[str, list[Any]] = {}  # sender -> its highest number, when
        self.ids: dict[str, list[Any]] = {}  # publisher -> its window of ack ids, when

    def judge(self, publish: Publish, now: float) -> Verdict:
        """What to do with a message; it is remembered unless it is stale."""
        epoch, stamp, sender, number, publisher, ack_id = publish
        if epoch <= self.epoch and (epoch < self.epoch or stamp <= self.stamp):
            return Verdict.STALE
        self.epoch = epoch
        self.stamp = stamp
        repeat = False
        seen = self.numbers.get(sender)
        if seen is None:
            self.numbers[sender] = [number, now]
        else:
            if number > seen[0]:
                seen[0] = number
            else:
                repeat = True
            seen[1] = now
        if publisher is not None and ack_id is not None:
            known = self.ids.get(publisher)
            if known is None:
                known = self.ids[publisher] = [AckWindow(), now]
            known[1] = now
            if known[0].is_done(ack_id):
                repeat = True
            else:
                known[0].end(ack_id, True)
        return Verdict.REPEAT if repeat else Verdict.FRESH

    def raise_to(self, epoch: int) -> None:
        """What owners of before that epoch have stamped is stale from now on."""
        if epoch > self.epoch:
            self.epoch, self.stamp = epoch, 0

    def forget(self, before: float) -> None:
        """Drop those of whom nothing came since that time."""
        for table in (self.numbers, self.ids):
            for name in [name for name, (_, when) in table.items() if when < before]:
                del table[name]

    def pack(self) -> list[Any]:
        """Plain lists that `restored` takes; nothing is shared with them."""
        return [
            self.epoch,
            self.stamp,
            [[sender, number, when] for sender, (number, when) in self.numbers.items()],
            [[publisher, window.snapshot(), when] for publisher, (window, when) in self.ids.items()],
        ]

    @classmethod
    def restored(cls, packed: list[Any]) -> Publishes:
        """Raises ValueError or TypeError for what `pack` did not make."""
        one = cls()
        one.epoch, one.stamp, numbers, ids = packed
        one.numbers = {sender: [number, when] for sender, number, when in numbers}
        one.ids = {publisher: [AckWindow.restored(runs), when] for publisher, runs, when in ids}
        return one


class Seen:
    """What the inbox as a whole has had. `now` is the latest store time of an entry, in Unix seconds."""

    __slots__ = ("now", "partitions", "writers")

    def __init__(self) -> None:
        self.now = 0.0
        self.partitions: dict[int, Publishes] = {}
        self.writers: dict[str, list[Any]] = {}  # writer -> the number of its last batch, when

    def batch(self, writer: str, number: int) -> bool:
        """Whether this batch is new; then it is remembered. A repeat is never new, however late it comes."""
        last = self.writers.get(writer)
        if last is None:
            self.writers[writer] = [number, self.now]
            return True
        if number <= last[0]:
            return False
        last[0], last[1] = number, self.now
        return True

    def of(self, partition: int) -> Publishes:
        found = self.partitions.get(partition)
        if found is None:
            found = self.partitions[partition] = Publishes()
        return found

    def forget(self) -> None:
        """Drop what is too old to be repeated."""
        for publishes in self.partitions.values():
            publishes.forget(self.now - PUBLISHES_SECONDS)
        before = self.now - WRITERS_SECONDS
        for writer in [writer for writer, (_, when) in self.writers.items() if when < before]:
            del self.writers[writer]

    def pack(self) -> list[Any]:
        return [
            self.now,
            [[partition, publishes.pack()] for partition, publishes in self.partitions.items()],
            [[writer, number, when] for writer, (number, when) in self.writers.items()],
        ]

    @classmethod
    def restored(cls, packed: list[Any]) -> Seen:
        """Raises ValueError or TypeError for what `pack` did not make."""
        seen = cls()
        seen.now, partitions, writers = packed
        seen.partitions = {partition: Publishes.restored(one) for partition, one in partitions}
        seen.writers = {writer: [number, when] for writer, number, when in writers}
        return seen
