"""The benchmarks are a thing that users run: one row must run, small and without peers, to JSON."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "loadtest.bench", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


def test_rows_are_measured_against_the_floor_without_any_peer() -> None:
    small = ("--members", "20", "--rounds", "5", "--clients", "30", "--calls", "40", "--seconds", "0.2")
    done = bench("broadcast", "connect", "rest", "--runs", "1", "--peers", "none", *small, "--json")
    assert done.returncode == 0, done.stderr
    broadcast, connect, rest = json.loads(done.stdout)
    assert broadcast["heads"][0]["median"] > 0
    median = broadcast["median"]
    assert median["hubwire"]["fan_out_us"] > 0
    assert median["hubwire"]["us"] > median["hubwire"]["fan_out_us"]  # router and nats-server cost something
    assert "median" not in connect["heads"][0]  # it is compared with a peer, and there was none
    assert connect["median"]["hubwire"]["router_us"] > 0
    assert rest["median"]["hubwire"]["controlplane_us"] > 0
    assert broadcast["machine"]["packages"]["picows"]


def test_a_row_that_does_not_exist_is_told_with_those_that_do() -> None:
    done = bench("brodcast")
    assert done.returncode == 2
    assert "broadcast" in done.stderr


def test_a_bench_that_is_told_to_stop_leaves_no_process_behind() -> None:
    command = ["broadcast", "--runs", "1", "--peers", "none", "--members", "20", "--rounds", "1000000"]
    bench = subprocess.Popen([sys.executable, "-m", "loadtest.bench", *command], cwd=ROOT)
    try:
        children = Path(f"/proc/{bench.pid}/task/{bench.pid}/children")
        started: list[str] = []
        deadline = time.monotonic() + 60
        while len(started) < 3:  # nats-server, a router, a gateway
            assert time.monotonic() < deadline
            time.sleep(0.05)
            started = children.read_text().split()
        bench.terminate()
        assert bench.wait(60) == 143
    finally:
        bench.kill()
        bench.wait()
    assert [pid for pid in started if Path(f"/proc/{pid}").exists()] == []
