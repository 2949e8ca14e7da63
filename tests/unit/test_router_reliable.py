"""An owner and reliable members: stamps, writes to inboxes, late answers, barriers, lost gateways."""

from __future__ import annotations

import asyncio

from support.router_world import KEY, ME, OTHER, G, H, P, World, in_virtual_time, turn

from gateway.membership import Membership
from hubwire.bus.envelopes import (
    CONFIRM,
    DUPLICATE,
    JOIN,
    LEAVE,
    NOT_MINE,
    OK,
    PUBLISH,
    RESYNC,
    WAIT,
    WHO,
)
from hubwire.bus.inbox_entries import MESSAGE
from hubwire.bus.keys import reliable_key
from router.service import FINISH_SECONDS

OTHER_KEY = "g\0hub\0another room"
RKEY = reliable_key(KEY)
PUBLISHER = "a-connection"


def message(world: World, number: int, stamp: int, *identity: object) -> list[object]:
    epoch = world.ownership.partitions[P].epoch
    return [MESSAGE, P, epoch, stamp, "sender", number, KEY, b"body", *(identity or (None, None))]


# -- publishes --------------------------------------------------------------------------------------


@in_virtual_time
async def test_a_publish_is_confirmed_when_it_is_stored_in_every_inbox_concerned(world: World) -> None:
    world.give()
    world.has_reliable(G)
    world.has_reliable(H)
    assert world.publish(1) == [WAIT]
    await world.let_store(G)
    assert world.later() == [WAIT]
    await world.let_store(H)
    assert world.later() == [OK]
    assert world.logged(G) == world.logged(H) == [message(world, 1, 1)]
    assert not world.delivered(G)


@in_virtual_time
async def test_plain_members_get_it_at_once_and_plain_entries_do_not_wait(world: World) -> None:
    world.give()
    world.has_reliable(G)
    world.gateways.appear(H)
    mine = Membership()
    for key in (KEY, OTHER_KEY):
        mine.join(P, key)
    world.sync(H, mine)
    answers = world.request([PUBLISH, P, KEY, 1, b"body"], [PUBLISH, P, OTHER_KEY, 2, b"body"])
    assert answers == [WAIT, OK]
    assert [item[3] for item in world.delivered(H)] == [1, 2]
    assert not world.delivered(G)
    await world.let_store()
    assert world.later() == [OK, OK]
    assert world.logged(G) == [message(world, 1, 1)]


@in_virtual_time
async def test_stamps_count_what_is_written_and_keep_the_order(world: World) -> None:
    world.give()
    world.has_reliable(G)
    assert world.request(*[[PUBLISH, P, KEY, n, b"body"] for n in range(1, 4)]) == [WAIT] * 3
    assert world.request([PUBLISH, P, OTHER_KEY, 4, b""], [PUBLISH, P, KEY, 5, b"body"]) == [OK, WAIT]
    await world.let_store()
    assert world.logged(G) == [message(world, n, stamp) for stamp, n in enumerate((1, 2, 3, 5), 1)]


@in_virtual_time
async def test_what_comes_of_one_turn_is_told_together(world: World) -> None:
    world.give()
    world.has_reliable(G)
    world.request(*[[PUBLISH, P, KEY, n, b"body"] for n in range(1, 51)])
    await world.let_store()
    assert world.later() == [OK] * 50
    assert len([1 for subject, _ in world.bus.sent if subject == world.last_reply]) == 2


@in_virtual_time
async def test_a_repeat_of_what_waits_is_not_written_again_and_answered_when_it_is_stored(
    world: World,
) -> None:
    world.give()
    world.has_reliable(G)
    assert world.publish(1) == [WAIT]
    first = world.last_reply
    for _ in range(5):
        assert world.publish(1) == [WAIT]
    await world.let_store()
    assert world.later() == [OK]
    assert world.later(first) == [WAIT], "who asks again is answered there"
    assert world.publish(1) == [OK]
    assert world.logged(G) == [message(world, 1, 1)]


@in_virtual_time
async def test_after_the_connection_was_lost_a_repeat_is_forwarded_but_not_written_again(
    world: World,
) -> None:
    world.give()
    world.has_reliable(G)
    world.gateways.appear(H)  # of which nothing is known, so it gets everything; it has no inbox
    assert world.publish(1) == [WAIT]
    world.bus.cut()
    assert world.publish(1) == [WAIT]
    await world.let_store()
    assert world.later() == [OK]
    world.bus.cut()
    assert world.publish(1) == [OK]
    assert [item[3] for item in world.delivered(H)] == [1, 1, 1]
    assert world.logged(G) == [message(world, 1, 1)]


