"""Asking owners to confirm keys once more: for sessions that come from elsewhere."""

from __future__ import annotations

from typing import Any

from gateway.registrar import Registrar
from hubwire.bus.envelopes import CONFIRM, JOIN, OK, RESYNC, SNAPSHOT
from hubwire.bus.keys import partition_of
from hubwire.bus.owners import EMPTY_TABLE
from hubwire.model.errors import HubwireError, Unavailable

KEY = "rg\0hub\0room"


class FakeDispatcher:
    """Keeps what is submitted, until the test sends it."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Any, Any, Any]] = []
        self.full = False

    def submit(self, partition: int, entry: Any, answered: Any, *, make: Any = None, **_more: Any) -> None:
        if self.full:
            raise Unavailable("full")
        assert partition == partition_of(KEY)
        self.waiting.append((entry, answered, make))

    def send(self, answer: int | None = OK, error: HubwireError | None = None) -> Any:
        entry, answered, make = self.waiting.pop(0)
        if make is not None:
            (entry,) = make()
        return entry, lambda: answered(answer, error)


class FakeOwners:
    table = EMPTY_TABLE

    def on_change(self, _listener: Any) -> None: ...


def new() -> tuple[Any, Registrar, list[HubwireError | None]]:
    dispatcher: Any = FakeDispatcher()
    owners: Any = FakeOwners()
    return dispatcher, Registrar(dispatcher, owners), []


def test_a_key_that_was_confirmed_is_confirmed_again_by_its_owner() -> None:
    dispatcher, registrar, told = new()
    registrar.join(KEY)
    entry, answer = dispatcher.send()
    assert entry[0] == JOIN
    answer()
    registrar.when_confirmed(KEY, told.append)
    assert told == [None]
    registrar.confirm_again([KEY], told.append)
    assert told == [None], "what was published since may not be stored everywhere"
    entry, answer = dispatcher.send()
    assert entry == [CONFIRM, partition_of(KEY), KEY, 1]
    answer()
    assert told == [None, None]


def test_those_that_ask_before_it_is_sent_ask_together_and_later_ones_anew() -> None:
    dispatcher, registrar, told = new()
    registrar.confirm_again([KEY], told.append)
    registrar.confirm_again([KEY], told.append)
    assert len(dispatcher.waiting) == 1
    _, first = dispatcher.send()
    registrar.confirm_again([KEY], told.append)
    first()
    assert told == [None, None]
    entry, second = dispatcher.send()
    assert entry[3] == 2
    second()
    assert told == [None] * 3


def test_an_owner_that_lacks_the_key_is_sent_the_keys() -> None:
    dispatcher, registrar, told = new()
    registrar.confirm_again([KEY], told.append)
    _, answer = dispatcher.send(RESYNC)
    answer()
    assert told == [None], "it counts us as a member of everything meanwhile"
    entry, _ = dispatcher.send()
    assert entry[0] == SNAPSHOT


def test_failures_are_told_once_and_the_next_one_asks_again() -> None:
    dispatcher, registrar, told = new()
    registrar.confirm_again([KEY], told.append)
    _, answered, _ = dispatcher.waiting.pop()
    answered(None, Unavailable("late"))  # it was never sent
    registrar.confirm_again([KEY], told.append)
    _, answer = dispatcher.send()
    answer()
    dispatcher.full = True
    registrar.confirm_again([KEY], told.append)
    registrar.confirm_again([], told.append)
    assert [error is None for error in told] == [False, True, False, True]
