"""What clients saw of a service while things were broken: the facts on which `support.judge` decides.

One clock for all times (seconds, as `time.monotonic`). A `Session` is one connection id for as long as the
service knows it, over as many sockets as it takes; a client that starts afresh begins another. Clients
write down what they did before they do it and what they heard when they hear it, so a time of sending is
never too late and one of an answer never too early.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

OK = "ok"
"""The outcome of a request that was acked with success. Other outcomes are the names of errors."""
DUPLICATE = "Duplicate"
EXECUTED = (OK, DUPLICATE)

RequestKind = Literal["join", "leave", "publish"]
EndKind = Literal["closed", "vanished", "refused", "overflow", "unrecovered", "lost", "removed"]


class Span(NamedTuple):
    """A time from `begin` to `end`, both included."""

    begin: float
    end: float = math.inf

    def covers(self, other: Span) -> bool:
        return self.begin <= other.begin and other.end <= self.end

    def meets(self, other: Span) -> bool:
        return self.begin <= other.end and other.begin <= self.end

    def holds(self, at: float) -> bool:
        return self.begin <= at <= self.end


@dataclass(slots=True, eq=False)
class Request:
    """One join, leave or publish under one ack id, however often it was sent."""

    kind: RequestKind
    group: str
    ack_id: int
    text: str = ""
    """What is published: a text that is used once in the whole history."""
    no_echo: bool = False
    size: int = 0
    """Bytes of a publish that count beside `text`."""
    sent: list[float] = field(default_factory=list)
    answers: list[tuple[float, str]] = field(default_factory=list)

    @property
    def executed(self) -> bool:
        """Whether the service said that it was done, now or before."""
        return any(outcome in EXECUTED for _, outcome in self.answers)

    @property
    def answered(self) -> float:
        """When it was first said to be done; infinite while that is not known."""
        return min((at for at, outcome in self.answers if outcome in EXECUTED), default=math.inf)

    @property
    def span(self) -> Span:
        """Within this time it was executed, if it was."""
        return Span(self.sent[0], self.answered)


class Frame(NamedTuple):
    """A message that came. `socket` is the number of the socket on which it did."""

    at: float
    socket: int
    sequence_id: int | None
    group: str
    text: str


@dataclass(slots=True)
class Socket:
    """One socket of a session, from the `connected` message to the moment when its loss was seen."""

    opened_at: float
    connection_id: str
    """What the `connected` message said."""
    sought_at: float = 0.0
    """When the client began to want it; a recovery that it put off is nobody's interruption."""
    lost_at: float = math.inf
    code: int | None = None


class End(NamedTuple):
    """How a session ended, as its client saw it.

    closed       by the client, with 1000
    vanished     the client went without a word and did not come back
    refused      a recovery was answered with 1008
    overflow     the service closed an open socket with 1008
    unrecovered  no attempt to recover was answered in the time that clients try
    lost         a connection that is not reliable lost its socket
    removed      closed over REST, or by the application
    """

    at: float
    kind: EndKind


@dataclass(slots=True, eq=False)
class Session:
    """One connection id. `groups` are those that its token named."""

    connection_id: str
    user: str
    dialled_at: float
    """When its client began to connect."""
    reliable: bool = True
    groups: frozenset[str] = frozenset()
    sockets: list[Socket] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    frames: list[Frame] = field(default_factory=list)
    """In order of arrival, repeats too."""
    acked: list[tuple[float, int]] = field(default_factory=list)
    """The sequenceAcks that were sent."""
    end: End | None = None

    @property
    def begin(self) -> float:
        return self.sockets[0].opened_at if self.sockets else math.inf

    @property
    def publishes(self) -> Iterator[Request]:
        return (one for one in self.requests if one.kind == "publish")

    def acked_before(self, at: float) -> int:
        """The highest sequence id that the client had acked then."""
        return max((number for when, number in self.acked if when <= at), default=0)


class Event(NamedTuple):
    """A `connected` or `disconnected` event that the application's event handler got."""

    at: float
    connection_id: str
    name: str