@in_virtual_time
async def test_a_batch_that_could_not_be_sent_whole_is_written_once_all_the_same(world: World) -> None:
    world.give()
    world.has_reliable(G)
    world.gateways.appear(H)
    world.bus.full_after = 0
    assert world.publish(1) is None
    world.bus.full_after = None
    assert world.publish(1) == [WAIT]
    await world.let_store()
    assert world.later() == [OK]
    assert len(world.logged(G)) == len(world.delivered(H)) == 1


@in_virtual_time
async def test_when_too_much_waits_for_an_inbox_the_rest_is_refused_in_order(world: World) -> None:
    world.give()
    world.has_reliable(G)
    big = b"x" * 900_000
    number = 1
    while world.publish(number, big) == [WAIT]:
        number += 1
    assert number > 10
    rest = [[PUBLISH, P, KEY, number, big], [PUBLISH, P, KEY, number + 1, b""]]
    plain = [PUBLISH, P, OTHER_KEY, number + 2, b"plain"]
    assert world.request(*rest, plain) == [NOT_MINE] * 3
    await world.let_store()
    assert world.request(*rest, plain) == [WAIT, WAIT, OK]
    await world.let_store()
    assert [entry[5] for entry in world.logged(G)] == list(range(1, number + 2))


@in_virtual_time
async def test_an_inbox_that_is_certainly_not_there_counts_as_written(world: World) -> None:
    world.give()
    world.has_reliable(G)
    world.bus.inboxes.clear()
    assert world.publish(1) == [WAIT]
    await asyncio.sleep(2)
    assert world.later() == [OK]


# -- publish ids ------------------------------------------------------------------------------------


@in_virtual_time
async def test_what_a_client_sends_again_over_another_gateway_is_a_duplicate_once_the_first_is_stored(
    world: World,
) -> None:
    world.give()
    world.has_reliable(G)
    world.gateways.appear(H)
    assert world.request([PUBLISH, P, KEY, 1, b"body", PUBLISHER, 7]) == [WAIT]
    first = world.last_reply
    again = [PUBLISH, P, KEY, 1, b"body", PUBLISHER, 7]
    assert world.request(again, sender="another") == [WAIT]
    assert world.request(again, sender="another") == [WAIT], "its repeat"
    await turn()
    await world.let_store()
    assert world.later(first) == [OK]
    assert world.later() == [DUPLICATE]
    assert world.request(again, sender="a third") == [DUPLICATE]
    assert world.request([PUBLISH, P, KEY, 2, b"body", PUBLISHER, 8]) == [WAIT]
    await world.let_store()
    assert world.logged(G) == [message(world, 1, 1, PUBLISHER, 7), message(world, 2, 2, PUBLISHER, 8)]
    assert [item[2:4] for item in world.delivered(H)] == [["sender", 1], ["sender", 2]]


@in_virtual_time
async def test_what_a_gateway_repeats_after_its_lease_has_ended_is_no_duplicate(world: World) -> None:
    # It was cut off for longer than its lease, and does not know that yet.
    world.give()
    world.has_reliable(G)
    world.gateways.appear(H)
    entry = [PUBLISH, P, KEY, 1, b"body", PUBLISHER, 7]
    assert world.request(entry, sender=H) == [WAIT]
    await world.let_store()
    assert world.later() == [OK]
    world.gateways.end(H)
    assert world.request(entry, sender=H) == [OK]
    assert len(world.logged(G)) == 1


@in_virtual_time
async def test_ids_are_remembered_without_any_inbox_and_only_for_one_epoch(world: World) -> None:
    # What was stamped before another owned the partition may not have been stored.
    world.give()
    assert world.request([PUBLISH, P, KEY, 1, b"", PUBLISHER, 7]) == [OK]
    assert world.request([PUBLISH, P, KEY, 2, b"", PUBLISHER, 7]) == [DUPLICATE]
    world.give()
    assert world.request([PUBLISH, P, KEY, 3, b"", PUBLISHER, 7]) == [OK]


@in_virtual_time
async def test_a_refused_publish_is_not_remembered(world: World) -> None:
    world.give()
    world.has_reliable(G)
    big = b"x" * 900_000
    number = 0
    while True:
        number += 1
        if world.request([PUBLISH, P, KEY, number, big, PUBLISHER, number]) == [NOT_MINE]:
            break
    await world.let_store()
    assert world.request([PUBLISH, P, KEY, number, big, PUBLISHER, number]) == [WAIT]
    await world.let_store()
    assert [entry[9] for entry in world.logged(G)] == list(range(1, number + 1))


