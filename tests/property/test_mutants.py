"""The simulator sees: with one rule taken out of the product at a time, schedules fail.

One schedule in ten or twenty shows the rarest of these, so most runs need few. Rules whose breaking shows
once in thousands are tried by `make mutants` only, and have unit tests of their own.
"""

from __future__ import annotations

import pytest
from support.mutants import MUTANTS, caught

SCHEDULES = 150

OFTEN = [name for name, mutant in MUTANTS.items() if mutant.often]


@pytest.mark.parametrize("name", OFTEN)
def test_a_mutant_is_caught(name: str) -> None:
    mutant = MUTANTS[name]
    assert caught(mutant, range(1, SCHEDULES + 1)), f"unnoticed: {mutant.what}"


def test_the_product_itself_survives() -> None:
    assert caught(MUTANTS["floors"]._replace(patch=lambda _patch: None), range(1, 4)) is None
