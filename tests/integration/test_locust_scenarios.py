"""The load tests are a thing that users run: each scenario runs against `hubwire up`, and loses nothing.

locust changes the standard library of a process that imports it, so it is only started.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.up import Up

from loadtest.bench.measured_processes import free_port
from loadtest.locustfiles.scenarios import SCENARIOS

ROOT = Path(__file__).resolve().parents[2]
PROTOCOL = {"small-groups": "reliable", "rest-user": "simple"}
"""Of the scenarios that do not run with the default."""

pytestmark = [
    pytest.mark.timeout(300),  # a process of locust takes a minute on a machine that is busy with others
    pytest.mark.skipif(
        importlib.util.find_spec("locust") is None,
        reason="locust is not installed: pip install 'hubwire[loadtest]'",
    ),
]


def place_of(scenario: str) -> Path:
    return ROOT / "loadtest" / "locustfiles" / f"{scenario.replace('-', '_')}.py"


def start(place: Path, *options: str, connection_string: str = "") -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "locust", "-f", str(place), "--headless", "--only-summary", *options]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HUBWIRE_")}
    if connection_string:
        environment["HUBWIRE_CONNECTION_STRING"] = connection_string
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def ended(process: subprocess.Popen[str], seconds: float = 200) -> tuple[int, str]:
    """Its exit code and what it printed."""
    try:
        printed, _ = process.communicate(timeout=seconds)
    finally:
        process.kill()
        process.wait()
    return process.returncode, printed


@pytest.fixture(scope="module")
def echo_port() -> Iterator[int]:
    """Of the application server that comes with the echo scenario."""
    port = free_port()
    command = [sys.executable, "-u", "-m", "loadtest.locustfiles.echo_server", "--port", str(port)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert "Running" in process.stdout.readline()
        yield port
    finally:
        process.terminate()
        process.communicate(timeout=30)


@pytest.fixture(scope="module")
def runs(
    echo_port: int, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, tuple[subprocess.Popen[str], Path]]]:
    """All five at once, each in a hub of its own, with the folder of its report."""
    folder = tmp_path_factory.mktemp("load")
    handler = {"urlTemplate": f"http://127.0.0.1:{echo_port}/{{event}}", "userEventPattern": "*"}
    config = folder / "hubwire.yaml"
    config.write_text(yaml.safe_dump({"hubs": {"echo": {"eventHandlers": [handler]}}}))
    small = ("--connections", "20", "--rate", "20", "--seconds", "2", "--bytes", "300", "--drain", "30")
    with Up(folder, "--memory", "--workers", "1", "--config", str(config)) as up:
        started = {
            name: (
                start(
                    place_of(name),
                    *small,
                    *("--hub", name.replace("-", "_"), "--protocol", PROTOCOL.get(name, "json")),
                    *("--out", str(folder / name)),
                    connection_string=up.facts["connectionString"],
                ),
                folder / name,
            )
            for name in SCENARIOS
        }
        try:
            yield started
        finally:
            for process, _ in started.values():
                process.kill()
                process.communicate()


@pytest.mark.parametrize("name", list(SCENARIOS))
def test_a_scenario_runs_counts_and_reports(
    runs: dict[str, tuple[subprocess.Popen[str], Path]], name: str
) -> None:
    process, folder = runs[name]
    code, printed = ended(process)
    assert code == 0, printed
    result: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
    account = result["account"]
    assert account["sent"] > 0
    members = {"big-group": 2, "small-groups": 10, "rest-broadcast": 20}.get(name, 1)
    assert account["expected"] == account["delivered"] == account["sent"] * members
    assert (account["lost"], account["twice"], account["strange"]) == (0, 0, 0)
    assert 0 < account["latency_ms"]["p50"] <= account["latency_ms"]["p99"]
    assert result["generators"]["0"]["lag_p99_ms"] > 0
    assert result["conditions"]["connections"] == 20
    assert result["verdict"] in (folder / f"{name}.html").read_text()


def test_the_client_that_the_docs_show_sends_what_it_says(tmp_path: Path) -> None:
    shown = (ROOT / "docs" / "load-testing.md").read_text().partition("```python\n")[2].partition("```")[0]
    place = tmp_path / "bursts.py"
    place.write_text(shown)
    options = (
        "--connections",
        "10",
        "--seconds",
        "2",
        "--bytes",
        "300",
        "--drain",
        "30",
        "--out",
        str(tmp_path),
    )
    with Up(tmp_path, "--memory", "--workers", "1") as up:
        code, printed = ended(start(place, *options, connection_string=up.facts["connectionString"]))
    assert code == 0, printed
    account = json.loads((tmp_path / "big-group.json").read_text())["account"]
    assert (account["sent"], account["delivered"], account["lost"]) == (200, 200, 0)


def test_a_service_that_is_not_there_is_told_with_an_exit_code(tmp_path: Path) -> None:
    nowhere = f"Endpoint=http://127.0.0.1:{free_port()};AccessKey={'k' * 40};Version=1.0;"
    options = ("--connections", "2", "--connect-deadline", "1", "--out", str(tmp_path))
    code, printed = ended(start(place_of("big-group"), *options, connection_string=nowhere))
    assert code == 3, printed
    assert "only 0 of 2 clients were connected" in printed


def test_without_a_connection_string_it_says_what_is_needed() -> None:
    code, printed = ended(start(place_of("big-group")))
    assert code != 0
    assert "HUBWIRE_CONNECTION_STRING" in printed
    assert "Traceback" not in printed


def test_a_scenario_that_a_protocol_cannot_do_is_refused() -> None:
    nowhere = f"Endpoint=http://127.0.0.1:1;AccessKey={'k' * 40};Version=1.0;"
    code, printed = ended(start(place_of("big-group"), "--protocol", "simple", connection_string=nowhere))
    assert code != 0
    assert "only --protocol json and reliable can send to a group" in printed