# -- registrations ----------------------------------------------------------------------------------


@in_virtual_time
async def test_a_joining_waits_for_what_was_published_to_the_key_before(world: World) -> None:
    world.give()
    world.has_reliable(G)
    theirs = world.has_reliable(H, OTHER_KEY)
    world.publish(1)
    await turn()
    change = theirs.join(P, RKEY)
    join = [JOIN, P, RKEY, change.seq, change.digest]
    assert world.request(join, sender=H) == [WAIT]
    joining = world.last_reply
    world.publish(2)  # this one reaches H, and is not waited for
    assert world.request(join, sender=H) == [WAIT]
    again = world.last_reply
    await world.let_store(H)
    assert world.later(again) == [WAIT]
    world.bus.writes.pop(0).store()
    await turn()
    assert [entry[5] for entry in world.logged(G)] == [1]
    assert world.later(again) == [OK], "its repeat waits for no more than the first"
    assert world.later(joining) == [WAIT]
    await world.let_store()
    assert [entry[5] for entry in world.logged(G)] == [1, 2]
    assert [entry[5] for entry in world.logged(H)] == [2]


@in_virtual_time
async def test_who_is_a_member_already_can_wait_for_the_same(world: World) -> None:
    # A message can stand in one inbox, and not yet in the one that a session comes from.
    world.give()
    world.has_reliable(G)
    world.has_reliable(H)
    assert world.request([CONFIRM, P, RKEY, 1], sender=H) == [OK]
    world.publish(1)
    await world.let_store(H)
    assert world.request([CONFIRM, P, RKEY, 2], sender=H) == [WAIT]
    asking = world.last_reply
    assert world.request([CONFIRM, P, reliable_key(OTHER_KEY), 3], sender=H) == [RESYNC]
    await world.let_store(G)
    assert world.later(asking) == [OK]


@in_virtual_time
async def test_a_gateway_that_lacks_what_it_asks_for_gets_everything_until_it_has_told_its_keys(
    world: World,
) -> None:
    world.give()
    world.has_reliable(H, OTHER_KEY)
    assert world.request([CONFIRM, P, RKEY, 1], sender=H) == [RESYNC]
    assert world.publish(1) == [WAIT]
    await world.let_store()
    assert len(world.logged(H)) == 1


@in_virtual_time
async def test_joinings_of_other_keys_and_plain_ones_wait_for_nothing(world: World) -> None:
    world.give()
    world.has_reliable(G)
    theirs = world.has_reliable(H, OTHER_KEY)
    world.publish(1)
    for key in (reliable_key("g\0hub\0third"), KEY):
        change = theirs.join(P, key)
        assert world.request([JOIN, P, key, change.seq, change.digest], sender=H) == [OK]
    change = theirs.leave(P, reliable_key(OTHER_KEY))
    leave = [LEAVE, P, reliable_key(OTHER_KEY), change.seq, change.digest]
    assert world.request(leave, sender=H) == [OK]


# -- gateways of which nothing is known, and lost ones -----------------------------------------------


@in_virtual_time
async def test_of_those_of_which_nothing_is_known_only_the_ones_with_an_inbox_are_written_to(
    world: World,
) -> None:
    world.gateways.appear(G)
    world.gateways.appear(H)
    world.bus.inboxes.add(G)
    world.give()
    assert world.publish(1) == [WAIT]
    await world.let_store()
    assert world.later() == [OK]
    assert len(world.logged(G)) == 1
    assert len(world.delivered(G)) == len(world.delivered(H)) == 1


@in_virtual_time
async def test_a_gateway_whose_reliable_key_is_heard_has_an_inbox(world: World) -> None:
    world.gateways.appear(G)
    world.give()
    mine = Membership()
    change = mine.join(P, RKEY)
    world.bus.inboxes.add(G)  # made after it was looked
    assert world.request([JOIN, P, RKEY, change.seq, change.digest], sender=G) == [RESYNC]
    assert world.publish(1) == [WAIT]


@in_virtual_time
async def test_a_partition_is_not_served_before_the_inboxes_are_known(world: World) -> None:
    world.bus.inboxes.add(G)
    table = world.owners.table.with_changes({P: ME}, world.now_ms + 1)
    world.store.put(table)
    world.owners.offer(table)
    assert world.publish(1) == [NOT_MINE]
    await asyncio.sleep(0.1)
    assert world.publish(1) == [WAIT], "G is lost, and nothing is known of it"


