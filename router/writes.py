"""What a partition's owner has written to inboxes and is not known to be stored, and who waits for it. Pure.

A publish waits for its own entries. The joining of a reliable key waits for what was published to the key
before: whoever takes a session over must find it in the inbox of before. A planned hand-over waits for all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from hubwire.bus.envelopes import NOT_MINE, OK, REFUSED
from hubwire.model.errors import HubwireError, LimitExceeded


class Later(Protocol):
    """Where the answers to a batch go that are not known yet."""

    def settle(self, position: int, answer: Any) -> None: ...


class Waits:
    """One entry that is answered later: with `answer`, or NOT_MINE. Who asks again is answered instead."""

    __slots__ = ("answer", "answered", "position", "reply")

    def __init__(self, answer: int) -> None:
        self.answer = answer
        self.answered = False
        self.reply: Later | None = None
        self.position = 0

    def ask(self, reply: Later, position: int) -> None:
        self.reply, self.position = reply, position

    def settle(self, answer: int) -> None:
        self.answered = True
        if self.reply is not None:
            self.reply.settle(self.position, answer)


class Write:
    """One publish on its way to inboxes; `stored` is the callback of each of its entries."""

    __slots__ = ("_writes", "error", "id", "key", "left", "numbers", "stamp", "waits")

    def __init__(self, writes: Writes, key: str, stamp: int, left: int) -> None:
        self._writes = writes
        self.key = key
        self.stamp = stamp
        self.left = left
        self.error: HubwireError | None = None
        self.waits: list[Waits] = []
        self.numbers: list[tuple[str, int]] = []
        self.id: tuple[str, int] | None = None

    def stored(self, _seq: int, error: HubwireError | None) -> None:
        if error is not None:
            self.error = error
        self.left -= 1
        if self.left == 0:
            self._writes.finished(self)


class _Key:
    """Of one key, what is under way in the order of stamps, and who waits until a stamp is stored."""

    __slots__ = ("barriers", "writes")

    def __init__(self) -> None:
        self.writes: dict[int, Write] = {}
        self.barriers: dict[tuple[str, int], tuple[int, Waits]] = {}


class Writes:
    """Of one partition under one epoch. `may_confirm`: whether its owner may still answer for it."""

    __slots__ = ("_idle", "_ids", "_keys", "_may_confirm", "_numbers", "_under_way", "stamp")

    def __init__(self, may_confirm: Callable[[], bool]) -> None:
        self._may_confirm = may_confirm
        self._numbers: dict[tuple[str, int], Waits] = {}
        self._ids: dict[tuple[str, int], Write] = {}
        self._keys: dict[str, _Key] = {}
        self._under_way = 0
        self._idle: list[Callable[[], None]] = []
        self.stamp = 0

    def __len__(self) -> int:
        return self._under_way

    def begin(self, key: str, inboxes: int, sender: str, number: int) -> tuple[Write, Waits]:
        """A publish of that sender gets the next stamp."""
        self.stamp += 1
        write = Write(self, key, self.stamp, inboxes)
        self._keys.setdefault(key, _Key()).writes[self.stamp] = write
        self._under_way += 1
        return write, self.follow(write, sender, number, OK)

    def follow(self, write: Write, sender: str, number: int, answer: int) -> Waits:
        """Somebody's publish, of that number, is answered when the write is stored."""
        waits = Waits(answer)
        write.waits.append(waits)
        write.numbers.append((sender, number))
        self._numbers[sender, number] = waits
        return waits

    def name(self, write: Write, publisher: str, ack_id: int) -> None:
        """Let the write be found by its client's id."""
        write.id = (publisher, ack_id)
        self._ids[publisher, ack_id] = write

    def of_number(self, sender: str, number: int) -> Waits | None:
        """The answer that a repeat waits for; None when nothing of it is under way."""
        return self._numbers.get((sender, number))

    def of_id(self, publisher: str, ack_id: int) -> Write | None:
        return self._ids.get((publisher, ack_id))

    def barrier(self, key: str, sender: str, number: int, answer: int) -> Waits | None:
        """An answer that waits until what was published to the key so far is stored; None when it is. Who
        asks again under the same number waits for what the first time waited for."""
        found = self._keys.get(key)
        if found is None:
            return None
        known = found.barriers.get((sender, number))
        if known is not None:
            known[1].answer = answer
            return known[1]
        waits = Waits(answer)
        found.barriers[sender, number] = (self.stamp, waits)
        return waits

    def when_idle(self, idle: Callable[[], None]) -> None:
        """Call once when nothing is under way, now if that is so."""
        if self._under_way:
            self._idle.append(idle)
        else:
            idle()

    def finished(self, write: Write) -> None:
        """It is stored in all its inboxes, or given up."""
        self._under_way -= 1
        for number in write.numbers:
            self._numbers.pop(number, None)
        if write.id is not None:
            self._ids.pop(write.id, None)
        found = self._keys[write.key]
        del found.writes[write.stamp]
        if write.error is None:
            refusal = None
        else:
            refusal = REFUSED if isinstance(write.error, LimitExceeded) else NOT_MINE
        confirmed = self._may_confirm()
        for waits in write.waits:
            waits.settle(refusal if refusal is not None else waits.answer if confirmed else NOT_MINE)
        if found.barriers:
            oldest = next(iter(found.writes), self.stamp + 1)
            passed = [name for name, (stamp, _) in found.barriers.items() if stamp < oldest]
            for name in passed:
                _, waits = found.barriers.pop(name)
                waits.settle(waits.answer if confirmed else NOT_MINE)
        if not found.writes:
            del self._keys[write.key]
        if not self._under_way:
            idle, self._idle = self._idle, []
            for one in idle:
                one()
