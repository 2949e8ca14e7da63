"""The distributed core in virtual time, through forty faults a seed (support.simulation says what holds).

In a process of its own, since the order of sets of names must be the same in every run of a seed.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]


@pytest.mark.timeout(660)  # a machine that has other work counts too
@pytest.mark.parametrize(("first", "last"), [(1, 4), (5, 8)])
def test_routers_gateways_and_nats_fail_in_many_ways_and_every_promise_holds(first: int, last: int) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "support.simulation", str(first), str(last)],
        cwd=TESTS,
        env={**os.environ, "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert run.returncode == 0, f"{run.stdout}\n{run.stderr[-3000:]}"
    assert run.stdout.count("deliveries owed") == last - first + 1, run.stdout
