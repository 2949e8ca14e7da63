"""What becomes of a dispatcher's entries: taken, built, answered, given up; and how many bytes they are.

It sends nothing: it changes the queues of `hubwire.bus.dispatch_queues` and tells who asked. Callbacks may
submit more; they are called when the queues are whole.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import structlog

from hubwire.bus.dispatch_queues import Item, Partition, size_of
from hubwire.bus.envelopes import REFUSED
from hubwire.model.errors import HubwireError, InternalError, InvalidRequest, Unavailable

log = structlog.get_logger(__name__)


class Unanswered:
    """The entries of one dispatcher. `bytes` is the rough size of all that are not finished."""

    def __init__(self) -> None:
        self.bytes = 0

    def take(self, one: Partition, room: int) -> None:
        """Move what goes now from waiting to in flight: at least one, then as long as there is room."""
        taken = 0
        while one.waiting and (not one.in_flight or taken + one.waiting[0].size <= room):
            item = one.waiting.popleft()
            if item.make is not None and not self._build(one, item):
                continue
            if not item.is_wanted:
                self.finish(item, None, _unwanted())
                continue
            one.in_flight.append(item)
            taken += item.size

    def _build(self, one: Partition, item: Item) -> bool:
        """Let an item make its entries: the first becomes its own, the others stand before all that waits."""
        assert item.make is not None
        try:
            entries = list(item.make())
        except Exception:
            log.exception("dispatch_entry_not_made", partition=one.number)
            self.finish(item, None, InternalError("The entry could not be made."))
            return False
        self.bytes -= item.size
        sizes = [size_of(entry) for entry in entries]
        self.bytes += sum(sizes)
        item.make, item.entry, item.size = None, entries[0], sizes[0]
        for entry, size in zip(entries[:0:-1], sizes[:0:-1], strict=True):
            one.waiting.appendleft(Item(entry, size, item.deadline, item.answered, item.keep, None))
            item.answered = None  # the last part's answer is the answer; it is the first made here
        return True

    def answer(self, item: Item, answer: Any) -> None:
        """The owner's answer has come, and is not that it comes later."""
        if answer == REFUSED:
            self.finish(item, None, InvalidRequest("The router does not understand the entry."))
        else:
            self.finish(item, answer, None)

    def give_up(self, item: Item) -> None:
        """The asker has waited long enough. A kept entry goes on without anybody waiting for it."""
        late = Unavailable("No router answered in time.")
        if item.keep:
            _tell(item, None, late)
        else:
            self.finish(item, None, late)

    def finish(self, item: Item, answer: Any, error: HubwireError | None) -> None:
        """It is out of the queues for good."""
        self.bytes -= item.size
        _tell(item, answer, error)

    def drop_late(self, one: Partition, now: float) -> None:
        """Before something is repeated: what nobody waits for any more is not."""
        late = [item for item in one.in_flight if item.deadline < now]
        unwanted = [item for item in one.in_flight if item.deadline >= now and not item.is_wanted]
        if late or unwanted:
            gone = {*unwanted, *(item for item in late if not item.keep)}
            one.in_flight = [item for item in one.in_flight if item not in gone]
            for item in late:
                self.give_up(item)
            for item in unwanted:
                self.finish(item, None, _unwanted())

    def late(self, one: Partition, now: float) -> list[Item]:
        """Take out what is late while it waits for an owner, for the bus or for an answer. What is returned
        is to be given up, when all partitions have been looked at."""
        late: list[Item] = []
        if one.waiting and any(i.deadline < now and i.answered is not None for i in one.waiting):
            late += [item for item in one.waiting if item.deadline < now]
            one.waiting = deque(item for item in one.waiting if item.deadline >= now or item.keep)
        if one.in_flight and not one.outstanding and not one.ready:
            self.drop_late(one, now)
        elif one.outstanding:
            # They stay, since answers are counted; it is only told.
            for item in [item for item in one.in_flight if item.deadline < now]:
                _tell(item, None, Unavailable("No router answered in time."))
        for item in [item for item in one.held if item.deadline < now]:
            if not item.keep:
                one.release(item)
            late.append(item)
        return late


def _tell(item: Item, answer: Any, error: HubwireError | None) -> None:
    if item.answered is not None:
        callback, item.answered = item.answered, None
        try:
            callback(answer, error)
        except Exception:
            log.exception("dispatch_callback_failed")


def _unwanted() -> Unavailable:
    return Unavailable("Whoever asked has gone.")
