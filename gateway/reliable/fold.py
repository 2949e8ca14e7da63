"""The fold over an inbox: entries in, states of sessions and deliveries out (DESIGN.md section 5). Pure.

The same code runs live, for the gateway whose inbox it is, and for whoever reads it to take a session over:
what it gives depends on the entries alone. An entry that is not understood does nothing, for everybody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Final, NamedTuple

from gateway.hub import LocalHubs
from gateway.reliable.heard import Heard, Unheard
from gateway.reliable.messages import Logged, Place, decode, spared
from gateway.reliable.seen import PUBLISHES_SECONDS, Publish, Publishes, Seen, Verdict
from gateway.reliable.state import Base, SessionState, pack_state, unpack_state
from hubwire.bus import inbox_entries as kinds
from hubwire.bus.envelopes import Body
from hubwire.bus.inbox_entries import unpack_batch
from hubwire.bus.keys import group_key, partition_of
from hubwire.model.errors import InvalidRequest

FAULTS: Final = (InvalidRequest, ValueError, TypeError, LookupError)


class _Kept(NamedTuple):
    """A message of the log, for a session that is adopted with a `since` before it."""

    seq: int
    partition: int
    publish: Publish
    logged: Logged
    content: Body


class _Parts(NamedTuple):
    seq: int  # of the first part
    key: tuple[Any, ...]
    pieces: list[bytes]


class Pin(AbstractContextManager["Pin"]):
    """An adoption under way: from `since` on the fold keeps what it needs. Let it go when ADOPTED is folded,
    or when it was given up; idempotent."""

    def __init__(self, fold: InboxFold, since: int) -> None:
        self.since = since
        self._fold = fold

    def release(self) -> None:
        self._fold.unpin(self)

    def __exit__(self, *_: object) -> None:
        self.release()


class InboxFold:
    """The sessions of one inbox as of `position`, the sequence number of the last message folded.

    `keep_all` is for readers of another's inbox: they do not know which adoptions are under way there.
    """

    def __init__(self, heard: Heard | None = None, *, keep_all: bool = False) -> None:
        self.sessions: LocalHubs[SessionState] = LocalHubs()
        self.seen = Seen()
        self.position = 0
        self.pins: dict[Pin, None] = {}  # in the order of their places
        self.kept_from = 0
        """What stands here or before may be trimmed away: nobody can be adopted with an earlier `since`."""
        self._heard: Heard = Unheard() if heard is None else heard
        self._keep_all = keep_all
        self._kept: list[_Kept] = []
        self._parts: dict[str, _Parts] = {}
        self._based = 0.0  # until when there may be sessions that judge by a base of their own
        self._entry = 0  # which one of its batch is being folded
        self._places: dict[Place, Logged] | None = (
            None  # for readers: where messages are, while that is needed
        )
        self.refused = 0

    # -- what others ask ---------------------------------------------------------------------------

    def get(self, session_id: str) -> SessionState | None:
        return self.sessions.by_id(session_id)

    def pin(self) -> Pin:
        """Note the own inbox's place for an adoption: its `since` is where this fold is now."""
        pin = Pin(self, self.position)
        self.pins[pin] = None
        return pin

    def unpin(self, pin: Pin) -> None:
        if pin not in self.pins:
            return
        was_oldest = next(iter(self.pins)) is pin
        del self.pins[pin]
        if was_oldest and not self._keep_all:  # thousands come at once: only the oldest lets anything go
            oldest = next((one.since for one in self.pins), self.position)
            self._kept = [one for one in self._kept if one.seq > oldest]

    def adoption(self, session: SessionState, generation: int, floors: Mapping[int, int]) -> bytes:
        """The state of one of these sessions for another inbox's `adopted` entry.

        `floors` has, for each partition of the session's keys, the epoch that the ownership table named after
        the keys were registered and before the mark was written: what owners of before have confirmed stands
        here, and what they have not will be stamped once more. What was had of groups that were left goes
        along: sent again, it must not come again when the session has joined them once more.
        """
        now = self.seen.now
        own = session.base if session.base is not None and now <= session.base.until else None
        current = {partition_of(key) for key in self.sessions.keys_of(session)}
        recent = now - PUBLISHES_SECONDS
        left = {p for p, when in (session.left or {}).items() if when >= recent} - current
        base = Base({}, 0.0, left)
        for partition in current | left:
            found = None if own is None else own.partitions.get(partition)
            if found is None:
                found = self.seen.partitions.get(partition)
            copy = Publishes() if found is None else Publishes.restored(found.pack())
            copy.raise_to(floors.get(partition, 0))
            base.partitions[partition] = copy
        return pack_state(session, generation=generation, base=base)

    # -- the log -----------------------------------------------------------------------------------

    def apply(self, seq: int, time: float, data: bytes) -> None:
        """Fold the next message of the stream; `time` is when it was stored, in Unix seconds."""
        self.position = seq
        seen = self.seen
        if time > seen.now:
            seen.now = time
        try:
            writer, number, entries = unpack_batch(data)
        except InvalidRequest:
            self.refused += 1
            return
        if not seen.batch(writer, number):
            return
        for self._entry, entry in enumerate(entries):
            try:
                _APPLY[entry[0]](self, *entry[1:])
            except FAULTS:
                self.refused += 1

    # -- for who begins to read at a checkpoint ----------------------------------------------------

    def begin(self, as_of: int, seen: Seen) -> None:
        """Nothing was folded yet: begin behind `as_of`, with what was seen until there."""
        self.position = self.kept_from = as_of
        self.seen = seen
        self._places = {}

    def activate(self, session: SessionState) -> None:
        """A session as of here, unless it is known from the log."""
        if self.get(session.id) is None:
            self.sessions.add(session)
            if session.base is not None:
                self._based = max(self._based, session.base.until)

    def at(self, place: Place) -> Logged:
        """A message by its place. Raises KeyError when it was not folded, or places are forgotten."""
        return (self._places or {})[place]

    def forget_places(self) -> None:
        """All snapshots are activated."""
        self._places = None

    def _message(
        self,
        partition: int,
        epoch: int,
        stamp: int,
        sender: str,
        number: int,
        key: str,
        body: bytes,
        publisher: str | None,
        ack_id: int | None,
    ) -> None:
        publish = (epoch, stamp, sender, number, publisher, ack_id)
        verdict = self.seen.of(partition).judge(publish, self.seen.now)
        if verdict is Verdict.STALE:
            return
        members = self.sessions.members(key)
        keeping = self._keep_all or self.pins
        if not keeping and (not members or (verdict is not Verdict.FRESH and self._based < self.seen.now)):
            return
        content = decode(key, body)
        message = self._logged(key, body, content)
        if keeping:
            self._kept.append(_Kept(self.position, partition, publish, message, content))
        if self._based >= self.seen.now:
            members = self._judged(members, partition, publish, verdict)
        elif verdict is not Verdict.FRESH:
            return
        receivers = spared(members, content)
        for session in receivers:
            session.last_id += 1
            session.unacked.append(message)
            session.unacked_bytes += message.size
        if receivers:
            self._heard.delivered(message, content, receivers)

    def _judged(
        self, members: Iterable[SessionState], partition: int, publish: Publish, verdict: Verdict
    ) -> list[SessionState]:
        """Those for whom the message is fresh: by their own memory when they have one of the partition."""
        now = self.seen.now
        found = []
        for session in members:
            base = session.base
            if base is not None:
                if now > base.until:
                    session.base = None
                elif (own := base.partitions.get(partition)) is not None:
                    fresh = own.judge(publish, now) is Verdict.FRESH
                    if fresh and (verdict is Verdict.FRESH or partition not in base.left):
                        found.append(session)
                    continue
            if verdict is Verdict.FRESH:
                found.append(session)
        return found

    def _logged(self, key: str, body: bytes, content: Body) -> Logged:
        expires = self.seen.now + content.ttl_seconds if content.ttl_seconds else 0.0
        place = (self.position, self._entry, 0)
        message = Logged(place, self.position, key, body, len(content.message.data), expires)
        if self._places is not None:
            self._places[place] = message
        return message

    def _direct(self, session_id: str, body: bytes) -> None:
        session = self.get(session_id)
        if session is None and not self._keep_all:
            return
        content = decode("", body)
        message = self._logged("", body, content)
        if session is not None:
            session.last_id += 1
            session.unacked.append(message)
            session.unacked_bytes += message.size
            self._heard.delivered(message, content, [session])

    def _opened(self, session_id: str, state: bytes) -> None:
        session = unpack_state(state, _nothing)
        if session.id != session_id or self.get(session_id) is not None:
            raise ValueError("Not the state of a new session.")
        session.since = self.position - 1
        self.sessions.add(session)

    def _joined(self, session_id: str, group: str) -> None:
        if (session := self.get(session_id)) is not None:
            self.sessions.join(session, group)

    def _left(self, session_id: str, group: str) -> None:
        if (session := self.get(session_id)) is not None and group in session.groups:
            self.sessions.leave(session, group)
            if session.left is None:
                session.left = {}
            session.left[partition_of(group_key(session.hub, group))] = self.seen.now

    def _permission(self, session_id: str, granted: bool, permission: Any, group: str | None) -> None:
        if (session := self.get(session_id)) is not None:
            change = session.permissions.grant if granted else session.permissions.revoke
            change(permission, group)

    def _source(self, session_id: str, source: bytes) -> None:
        if (session := self.get(session_id)) is not None:
            session.source = source

    def _acked(self, acks: list[tuple[str, int, list[int] | None]]) -> None:
        for session_id, acked, window in acks:
            if (session := self.get(session_id)) is not None:
                session.ack(acked)
                if window is not None:
                    session.window = window

    def _closed(self, session_id: str, generation: int) -> None:
        session = self.get(session_id)
        if session is not None and session.generation <= generation:
            self._remove(session)

    def _remove(self, session: SessionState) -> None:
        self.sessions.remove(session)
        self._heard.ended(session)

    def _mark(self, session_id: str, generation: int, by: str) -> None:
        self._heard.marked(session_id, generation, by)

    def _adopted(
        self, session_id: str, generation: int, since: int, part: int, parts: int, piece: bytes
    ) -> None:
        key = (generation, since, parts)
        if part == 0:
            self._parts[session_id] = _Parts(self.position, key, [])
        found = self._parts.get(session_id)
        if found is not None:
            if found.key != key or len(found.pieces) != part:
                del self._parts[session_id]
                found = None
            else:
                found.pieces.append(piece)
        if part != parts - 1:
            return
        self._parts.pop(session_id, None)
        before = self.get(session_id)
        if before is not None:
            if before.generation > generation:
                return
            self._remove(before)
        # One that began too early stands in the snapshots when somebody reads from a checkpoint on.
        if found is not None and since >= self.kept_from:
            session = unpack_state(b"".join(found.pieces), self._inline(since))
            session.generation = generation
            session.since = since
            self._adopt(session)

    def _inline(self, since: int) -> Callable[[int, list[Any]], Logged]:
        def find(at: int, packed: list[Any]) -> Logged:
            key, body, size, expires = packed
            place = (self.position, self._entry, at)
            message = Logged(place, since + 1, key, body, size, expires)
            if self._places is not None:
                self._places[place] = message
            return message

        return find

    def _adopt(self, session: SessionState) -> None:
        base = session.base
        if base is None:
            raise ValueError("Who comes from elsewhere brings what it has had.")
        self.sessions.add(session)
        keys = set(self.sessions.keys_of(session))
        now = self.seen.now
        base.until = now + PUBLISHES_SECONDS
        self._based = max(self._based, base.until)
        for seq, partition, publish, message, content in self._kept:
            if seq <= session.since or message.key not in keys:
                continue
            own = base.partitions.get(partition)
            if own is not None and own.judge(publish, now) is Verdict.FRESH and spared([session], content):
                session.last_id += 1
                session.unacked.append(message)
                session.unacked_bytes += message.size

    def _checkpoint(self, _cycle: int, _as_of: int, part: int, _parts: int, _piece: bytes) -> None:
        if part == 0:
            self.seen.forget()

    def _part_of_cycle(self, *_: Any) -> None:
        """Only for those who begin to read there."""

    def _complete(self, _cycle: int, as_of: int) -> None:
        self.kept_from = max(self.kept_from, as_of)
        self._kept = [one for one in self._kept if one.seq > as_of]
        for session_id in [one for one, parts in self._parts.items() if parts.seq <= as_of]:
            del self._parts[session_id]


def _nothing(_at: int, _packed: list[Any]) -> Logged:
    raise ValueError("A new session has nothing to acknowledge.")


_APPLY: Final[dict[int, Callable[..., None]]] = {
    kinds.MESSAGE: InboxFold._message,
    kinds.DIRECT: InboxFold._direct,
    kinds.OPENED: InboxFold._opened,
    kinds.JOINED: InboxFold._joined,
    kinds.LEFT: InboxFold._left,
    kinds.PERMISSION: InboxFold._permission,
    kinds.SOURCE: InboxFold._source,
    kinds.ACKED: InboxFold._acked,
    kinds.CLOSED: InboxFold._closed,
    kinds.MARK: InboxFold._mark,
    kinds.ADOPTED: InboxFold._adopted,
    kinds.CHECKPOINT: InboxFold._checkpoint,
    kinds.SNAPSHOT: InboxFold._part_of_cycle,
    kinds.CARRIED: InboxFold._part_of_cycle,
    kinds.COMPLETE: InboxFold._complete,
}
