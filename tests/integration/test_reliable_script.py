"""What reliable clients cost is a script that users run: each part of it must run, small."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_reliable_script_measures_all_its_parts() -> None:
    command = [sys.executable, "loadtest/reliable.py", "--runs", "1", "--members", "20", "--rounds", "5"]
    done = subprocess.run(
        [*command, "--rate", "100", "--seconds", "1", "--sessions", "60", "--growth-seconds", "2", "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    median = json.loads(done.stdout)["median"]
    assert median["broadcast_reliable_us"] > median["frame_us"] > 0
    assert median["small_reliable_us"] > 0
    assert median["memory_times_plain"] > 0
    assert 0 < median["recovery_seconds"] <= median["recovery_replayed_seconds"]
    assert median["recovery_inbox_kib"] > 0
    assert median["growth_never_most_kib"] > 0
