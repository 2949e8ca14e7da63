"""A router's answers, and its part in changing the table, with everything around it under the test's hand."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any

from support.virtual_time import run

from gateway.membership import Membership
from hubwire.bus.envelopes import (
    ASK,
    DELIVER,
    JOIN,
    LEAVE,
    NOT_MINE,
    OK,
    PUBLISH,
    REFUSED,
    RESYNC,
    SNAPSHOT,
    WHO,
    batch_to_router,
    unpack,
)
from hubwire.bus.keys import PARTITIONS
from hubwire.bus.owners import EMPTY_TABLE, OwnersTable, OwnersView, pack_table
from hubwire.bus.subjects import (
    OWNERS_ASKED,
    gateway_subject,
    inbox_stream,
    owners_told_subject,
    router_subject,
)
from hubwire.model.errors import Unavailable
from router.ownership import Ownership
from router.ring import placement
from router.service import RouterService

ME, OTHER, THIRD = "aaaaaaaaa", "bbbbbbbbb", "ccccccccc"
G, H = "ggggggggg", "hhhhhhhhh"
P = 0
KEY = "g\0hub\0room"


class FakeBus:
    def __init__(self) -> None:
        self.connected = True
        self.max_payload = 1024 * 1024
        self.full_after: int | None = None
        self.sent: list[tuple[str, bytes]] = []
        self.handlers: dict[str, Any] = {}
        self.inboxes: set[str] = set()
        self._reconnect: list[Callable[[], None]] = []
        self._disconnect: list[Callable[[], None]] = []

    def on_reconnect(self, listener: Callable[[], None]) -> None:
        self._reconnect.append(listener)

    def on_disconnect(self, listener: Callable[[], None]) -> None:
        self._disconnect.append(listener)

    async def subscribe(self, subject: str, handler: Any) -> Any:
        self.handlers[subject] = handler

        async def unsubscribe() -> None:
            self.handlers.pop(subject, None)

        return unsubscribe

    async def synchronize(self) -> None:
        await asyncio.sleep(0.001)

    def publish(self, subject: str, payload: bytes, reply: str = "", headers: bytes = b"") -> None:
        if not self.connected or self.full_after == 0:
            raise Unavailable("NATS does not take messages fast enough.")
        if self.full_after is not None:
            self.full_after -= 1
        assert len(payload) <= self.max_payload
        self.sent.append((subject, payload))
        if reply:
            self.sent.append((f"reply to {reply}", payload))

    async def ask(self, subject: str, payload: bytes, timeout: float, headers: bytes = b"") -> bytes:
        """Of JetStream, which streams there are."""
        await asyncio.sleep(0.001)
        if subject == "$JS.API.STREAM.NAMES":
            return json.dumps(
                {"streams": [*map(inbox_stream, self.inboxes)], "total": len(self.inboxes)}
            ).encode()
        name = subject.removeprefix("$JS.API.STREAM.INFO.").removeprefix(inbox_stream(""))
        if name in self.inboxes:
            return json.dumps(
                {"created": "now", "state": {"first_seq": 1, "last_seq": 0, "bytes": 0}, "config": {}}
            ).encode()
        return json.dumps({"error": {"code": 404, "err_code": 10059}}).encode()

    def cut(self) -> None:
        for listener in self._disconnect:
            listener()

    def back(self) -> None:
        for listener in self._reconnect:
            listener()


class FakeLease:
    name = ME

    def __init__(self) -> None:
        self.valid = True
        self.left = False

    async def leave(self) -> None:
        self.left = True


class FakeWatch:
    def __init__(self, *alive: str) -> None:
        self.alive = set(alive)
        self.leaving: set[str] = set()
        self.ended: set[str] = set()
        self.complete = True
        self._listeners: list[Callable[[str, bool], None]] = []

    def on_change(self, listener: Callable[[str, bool], None]) -> None:
        self._listeners.append(listener)

    def certainly_ended(self, name: str) -> bool:
        return name in self.ended

    def appear(self, name: str) -> None:
        self.alive.add(name)
        for listener in self._listeners:
            listener(name, True)

    def end(self, name: str) -> None:
        self.alive.discard(name)
        self.ended.add(name)
        for listener in self._listeners:
            listener(name, False)


class FakeStore:
    """The bucket. `fail_writes`: of the next writes, whether each is stored although it raises."""

    def __init__(self) -> None:
        self.table = EMPTY_TABLE
        self.revision = 0
        self.writes: list[OwnersTable] = []
        self.fail_writes: list[bool] = []
        self.late: tuple[OwnersTable, int] | None = None
        self.before_write: Callable[[], None] = lambda: None

    async def read(self) -> tuple[OwnersTable, int]:
        await asyncio.sleep(0.001)
        return self.table, self.revision

    def put(self, table: OwnersTable) -> None:
        self.table, self.revision = table, self.revision + 1

    async def write(self, table: OwnersTable, revision: int) -> bool:
        self.before_write()
        await asyncio.sleep(0.001)
        if self.fail_writes:
            if self.fail_writes.pop(0):
                self.put(table)
            raise Unavailable("no answer")
        if revision != self.revision:
            return False
        self.put(table)
        self.writes.append(table)
        return True


class World:
    def __init__(self) -> None:
        self.bus: Any = FakeBus()
        self.lease: Any = FakeLease()
        self.store: Any = FakeStore()
        self.routers: Any = FakeWatch(ME)
        self.gateways: Any = FakeWatch()
        self.owners = OwnersView(self.bus, self.store)
        self.now_ms = 1_000_000
        self.ownership = Ownership(
            self.bus,
            self.lease,
            self.owners,
            self.store,
            self.routers,
            self.gateways,
            now_ms=lambda: self.now_ms,
        )
        self.service = RouterService(self.bus, self.lease, self.ownership, self.gateways)
        self.tasks = [
            asyncio.create_task(work.run()) for work in (self.service, self.ownership, self.service.inboxes)
        ]
        self._replies = 0

    def give(self, router: str = ME, partitions: range = range(PARTITIONS)) -> None:
        """Put it into the table, as somebody else would."""
        self.now_ms += 10
        table = self.owners.table.with_changes(dict.fromkeys(partitions, router), self.now_ms)
        self.store.put(table)
        self.owners.offer(table)
        self.list_inboxes()

    def list_inboxes(self, *names: str) -> None:
        """What NATS has, told at once for all that is owned now."""
        self.bus.inboxes |= set(names)
        self.service.inboxes.listed(self.bus.inboxes, self.ownership.partitions.values())

    def request(
        self, *entries: list[Any], sender: str = "sender", epoch: int | None = None, partition: int = P
    ) -> list[Any] | None:
        """Send a batch; the answers."""
        owned = self.ownership.partitions.get(partition)
        epoch = epoch if epoch is not None else owned.epoch if owned else 0
        self._replies += 1
        reply = f"reply{self._replies}"
        self.service._requested("", reply, batch_to_router(sender, [(partition, epoch, list(entries))]))
        found = [payload for subject, payload in self.bus.sent if subject == reply]
        return unpack(found[0])[1] if found else None

    def publish(self, number: int, body: bytes = b"body", **more: Any) -> list[Any] | None:
        return self.request([PUBLISH, P, KEY, number, body], **more)

    def sync(self, gateway: str, membership: Membership | None = None) -> None:
        seq, digest, keys = (membership or Membership()).snapshot(P)
        assert self.request([SNAPSHOT, P, seq, digest, keys, 0, 1], sender=gateway) == [OK]

    def delivered(self, gateway: str) -> list[list[Any]]:
        """What was forwarded to a gateway, as [partition, epoch, sender, number, key, body]."""
        found = []
        for subject, payload in self.bus.sent:
            if subject == gateway_subject(gateway):
                _, kind, _, items = unpack(payload)
                if kind == DELIVER:
                    found += items
        return found

    def asked(self, gateway: str) -> set[int]:
        found: set[int] = set()
        for subject, payload in self.bus.sent:
            if subject == gateway_subject(gateway):
                _, kind, _, content = unpack(payload)
                if kind == ASK:
                    found |= set(content)
        return found

    def owner_of(self, partition: int = P) -> str:
        owner = self.store.table.owners[partition]
        return owner.router if owner else ""


Body = Callable[[World], Coroutine[Any, Any, None]]


def in_virtual_time(body: Body) -> Callable[[], None]:
    @wraps(body)
    def test() -> None:
        async def whole() -> None:
            world = World()
            await asyncio.sleep(0.01)
            await body(world)
            for task in world.tasks:
                assert not task.done(), task
                task.cancel()
            await asyncio.gather(*world.tasks, return_exceptions=True)

        run(whole())

    del test.__wrapped__  # type: ignore[attr-defined]  # pytest would look for a fixture called world
    return test


# -- publishes --------------------------------------------------------------------------------------


@in_virtual_time
async def test_a_publish_goes_to_the_gateways_that_hold_the_key(world: World) -> None:
    world.give()
    holder = Membership()
    change = holder.join(P, KEY)
    for gateway in (G, H):
        world.gateways.appear(gateway)
        world.sync(gateway)
    answer = world.request([JOIN, P, KEY, change.seq, change.digest], sender=G)
    assert answer == [OK]
    assert world.publish(1) == [OK]
    epoch = world.ownership.partitions[P].epoch
    assert world.delivered(G) == [[P, epoch, "sender", 1, KEY, b"body"]]
    assert world.delivered(H) == []


@in_virtual_time
async def test_a_gateway_of_which_nothing_is_known_gets_everything(world: World) -> None:
    world.gateways.appear(G)
    world.give()
    assert world.publish(1) == [OK]
    assert len(world.delivered(G)) == 1
    world.sync(G)
    assert world.publish(2) == [OK]
    assert len(world.delivered(G)) == 1


@in_virtual_time
async def test_a_new_owner_asks_every_gateway_for_its_members_and_asks_again(world: World) -> None:
    world.gateways.appear(G)
    world.give()
    assert world.asked(G) == set(range(PARTITIONS))
    world.bus.sent.clear()
    world.sync(G)
    await asyncio.sleep(0.5)
    assert world.asked(G) == set(range(PARTITIONS)) - {P}


@in_virtual_time
async def test_the_messages_of_a_batch_go_to_a_gateway_as_one(world: World) -> None:
    world.gateways.appear(G)
    world.give()
    world.bus.sent.clear()
    assert world.request(*[[PUBLISH, P, KEY, n, b""] for n in range(1, 6)]) == [OK] * 5
    assert [item[3] for item in world.delivered(G)] == [1, 2, 3, 4, 5]
    assert len(world.bus.sent) == 2  # one to the gateway, one answer


@in_virtual_time
async def test_what_would_not_fit_into_one_message_goes_as_several_in_order(world: World) -> None:
    world.gateways.appear(G)
    world.give()
    world.bus.max_payload = 10_000
    assert world.request(*[[PUBLISH, P, KEY, n, b"x" * 4000] for n in range(1, 8)]) == [OK] * 7
    assert [item[3] for item in world.delivered(G)] == [1, 2, 3, 4, 5, 6, 7]


@in_virtual_time
async def test_a_repeat_is_confirmed_and_not_forwarded_again(world: World) -> None:
    world.gateways.appear(G)
    world.give()
    for number in (1, 2, 2, 1, 3):
        assert world.publish(number) == [OK]
    assert world.publish(1, sender="another") == [OK]
    assert [item[2:4] for item in world.delivered(G)] == [
        ["sender", 1],
        ["sender", 2],
        ["sender", 3],
        ["another", 1],
    ]


@in_virtual_time
async def test_a_batch_that_could_not_be_sent_whole_is_not_confirmed_and_forwarded_again(
    world: World,
) -> None:
    world.gateways.appear(G)
    world.gateways.appear(H)
    world.give()
    world.bus.full_after = 1
    assert world.publish(1) is None
    world.bus.full_after = None
    assert world.publish(1) == [OK]
    assert {item[3] for item in world.delivered(G)} == {item[3] for item in world.delivered(H)} == {1}


@in_virtual_time
async def test_after_the_connection_was_lost_repeats_are_forwarded_again(world: World) -> None:
    # What was handed to the old connection may never have left it. The gateways drop what they had.
    world.gateways.appear(G)
    world.give()
    assert world.publish(1) == [OK]
    world.bus.cut()
    assert world.publish(1) == [OK]
    assert [item[3] for item in world.delivered(G)] == [1, 1]


@in_virtual_time
async def test_memory_of_senders_is_bounded(world: World) -> None:
    world.give()
    for number in range(10_000):
        world.publish(1, sender=f"sender{number}")
    assert len(world.ownership.partitions[P].seen) <= 4096
    assert world.publish(1, sender="sender9999") == [OK]


# -- members ----------------------------------------------------------------------------------------


@in_virtual_time
async def test_who_tells_members_and_those_of_which_nothing_is_known(world: World) -> None:
    world.give()
    for gateway in (G, H):
        world.gateways.appear(gateway)
    mine = Membership()
    mine.join(P, KEY)
    world.sync(G, mine)
    assert world.request([WHO, P, KEY]) == [[[G], [H], [], []]]
    world.sync(H)
    assert world.request([WHO, P, KEY], [WHO, P, "other"]) == [[[G], [], [], []], [[], [], [], []]]


@in_virtual_time
async def test_a_gap_is_answered_with_the_wish_for_a_snapshot(world: World) -> None:
    world.give()
    world.gateways.appear(G)
    mine = Membership()
    world.sync(G, mine)
    mine.join(P, "lost")
    change = mine.leave(P, "lost")
    assert world.request([LEAVE, P, "lost", change.seq, change.digest], sender=G) == [RESYNC]


@in_virtual_time
async def test_a_gateway_that_ended_is_forgotten_and_its_late_messages_are_refused(world: World) -> None:
    world.give()
    world.gateways.appear(G)
    mine = Membership()
    change = mine.join(P, KEY)
    world.sync(G, mine)
    world.gateways.end(G)
    assert world.request([JOIN, P, KEY, change.seq, change.digest], sender=G) == [NOT_MINE]
    assert world.request([WHO, P, KEY]) == [[[], [], [], []]]


@in_virtual_time
async def test_a_gateway_that_is_heard_first_by_its_entry_counts_and_is_dropped_when_it_ends(
    world: World,
) -> None:
    world.give()
    mine = Membership()
    change = mine.join(P, KEY)
    assert world.request([JOIN, P, KEY, change.seq, change.digest], sender=G) == [RESYNC]
    assert world.request([WHO, P, KEY]) == [[[], [G], [], []]]
    world.gateways.ended.add(G)  # it never came to life in our eyes
    await asyncio.sleep(1)
    assert world.request([WHO, P, KEY]) == [[[], [], [], []]]


# -- refusals ---------------------------------------------------------------------------------------


@in_virtual_time
async def test_nothing_is_confirmed_without_a_valid_lease(world: World) -> None:
    world.give()
    world.lease.valid = False
    assert world.publish(1) == [NOT_MINE]
    world.lease.valid = True
    assert world.publish(1) == [OK]


@in_virtual_time
async def test_nothing_is_confirmed_before_every_gateway_is_known(world: World) -> None:
    # A gateway that we do not know would miss what we confirm.
    world.give()
    world.gateways.complete = False
    assert world.publish(1) == [NOT_MINE]
    world.gateways.complete = True
    assert world.publish(1) == [OK]


@in_virtual_time
async def test_nothing_is_confirmed_of_what_is_not_ours(world: World) -> None:
    world.give(OTHER)
    assert world.publish(1) == [NOT_MINE]


@in_virtual_time
async def test_what_is_meant_for_another_epoch_is_refused(world: World) -> None:
    world.give()
    epoch = world.ownership.partitions[P].epoch
    assert world.publish(1, epoch=epoch - 1) == [NOT_MINE]
    assert world.publish(1, epoch=epoch + 1) == [NOT_MINE]
    assert world.publish(1, epoch=epoch) == [OK]


@in_virtual_time
async def test_entries_that_cannot_be_understood_are_refused_for_good_and_spoil_no_others(
    world: World,
) -> None:
    world.give()
    odd = [[99, P, KEY], [PUBLISH, P], [JOIN, P, KEY, "x"], [SNAPSHOT, P, 1, 2], [WHO, P, []], []]
    answers = world.request(*odd, [PUBLISH, P, KEY, 1, b""])
    assert answers == [REFUSED] * len(odd) + [OK]


@in_virtual_time
async def test_a_message_that_is_no_batch_is_ignored(world: World) -> None:
    world.give()
    world.service._requested("", "reply", b"nonsense")
    assert world.publish(1) == [OK]


# -- the table --------------------------------------------------------------------------------------


@in_virtual_time
async def test_the_first_router_takes_everything(world: World) -> None:
    await asyncio.sleep(0.5)
    assert {world.owner_of(p) for p in range(PARTITIONS)} == {ME}
    await world.ownership.ready()
    assert world.publish(1) == [OK]


@in_virtual_time
async def test_partitions_go_where_the_ring_says_when_a_router_appears(world: World) -> None:
    await asyncio.sleep(0.5)
    world.routers.appear(OTHER)
    await asyncio.sleep(0.5)
    should = placement([ME, OTHER])
    assert [world.owner_of(p) for p in range(PARTITIONS)] == list(should)
    assert set(world.ownership.partitions) == {p for p in range(PARTITIONS) if should[p] == ME}


@in_virtual_time
async def test_while_a_partition_is_given_away_nothing_is_confirmed_of_it(world: World) -> None:
    await asyncio.sleep(0.5)
    moving = placement([ME, OTHER]).index(OTHER)
    seen: list[Any] = []
    world.store.before_write = lambda: seen.append(
        world.request([PUBLISH, moving, KEY, 1, b""], partition=moving)
    )
    world.routers.appear(OTHER)
    await asyncio.sleep(0.5)
    assert seen == [[NOT_MINE]]
    assert world.owner_of(moving) == OTHER
    staying = placement([ME, OTHER]).index(ME)
    assert world.request([PUBLISH, staying, KEY, 1, b""], partition=staying) == [OK]


@in_virtual_time
async def test_nothing_is_taken_from_a_router_that_may_live(world: World) -> None:
    world.give(OTHER)
    await asyncio.sleep(5)
    assert world.owner_of() == OTHER
    world.routers.end(OTHER)
    await asyncio.sleep(0.5)
    assert world.owner_of() == ME
    assert world.ownership.partitions[P].epoch == world.store.table.version


@in_virtual_time
async def test_nothing_is_taken_or_given_without_a_valid_lease(world: World) -> None:
    world.give(OTHER)
    world.lease.valid = False
    world.routers.end(OTHER)
    await asyncio.sleep(2)
    assert world.owner_of() == OTHER


@in_virtual_time
async def test_a_router_that_leaves_gets_nothing(world: World) -> None:
    await asyncio.sleep(0.5)
    world.routers.leaving.add(OTHER)
    world.routers.appear(OTHER)
    await asyncio.sleep(0.5)
    assert {world.owner_of(p) for p in range(PARTITIONS)} == {ME}


@in_virtual_time
async def test_a_planned_stop_gives_everything_to_those_that_stay(world: World) -> None:
    await asyncio.sleep(0.5)
    world.routers.leaving.add(THIRD)
    world.routers.appear(THIRD)
    world.routers.appear(OTHER)
    await world.ownership.hand_over(5)
    assert world.lease.left
    assert {world.owner_of(p) for p in range(PARTITIONS)} == {OTHER}
    assert not world.ownership.partitions


@in_virtual_time
async def test_a_planned_stop_of_the_last_router_does_not_wait(world: World) -> None:
    await asyncio.sleep(0.5)
    begin = asyncio.get_running_loop().time()
    await world.ownership.hand_over(5)
    assert asyncio.get_running_loop().time() - begin < 0.1


@in_virtual_time
async def test_a_lost_race_is_repeated_with_what_the_other_wrote(world: World) -> None:
    await asyncio.sleep(0.5)

    def somebody_is_first() -> None:
        world.store.before_write = lambda: None
        world.store.put(world.store.table.with_changes({255: THIRD}, 0))

    world.store.before_write = somebody_is_first
    world.routers.appear(OTHER)
    world.routers.alive.add(THIRD)
    await asyncio.sleep(0.5)
    assert set(map(world.owner_of, range(PARTITIONS))) <= {ME, OTHER, THIRD}
    assert world.owner_of(255) == THIRD, "not ours to change"
    assert 255 not in world.ownership.partitions
    for partition in world.ownership.partitions:
        assert world.ownership.speaks_for(partition), "nothing is left refused"


@in_virtual_time
async def test_after_a_write_of_unknown_outcome_nothing_is_confirmed_until_it_is_known(world: World) -> None:
    # The write may be on its way still: confirming now, and losing the partition then, would be two owners.
    await asyncio.sleep(0.5)
    moving = placement([ME, OTHER]).index(OTHER)
    world.store.fail_writes = [False, False, False]
    answers: list[Any] = []
    world.store.before_write = lambda: answers.append(
        world.request([PUBLISH, moving, KEY, 1, b""], partition=moving)
    )
    world.routers.appear(OTHER)
    while len(answers) < 3:
        await asyncio.sleep(0.01)
        answer = world.request([PUBLISH, moving, KEY, 1, b""], partition=moving)
        assert answer == [NOT_MINE] or not answers
    assert answers == [[NOT_MINE]] * 3
    await asyncio.sleep(0.5)
    assert world.owner_of(moving) == OTHER


@in_virtual_time
async def test_a_write_that_was_stored_although_nobody_said_so_is_found(world: World) -> None:
    await asyncio.sleep(0.5)
    world.store.fail_writes = [True]
    world.routers.appear(OTHER)
    await asyncio.sleep(0.5)
    should = placement([ME, OTHER])
    assert [world.owner_of(p) for p in range(PARTITIONS)] == list(should)
    assert set(world.ownership.partitions) == {p for p in range(PARTITIONS) if should[p] == ME}
    assert all(world.ownership.speaks_for(p) for p in world.ownership.partitions)


@in_virtual_time
async def test_what_was_to_be_given_to_a_router_that_died_meanwhile_is_served_again_under_a_new_epoch(
    world: World,
) -> None:
    # Found by reading: the partitions stayed refused for ever. A new epoch makes sure that the write of
    # unknown outcome can no longer be stored.
    await asyncio.sleep(0.5)
    moving = placement([ME, OTHER]).index(OTHER)
    before = world.ownership.partitions[moving].epoch
    world.store.fail_writes = [False]
    world.routers.appear(OTHER)
    await asyncio.sleep(0.03)
    world.routers.end(OTHER)
    await asyncio.sleep(0.5)
    assert not world.store.fail_writes
    assert world.owner_of(moving) == ME
    assert world.ownership.partitions[moving].epoch > before
    assert world.request([PUBLISH, moving, KEY, 1, b""], partition=moving) == [OK]


@in_virtual_time
async def test_a_partition_that_comes_back_is_asked_for_anew(world: World) -> None:
    # Another may have owned it in between, and confirmed joins that we did not hear of.
    world.give()
    world.gateways.appear(G)
    world.sync(G)
    assert world.publish(1) == [OK]
    assert not world.delivered(G)
    world.give(OTHER)
    world.give(ME)
    assert world.publish(2) == [OK]
    assert [item[3] for item in world.delivered(G)] == [2]
    world.give(ME)  # a new epoch, without our having seen who had it in between
    world.sync(G)
    world.give(ME)
    assert world.publish(3) == [OK]
    assert [item[3] for item in world.delivered(G)] == [2, 3]


@in_virtual_time
async def test_an_old_entry_that_comes_back_is_not_served_under_its_old_epoch(world: World) -> None:
    # A router that remembered a table of before wrote it into an empty bucket. Gateways have seen higher
    # epochs since, and would drop what we send under this one.
    world.give(ME)
    old = world.owners.table
    world.give(OTHER)
    newer = world.owners.table
    revived = OwnersTable(newer.version + 5, old.owners)
    world.store.put(revived)
    world.routers.alive.discard(OTHER)
    world.owners.offer(revived)
    assert world.publish(1, epoch=old.owners[P].epoch) == [NOT_MINE]
    await asyncio.sleep(0.5)
    assert world.ownership.partitions[P].epoch > newer.owners[P].epoch
    assert world.publish(1) == [OK]


@in_virtual_time
async def test_when_the_bucket_is_lost_all_go_on_with_what_they_own(world: World) -> None:
    world.routers.appear(OTHER)
    world.give(OTHER, range(PARTITIONS))
    await asyncio.sleep(0.5)
    world.give(ME, range(0, PARTITIONS, 2))
    await asyncio.sleep(0.5)
    known = world.owners.table
    epoch = world.ownership.partitions[next(iter(world.ownership.partitions))].epoch
    world.store.table, world.store.revision = EMPTY_TABLE, 0
    world.bus.back()
    await asyncio.sleep(1.5)
    assert world.store.table.version > known.version
    assert world.store.table.owners == known.owners, "nobody's epoch changes, nobody is robbed"
    assert {o.epoch for o in world.ownership.partitions.values()} == {epoch}


@in_virtual_time
async def test_a_newcomer_to_an_empty_bucket_asks_the_others_before_it_takes_anything(world: World) -> None:
    asked = [subject for subject, _ in world.bus.sent if subject == OWNERS_ASKED]
    assert asked
    theirs = EMPTY_TABLE.with_changes(dict.fromkeys(range(PARTITIONS), OTHER), 5_000_000)
    world.routers.appear(OTHER)
    world.bus.handlers[owners_told_subject(ME)]("", "", pack_table(theirs))
    await asyncio.sleep(1)
    assert world.store.table.version > theirs.version
    assert {world.owner_of(p) for p in range(PARTITIONS)} == {OTHER}


@in_virtual_time
async def test_a_router_tells_what_it_knows_when_it_is_asked(world: World) -> None:
    world.bus.handlers[OWNERS_ASKED]("", "answer", b"")
    assert not [1 for subject, _ in world.bus.sent if subject == "answer"]
    world.give()
    world.bus.handlers[OWNERS_ASKED]("", "answer", b"")
    assert ("answer", pack_table(world.owners.table)) in world.bus.sent
    world.bus.handlers[owners_told_subject(ME)]("", "", b"nonsense")


@in_virtual_time
async def test_it_listens_on_its_own_subject(world: World) -> None:
    world.give()
    world.bus.handlers[router_subject(ME)](
        "", "reply", batch_to_router("s", [(P, world.ownership.partitions[P].epoch, [[WHO, P, KEY]])])
    )
    assert [payload for subject, payload in world.bus.sent if subject == "reply"]


def test_epochs_grow_through_every_kind_of_change() -> None:
    async def body() -> None:
        world = World()
        highest = dict.fromkeys(range(PARTITIONS), 0)
        for step in range(30):
            if step % 3 == 0:
                world.routers.appear(OTHER)
            elif step % 3 == 1:
                world.routers.end(OTHER)
                world.routers.ended.discard(OTHER) if step % 2 else None
            else:
                world.now_ms -= 5000  # the clock is set back
            await asyncio.sleep(0.3)
            for partition, owner in enumerate(world.store.table.owners):
                if owner is not None:
                    assert owner.epoch >= highest[partition]
                    highest[partition] = owner.epoch
        for task in world.tasks:
            task.cancel()
        await asyncio.gather(*world.tasks, return_exceptions=True)

    run(body())
