"""How many sends of a hub REST takes a second: who is refused, what he is told, and what is remembered."""

from __future__ import annotations

import pytest

from controlplane.pacing import MAX_HUBS, HubPaces
from controlplane.problems import Problem


class Now:
    seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def refused(paces: HubPaces, hub: str, per_second: int | None) -> str | None:
    """None when it was admitted, else what Retry-After says."""
    try:
        paces.admit(hub, per_second)
    except Problem as problem:
        return problem.headers["Retry-After"] if problem.status == 429 else f"status {problem.status}"
    return None


def test_a_seconds_worth_at_once_and_then_by_the_pace_each_hub_by_itself() -> None:
    now = Now()
    paces = HubPaces(now)
    assert [refused(paces, "chat", 2) for _ in range(4)] == [None, None, "1", "1"]
    assert refused(paces, "other", 2) is None
    now.seconds += 0.5
    assert [refused(paces, "chat", 2) for _ in range(2)] == [None, "1"]


def test_who_was_refused_has_used_nothing() -> None:
    now = Now()
    paces = HubPaces(now)
    for _ in range(100):
        refused(paces, "chat", 1)
    now.seconds += 1
    assert refused(paces, "chat", 1) is None


def test_without_a_limit_nothing_is_remembered() -> None:
    paces = HubPaces(Now())
    assert refused(paces, "chat", None) is None
    assert len(paces) == 0


@pytest.mark.parametrize("pause", [0.0, 10.0])
def test_what_is_remembered_is_bounded_whether_the_hubs_rest_or_not(pause: float) -> None:
    now = Now()
    paces = HubPaces(now)
    for number in range(3 * MAX_HUBS):
        assert refused(paces, f"hub{number}", 1) is None
        now.seconds += pause
    assert len(paces) <= MAX_HUBS
    assert refused(paces, f"hub{3 * MAX_HUBS - 1}", 1) == (None if pause else "1")
