"""The ratio script is a thing that users run: it must run, small, with what it prints for programs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_ratio_script_measures_against_its_own_floor() -> None:
    command = [sys.executable, "loadtest/ratio.py", "--runs", "1", "--members", "20", "--rounds", "5"]
    done = subprocess.run(
        [*command, "--rate", "100", "--seconds", "1", "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    median = json.loads(done.stdout)["median"]
    assert median["broadcast_ratio"] > 0
    assert median["small_us"] > median["floor_us"] * 10  # ten sends at the least
    assert median["kib_per_connection"] > 0
