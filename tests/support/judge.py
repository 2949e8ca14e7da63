"""Holds a history against every promise that is made to clients. Pure: the same history, the same verdict.

`judge(history)` names each broken promise by one of `RULES`, with the facts. What cannot be decided from what
clients saw (whether a request that was never answered was executed) is judged in the service's favour; what
can be is never excused by a fault, except where the promise itself does (`History` says where).
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from itertools import combinations, pairwise
from typing import Final, NamedTuple

from support.facts import Facts, Published, groups_of
from support.history import DUPLICATE, History, Request, Session, Span, certain_memberships, interruption

RULES: Final = {
    "lost": "every acked publish reaches everybody who was a member then and stayed within the window",
    "twice": "no connection gets a message under two sequence ids (a plain one: two times)",
    "gap": "a connection's sequence ids are 1, 2, 3 ...; after a recovery they go on from what was had",
    "changed": "a message that is replayed is the same one",
    "order": "all members of a group get its messages in the same order",
    "publisher_order": "each publisher's messages to a group come in the order in which they were sent",
    "unknown": "what is delivered was published, to that group",
    "stranger": "only members get a group's messages",
    "echo": "the publisher of a message with noEcho does not get it",
    "protocol": "what comes is what the protocol allows",
    "identity": "a recovered connection keeps its connection id",
    "fenced": "what was published after a recovery does not come on the old socket",
    "refused": "recovery is refused only past the window, past the backlog, or for what was closed",
    "unrecovered": "a recovery is answered with a verdict in the time that clients try",
    "overflow": "a connection is closed with 1008 only past its backlog",
    "unbounded": "a connection that does not ack is closed at its limit",
    "answers": "a request gets one answer for each time it was sent, no more",
    "duplicate": "only what was sent before is called a duplicate",
    "silence": "a request is answered in bounded time",
    "disconnected_missing": "a session that ended is told to be disconnected",
    "disconnected_twice": "... once",
    "disconnected_early": "... and not while it could still be recovered, or was there",
    "after_end": "a session that was told to be disconnected is not heard of again",
    "ghost": "what has ended does not exist, nor a group without members",
    "vanished": "what is there exists",
}


class Violation(NamedTuple):
    """One broken promise."""

    rule: str
    facts: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.facts}"


@dataclass(slots=True)
class Verdict:
    """What came out, and how much was looked at."""

    violations: list[Violation] = field(default_factory=list)
    sessions: int = 0
    recoveries: int = 0
    acked: int = 0
    """Publishes that were acked with success."""
    checked: int = 0
    """Deliveries that were owed, one for each acked publish and member."""
    longest_interruption: float = 0.0
    """From the loss of a socket, or the wish for another, to the `connected` of the next one; seconds."""
    longest_ack: float = 0.0
    """From the first sending of a publish to its ack; seconds."""

    def count(self, *rules: str) -> int:
        return sum(one.rule in rules for one in self.violations)

    @property
    def broken(self) -> set[str]:
        return {one.rule for one in self.violations}


Found = Iterator[Violation]


def _deliveries(facts: Facts) -> Found:
    """What each session got, taken by itself."""
    for session in facts.history.sessions:
        where = session.connection_id
        seen: dict[str, int | None] = {}
        for frame in session.frames:
            one = facts.published.get(frame.text)
            if one is None or one.request.group != frame.group:
                yield Violation("unknown", f"{where} got {frame.text!r} in {frame.group!r}")
                continue
            known = frame.text in seen
            if known and (frame.sequence_id is None or frame.sequence_id != seen[frame.text]):
                yield Violation(
                    "twice", f"{where} got {frame.text} as {seen[frame.text]} and as {frame.sequence_id}"
                )
            if not known:
                seen[frame.text] = frame.sequence_id
                yield from _one_delivery(facts, session, one, frame.at)
            newer = session.sockets[frame.socket + 1 :]
            if newer and newer[0].opened_at < one.request.sent[0]:
                yield Violation("fenced", f"{where} got {frame.text} on socket {frame.socket}")
        yield from _numbers(session)


def _one_delivery(facts: Facts, session: Session, one: Published, at: float) -> Found:
    request = one.request
    spans = facts.possible[session].get(request.group, ())
    if not any(span.meets(request.span) for span in spans) and not facts.may_come_late(session, one, at):
        yield Violation("stranger", f"{session.connection_id} got {request.text} of {request.group}")
    if request.no_echo and one.publisher is session:
        yield Violation("echo", f"{session.connection_id} got its own {request.text}")


def _numbers(session: Session) -> Found:
    where = session.connection_id
    highest, content = 0, dict[int, str]()
    previous: dict[int, int] = {}
    for frame in session.frames:
        number = frame.sequence_id
        if session.reliable != (number is not None):
            yield Violation("gap", f"{where} got {frame.text} with sequence id {number}")
        if number is None:
            continue
        before = previous.get(frame.socket)
        if before is None:
            if not 1 <= number <= highest + 1:
                yield Violation("gap", f"{where} got {number} first on socket {frame.socket} after {highest}")
        elif number != before + 1:
            yield Violation("gap", f"{where} got {number} after {before} on socket {frame.socket}")
        if content.setdefault(number, frame.text) != frame.text:
            yield Violation("changed", f"{where} got {number} as {content[number]} and as {frame.text}")
        previous[frame.socket] = number
        highest = max(highest, number)


def _order(facts: Facts) -> Found:
    for group in sorted(facts.by_group):
        sequences = {
            session: texts
            for session, received in facts.received.items()
            if (texts := [t for t in received.get(group, ()) if facts.has_its_place(session, t)])
        }
        after: dict[str, set[str]] = defaultdict(set)
        for texts in sequences.values():
            for earlier, later in pairwise(texts):
                if earlier != later:
                    after[later].add(earlier)
        try:
            TopologicalSorter(after).prepare()
        except CycleError as error:
            yield Violation("order", f"in {group}: {_disagreement(sequences) or ' < '.join(error.args[1])}")


def _disagreement(sequences: Mapping[Session, list[str]]) -> str:
    """Two members and two messages, when there are such."""
    for (one, texts), (other, others) in combinations(sequences.items(), 2):
        places = {text: place for place, text in enumerate(others)}
        for earlier, later in pairwise([text for text in texts if text in places]):
            if places[earlier] > places[later]:
                return (
                    f"{one.connection_id} got {earlier} before {later}, "
                    f"{other.connection_id} the other way round"
                )
    return ""


def _publisher_order(facts: Facts) -> Found:
    for session, received in facts.received.items():
        for group, texts in received.items():
            last: dict[Session | None, Published] = {}
            for text in texts:
                one = facts.published.get(text)
                if one is None or one.publisher is None:
                    continue
                before = last.get(one.publisher)
                if before is None or before.number <= one.number:
                    last[one.publisher] = one
                elif not facts.failed_unheard(one, before) and not facts.done_again(session, text):
                    facts_ = f"{session.connection_id} got {text} after {before.request.text} in {group}"
                    yield Violation("publisher_order", facts_)


def _owed(facts: Facts, session: Session) -> Iterator[tuple[str, Request]]:
    """What this session must have got: group and publish."""
    drained = facts.history.drained and session.end is None
    for group in groups_of(session):
        spans = certain_memberships(session, group)
        before = None if drained else _forced(facts, session, group)
        for one in facts.by_group[group]:
            request = one.request
            if not request.executed or (request.no_echo and one.publisher is session):
                continue
            if not any(span.covers(request.span) for span in spans):
                continue
            if session.reliable:
                due = drained or (before is not None and request.text in before)
            else:
                due = _due_when_plain(facts, session, request)
            if due:
                yield group, request


def _due_when_plain(facts: Facts, session: Session, request: Request) -> bool:
    way = Span(request.sent[0], request.answered + facts.limits.settle_seconds)
    here = Span(session.begin, min(session.sockets[-1].lost_at, facts.history.ended_at))
    return here.covers(way) and not any(cut.meets(way) for cut in facts.history.cuts)


def _forced(facts: Facts, session: Session, group: str) -> set[str]:
    """Messages that stand, for somebody, not behind one that this session got: it must have got those too."""
    mine = set(facts.received[session].get(group, ())) - facts.unordered
    found: set[str] = set()
    for received in facts.received.values():
        texts = received.get(group, [])
        last = next((place for place in range(len(texts) - 1, -1, -1) if texts[place] in mine), -1)
        found.update(texts[: last + 1])
    return found - facts.unordered


def _lost(facts: Facts, verdict: Verdict) -> Found:
    for session in facts.history.sessions:
        got = {group: set(texts) for group, texts in facts.received[session].items()}
        for group, request in _owed(facts, session):
            verdict.checked += 1
            if request.text not in got.get(group, ()):
                since = request.sent[0] - session.begin
                yield Violation(
                    "lost",
                    f"{session.connection_id} lacks {request.text} of {group}, sent {since:.3f} s after it "
                    f"connected and acked {request.answered - request.sent[0]:.3f} s later",
                )


def _sockets(facts: Facts) -> Found:
    """Recoveries, refusals and limits."""
    limits = facts.limits
    yield from (Violation("protocol", error) for error in facts.history.errors)
    for session in facts.history.sessions:
        where = session.connection_id
        for socket in session.sockets:
            if socket.connection_id != session.connection_id:
                yield Violation("identity", f"{where} came back as {socket.connection_id}")
        yield from _backlog(facts, session)
        end = session.end
        if end is None or facts.had_store_lost(session) or not session.reliable:
            continue
        if end.kind == "overflow" and not facts.backlog_may_exceed(session, end.at):
            yield Violation("overflow", f"{where} was closed with 1008 at {end.at:.2f}")
        detached = end.at - facts.detached_since(session)
        in_time = end.kind == "refused" and detached < limits.window_seconds
        if in_time and not facts.backlog_may_exceed(session, end.at):
            yield Violation("refused", f"{where}, {detached:.3f} s after its socket was lost")
        if end.kind == "unrecovered":
            yield Violation("unrecovered", f"{where} lost its socket at {session.sockets[-1].lost_at:.2f}")


def _backlog(facts: Facts, session: Session) -> Found:
    """Of the first socket only: after a recovery the backlog is judged from the client's first ack on."""
    limits = facts.limits
    past = float("inf")
    for frame in session.frames:
        ahead = (frame.sequence_id or 0) - session.acked_before(frame.at)
        if frame.socket != 0 or ahead <= limits.backlog_messages:
            past = float("inf")
            continue
        past = min(past, frame.at)
        if frame.at - past > limits.burst_seconds or ahead > limits.burst_messages:
            where = session.connection_id
            yield Violation("unbounded", f"{where} got {frame.sequence_id}, {ahead} of it not acked")
            return


