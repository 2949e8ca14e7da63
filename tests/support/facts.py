"""A history with the indices that `support.judge` needs, and what follows about single sessions. Pure."""

from __future__ import annotations

import math
from collections import defaultdict
from functools import cached_property
from typing import NamedTuple

from support.history import (
    DUPLICATE,
    OK,
    History,
    Request,
    Session,
    Span,
    certain_memberships,
    possible_memberships,
)


class Published(NamedTuple):
    publisher: Session | None
    number: int
    """Its place among the publisher's own."""
    request: Request


class Facts:
    """A history with its indices."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.limits = history.limits
        self.published: dict[str, Published] = {}
        self.by_group: dict[str, list[Published]] = defaultdict(list)
        numbers: dict[Session | None, int] = defaultdict(int)
        for publisher, request in history.publishes():
            if not request.sent:
                continue
            one = Published(publisher, numbers[publisher], request)
            numbers[publisher] += 1
            assert request.text not in self.published, f"{request.text} was published twice by the test"
            self.published[request.text] = one
            self.by_group[request.group].append(one)
        self.possible = {
            session: {group: possible_memberships(session, group) for group in groups_of(session)}
            for session in history.sessions
        }
        self.received: dict[Session, dict[str, list[str]]] = {
            session: _received(session) for session in history.sessions
        }

    @cached_property
    def unordered(self) -> set[str]:
        """Texts that may stand at different places: on their way while owners changed."""
        return {
            text
            for text, one in self.published.items()
            if any(change.meets(one.request.span) for change in self.history.owner_changes)
        }

    def has_its_place(self, session: Session, text: str) -> bool:
        """Whether a text stands for this session where it does for all."""
        return text not in self.unordered and not self.done_again(session, text)

    def failed_unheard(self, one: Published, later: Published) -> bool:
        """Whether `one` may have failed after ten seconds without its publisher hearing of it, which sent it
        again: then it comes where that puts it, behind what was sent after its first sending. What had been
        done before those ten seconds were over was overtaken by nothing that had failed."""
        request, done = one.request, later.request
        times = [at for at, outcome in done.answers if outcome in (OK, DUPLICATE)]
        for session in self.history.sessions:
            times += [frame.at for frame in session.frames if frame.text == done.text]
        duplicates = sum(outcome == DUPLICATE for _, outcome in request.answers)
        failed_at = request.sent[0] + self.limits.publish_seconds
        return len(request.sent) - duplicates > 1 and min(times) >= failed_at

    def may_come_late(self, session: Session, one: Published, at: float) -> bool:
        """Whether this session may get a publish by then that was acked before it joined: an owner of before
        still writes it to an inbox that took nothing, or another one was sent it again. Who was a member then
        has it already."""
        way = Span(one.request.sent[0], at)
        group = one.request.group
        return (
            any(change.meets(way) for change in self.history.owner_changes)
            and not any(span.covers(way) for span in certain_memberships(session, group))
            and any(span.meets(way) for span in self.possible[session].get(group, ()))
        )

    def done_again(self, session: Session, text: str) -> bool:
        """Whether a publish may have come to this session behind later ones: sent again to another owner,
        which does not know it, it is done once more, for those that were no members when it was done first.
        """
        one = self.published.get(text)
        if one is None or len(one.request.sent) < 2:
            return False
        at = next(frame.at for frame in session.frames if frame.text == text)
        return self.may_come_late(session, one, at)

    def detached_since(self, session: Session) -> float:
        """Since when, at the earliest, the service may have seen the last socket as lost."""
        lost_at = session.sockets[-1].lost_at
        return min([lost_at, *(one.begin for one in self.history.deaf if one.holds(lost_at))])

    def over_since(self, session: Session) -> Span:
        """Between these times the session came to its end, as the service sees it."""
        end = session.end
        if end is None:
            return Span(math.inf)
        if end.kind == "lost":
            return Span(self.detached_since(session), end.at)
        if end.kind in ("closed", "removed", "overflow"):
            return Span(end.at, end.at)
        window = self.limits.window_seconds
        lost_at = session.sockets[-1].lost_at
        return Span(self.detached_since(session) + window, max(end.at, lost_at + window))

    def had_store_lost(self, session: Session) -> bool:
        end = session.end.at if session.end is not None else math.inf
        return any(session.begin <= at <= end for at in self.history.stores_lost)

    def backlog_may_exceed(self, session: Session, at: float) -> bool:
        """Whether more than the limits may have been unacknowledged then."""
        acked = session.acked_before(at)
        count = -acked
        size = 0
        for text in {frame.text for frame in session.frames if (frame.sequence_id or 0) <= acked}:
            if text in self.published:
                size -= len(text) + self.published[text].request.size
        for group, spans in self.possible[session].items():
            for one in self.by_group[group]:
                request = one.request
                if request.sent[0] <= at and any(span.meets(request.span) for span in spans):
                    count += 1
                    size += len(request.text) + request.size
        return count > self.limits.backlog_messages or size > self.limits.backlog_bytes


def groups_of(session: Session) -> set[str]:
    return {one.group for one in session.requests if one.kind != "publish"} | session.groups


def _received(session: Session) -> dict[str, list[str]]:
    """The texts that the application gets, by group: each sequence id once, as a client that keeps to the
    protocol hands them on."""
    found: dict[str, list[str]] = defaultdict(list)
    highest = 0
    for frame in session.frames:
        if frame.sequence_id is not None:
            if frame.sequence_id <= highest:
                continue
            highest = frame.sequence_id
        found[frame.group].append(frame.text)
    return found
