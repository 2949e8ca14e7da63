"""Schedules in which a session would lose a message, one by one."""

from __future__ import annotations

import msgpack
import pytest
from support.reliable_model import Inbox, body, state, texts

from gateway.reliable.state import SessionState, pack_state, unpack_state
from hubwire.bus import inbox_entries as entries
from hubwire.bus.keys import group_key, partition_of

KEY = group_key("hub", "g")
P = partition_of(KEY)


def message(epoch: int, stamp: int, number: int) -> bytes:
    return entries.message_entry(P, epoch, stamp, "sender", number, KEY, body(str(number)))


def opened(session: str) -> bytes:
    return entries.opened_entry(session, pack_state(SessionState(session, "hub", None, "json", groups={"g"})))


def move(old: Inbox, new: Inbox, session: str, since: int, floors: dict[int, int]) -> SessionState:
    old.tail()
    leaving = old.fold.get(session)
    assert leaving is not None
    with new.fold.pin() as pin:
        assert pin.since == since
        new.tail()
        new.write(
            "new", [*entries.adopted_entries(session, 1, since, old.fold.adoption(leaving, 1, floors))], 1.0
        )
        new.tail()
    found = new.fold.get(session)
    assert found is not None
    return found


def test_what_a_lost_owner_did_not_confirm_comes_in_its_order_from_the_next() -> None:
    """The new inbox is registered, not confirmed, between 5 and 7. The owner stores 7 there, and ends before
    anything comes into the old inbox. The next owner is sent both again: 7 must not stand in 5's way."""
    old, new = Inbox("old"), Inbox("new")
    old.write("old", [opened("s")], 1.0)
    new.write("owner 1", [message(1, 2, 7)], 1.0)
    session = move(old, new, "s", 0, {P: 2})
    new.write("owner 2", [message(2, 1, 5), message(2, 2, 7)], 1.0)
    new.tail()
    assert texts(session) == ["5", "7"]


def test_what_the_new_inbox_had_before_says_nothing_of_a_session_that_came() -> None:
    """Owner 1 stores 5 in the new inbox, for somebody else, and ends before it is in the old one."""
    old, new = Inbox("old"), Inbox("new")
    old.write("old", [opened("s")], 1.0)
    new.write("new", [opened("other")], 1.0)
    new.write("owner 1", [message(1, 1, 5)], 1.0)
    new.tail()
    session = move(old, new, "s", 2, {P: 2})
    new.write("owner 2", [message(2, 1, 5)], 1.0)
    new.tail()
    assert texts(session) == ["5"]
    other = new.fold.get("other")
    assert other is not None
    assert texts(other) == ["5"]


def rejoined() -> tuple[Inbox, SessionState]:
    """A session that had 5 in another inbox, left the group there, and has joined it again where it has come
    to, beside somebody who was a member there all the time."""
    old, new = Inbox("old"), Inbox("new")
    old.write("old", [opened("s")], 1.0)
    new.write("new", [opened("other")], 1.0)
    new.tail()
    old.write("owner 1", [message(1, 1, 5)], 1.0)
    old.write("old", [entries.left_entry("s", "g")], 1.0)
    session = move(old, new, "s", 1, {})
    assert texts(session) == ["5"]
    new.write("new", [entries.joined_entry("s", "g")], 2.0)
    return new, session


def test_what_was_had_of_a_group_before_leaving_it_does_not_come_once_more_elsewhere() -> None:
    """It is stored in the new inbox behind all that, for the other member."""
    new, session = rejoined()
    new.write("owner 1", [message(1, 1, 5), message(1, 2, 6)], 3.0)
    new.tail()
    assert texts(session) == ["5", "6"]
    other = new.fold.get("other")
    assert other is not None
    assert texts(other) == ["5", "6"]


def test_nor_when_another_owner_is_sent_it_again() -> None:
    new, session = rejoined()
    new.write("owner 2", [message(2, 1, 5), message(2, 2, 6)], 3.0)
    new.tail()
    assert texts(session) == ["5", "6"]


def test_what_came_between_leaving_and_joining_again_does_not_come_late() -> None:
    old, new = Inbox("old"), Inbox("new")
    old.write("old", [opened("s")], 1.0)
    new.write("new", [opened("other")], 1.0)
    old.write("old", [entries.left_entry("s", "g")], 1.0)
    new.tail()
    session = move(old, new, "s", 1, {})
    new.write("owner 1", [message(1, 1, 5)], 2.0)
    new.write("new", [entries.joined_entry("s", "g")], 2.0)
    new.write("owner 2", [message(2, 1, 5), message(2, 2, 6)], 3.0)
    new.tail()
    assert texts(session) == ["6"]
    reader = new.reader()
    assert reader.fold is not None
    assert state(reader.fold) == state(new.fold)


