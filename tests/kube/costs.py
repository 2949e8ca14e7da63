"""What each step cost whom: interruptions as a distribution, and what became of the calls to REST."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from kube.people import PLAIN_VENDORS, RESET, Call
from support.history import History, Session, Span, interruption


@dataclass
class Step:
    name: str
    span: Span


class Gap(NamedTuple):
    """One interruption: from the loss of a socket until messages can come again (a reliable client is
    recovered, a plain one connected anew and a member again)."""

    user: str
    kind: str
    lost_at: float
    seconds: float


def gaps(history: History) -> list[Gap]:
    """All of them. The vendors' reliable clients do not tell theirs."""
    found = []
    plain: dict[str, list[Session]] = defaultdict(list)
    for session in history.sessions:
        if not session.reliable:
            plain[session.user].append(session)
            continue
        for before, after in pairwise(session.sockets):
            found.append(Gap(session.user, "reliable", before.lost_at, interruption(before, after)))
    for user, sessions in plain.items():
        kind = f"vendor's {user}" if user in PLAIN_VENDORS else "plain"
        for one, next_ in pairwise(sessions):
            if one.end is not None and one.end.kind == "lost":
                found.append(Gap(user, kind, one.end.at, max(0.0, _member_at(next_) - one.end.at)))
    return found


def _member_at(session: Session) -> float:
    joined = [one.answered for one in session.requests if one.kind == "join" and one.executed]
    return max([session.begin, *joined])


def spread(values: Iterable[float]) -> str:
    """For people: how many, and p50, p90 and the longest."""
    ordered = sorted(values)
    if not ordered:
        return "0"
    p50, p90 = (ordered[min(len(ordered) - 1, int(len(ordered) * part))] for part in (0.5, 0.9))
    return f"{len(ordered)}: {p50:.2f} / {p90:.2f} / {ordered[-1]:.2f}"


def table(steps: Sequence[Step], history: History, calls: Sequence[Call]) -> str:
    """A row for each step."""
    found = gaps(history)
    rows = [
        "| step | s | reliable clients interrupted, p50 / p90 / max s | plain ones, likewise | REST calls | "
        "p50 / p90 / max s | resets | failed |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for step in steps:
        here = [one for one in found if step.span.holds(one.lost_at)]
        asked = [one for one in calls if step.span.holds(one.begin)]
        cells = [
            step.name,
            f"{step.span.end - step.span.begin:.0f}",
            spread(one.seconds for one in here if one.kind == "reliable"),
            spread(one.seconds for one in here if one.kind != "reliable"),
            str(len(asked)),
            spread(one.seconds for one in asked).partition(": ")[2],
            str(sum(one.outcome == RESET for one in asked)),
            str(sum(one.failed for one in asked)),
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def by_client(history: History) -> str:
    """How long each client was without a connection in the whole run: the distribution over clients."""
    found = gaps(history)
    rows = [
        "| clients | interruptions, p50 / p90 / max s | times per client, p50 / p90 / max | "
        "seconds per client in the whole run |",
        "|---|---|---|---|",
    ]
    users: dict[str, set[str]] = defaultdict(set)
    for session in history.sessions:
        if session.reliable:
            users["reliable"].add(session.user)
        elif session.user in PLAIN_VENDORS:
            users[f"vendor's {session.user}"].add(session.user)
        elif session.user.startswith("plain"):
            users["plain"].add(session.user)
    for kind, who in users.items():
        mine = [one for one in found if one.kind == kind]
        times = [float(sum(one.user == user for one in mine)) for user in who]
        total = [sum(one.seconds for one in mine if one.user == user) for user in who]
        rows.append(
            f"| {len(who)} {kind} | {spread(one.seconds for one in mine)} | "
            f"{spread(times).partition(': ')[2]} | {spread(total).partition(': ')[2]} |"
        )
    return "\n".join(rows)
