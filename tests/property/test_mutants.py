"""The simulator sees: with one rule taken out of the product at a time, schedules fail.

One schedule in ten or twenty shows the rarest of these, so most runs need few. Rules whose breaking shows
once in thousands are tried by `make mutants` only, and have unit tests of their own. Each in a process of its
own: a simulation shrinks the cluster of the process it runs in.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.mutants import MUTANTS

SCHEDULES = 150
TESTS = Path(__file__).parents[1]
OFTEN = [name for name, mutant in MUTANTS.items() if mutant.often]


@pytest.mark.timeout(660)
@pytest.mark.parametrize("name", OFTEN)
def test_a_mutant_is_caught(name: str) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "support.mutants", name, str(SCHEDULES)],
        cwd=TESTS,
        env={**os.environ, "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert (run.returncode, f"{name}: seed " in run.stdout) == (0, True), (
        f"{run.stdout}\n{run.stderr[-3000:]}"
    )
