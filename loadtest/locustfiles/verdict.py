"""Whether the figures are those of the service, or those of the load generator and the machine it ran on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CPU_SHARE = 0.85
LAG_MS = 100.0
BEHIND_MS = 250.0


def verdict(account: Mapping[str, Any], generators: Mapping[str, Mapping[str, float]]) -> tuple[bool, str]:
    """(the generator was the limit, a sentence). `generators` by process: `cpu`, the share of one core in
    the whole run, `lag_p99_ms`, how much later than asked for its loop woke, and `load`, the machine's load
    a core."""
    if not generators:
        return True, "No generator told how loaded it was."
    cpu = max(one["cpu"] for one in generators.values())
    lag = max(one["lag_p99_ms"] for one in generators.values())
    load = max(one["load"] for one in generators.values())
    behind = account["behind_ms"]["p99"]
    seen = (
        f"the busiest of {len(generators)} locust processes used {cpu:.0%} of a core, "
        f"its loop was {lag:.0f} ms late at p99, messages were sent {behind:.0f} ms after their time at p99"
    )
    if cpu >= CPU_SHARE:
        return True, f"The load generator was the limit: {seen}. Use more workers."
    if lag >= LAG_MS or behind >= BEHIND_MS:
        why = "its machine was too busy" if load > 1.0 else "its senders waited for answers"
        return True, f"The load generator was the limit, as {why} (load {load:.1f} a core): {seen}."
    return False, f"The load generator was not the limit: {seen}."
