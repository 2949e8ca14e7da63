"""A router's answers, and its part in changing the table, with everything around it under the test's hand."""

from __future__ import annotations

import asyncio
from typing import Any

from support.router_world import KEY, ME, OTHER, THIRD, G, H, P, World, in_virtual_time
from support.virtual_time import run

from gateway.membership import Membership
from hubwire.bus.envelopes import (
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
)
from hubwire.bus.keys import PARTITIONS
from hubwire.bus.owners import EMPTY_TABLE, OwnersTable, pack_table
from hubwire.bus.subjects import (
    OWNERS_ASKED,
    owners_told_subject,
    router_subject,
)
from router.ring import placement

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
