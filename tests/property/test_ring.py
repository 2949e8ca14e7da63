"""The ring (router.ring), by the predicates that a placement must satisfy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from hubwire.bus.keys import PARTITIONS
from router.ring import placement

names = st.integers(0, 2**36 - 1).map(lambda number: f"{number:09x}")
some_routers = st.lists(names, min_size=1, max_size=50, unique=True)


def is_valid(placed: Sequence[str], routers: Sequence[str]) -> bool:
    """Every partition has one of the routers."""
    return len(placed) == PARTITIONS and set(placed) <= set(routers)


def is_balanced(placed: Sequence[str], routers: Sequence[str]) -> bool:
    """Nobody has more than twice its share and a few, and with few routers nobody has nothing."""
    load = Counter(placed)
    share = PARTITIONS / len(routers)
    fair = max(load.values()) <= 2 * share + 8
    return fair and (share < 12 or len(load) == len(routers))


def is_sticky_on_join(before: Sequence[str], after: Sequence[str], newcomer: str) -> bool:
    """A newcomer takes partitions; nothing else moves."""
    return all(new in (old, newcomer) for old, new in zip(before, after, strict=True))


def is_sticky_on_leave(before: Sequence[str], after: Sequence[str], leaver: str) -> bool:
    """Only what the leaver had moves."""
    return all(new == old or old == leaver for old, new in zip(before, after, strict=True))


@settings(deadline=None)
@given(some_routers)
def test_the_placement_is_valid(routers: list[str]) -> None:
    assert is_valid(placement(routers), routers)


@settings(deadline=None)
@given(some_routers)
def test_the_placement_is_balanced(routers: list[str]) -> None:
    assert is_balanced(placement(routers), routers)


@settings(deadline=None)
@given(some_routers, names)
def test_the_placement_is_sticky_on_join(routers: list[str], newcomer: str) -> None:
    assert is_sticky_on_join(placement(routers), placement([*routers, newcomer]), newcomer)


@settings(deadline=None)
@given(some_routers.filter(lambda routers: len(routers) > 1), st.data())
def test_the_placement_is_sticky_on_leave(routers: list[str], data: st.DataObject) -> None:
    leaver = data.draw(st.sampled_from(routers))
    left = [router for router in routers if router != leaver]
    assert is_sticky_on_leave(placement(routers), placement(left), leaver)


@settings(deadline=None)
@given(some_routers, st.randoms(use_true_random=False))
def test_every_process_computes_the_same_whatever_order_it_heard_the_names_in(
    routers: list[str], chance: object
) -> None:
    shuffled = list(routers)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    assert placement(shuffled) == placement(routers) == placement([*routers, *routers])


def test_without_routers_there_is_no_placement() -> None:
    assert placement([]) == ()
