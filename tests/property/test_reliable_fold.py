"""Whoever reads an inbox, from wherever it begins, comes to the states that its gateway has."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support.reliable_model import Inbox, body, state, texts

from gateway.reliable.cycle import Cycle
from gateway.reliable.fold import Pin
from gateway.reliable.messages import Logged
from gateway.reliable.state import SessionState, pack_state
from hubwire.bus import inbox_entries as entries
from hubwire.bus.envelopes import Body
from hubwire.bus.keys import group_key, hub_key, partition_of, user_key
from hubwire.model.permissions import PermissionSet

SESSIONS = st.sampled_from([f"s{number}" for number in range(5)])
GROUPS = st.sampled_from(["g", "h", "i"])
KEYS = st.one_of(
    GROUPS.map(lambda g: group_key("hub", g)), st.just(hub_key("hub")), st.just(user_key("hub", "u"))
)
FILTERS = st.sampled_from([None, "'g' in groups", "userId eq 'u'", "not a filter"])


class Receipts:
    """What each session was sent, by its ids."""

    def __init__(self) -> None:
        self.sent: dict[str, dict[int, bytes]] = {}

    def delivered(self, message: Logged, content: Body, sessions: list[SessionState]) -> None:
        for session in sessions:
            got = self.sent.setdefault(session.id, {})
            assert session.last_id not in got
            got[session.last_id] = content.message.data
            assert sorted(got)[-1] == session.last_id

    def marked(self, session_id: str, generation: int, by: str) -> None: ...

    def ended(self, session: SessionState) -> None:
        self.sent.pop(session.id, None)


class FoldMachine(RuleBasedStateMachine):
    """One gateway's inbox. Sessions that are adopted come from another one, which gets the same messages."""

    @initialize()
    def start(self) -> None:
        self.receipts = Receipts()
        self.inbox = Inbox("here", self.receipts)
        self.other = Inbox("there")
        self.time = 1_000.0
        self.epochs: dict[int, list[int]] = {}
        self.stored: list[bytes] = []
        self.pending: list[bytes] = []
        self.number = 0
        self.published: list[tuple[str, bytes, str, int, str | None, int | None]] = []
        self.generations: dict[str, int] = {}
        self.pins: dict[str, Pin] = {}
        self.cycle: tuple[Cycle, Iterator[bytes | None]] | None = None
        self.cycles = 0

    def write(self, packed: list[bytes]) -> None:
        """What the gateway writes: alone, or together with what comes next."""
        self.pending += packed

    @rule()
    def flush(self) -> None:
        if self.pending:
            data = self.inbox.batch("here", self.pending)
            self.pending = []
            self.inbox.store(data, self.time)
            self.stored.append(data)

    @rule(seconds=st.sampled_from([0.0, 0.5, 30.0, 130.0]))
    def time_passes(self, seconds: float) -> None:
        self.time += seconds

    @rule(data=st.data())
    def a_batch_comes_once_more(self, data: st.DataObject) -> None:
        if self.stored:
            self.inbox.store(data.draw(st.sampled_from(self.stored)), self.time)

    @rule(session=SESSIONS, user=st.sampled_from([None, "u"]), groups=st.sets(GROUPS))
    def open(self, session: str, user: str | None, groups: set[str]) -> None:
        if session not in self.generations:
            self.generations[session] = 0
            roles = ["webpubsub.joinLeaveGroups.a*"]
            opened = SessionState(
                session, "hub", user, "json", groups=groups, permissions=PermissionSet.from_roles(roles)
            )
            self.write([entries.opened_entry(session, pack_state(opened))])

    @rule(session=SESSIONS, group=GROUPS, joins=st.booleans())
    def join_or_leave(self, session: str, group: str, joins: bool) -> None:
        self.write([(entries.joined_entry if joins else entries.left_entry)(session, group)])

    @rule(session=SESSIONS, group=st.none() | GROUPS, granted=st.booleans())
    def permit(self, session: str, group: str | None, granted: bool) -> None:
        self.write([entries.permission_entry(session, granted, "sendToGroup", group)])

    @rule(session=SESSIONS, text=st.text(max_size=3))
    def other_changes(self, session: str, text: str) -> None:
        self.write([entries.source_entry(session, text.encode()), entries.direct_entry(session, body(text))])

    @rule(session=SESSIONS, acked=st.integers(0, 8), window=st.none() | st.just([1, 4]))
    def ack(self, session: str, acked: int, window: list[int] | None) -> None:
        self.write([entries.acked_entry([(session, acked, window)])])

    @rule(session=SESSIONS, generation=st.integers(0, 3))
    def close(self, session: str, generation: int) -> None:
        self.write([entries.closed_entry(session, generation)])

    def stamp(self, publish: tuple[str, bytes, str, int, str | None, int | None]) -> bytes:
        key, content, *who = publish
        partition = partition_of(key)
        epoch = self.epochs.setdefault(partition, [1, 0])
        epoch[1] += 1
        return entries.message_entry(partition, epoch[0], epoch[1], who[0], who[1], key, content, *who[2:])  # type: ignore[arg-type]

    @rule(
        key=KEYS,
        excluded=st.sets(SESSIONS, max_size=2),
        filter=FILTERS,
        ttl=st.sampled_from([0, 0, 60]),
        ids=st.sampled_from([(None, None), ("p", 1), ("p", 2), ("q", 1)]),
        where=st.sampled_from(["both", "both", "here", "there"]),
    )
    def publish(self, key, excluded, filter, ttl, ids, where) -> None:
        self.number += 1
        content = body(str(self.number), tuple(excluded), filter, ttl)
        self.published.append((key, content, "sender", self.number, *ids))
        self.deliver(self.stamp(self.published[-1]), where)

    def deliver(self, entry: bytes, where: str = "both") -> None:
        for inbox in (self.inbox, self.other):
            if where in ("both", inbox.name):
                data = inbox.batch("owner", [entry])
                inbox.store(data, self.time)
                if inbox is self.inbox:
                    self.stored.append(data)

    @rule(data=st.data(), new_owner=st.booleans())
    def a_publish_is_repeated(self, data: st.DataObject, new_owner: bool) -> None:
        if self.published:
            publish = data.draw(st.sampled_from(self.published[-4:]))
            if new_owner:
                self.epochs[partition_of(publish[0])] = [self.epochs[partition_of(publish[0])][0] + 1, 0]
            self.deliver(self.stamp(publish))

    @rule(count=st.sampled_from([1, 3, None]))
    def the_gateway_reads(self, count: int | None) -> None:
        self.inbox.tail(count)

    # -- adoptions ---------------------------------------------------------------------------------

    @rule(session=SESSIONS)
    def an_adoption_begins(self, session: str) -> None:
        if session not in self.pins:
            self.pins[session] = self.inbox.fold.pin()

    @precondition(lambda self: self.pins)
    @rule(data=st.data(), acked=st.integers(0, 3), groups=st.sets(GROUPS), given_up=st.booleans())
    def it_ends(self, data: st.DataObject, acked: int, groups: set[str], given_up: bool) -> None:
        session = data.draw(st.sampled_from(sorted(self.pins)))
        pin = self.pins.pop(session)
        if not given_up:
            generation = self.generations[session] = self.generations.get(session, 0) + 1
            opened = SessionState(session, "hub", "u", "json", groups=groups)
            self.other.write("there", [entries.closed_entry(session, 99)], self.time)
            self.other.write("there", [entries.opened_entry(session, pack_state(opened))], self.time)
            mark = [entries.direct_entry(session, body(f"old {number}")) for number in range(4)]
            self.other.write("there", [*mark, entries.acked_entry([(session, acked, None)])], self.time)
            self.other.tail()
            came = self.other.fold.get(session)
            assert came is not None
            floors = {partition: epoch for partition, (epoch, _) in self.epochs.items()}
            blob = self.other.fold.adoption(came, generation, floors)
            self.write(list(entries.adopted_entries(session, generation, pin.since, blob)))
            self.flush()
            self.inbox.tail()
        pin.release()

    # -- cycles ------------------------------------------------------------------------------------

    @rule()
    def a_cycle_begins(self) -> None:
        """The one before, if it is not complete, is given up."""
        self.cycles += 1
        cycle = Cycle(self.inbox.fold, self.cycles)
        self.cycle = (cycle, cycle.entries())

    @precondition(lambda self: self.cycle)
    @rule(count=st.sampled_from([1, 2, 1000]), trim=st.booleans())
    def it_goes_on(self, count: int, trim: bool) -> None:
        assert self.cycle is not None
        cycle, steps = self.cycle
        for _ in range(count):
            entry = next(steps, b"")
            if entry is None:
                break
            if not entry:
                self.flush()
                if trim:
                    self.inbox.tail()
                    self.inbox.trim(cycle.as_of)
                self.cycle = None
                break
            self.write([entry])

    # -- what holds --------------------------------------------------------------------------------

    @invariant()
    def a_reader_comes_to_the_same(self) -> None:
        if not hasattr(self, "inbox"):
            return
        reader = self.inbox.reader(to=self.inbox.fold.position)
        assert reader.fold is not None
        assert state(reader.fold) == state(self.inbox.fold)

    @invariant()
    def ids_have_no_gap(self) -> None:
        if hasattr(self, "inbox"):
            for session in self.inbox.fold.sessions:
                assert session.last_id - session.acked == len(texts(session))


TestFold = FoldMachine.TestCase
TestFold.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