def test_what_was_had_before_leaving_is_carried_on_over_gateways_where_it_was_no_member() -> None:
    old, between, new = Inbox("old"), Inbox("between"), Inbox("new")
    old.write("old", [opened("s")], 1.0)
    old.write("owner 1", [message(1, 1, 5)], 1.0)
    old.write("old", [entries.left_entry("s", "g")], 1.0)
    move(old, between, "s", 0, {})
    session = move(between, new, "s", 0, {})
    new.write("new", [entries.joined_entry("s", "g")], 2.0)
    new.write("owner 2", [message(2, 1, 5)], 3.0)
    new.tail()
    assert texts(session) == ["5"]


def test_a_direct_message_that_is_stored_twice_counts_once() -> None:
    inbox = Inbox("here")
    inbox.write("here", [opened("s")], 1.0)
    data = inbox.batch("here", [entries.direct_entry("s", body("hello"))])
    inbox.store(data, 1.0)
    inbox.write("here", [entries.acked_entry([("s", 1, None)])], 1.0)
    inbox.store(data, 500.0)  # a copy that was long on its way
    inbox.tail()
    session = inbox.fold.get("s")
    assert session is not None
    assert (session.last_id, texts(session)) == (1, [])


def test_closing_ends_what_is_of_its_generation_or_older() -> None:
    inbox, other = Inbox("here"), Inbox("there")
    other.write("there", [opened("s")], 1.0)
    move(other, inbox, "s", 0, {})
    inbox.write("here", [entries.closed_entry("s", 0)], 1.0)
    inbox.tail()
    assert inbox.fold.get("s") is not None
    # The holder attached it again meanwhile: the record's generation is higher than the log's.
    inbox.write("here", [entries.closed_entry("s", 3)], 1.0)
    inbox.tail()
    assert inbox.fold.get("s") is None


def test_what_has_expired_is_not_replayed() -> None:
    inbox = Inbox("here")
    inbox.write("here", [opened("s")], 100.0)
    inbox.write("here", [entries.direct_entry("s", body("soon over", ttl=5))], 100.0)
    inbox.write("here", [entries.direct_entry("s", body("stays"))], 100.0)
    inbox.tail()
    session = inbox.fold.get("s")
    assert session is not None
    assert [at for at, _ in session.replay(104.0)] == [1, 2]
    assert [at for at, _ in session.replay(105.0)] == [2]


def test_an_entry_that_is_not_understood_costs_nobody_else() -> None:
    inbox = Inbox("here")
    inbox.write("here", [opened("s")], 1.0)
    direct = entries.direct_entry("s", body("hello"))
    inbox.write("here", [b"\x91\x63", b"\x90", b"\x05", b"\x92\x01\x01", direct], 1.0)
    inbox.store(b"nonsense", 1.0)
    inbox.tail()
    session = inbox.fold.get("s")
    assert session is not None
    assert texts(session) == ["hello"]
    assert inbox.fold.refused == 5


def test_what_stands_before_an_adoption_began_is_not_for_it() -> None:
    """Another adoption, begun earlier, keeps more of the log; a reader keeps all of it."""
    old, new = Inbox("old"), Inbox("new")
    old.write("old", [opened("s")], 1.0)
    with new.fold.pin():
        new.write("owner 1", [message(1, 1, 5)], 1.0)
        new.tail()
        session = move(old, new, "s", 1, {})
    assert texts(session) == []
    reader = new.reader()
    assert reader.fold is not None
    assert state(reader.fold) == state(new.fold)


def test_gateways_of_before_an_upgrade_understand_who_has_left_nothing() -> None:
    """They know version 1, of 16 fields, and take sessions over while an upgrade rolls."""
    session = SessionState("s", "hub", None, "json", groups={"g"})
    before = msgpack.unpackb(pack_state(session))
    assert (before[0], len(before)) == (1, 16)
    session.left = {P: 1.0}
    blob = pack_state(session)
    after = msgpack.unpackb(blob, strict_map_key=False)
    assert (after[0], after[1:16]) == (2, before[1:])
    assert unpack_state(blob, lambda *_: pytest.fail("Nothing is unacknowledged.")).left == {P: 1.0}
