"""The window of executed ack ids against the simplest one (client-protocols.md 3.8)."""

from __future__ import annotations

from collections import OrderedDict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubwire.model import ack_window as session
from hubwire.model.ack_window import AckWindow

RUN = st.builds(
    lambda start, length: list(range(start, start + length)), st.integers(0, 60), st.integers(1, 12)
)
IDS = st.lists(st.one_of(RUN, st.integers(0, 2**64 - 1).map(lambda one: [one])), max_size=60).map(
    lambda runs: [one for run in runs for one in run]
)


@settings(deadline=None)
@given(IDS, st.sampled_from([1, 5, 30]), st.sampled_from([1, 3, 16]))
def test_it_holds_the_latest_ids_in_whichever_order_they_come(ids: list[int], size: int, runs: int) -> None:
    before = session.ACK_WINDOW, session.MAX_RUNS
    session.ACK_WINDOW, session.MAX_RUNS = size, runs  # type: ignore[misc]
    try:
        window, model = AckWindow(), OrderedDict[int, None]()
        for one in ids:
            assert window.is_done(one) is (one in model)
            window.begin(one)
            window.end(one, True)
            if one not in model:
                model[one] = None
                if len(model) > size:
                    model.popitem(last=False)
            assert all(window.is_done(each) for each in model)
        assert not any(window.is_done(each) for each in set(ids) - set(model))
    finally:
        session.ACK_WINDOW, session.MAX_RUNS = before  # type: ignore[misc]


def test_ids_that_are_counted_up_cost_a_few_words() -> None:
    window = AckWindow()
    for one in range(1, 100_000):
        window.end(one, True)
    assert window._runs == [99_000, 99_999]
    assert window.is_done(99_000)
    assert not window.is_done(98_999)


@settings(deadline=None)
@given(IDS, IDS, st.sampled_from([1, 5, 30]), st.sampled_from([1, 3, 16]))
def test_a_restored_one_goes_on_as_the_first(ids: list[int], more: list[int], size: int, runs: int) -> None:
    before = session.ACK_WINDOW, session.MAX_RUNS
    session.ACK_WINDOW, session.MAX_RUNS = size, runs  # type: ignore[misc]
    try:
        window = AckWindow()
        for one in ids:
            window.end(one, True)
        other = AckWindow.restored(window.snapshot())
        for one in more:
            window.end(one, True)
            other.end(one, True)
        for one in {*ids, *more}:
            assert window.is_done(one) is other.is_done(one)
    finally:
        session.ACK_WINDOW, session.MAX_RUNS = before  # type: ignore[misc]


@pytest.mark.parametrize("runs", [[1], [2, 1], [1, 100_000], ["1", "2"]])
def test_what_is_no_snapshot_is_refused(runs: list[int]) -> None:
    with pytest.raises((ValueError, TypeError)):
        AckWindow.restored(runs)