def _answers(facts: Facts) -> Found:
    history, limits = facts.history, facts.limits
    for session in history.sessions:
        opened = [socket.opened_at for socket in session.sockets]
        for request in session.requests:
            name = f"{session.connection_id}: {request.kind} {request.ack_id} {request.text or request.group}"
            if len(request.answers) > len(request.sent):
                yield Violation("answers", f"{name} was answered {request.answers}")
            if not request.sent:
                continue
            if len(request.sent) == 1 and any(outcome == DUPLICATE for _, outcome in request.answers):
                yield Violation("duplicate", name)
            sent = request.sent[-1]
            socket = session.sockets[max(0, bisect_right(opened, sent) - 1)]
            wait = Span(sent, sent + limits.answer_seconds)
            here = Span(socket.opened_at, min(socket.lost_at, history.ended_at))
            answered = any(wait.holds(at) for at, _ in request.answers)
            if not answered and here.covers(wait) and not any(one.meets(wait) for one in history.deaf):
                yield Violation("silence", f"{name} was not answered in {limits.answer_seconds} s")


def _events(facts: Facts) -> Found:
    history = facts.history
    if not history.watched:
        return
    told: dict[str, list[float]] = defaultdict(list)
    for event in history.events:
        if event.name == "disconnected":
            told[event.connection_id].append(event.at)
    for session in history.sessions:
        where, times = session.connection_id, told[session.connection_id]
        over = facts.over_since(session)
        if len(times) > 1:
            yield Violation("disconnected_twice", f"{where} was told to be disconnected at {times}")
        if not times:
            if over.end + facts.limits.ended_seconds < history.ended_at and session.end is not None:
                yield Violation("disconnected_missing", f"{where}, which ended at {session.end}")
            continue
        early = times[0] < over.begin - facts.limits.late_seconds and not facts.backlog_may_exceed(
            session, times[0]
        )
        if early and not facts.had_store_lost(session):
            yield Violation("disconnected_early", f"{where} at {times[0]}, over since {over.begin}")
        heard = [
            *(socket.opened_at for socket in session.sockets),
            *(frame.at for frame in session.frames),
        ]
        # What a gateway without its lease still writes to a plain connection is promised to nobody.
        excused = not session.reliable and any(one.holds(times[0]) for one in history.deaf)
        if max(heard) > times[0] + facts.limits.late_seconds and not excused:
            yield Violation("after_end", f"{where} was heard of at {max(heard)}, after {times[0]}")