@in_virtual_time
async def test_a_lost_gateway_keeps_its_reliable_keys_until_its_inbox_has_gone(world: World) -> None:
    world.give()
    world.has_reliable(G)
    world.gateways.end(G)
    assert world.request([WHO, P, KEY], [WHO, P, OTHER_KEY]) == [[[], [], [G], []], [[], [], [], []]]
    assert world.request([PUBLISH, P, OTHER_KEY, 1, b""], [PUBLISH, P, KEY, 2, b"body"]) == [OK, WAIT]
    await world.let_store()
    assert len(world.logged(G)) == 1
    world.bus.inboxes.discard(G)
    await asyncio.sleep(4)
    assert world.request([WHO, P, KEY]) == [[[], [], [], []]]
    assert world.publish(3) == [OK]


@in_virtual_time
async def test_a_lost_gateway_of_which_nothing_was_known_gets_everything_until_its_inbox_has_gone(
    world: World,
) -> None:
    world.gateways.appear(G)
    world.gateways.appear(H)
    world.bus.inboxes.add(G)
    world.give()
    for gateway in (G, H):
        world.gateways.end(gateway)
    assert world.request([WHO, P, KEY]) == [[[], [], [], [G]]]
    assert world.publish(1) == [WAIT]
    await asyncio.sleep(3)
    assert world.request([WHO, P, KEY]) == [[[], [], [], [G]]]
    await world.let_store()
    world.bus.inboxes.clear()
    await asyncio.sleep(4)
    assert world.request([WHO, P, KEY]) == [[[], [], [], []]]


@in_virtual_time
async def test_a_gateway_that_was_only_not_heard_is_not_lost(world: World) -> None:
    world.give()
    world.has_reliable(G)
    world.gateways.end(G)
    world.gateways.ended.discard(G)
    world.gateways.appear(G)
    assert world.request([WHO, P, KEY]) == [[[], [G], [], []]]
    assert world.publish(1) == [WAIT]


# -- who may confirm --------------------------------------------------------------------------------


@in_virtual_time
async def test_without_a_valid_lease_what_is_stored_is_not_confirmed(world: World) -> None:
    world.give()
    world.has_reliable(G)
    assert world.publish(1) == [WAIT]
    world.lease.valid = False
    await world.let_store()
    assert world.later() == [NOT_MINE]
    world.lease.valid = True
    assert world.publish(1) == [OK], "it is stored, and it is ours still"


@in_virtual_time
async def test_what_was_stored_after_the_partition_has_gone_to_another_is_not_confirmed(
    world: World,
) -> None:
    world.give()
    world.has_reliable(G)
    world.publish(1)
    first = world.last_reply
    await turn()
    world.publish(2)
    second = world.last_reply
    world.give(OTHER)
    await world.let_store()
    assert world.later(first) == world.later(second) == [NOT_MINE]
    assert len(world.logged(G)) == 1, "what was not on its way is not written any more"


@in_virtual_time
async def test_a_partition_is_given_away_when_what_was_written_for_it_is_stored_and_confirmed(
    world: World,
) -> None:
    world.give()
    world.has_reliable(G)
    assert world.publish(1) == [WAIT]
    reply = world.last_reply
    confirmed: list[list[int]] = []
    world.store.before_write = lambda: confirmed.append(world.later(reply))
    world.routers.appear(OTHER)
    leaving = asyncio.create_task(world.ownership.hand_over(5))
    await asyncio.sleep(FINISH_SECONDS / 2)
    assert world.publish(2) == [NOT_MINE]
    assert world.owner_of() == ME
    await world.let_store()
    await leaving
    assert world.owner_of() == OTHER
    assert confirmed[0] == [OK]


@in_virtual_time
async def test_an_inbox_that_takes_nothing_holds_a_hand_over_up_for_a_while_only(world: World) -> None:
    world.give()
    world.has_reliable(G)
    assert world.publish(1) == [WAIT]
    reply = world.last_reply
    world.routers.appear(OTHER)
    tried = asyncio.Event()

    def write() -> None:
        if world.ownership.speaks_for(P) is None:
            world.store.fail_writes = [False]  # it is not known whether it was written
            tried.set()

    world.store.before_write = write
    leaving = asyncio.create_task(world.ownership.hand_over(2 * FINISH_SECONDS + 1))
    await tried.wait()
    world.store.before_write = lambda: None
    await world.let_store()
    assert world.later(reply) == [NOT_MINE]
    await leaving
    assert world.owner_of() == OTHER
