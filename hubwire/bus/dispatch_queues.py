"""What the dispatcher keeps of entries that are not answered: pure."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from hubwire.bus.envelopes import Entry
from hubwire.model.errors import HubwireError

Answered = Callable[[Any, HubwireError | None], None]
"""Called once: with the owner's answer and None, or with None and the error."""

Make = Callable[[], Sequence[Entry]]
"""Builds entries at the moment of sending; they go in this order, with nothing of the partition between."""

Wanted = Callable[[], bool]
"""Whether an entry is still to be sent, or sent again. Asked before that."""

RETRY_SECONDS = 0.02
MAX_RETRY_SECONDS = 0.2


class Item:
    __slots__ = ("answered", "deadline", "entry", "held_in", "keep", "make", "size", "wanted")

    def __init__(
        self,
        entry: Entry | None,
        size: int,
        deadline: float,
        answered: Answered | None,
        keep: bool,
        make: Make | None,
        wanted: Wanted | None = None,
    ) -> None:
        self.entry = entry
        self.size = size
        self.deadline = deadline
        self.answered = answered
        self.keep = keep
        self.make = make
        self.wanted = wanted
        self.held_in = 0  # the turn in which an owner took it, to answer it later

    @property
    def is_wanted(self) -> bool:
        return self.wanted is None or self.wanted()


class Partition:
    __slots__ = (
        "blocked",
        "epoch",
        "held",
        "held_epoch",
        "in_flight",
        "number",
        "outstanding",
        "pause",
        "ready",
        "turn",
        "waiting",
    )

    def __init__(self, number: int) -> None:
        self.number = number
        self.waiting: deque[Item] = deque()
        self.in_flight: list[Item] = []  # sent at least once and unanswered; repeated as they are
        self.held: dict[Item, None] = {}  # taken by the owner of `held_epoch`, before all that is in flight
        self.held_epoch = 0
        self.outstanding = False  # `in_flight` is on its way now, under `epoch`, in this `turn`
        self.epoch = 0
        self.turn = 0  # counts sendings: tells an answer or a timer from one of an earlier sending
        self.blocked = False  # waits for the retry pause
        self.pause = RETRY_SECONDS
        self.ready = False  # stands in its lane's list

    @property
    def next_size(self) -> int:
        return sum(item.size for item in self.in_flight) if self.in_flight else self.waiting[0].size

    def hold(self, item: Item) -> None:
        """The owner has it, and answers later."""
        item.held_in = self.turn
        self.held[item] = None
        self.held_epoch = self.epoch

    def release(self, item: Item) -> None:
        item.held_in = 0
        del self.held[item]

    def take_back(self) -> None:
        """What is held must be sent again: it goes before all else, in the order of before."""
        for item in self.held:
            item.held_in = 0
        self.waiting.extendleft(reversed(self.in_flight))
        self.waiting.extendleft(reversed(self.held))
        self.in_flight, self.held = [], {}
        self.outstanding = False

    def put_off(self) -> None:
        """Nothing was answered: it waits for a pause, which grows."""
        self.outstanding = False
        self.blocked = True
        self.pause = min(self.pause * 2, MAX_RETRY_SECONDS)

    def put_forward(self) -> None:
        """There is reason to believe that the next attempt succeeds: it waits no more."""
        self.blocked = False
        self.pause = RETRY_SECONDS

    def owned_under(self, epoch: int) -> int:
        """How many repeats it takes to give the owner of `epoch` what another was sent: that one may be an
        owner no more. What was only to be repeated is then repeated at once."""
        repeats = 0
        if self.held and epoch != self.held_epoch:
            repeats += 1
            self.take_back()
            self.put_forward()
        if (self.outstanding or self.blocked) and epoch != self.epoch:
            repeats += self.outstanding
            self.outstanding = False
            self.put_forward()
        return repeats


class Sent(NamedTuple):
    """One partition's part of a batch."""

    partition: Partition
    turn: int
    entries: int


class Held(NamedTuple):
    """An entry that its owner answers later, and where its answer stands among those to the batch."""

    partition: Partition
    turn: int
    item: Item
    position: int

    @property
    def counts(self) -> bool:
        return self.item.held_in == self.turn


class Lane:
    """What is ready for one router."""

    __slots__ = ("bytes", "on_their_way", "ready", "timer")

    def __init__(self) -> None:
        self.ready: list[Partition] = []
        self.bytes = 0
        self.on_their_way = 0
        self.timer: asyncio.Handle | None = None

    def cancel(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def take(self) -> list[Partition]:
        """All that is ready; nothing is any more, and nothing will be sent by itself."""
        self.cancel()
        ready, self.ready, self.bytes = self.ready, [], 0
        return ready


def size_of(entry: Entry) -> int:
    """The rough size of an entry that was made: those are snapshots, whose keys make the size."""
    return 64 + sum(len(key) + 4 for value in entry if isinstance(value, list) for key in value)