class Existence(NamedTuple):
    """An answer to "does it exist?" that REST gave."""

    asked: float
    answered: float
    kind: Literal["connection", "group", "user"]
    name: str
    exists: bool


@dataclass(slots=True)
class Limits:
    """What the service promises, and how long one may wait for what has to come at some time."""

    window_seconds: float = 30.0
    backlog_messages: int = 1000
    backlog_bytes: int = 16_000_000
    burst_seconds: float = 6.0
    """How long more may be unacknowledged: clients ack once a second, so a burst is over it for a moment."""
    burst_messages: int = 5000
    """How much may be at any moment."""
    answer_seconds: float = 30.0
    """Within this time a request is answered on a socket that stays."""
    publish_seconds: float = 10.0
    """A publish that no router has confirmed for so long fails; none fails for want of an answer before."""
    settle_seconds: float = 1.0
    """How long a message may be on its way to a connection that is not reliable after its ack."""
    ended_seconds: float = 60.0
    """After a session is certainly over: until it no longer exists and its `disconnected` has come."""
    late_seconds: float = 2.0
    """What the test's own clients and servers may take to read what they got."""


@dataclass(slots=True)
class History:
    """All of it. Begin and end of each fault are those that a pessimist would name."""

    sessions: list[Session] = field(default_factory=list)
    rest: list[Request] = field(default_factory=list)
    """Publishes over REST; 202 is `OK`."""
    events: list[Event] = field(default_factory=list)
    existences: list[Existence] = field(default_factory=list)
    owner_changes: list[Span] = field(default_factory=list)
    """When partitions may have changed owners. A publish on its way then may have reached two of them, and
    may stand at different places for different members (it is the one exception to a group's order)."""
    cuts: list[Span] = field(default_factory=list)
    """When what was on its way to connections that are not reliable may have been lost."""
    deaf: list[Span] = field(default_factory=list)
    """When a gateway may have been dead, or without its lease, and its clients have heard nothing of it."""
    stores_lost: list[float] = field(default_factory=list)
    """When JetStream lost what it held, which ends all reliable sessions of before."""
    errors: list[str] = field(default_factory=list)
    """What came and is not of the protocol."""
    watched: bool = False
    """Whether the event handler got the events of all sessions."""
    drained: bool = False
    """Whether the clients went on reading, after the last publish, until nothing more came."""
    ended_at: float = math.inf
    limits: Limits = field(default_factory=Limits)

    def publishes(self) -> Iterator[tuple[Session | None, Request]]:
        """Each with its publisher, None for REST."""
        for session in self.sessions:
            for request in session.publishes:
                yield session, request
        for request in self.rest:
            yield None, request


def certain_memberships(session: Session, group: str) -> list[Span]:
    """When the session was a member beyond doubt: from the ack of a join to the sending of a leave."""
    spans: list[Span] = []
    since = session.begin if group in session.groups else math.inf
    for request in session.requests:
        if request.group != group or not request.sent:
            continue
        if request.kind == "join" and request.executed:
            since = min(since, request.answered)
        elif request.kind == "leave":
            if since < request.sent[0]:
                spans.append(Span(since, request.sent[0]))
            since = math.inf
    if since < math.inf:
        spans.append(Span(since))
    return spans


def possible_memberships(session: Session, group: str) -> list[Span]:
    """When it may have been one: from the sending of a join to the ack of a leave. They may overlap."""
    spans: list[Span] = []
    since = session.dialled_at if group in session.groups else math.inf
    for request in session.requests:
        if request.group != group or not request.sent:
            continue
        if request.kind == "join":
            since = min(since, request.sent[0])
        elif request.kind == "leave" and request.executed:
            if since < math.inf:
                spans.append(Span(since, request.answered))
            since = math.inf
    if since < math.inf:
        spans.append(Span(since))
    return spans


def interruption(before: Socket, after: Socket) -> float:
    """How long a client that wanted to be connected was not."""
    return max(0.0, after.opened_at - max(before.lost_at, after.sought_at))
