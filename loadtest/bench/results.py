"""Results as JSON: one file a row in loadtest/results, the last that was accepted."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loadtest.bench.rows import Run
from loadtest.bench.table import ROWS, Head, Row

FOLDER = Path(__file__).resolve().parents[1] / "results"


def medians(runs: Sequence[Run]) -> Run:
    """Of every figure of every target, over the runs that have it."""
    found: Run = {}
    for target in dict.fromkeys(name for run in runs for name in run):
        there = [run[target] for run in runs if target in run]
        found[target] = {
            key: round(statistics.median(one[key] for one in there if key in one), 3) for key in there[0]
        }
    return found


def head_values(head: Head, runs: Sequence[Run]) -> list[float]:
    """Of each run in which what it is compared with was there."""
    found = []
    for run in runs:
        try:
            found.append(round(head.of(run), 3))
        except KeyError:
            pass
    return found


def result(row: Row, runs: Sequence[Run], more: dict[str, Any]) -> dict[str, Any]:
    heads = []
    for head in row.heads:
        values = head_values(head, runs)
        one: dict[str, Any] = {
            "title": head.title,
            "unit": head.unit,
            "reach": head.reach,
            "dream": head.dream,
        }
        if values:
            one |= {"median": round(statistics.median(values), 3), "runs": values}
        heads.append(one)
    return {
        "row": row.number,
        "name": row.name,
        "title": row.title,
        "heads": heads,
        "median": medians(runs),
        "runs": list(runs),
        **more,
    }


def path_of(name: str, folder: Path = FOLDER) -> Path:
    return folder / f"{name}.json"


def write(found: dict[str, Any], folder: Path = FOLDER) -> None:
    folder.mkdir(exist_ok=True)
    path_of(found["name"], folder).write_text(json.dumps(found, indent=1) + "\n")


def read(name: str, folder: Path = FOLDER) -> dict[str, Any] | None:
    path = path_of(name, folder)
    return json.loads(path.read_text()) if path.exists() else None


def worse(now: dict[str, Any], before: dict[str, Any]) -> list[str]:
    """A sentence for each head that is worse than accepted by more than its tolerance."""
    row = next(row for row in ROWS if row.name == now["name"])
    accepted = {head["title"]: head.get("median") for head in before["heads"]}
    found = []
    for head, new in zip(row.heads, now["heads"], strict=True):
        was, is_now = accepted.get(head.title), new.get("median")
        if was is None or is_now is None:
            continue
        if is_now > was * (1 + head.tolerance):
            found.append(
                f"row {row.number}, {row.name}: {head.title} is {is_now:.2f} {head.unit}, was {was:.2f} "
                f"(more than {head.tolerance:.0%} worse)"
            )
    return found
