"""The script that measures events is a thing that users run: it must run, small, with JSON for programs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_events_script_measures_against_a_bare_call() -> None:
    command = [sys.executable, "loadtest/events.py", "--runs", "1", "--seconds", "0.5", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr
    median = json.loads(done.stdout)["median"]
    assert set(median) == {"1", "64"}
    for figures in median.values():
        assert figures["events_per_second"] > 0
        assert 0 < figures["p50_ms"] <= figures["p99_ms"]
        assert figures["ratio"] > 0.1
