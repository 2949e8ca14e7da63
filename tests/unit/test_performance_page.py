"""docs/performance.md says what was measured, and the guard notices what became worse."""

from __future__ import annotations

import copy
import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from loadtest.bench import profile, results  # noqa: E402 - found by the line above
from loadtest.bench.table import ROWS  # noqa: E402


def a_result(gateway_us: float, floor_us: float = 10.0) -> dict[str, Any]:
    run = {"floor": {"us": floor_us}, "hubwire": {"us": gateway_us + 2, "fan_out_us": gateway_us}}
    return results.result(ROWS[0], [run, run, run], {})


@pytest.mark.parametrize("name", ["generate_performance.py", "generate_scale.py"])
def test_a_page_and_its_plots_are_those_that_are_generated(name: str) -> None:
    generator = runpy.run_path(str(ROOT / "docs" / name))
    wanted: dict[Path, str] = generator["files"]()
    stale = [path.name for path, text in wanted.items() if not path.exists() or path.read_text() != text]
    assert not stale, f"run: python docs/{name}"


def test_every_result_that_is_kept_is_of_a_row_and_has_its_heads() -> None:
    by_name = {row.name: row for row in ROWS}
    for path in results.FOLDER.glob("*.json"):
        kept = json.loads(path.read_text())
        if kept["name"] == "scale":
            continue  # loadtest/scale_simulation.py
        if kept["name"] in by_name:
            assert [head["title"] for head in kept["heads"]] == [h.title for h in by_name[kept["name"]].heads]
        assert kept["machine"]["date"]
        assert kept["command"].startswith("python -m loadtest.bench")


def test_a_row_that_became_worse_than_its_tolerance_is_named() -> None:
    before = a_result(12.0)
    assert results.worse(a_result(13.0), before) == []
    (complaint,) = results.worse(a_result(20.0), before)
    assert "broadcast" in complaint
    assert "2.00" in complaint
    assert "1.20" in complaint


def test_a_ratio_is_compared_and_not_the_time_so_a_slower_machine_is_no_complaint() -> None:
    assert results.worse(a_result(36.0, floor_us=30.0), a_result(12.0)) == []


def test_a_row_without_its_peer_is_not_measured_and_not_worse() -> None:
    row = next(row for row in ROWS if row.name == "connect")
    alone = results.result(row, [{"hubwire": {"us": 900.0}}], {})
    assert "median" not in alone["heads"][0]
    with_peer = results.result(row, [{"hubwire": {"us": 300.0}, "centrifuge": {"us": 300.0}}], {})
    assert results.worse(alone, with_peer) == []


def test_a_peer_that_failed_in_one_run_counts_in_the_others() -> None:
    row = next(row for row in ROWS if row.name == "connect")
    whole = {"hubwire": {"us": 600.0}, "centrifuge": {"us": 300.0}}
    lacking = {"hubwire": {"us": 600.0}}
    found = results.result(row, [lacking, whole, copy.deepcopy(whole)], {})
    assert found["heads"][0]["runs"] == [2.0, 2.0]
    assert found["median"]["centrifuge"] == {"us": 300.0}


def test_samples_of_a_profile_are_added_up_by_function() -> None:
    text = "run (a.py:1);send (peer.py:10) 30\nrun (a.py:1);send (peer.py:12) 20\nrun (a.py:1) 50\n"
    found = profile.shares({"gateway": profile.self_samples(text)})
    assert found == {"gateway": [("send (peer.py)", 0.5), ("run (a.py)", 0.5)]}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_row_says_what_it_is_judged_by(row: Any) -> None:
    assert row.heads
    assert all(head.tolerance > 0 and head.reach > 0 for head in row.heads)
