"""Tells the owners which keys have members here, and when they have confirmed it.

Between the hub (pure data) and the dispatcher (the bus): numbers the transitions, keeps who waits for a
confirmation, sends snapshots when an owner is new, asks for one, or has seen a gap.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import structlog

from gateway.membership import Membership
from hubwire.bus.dispatcher import Dispatcher
from hubwire.bus.envelopes import CONFIRM, JOIN, LEAVE, RESYNC, SNAPSHOT, WHO, Entry, split_keys
from hubwire.bus.keys import partition_of
from hubwire.bus.owners import OwnersTable, OwnersView
from hubwire.model.errors import HubwireError, Unavailable

log = structlog.get_logger(__name__)

Confirmed = Callable[[HubwireError | None], None]

MAX_UNANSWERED = 200_000
"""Transitions that may wait for owners; past it joining is refused with Unavailable. Leaving never is:
there are no more leaves than there are members."""

JOIN_SECONDS = 10.0
WHO_BYTES = 4096
"""Counted for a question about members, for the sake of its answer: a thousand gateways are 10 KB."""


class Registrar:
    """One gateway's registrations. `confirmed` callbacks are called exactly once each, possibly at once."""

    def __init__(self, dispatcher: Dispatcher, owners: OwnersView) -> None:
        self._dispatcher = dispatcher
        self._membership = Membership()
        self._owners = owners
        self._table = owners.table
        self._unconfirmed: dict[str, tuple[int, list[Confirmed]]] = {}
        self._leaving: dict[str, list[Confirmed]] = {}
        """Keys whose last leaving is unanswered, and who waits for the owner to know of it."""
        self._asking: dict[str, list[Confirmed]] = {}
        """Keys that the owner will be asked to confirm once more, and for whom."""
        self._asked_count = 0
        self._snapshots_queued: set[int] = set()
        self._unanswered = 0
        owners.on_change(self._owners_changed)

    @property
    def membership(self) -> Membership:
        return self._membership

    def join(self, key: str) -> None:
        """The key has its first local member. Raises Unavailable, and changes nothing, when too much
        is unanswered."""
        if self._unanswered > MAX_UNANSWERED:
            raise Unavailable("Too many registrations wait for the routers.")
        partition = partition_of(key)
        change = self._membership.join(partition, key)
        self._unconfirmed[key] = (change.seq, [])
        self._submit(partition, [JOIN, partition, key, change.seq, change.digest])

    def leave(self, key: str) -> None:
        """The key has lost its last local member. Never refused, repeated until an owner has it."""
        partition = partition_of(key)
        change = self._membership.leave(partition, key)
        self._settle(key, None, Unavailable("The registration was withdrawn."))
        waiting = self._leaving[key] = []
        self._submit(partition, [LEAVE, partition, key, change.seq, change.digest], waiting)

    def when_left(self, key: str, known: Confirmed) -> None:
        """Call back once the key's owner knows of its last leaving, now if it already does; with the error
        when it has not answered within JOIN_SECONDS, though it will be told all the same."""
        waiting = self._leaving.get(key)
        if waiting is None:
            known(None)
        else:
            waiting.append(known)

    async def holders(self, key: str, seconds: float) -> list[str]:
        """The living gateways that the owner of a key counts as members of it, and behind them those of which
        it cannot say. Raises Unavailable."""
        number = partition_of(key)
        entry = [WHO, number, key]
        answer = await self._dispatcher.ask(number, entry, size=len(key) + WHO_BYTES, timeout=seconds)
        return [*answer[0], *answer[1]]

    def when_confirmed(self, key: str, confirmed: Confirmed) -> None:
        """Call back once the key's owner has confirmed its joining, now if it already has."""
        waiting = self._unconfirmed.get(key)
        if waiting is None:
            confirmed(None)
        else:
            waiting[1].append(confirmed)

    def when_all_confirmed(self, keys: Iterable[str], confirmed: Confirmed) -> None:
        """Call back once for several keys: when all are confirmed, or with the first error."""
        wanted = [key for key in keys if key in self._unconfirmed]
        if not wanted:
            confirmed(None)
            return
        one = _when_all(len(wanted), confirmed)
        for key in wanted:
            self._unconfirmed[key][1].append(one)

    def confirm_again(self, keys: Iterable[str], confirmed: Confirmed) -> None:
        """Have the owners confirm keys that are joined, or being joined, behind all that they have stamped by
        now; call back once, as `when_all_confirmed` does. That a key was confirmed before says nothing of
        what was published since, and is stored in one inbox and not yet in another."""
        wanted = [*keys]
        if not wanted:
            confirmed(None)
            return
        one = _when_all(len(wanted), confirmed)
        for key in wanted:
            waiting = self._asking.get(key)
            if waiting is not None:
                waiting.append(one)  # it is not sent yet
            else:
                self._ask_again(key, one)

    def _ask_again(self, key: str, confirmed: Confirmed) -> None:
        partition = partition_of(key)
        waiting = self._asking[key] = [confirmed]

        def forget() -> None:
            if self._asking.get(key) is waiting:
                del self._asking[key]

        def make() -> list[Entry]:
            forget()
            self._asked_count += 1
            return [[CONFIRM, partition, key, self._asked_count]]

        def answered(answer: Any, error: HubwireError | None) -> None:
            forget()
            if answer == RESYNC:
                self._queue_snapshot(partition)
            self._call(waiting, error)

        try:
            size = 48 + len(key)
            self._dispatcher.submit(partition, None, answered, size=size, timeout=JOIN_SECONDS, make=make)
        except Unavailable as error:
            answered(None, error)

    def asked(self, partitions: Iterable[int]) -> None:
        """An owner lacks our members of these partitions."""
        for number in partitions:
            self._queue_snapshot(number)

    def announce_all(self) -> None:
        """At the start: tell every owner what we have (nothing), so that none counts us as a member of
        everything for longer than it must."""
        self.asked(range(len(self._table.owners)))

    def _submit(self, number: int, entry: Entry, leaving: list[Confirmed] | None = None) -> None:
        self._unanswered += 1
        answered = partial(self._answered, entry, leaving)
        size = 48 + len(entry[2])
        try:
            self._dispatcher.submit(number, entry, answered, size=size, timeout=JOIN_SECONDS, keep=True)
        except Unavailable as error:  # stopping: this gateway's lease ends, and with it all its members
            asyncio.get_running_loop().call_soon(answered, None, error)

    def _answered(
        self, entry: Entry, leaving: list[Confirmed] | None, answer: Any, error: HubwireError | None
    ) -> None:
        kind, number, key, seq, _ = entry
        self._unanswered -= 1
        if answer == RESYNC:
            # The owner counts us as a member of everything meanwhile: the change holds.
            self._queue_snapshot(number)
        if kind == JOIN:
            self._settle(key, seq, error)
        elif leaving is not None:
            if self._leaving.get(key) is leaving:  # else it was left again since
                del self._leaving[key]
            self._call(leaving, error)

    def _settle(self, key: str, seq: int | None, error: HubwireError | None) -> None:
        """Call back who waits for the key. With `seq`, only if the key has not been left and joined
        again since: that joining has its own answer."""
        found = self._unconfirmed.get(key)
        if found is None or (seq is not None and found[0] != seq):
            return
        del self._unconfirmed[key]
        self._call(found[1], error)

    @staticmethod
    def _call(waiting: list[Confirmed], error: HubwireError | None) -> None:
        for confirmed in waiting:
            try:
                confirmed(error)
            except Exception:
                log.exception("registration_callback_failed")

    def _queue_snapshot(self, number: int) -> None:
        if number in self._snapshots_queued:
            return
        self._snapshots_queued.add(number)

        def make() -> list[Entry]:
            self._snapshots_queued.discard(number)
            seq, digest, keys = self._membership.snapshot(number)
            parts = split_keys(keys)
            return [
                [SNAPSHOT, number, seq, digest, part, position, len(parts)]
                for position, part in enumerate(parts)
            ]

        def answered(answer: Any, error: HubwireError | None) -> None:
            if answer == RESYNC:
                self._queue_snapshot(number)

        try:
            self._dispatcher.submit(number, None, answered, keep=True, make=make)
        except Unavailable:
            self._snapshots_queued.discard(number)  # stopping

    def _owners_changed(self, table: OwnersTable) -> None:
        before, self._table = self._table, table
        for number, owner in enumerate(table.owners):
            old = before.owners[number]
            if owner is not None and (old is None or owner.router != old.router):
                self._queue_snapshot(number)


def _when_all(count: int, confirmed: Confirmed) -> Confirmed:
    """To be called `count` times: calls back once, when all are confirmed or with the first error."""
    left = count
    done = False

    def one(error: HubwireError | None) -> None:
        nonlocal left, done
        left -= 1
        if not done and (error is not None or left == 0):
            done = True
            confirmed(error)

    return one
