"""Nothing is lost, nothing comes twice while sessions move, owners and gateways end, publishers repeat.

`HUBWIRE_SCHEDULES=100000` explores more than the normal run; a seed that fails is in the name of the failure.
"""

from __future__ import annotations

import os

import pytest
from support.reliable_moves import Schedule

SCHEDULES = int(os.environ.get("HUBWIRE_SCHEDULES", "1200"))
LOTS = 8


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("lot", range(LOTS))
def test_what_was_acknowledged_reaches_its_members_once_and_in_order(lot: int) -> None:
    moves = 0
    for seed in range(lot, SCHEDULES, LOTS):
        schedule = Schedule(seed)
        try:
            schedule.run(150)
        except Exception as error:
            raise AssertionError(f"Schedule({seed}).run(150): {error}") from error
        moves += schedule.moves
    assert moves > SCHEDULES / LOTS / 2  # or nothing was tried
