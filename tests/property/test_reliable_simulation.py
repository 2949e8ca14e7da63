"""Reliable sessions in virtual time, a schedule a seed (support.reliable_simulation says what holds).

In a process of its own, since the order of sets of names must be the same in every run of a seed.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]


@pytest.mark.timeout(660)  # a machine that has other work counts too
@pytest.mark.parametrize(
    ("first", "last", "faults"),
    [
        (1, 24, ()),
        (25, 48, ()),
        (1, 8, ("consumers,stop gateway",)),  # a fold far behind its inbox
        (5105, 5105, ()),  # a publish fails after ten seconds, unheard: its socket was lost just before
    ],
)
def test_sessions_move_and_everything_fails_and_every_promise_holds(
    first: int, last: int, faults: tuple[str, ...]
) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "support.reliable_simulation", f"{first}-{last}", *faults],
        cwd=TESTS,
        env={**os.environ, "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert run.returncode == 0, f"{run.stdout[-6000:]}\n{run.stderr[-3000:]}"
    assert run.stdout.count("deliveries owed") == last - first + 1, run.stdout