def _existence(facts: Facts) -> Found:
    for one in facts.history.existences:
        asked = Span(one.asked, one.answered)
        sessions = facts.history.sessions
        possible = any(_maybe(facts, session, one.kind, one.name, asked) for session in sessions)
        if one.exists and not possible:
            yield Violation("ghost", f"{one.kind} {one.name} exists at {one.answered}")
        certain = (session for session in sessions if _there(facts, session, one.kind, one.name, asked))
        if not one.exists and not all(facts.backlog_may_exceed(each, one.answered) for each in certain):
            yield Violation("vanished", f"{one.kind} {one.name} does not exist, asked at {one.asked:.2f}")


def _named(session: Session, kind: str, name: str) -> bool:
    return name == (session.connection_id if kind == "connection" else session.user)


def _there(facts: Facts, session: Session, kind: str, name: str, asked: Span) -> bool:
    """Whether this session must make it exist all that time."""
    if facts.had_store_lost(session):
        return False
    if not session.reliable and any(cut.meets(asked) for cut in facts.history.cuts):
        return False
    if not Span(session.begin, facts.over_since(session).begin).covers(asked):
        return False
    if kind == "group":
        return any(span.covers(asked) for span in certain_memberships(session, name))
    return _named(session, kind, name)


def _maybe(facts: Facts, session: Session, kind: str, name: str, asked: Span) -> bool:
    """Whether it may make it exist at some moment of that time. It may from before its `connected` on."""
    if asked.begin > facts.over_since(session).end + facts.limits.ended_seconds:
        return False
    if kind == "group":
        return any(
            span.begin <= asked.end and asked.begin <= span.end + facts.limits.late_seconds
            for span in facts.possible[session].get(name, ())
        )
    return _named(session, kind, name)


_CHECKS: Final[tuple[Callable[[Facts], Found], ...]] = (
    _deliveries,
    _order,
    _publisher_order,
    _sockets,
    _answers,
    _events,
    _existence,
)


def judge(history: History) -> Verdict:
    """Every promise, for every session. The order of violations is that of the checks."""
    facts, verdict = Facts(history), Verdict()
    for check in _CHECKS:
        verdict.violations += check(facts)
    verdict.violations += _lost(facts, verdict)
    verdict.sessions = len(history.sessions)
    for _, request in history.publishes():
        if request.executed:
            verdict.acked += 1
            verdict.longest_ack = max(verdict.longest_ack, request.answered - request.sent[0])
    for session in history.sessions:
        for before, after in pairwise(session.sockets):
            verdict.recoveries += 1
            verdict.longest_interruption = max(verdict.longest_interruption, interruption(before, after))
    return verdict
