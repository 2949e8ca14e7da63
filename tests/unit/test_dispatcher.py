"""The dispatcher against a bus that answers as the test says, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

import pytest
from support.virtual_time import run

from hubwire.bus.client import TIMEOUT, ReplyHandler
from hubwire.bus.dispatcher import ANSWER_SECONDS, BATCH_BYTES, WAIT_SECONDS, Dispatcher
from hubwire.bus.envelopes import DUPLICATE, NOT_MINE, OK, REFUSED, WAIT, answer_to_batch, unpack
from hubwire.bus.owners import EMPTY_TABLE, OwnersTable
from hubwire.bus.subjects import router_subject
from hubwire.model.errors import HubwireError, InternalError, InvalidRequest, LimitExceeded, Unavailable

A, B = "aaaaaaaaa", "bbbbbbbbb"


@dataclass
class Request:
    """One batch on its way, to be answered by the test."""

    router: str
    sender: str
    entries: list[Any]
    handler: ReplyHandler
    timer: asyncio.TimerHandle
    epochs: dict[int, int]
    done: bool = False

    def answer(self, *answers: Any) -> None:
        """With these answers, or OK for all."""
        self._end(answer_to_batch(list(answers) or [OK] * len(self.entries)), "")

    def refuse(self) -> None:
        self.answer(*[NOT_MINE] * len(self.entries))

    def lose(self, reason: str = TIMEOUT) -> None:
        self._end(None, reason)

    def _end(self, data: bytes | None, reason: str) -> None:
        assert not self.done
        self.timer.cancel()
        more = self.handler(data, reason)
        self.done = more is None
        if more is not None:
            self.timer = asyncio.get_running_loop().call_later(more, self.lose)

    @property
    def texts(self) -> list[str]:
        return [entry[2] for entry in self.entries]


class FakeBus:
    def __init__(self) -> None:
        self.connected = True
        self.max_payload = 1024 * 1024
        self.full = False
        self.sent: list[Request] = []
        self._listeners: list[Callable[[], None]] = []

    def on_reconnect(self, listener: Callable[[], None]) -> None:
        self._listeners.append(listener)

    def request(self, subject: str, payload: bytes, handler: ReplyHandler, timeout: float) -> None:
        if not self.connected or self.full:
            raise Unavailable("NATS is not connected.")
        assert len(payload) <= self.max_payload
        _, sender, parts = unpack(payload)
        entries = [entry for _, _, part in parts for entry in part]
        router = subject.removeprefix(router_subject(""))
        timer = asyncio.get_running_loop().call_later(timeout, lambda: request.lose())
        request = Request(router, sender, entries, handler, timer, {p: epoch for p, epoch, _ in parts})
        self.sent.append(request)

    def disconnect(self) -> None:
        self.connected = False
        for request in self.sent:
            if not request.done:
                request.lose("connection lost")

    def reconnect(self) -> None:
        self.connected = True
        for listener in self._listeners:
            listener()


class FakeOwners:
    def __init__(self) -> None:
        self.table = EMPTY_TABLE
        self.refreshes = 0
        self._listeners: list[Callable[[OwnersTable], None]] = []

    def on_change(self, listener: Callable[[OwnersTable], None]) -> None:
        self._listeners.append(listener)

    def refresh(self) -> None:
        self.refreshes += 1

    def give(self, changes: dict[int, str]) -> None:
        self.table = self.table.with_changes(changes, 0)
        for listener in self._listeners:
            listener(self.table)


@dataclass
class World:
    bus: FakeBus = field(default_factory=FakeBus)
    owners: FakeOwners = field(default_factory=FakeOwners)
    answers: list[tuple[str, Any, HubwireError | None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.owners.give(dict.fromkeys(range(256), A))
        self.dispatcher = Dispatcher(self.bus, self.owners, "sender", max_waiting_bytes=1_000_000)

    def submit(self, partition: int, text: str, **more: Any) -> None:
        self.dispatcher.submit(
            partition,
            [0, partition, text],
            lambda answer, error: self.answers.append((text, answer, error)),
            **more,
        )

    @property
    def sent(self) -> list[Request]:
        return self.bus.sent

    @property
    def answered(self) -> list[str]:
        return [text for text, _, error in self.answers if error is None]

    @property
    def failed(self) -> list[str]:
        return [text for text, _, error in self.answers if error is not None]


Body = Callable[[World], Coroutine[Any, Any, None]]


def in_virtual_time(body: Body) -> Callable[[], None]:
    @wraps(body)
    def test() -> None:
        async def whole() -> None:
            world = World()
            await body(world)
            world.dispatcher.close()
            assert world.dispatcher.waiting_bytes == 0
            texts = [text for text, _, _ in world.answers]
            assert len(texts) == len(set(texts)), "a callback was called twice"

        run(whole())

    del test.__wrapped__  # type: ignore[attr-defined]  # pytest would look for a fixture called world
    return test


async def turn(seconds: float = 0.0) -> None:
    """Let everything that is due happen."""
    await asyncio.sleep(seconds)
    await asyncio.sleep(0)


# -- order and batches ------------------------------------------------------------------------------


@in_virtual_time
async def test_a_lone_entry_goes_at_the_end_of_the_turn(world: World) -> None:
    world.submit(1, "a")
    assert not world.sent
    await turn()
    assert [request.texts for request in world.sent] == [["a"]]
    assert world.sent[0].router == A
    assert world.sent[0].sender == "sender"


@in_virtual_time
async def test_what_one_turn_submits_travels_together(world: World) -> None:
    for partition in range(5):
        world.submit(partition, f"{partition}-0")
        world.submit(partition, f"{partition}-1")
    await turn()
    assert len(world.sent) == 1
    assert len(world.sent[0].entries) == 10
    world.sent[0].answer()
    assert len(world.answered) == 10


@in_virtual_time
async def test_of_one_partition_only_one_batch_is_in_flight(world: World) -> None:
    world.submit(1, "a")
    await turn()
    world.submit(1, "b")
    world.submit(1, "c")
    await turn(0.5)
    assert [request.texts for request in world.sent] == [["a"]]
    world.sent[0].answer()
    await turn()
    assert [request.texts for request in world.sent] == [["a"], ["b", "c"]]


@in_virtual_time
async def test_other_partitions_do_not_wait_but_gather_for_a_moment(world: World) -> None:
    world.submit(1, "a")
    await turn()
    world.submit(2, "b")
    world.submit(3, "c")
    await turn()
    assert len(world.sent) == 1, "a batch is on its way there, so these gather for a millisecond"
    await turn(0.0011)
    assert [request.texts for request in world.sent] == [["a"], ["b", "c"]]


@in_virtual_time
async def test_what_gathers_goes_as_soon_as_the_batch_before_is_answered(world: World) -> None:
    world.submit(1, "a")
    await turn()
    world.submit(2, "b")
    world.sent[0].answer()
    assert [request.texts for request in world.sent] == [["a"], ["b"]]


@in_virtual_time
async def test_a_full_batch_does_not_wait(world: World) -> None:
    world.submit(1, "a")
    await turn()
    for partition in range(2, 12):
        world.submit(partition, f"{partition}", size=8000)
    assert len(world.sent) > 1


@in_virtual_time
async def test_batches_are_bounded_and_keep_the_order_of_a_partition(world: World) -> None:
    texts = [f"{number:03}" for number in range(100)]
    for text in texts:
        world.submit(7, text, size=5000)
    while len(world.answered) < 100:
        await turn(0.002)
        for request in world.sent:
            assert sum(5000 for _ in request.entries) <= BATCH_BYTES
            if not request.done:
                request.answer()
    assert world.answered == texts


@in_virtual_time
async def test_several_big_entries_never_make_one_message_that_the_server_refuses(world: World) -> None:
    for partition in range(4):
        world.dispatcher.submit(partition, [0, partition, b"x" * 900_000], None, size=900_000, keep=True)
    await turn(0.01)
    assert len(world.sent) == 4  # FakeBus refuses what is above max_payload


@in_virtual_time
async def test_an_entry_that_no_message_can_hold_is_reported_and_does_not_stop_the_others(
    world: World,
) -> None:
    errors: list[HubwireError | None] = []
    size = world.bus.max_payload
    world.dispatcher.submit(
        1, [0, 1, b"x" * size], lambda _, error: errors.append(error), size=size, keep=True
    )
    world.submit(1, "after", keep=True)
    world.submit(2, "beside", keep=True)
    await turn(0.01)
    assert [type(error) for error in errors] == [LimitExceeded]
    assert sorted(text for request in world.sent for text in request.texts) == ["after", "beside"]


@in_virtual_time
async def test_every_router_gets_its_own_partitions(world: World) -> None:
    world.owners.give({2: B})
    world.submit(1, "a")
    world.submit(2, "b")
    await turn()
    assert {request.router: request.texts for request in world.sent} == {A: ["a"], B: ["b"]}


@in_virtual_time
async def test_numbers_grow(world: World) -> None:
    numbers = [world.dispatcher.next_number() for _ in range(5)]
    assert numbers == sorted(set(numbers))
    assert numbers[0] > 0, "0 is what an owner has seen of a sender that it does not know"


# -- repeats ----------------------------------------------------------------------------------------


@in_virtual_time
async def test_an_unanswered_batch_is_repeated_unchanged_although_more_waits(world: World) -> None:
    world.submit(1, "a")
    world.submit(1, "b")
    await turn()
    world.submit(1, "c")
    world.sent[0].lose()
    await turn(0.1)
    assert [request.texts for request in world.sent] == [["a", "b"], ["a", "b"]]
    world.sent[1].answer()
    await turn()
    assert world.sent[2].texts == ["c"]
    world.sent[2].answer()
    assert world.answered == ["a", "b", "c"]


@in_virtual_time
async def test_a_refusal_is_no_answer(world: World) -> None:
    world.submit(1, "a")
    await turn()
    world.sent[0].refuse()
    assert not world.answers
    assert world.owners.refreshes
    await turn(0.1)
    assert world.sent[1].texts == ["a"]
    world.sent[1].answer(7)
    assert world.answers == [("a", 7, None)]


@in_virtual_time
async def test_only_the_refused_partitions_of_a_batch_are_repeated(world: World) -> None:
    world.submit(1, "a")
    world.submit(2, "b")
    await turn()
    world.sent[0].answer(OK, NOT_MINE)
    assert world.answered == ["a"]
    await turn(0.1)
    assert world.sent[1].texts == ["b"]


@in_virtual_time
async def test_pauses_between_repeats_grow_and_end_when_the_table_changes(world: World) -> None:
    world.submit(1, "a")
    await turn()
    for _ in range(8):
        world.sent[-1].refuse()
        before = len(world.sent)
        while len(world.sent) == before:
            await turn(0.01)
    assert 8 < len(world.sent) < 20
    world.sent[-1].refuse()
    world.owners.give({1: B})
    await turn()
    assert world.sent[-1].router == B


@in_virtual_time
async def test_a_silent_router_is_asked_again_after_the_time_for_an_answer(world: World) -> None:
    world.submit(1, "a")
    await turn(ANSWER_SECONDS + 0.1)
    assert [request.texts for request in world.sent] == [["a"], ["a"]]


@in_virtual_time
async def test_when_the_owner_changes_while_a_batch_is_in_flight_the_new_one_gets_it_at_once(
    world: World,
) -> None:
    world.submit(1, "a")
    world.submit(2, "b")
    await turn()
    world.owners.give({1: B})
    await turn()
    assert [(request.router, request.texts) for request in world.sent] == [(A, ["a", "b"]), (B, ["a"])]
    world.sent[1].answer()
    assert world.answered == ["a"]


@in_virtual_time
async def test_what_an_owner_of_before_answers_does_not_count(world: World) -> None:
    # It may have been taken over while it slept; what it forwarded is dropped by the gateways, so its
    # confirmation would be a lie.
    world.submit(1, "a")
    world.submit(2, "b")
    await turn()
    world.owners.give({1: B})
    world.sent[0].answer()
    assert world.answered == ["b"]
    await turn()
    assert world.sent[1].router == B
    world.sent[1].answer()
    assert world.answered == ["b", "a"]


@in_virtual_time
async def test_a_new_epoch_of_the_same_owner_counts_as_another_owner(world: World) -> None:
    world.submit(1, "a")
    await turn()
    world.owners.give({1: A})
    world.sent[0].answer()
    assert not world.answers
    await turn()
    world.sent[1].answer()
    assert world.answered == ["a"]


@in_virtual_time
async def test_a_batch_names_the_epoch_that_it_is_meant_for(world: World) -> None:
    world.submit(1, "a")
    await turn()
    first = world.owners.table.owners[1].epoch
    assert world.sent[0].epochs == {1: first}
    world.owners.give({1: B})
    await turn()
    assert world.sent[1].epochs[1] > first


@in_virtual_time
async def test_order_holds_through_refusals_changes_and_losses(world: World) -> None:
    texts = [f"{number:03}" for number in range(60)]
    received: list[str] = []
    for number, text in enumerate(texts):
        world.submit(5, text)
        await turn(0.005)
        if number % 10 == 3:
            world.owners.give({5: (A, B)[number % 2]})
        for position, request in enumerate(world.sent):
            if request.done:
                continue
            if (number + position) % 3 == 0:
                request.refuse()
            elif (number + position) % 5 == 0:
                received += request.texts
                request.lose()
            else:
                received += request.texts
                request.answer()
    while len(world.answered) < len(texts):
        await turn(0.05)
        for request in world.sent:
            if not request.done:
                received += request.texts
                request.answer()
    assert world.answered == texts
    first: list[str] = list(dict.fromkeys(received))
    assert first == texts, "whoever drops repeats sees them in order"


@in_virtual_time
async def test_an_answer_that_cannot_be_read_is_none(world: World) -> None:
    world.submit(1, "a")
    await turn()
    world.sent[0]._end(b"nonsense", "")
    await turn(0.1)
    world.sent[1].answer(OK, OK)  # two answers to one entry
    await turn(0.1)
    world.sent[2].answer()
    assert world.answered == ["a"]


@in_virtual_time
async def test_what_a_router_does_not_understand_fails_and_is_not_repeated(world: World) -> None:
    world.submit(1, "a")
    await turn()
    world.sent[0].answer(REFUSED)
    assert [(text, type(error)) for text, _, error in world.answers] == [("a", InvalidRequest)]
    await turn(2)
    assert len(world.sent) == 1


# -- answers that come later ------------------------------------------------------------------------


@in_virtual_time
async def test_an_entry_that_waits_is_answered_later_and_holds_up_nothing_behind_it(world: World) -> None:
    world.submit(1, "a")
    world.submit(1, "b")
    world.submit(2, "c")
    await turn()
    world.sent[0].answer(WAIT, OK, OK)
    assert world.answered == ["b", "c"]
    world.submit(1, "d")
    await turn()
    assert world.sent[1].texts == ["d"]
    world.sent[1].answer()
    world.sent[0].answer(DUPLICATE, OK, OK)
    assert world.answers[-1] == ("a", DUPLICATE, None)
    assert world.dispatcher.waiting_bytes == 0


@in_virtual_time
async def test_the_rest_can_come_in_parts(world: World) -> None:
    for text in "abc":
        world.submit(1, text)
    await turn()
    world.sent[0].answer(WAIT, WAIT, WAIT)
    world.sent[0].answer(WAIT, OK, WAIT)
    assert world.answered == ["b"]
    world.sent[0].answer(WAIT, OK, REFUSED)
    world.sent[0].answer(OK, OK, OK)
    assert world.answered == ["b", "a"]
    assert world.failed == ["c"]
    assert world.sent[0].done


@in_virtual_time
async def test_what_waits_goes_to_a_new_owner_before_all_that_came_after_it(world: World) -> None:
    for number in range(3):
        world.submit(1, f"waits {number}")
        await turn()
        world.sent[-1].answer(WAIT)
    world.submit(1, "in flight")
    await turn()
    world.submit(1, "waiting")
    world.owners.give({1: B})
    await turn()
    world.sent[0].answer()  # of the owner of before: it does not count
    assert not world.answers
    order = world.sent[-1].texts
    assert world.sent[-1].router == B
    world.sent[-1].answer()
    assert order == ["waits 0", "waits 1", "waits 2", "in flight", "waiting"]
    assert world.answered == order


@in_virtual_time
async def test_what_waits_is_repeated_in_batches_that_the_server_takes(world: World) -> None:
    for number in range(20):
        world.submit(1, f"{number:02}", size=BATCH_BYTES // 2)
        await turn(0.002)
        world.sent[-1].answer(*[WAIT] * len(world.sent[-1].entries))
    world.owners.give({1: B})
    received: list[str] = []
    while len(world.answered) < 20:
        await turn(0.01)
        assert len(world.sent[-1].entries) <= 2
        received += world.sent[-1].texts
        world.sent[-1].answer()
    assert received == world.answered == [f"{number:02}" for number in range(20)]


@in_virtual_time
async def test_silence_about_what_waits_is_followed_by_a_repeat_after_a_longer_while(world: World) -> None:
    world.submit(1, "a", timeout=30)
    await turn()
    world.sent[0].answer(WAIT)
    await turn(WAIT_SECONDS - 0.5)
    assert len(world.sent) == 1
    await turn(1)
    assert [request.texts for request in world.sent] == [["a"], ["a"]]
    world.sent[1].answer(WAIT)
    world.sent[1].answer()
    assert world.answered == ["a"]


@in_virtual_time
async def test_a_late_refusal_is_no_answer(world: World) -> None:
    world.submit(1, "a")
    world.submit(1, "b")
    await turn()
    world.sent[0].answer(WAIT, WAIT)
    world.sent[0].answer(OK, NOT_MINE)
    assert world.answered == ["a"]
    assert world.owners.refreshes
    await turn(0.1)
    assert world.sent[1].texts == ["b"]
    world.sent[1].answer()


@in_virtual_time
async def test_a_batch_of_which_some_is_refused_and_some_waits_is_repeated_whole(world: World) -> None:
    world.submit(1, "a")
    world.submit(1, "b")
    await turn()
    world.sent[0].answer(WAIT, NOT_MINE)
    assert world.sent[0].done
    await turn(0.1)
    assert world.sent[1].texts == ["a", "b"]
    world.sent[1].answer()
    assert world.answered == ["a", "b"]


@in_virtual_time
async def test_after_the_connection_was_lost_what_waits_is_sent_again(world: World) -> None:
    world.submit(1, "a")
    await turn()
    world.sent[0].answer(WAIT)
    world.submit(1, "b")
    await turn()
    world.bus.disconnect()
    await turn(0.5)
    world.bus.reconnect()
    await turn()
    assert world.sent[-1].texts == ["a", "b"]
    world.sent[-1].answer()
    assert world.answered == ["a", "b"]


@in_virtual_time
async def test_who_waits_too_long_is_told_and_nothing_more_is_sent_of_it(world: World) -> None:
    world.submit(1, "a", timeout=2)
    world.submit(1, "kept", timeout=2, keep=True)
    await turn()
    world.sent[0].answer(WAIT, WAIT)
    await turn(3)
    assert sorted(world.failed) == ["a", "kept"]
    world.owners.give({1: B})
    await turn()
    assert world.sent[-1].texts == ["kept"]
    world.sent[-1].answer()
    assert world.dispatcher.waiting_bytes == 0


@in_virtual_time
async def test_closing_gives_up_what_waits(world: World) -> None:
    world.submit(1, "a")
    await turn()
    world.sent[0].answer(WAIT)
    world.dispatcher.close()
    assert world.failed == ["a"]
    world.sent[0].answer()


# -- no owner, no bus -------------------------------------------------------------------------------


@in_virtual_time
async def test_entries_wait_for_an_owner(world: World) -> None:
    world.owners.table = EMPTY_TABLE
    world.submit(1, "a")
    await turn(1)
    assert not world.sent
    assert world.owners.refreshes
    world.owners.give({1: B})
    await turn()
    assert world.sent[0].router == B


@in_virtual_time
async def test_entries_wait_for_the_bus_and_go_at_once_when_it_is_back(world: World) -> None:
    world.submit(1, "a")
    await turn()
    world.bus.disconnect()
    world.submit(1, "b")
    world.submit(2, "c")
    await turn(3)
    assert len(world.sent) == 1
    world.bus.reconnect()
    await turn()
    assert [request.texts for request in world.sent[1:]] == [["a", "c"]]
    world.sent[1].answer()
    await turn()
    world.sent[2].answer()
    assert world.answered == ["a", "c", "b"]


@in_virtual_time
async def test_what_nobody_wants_any_more_is_neither_sent_nor_repeated(world: World) -> None:
    gone: list[str] = []
    world.submit(1, "a", wanted=lambda: "a" not in gone)
    world.submit(1, "b")
    await turn()
    world.submit(1, "c", wanted=lambda: "c" not in gone)
    world.submit(1, "d", wanted=lambda: "d" not in gone)
    world.bus.disconnect()
    gone += ["a", "c"]
    world.bus.reconnect()
    await turn()
    assert world.sent[-1].texts == ["b"]
    assert "a" in world.failed
    world.sent[-1].answer()
    await turn()
    assert world.sent[-1].texts == ["d"]
    world.sent[-1].answer()
    assert (world.answered, world.failed) == (["b", "d"], ["a", "c"])


@in_virtual_time
async def test_a_bus_that_takes_nothing_is_tried_again(world: World) -> None:
    world.bus.full = True
    world.submit(1, "a")
    await turn(0.5)
    world.bus.full = False
    await turn(0.5)
    world.sent[0].answer()
    assert world.answered == ["a"]


# -- deadlines and bounds ---------------------------------------------------------------------------


@in_virtual_time
async def test_an_entry_that_waits_too_long_for_an_owner_is_dropped_and_reported(world: World) -> None:
    world.owners.table = EMPTY_TABLE
    world.submit(1, "a", timeout=2)
    world.submit(1, "b", timeout=60)
    await turn(2.5)
    assert world.failed == ["a"]
    assert isinstance(world.answers[0][2], Unavailable)
    world.owners.give({1: B})
    await turn()
    assert world.sent[0].texts == ["b"]


@in_virtual_time
async def test_an_entry_that_is_never_answered_is_reported_and_repeated_no_more(world: World) -> None:
    world.submit(1, "a", timeout=2)
    await turn(6)
    assert world.failed == ["a"]
    repeats = len(world.sent)
    await turn(5)
    assert len(world.sent) == repeats
    world.submit(1, "b")
    await turn()
    assert world.sent[-1].texts == ["b"], "what comes after it is not held up"


@in_virtual_time
async def test_a_kept_entry_is_reported_late_but_goes_on_until_it_is_answered(world: World) -> None:
    world.submit(1, "join", timeout=2, keep=True)
    world.submit(1, "publish", timeout=2)
    await turn(30)
    assert world.failed == ["join", "publish"]
    assert world.sent[-1].texts == ["join"]
    if world.sent[-1].done:
        await turn(0.3)
    world.sent[-1].answer()
    await turn(3)
    assert world.failed == ["join", "publish"]
    assert world.dispatcher.waiting_bytes == 0


@in_virtual_time
async def test_a_callback_of_a_late_entry_may_submit_to_the_same_partition(world: World) -> None:
    # A join that failed is left again, from within the report of its failure.
    world.owners.table = EMPTY_TABLE

    def failed(_answer: Any, error: HubwireError | None) -> None:
        assert error is not None
        world.submit(1, "leave", keep=True)

    world.dispatcher.submit(1, [0, 1, "join"], failed, timeout=1, keep=True)
    world.dispatcher.submit(1, [0, 1, "lost"], None, timeout=1)
    await turn(1.5)
    world.owners.give({1: B})
    await turn()
    assert world.sent[0].texts == ["join", "leave"]


@in_virtual_time
async def test_more_than_the_bound_is_refused_and_room_comes_back(world: World) -> None:
    world.submit(1, "a", size=900_000)
    with pytest.raises(Unavailable):
        world.submit(2, "b", size=200_000)
    world.submit(2, "kept", size=200_000, keep=True)  # leaving must never fail
    await turn(0.01)
    for request in world.sent:
        request.answer()
    world.submit(2, "b", size=200_000)


@in_virtual_time
async def test_close_tells_everybody_once_and_refuses_what_comes_after(world: World) -> None:
    world.submit(1, "in flight")
    await turn()
    world.submit(1, "waiting", keep=True)
    world.dispatcher.close()
    world.dispatcher.close()
    assert world.failed == ["in flight", "waiting"]
    with pytest.raises(Unavailable):
        world.submit(1, "later")
    world.sent[0].answer()
    await turn(2)
    assert len(world.sent) == 1


@in_virtual_time
async def test_drain_waits_for_the_answers(world: World) -> None:
    world.submit(1, "a")
    asyncio.get_running_loop().call_later(0.5, lambda: world.sent[0].answer())
    await world.dispatcher.drain(5)
    assert world.answered == ["a"]


@in_virtual_time
async def test_a_callback_that_fails_does_not_spoil_the_rest(world: World) -> None:
    def broken(_answer: Any, _error: HubwireError | None) -> None:
        raise RuntimeError("a bug elsewhere")

    world.dispatcher.submit(1, [0, 1, "a"], broken)
    world.submit(1, "b")
    await turn()
    world.sent[0].answer()
    assert world.answered == ["b"]


@in_virtual_time
async def test_ask_returns_the_answer_or_raises(world: World) -> None:
    asking = asyncio.create_task(world.dispatcher.ask(1, [4, 1, "who"]))
    await turn()
    world.sent[0].answer([["g"], []])
    assert await asking == [["g"], []]
    with pytest.raises(Unavailable):
        await world.dispatcher.ask(1, [4, 1, "who"], timeout=1)


# -- made entries -----------------------------------------------------------------------------------


@in_virtual_time
async def test_a_made_entry_is_made_when_it_is_sent_and_once(world: World) -> None:
    made: list[int] = []

    def make() -> list[list[Any]]:
        made.append(1)
        return [[3, 1, "snapshot", ["k"] * 10]]

    world.submit(1, "a")
    await turn()
    world.dispatcher.submit(1, None, None, make=make, keep=True)
    await turn(0.01)
    assert not made
    world.sent[0].answer()
    await turn()
    assert len(made) == 1
    world.sent[1].lose()
    await turn(0.1)
    assert world.sent[2].entries == world.sent[1].entries
    assert len(made) == 1
    world.sent[2].answer()
    assert world.dispatcher.waiting_bytes == 0


@in_virtual_time
async def test_parts_go_before_everything_that_waits_and_the_last_one_answers(world: World) -> None:
    keys = ["k" * 100] * 500  # 52 KB: one part a batch
    answers: list[Any] = []
    world.submit(1, "a")
    await turn()
    world.dispatcher.submit(
        1,
        None,
        lambda answer, error: answers.append((answer, error)),
        make=lambda: [[3, 1, f"part{n}", keys] for n in range(3)],
        keep=True,
    )
    world.submit(1, "z")
    order: list[str] = []
    for _ in range(10):
        for request in world.sent:
            if not request.done:
                order += request.texts
                request.answer(*request.texts)
        await turn(0.002)
    assert order == ["a", "part0", "part1", "part2", "z"]
    assert len(answers) == 1
    assert answers[0][0] == "part2"
    assert world.dispatcher.waiting_bytes == 0


@in_virtual_time
async def test_an_entry_that_cannot_be_made_is_reported(world: World) -> None:
    answers: list[HubwireError | None] = []

    def make() -> list[list[Any]]:
        raise RuntimeError("a bug elsewhere")

    world.dispatcher.submit(1, None, lambda _, error: answers.append(error), make=make)
    world.submit(1, "b")
    await turn()
    assert [type(error) for error in answers] == [InternalError]
    assert world.sent[0].texts == ["b"]
