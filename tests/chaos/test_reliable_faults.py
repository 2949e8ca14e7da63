"""Reliable clients while one process after the other is killed, paused, stopped, cut off or restarted.

Nothing is lost, nothing comes twice, and every other promise of `support.judge` holds.

A failed run leaves its logs; `make chaos MINUTES=15` does the same at random for as long as one asks.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from support.chaos_run import run, table


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("seed", "faults"),
    [
        (1, ["kill gateway", "pause gateway", "kill nats", "kill control plane"]),
        (2, ["kill router", "kill router that waits", "cut gateway", "pause router", "move gateway's clock"]),
        (3, ["roll gateways", "cut router", "hang nats", "roll routers"]),
    ],
    ids=lambda one: one[0].replace(" ", "-") if isinstance(one, list) else str(one),
)
async def test_every_promise_to_reliable_clients_holds_through_faults(
    tmp_path: Path, seed: int, faults: list[str]
) -> None:
    outcome = await run(tmp_path, seed, 0, faults=list(faults))
    print(table(outcome))
    assert not outcome.missing
    assert not outcome.verdict.violations
    assert outcome.verdict.acked > 500
    assert outcome.verdict.checked > 3000
    assert outcome.verdict.recoveries > 5
