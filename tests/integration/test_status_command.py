"""`hubwire status` against real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from support.nats import NatsServer
from support.processes import Fleet, eventually
from support.up import Up

SECONDS = 30.0


def status(*options: str, folder: Path) -> tuple[int, str, str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HUBWIRE_")}
    done = subprocess.run(
        [sys.executable, "-m", "hubwire.cli.main", "status", *options],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def facts(*options: str, folder: Path) -> dict[str, Any]:
    _, out, errors = status("--json", *options, folder=folder)
    assert out, errors
    found: dict[str, Any] = json.loads(out)
    return found


def test_a_hubwire_up_that_runs_here_is_found_and_told(tmp_path: Path) -> None:
    with Up(tmp_path, "--workers", "2") as up:
        code, text, _ = status(folder=tmp_path)
        assert "1 router, 2 gateways: all is well" in text
        assert "256 of 256 are owned" in text
        assert code == 0
        found = facts(folder=tmp_path)
        assert found["ok"] is True
        assert found["partitions"]["owned"] == 256
        assert [one["name"] for one in found["processes"]] == ["gateway-0", "gateway-1", "router"]
        assert {one["pid"] for one in found["processes"]} <= set(up.children())
        assert all(one["numbers"]["hubwire_bus_connected"] == 1 for one in found["processes"])


def test_what_is_wrong_in_a_cluster_is_told_with_exit_code_1(tmp_path: Path) -> None:
    with NatsServer(tmp_path / "nats") as nats, Fleet(tmp_path, [nats.url]) as fleet:
        options = ("--nats-servers", nats.url)
        code, text, _ = status(*options, folder=tmp_path)
        assert code == 1
        assert "There is no router." in text
        _, hung, rest = fleet.start_all("router", "gateway", "controlplane")
        eventually(lambda: facts(*options, folder=tmp_path)["ok"], SECONDS, "all is well")
        assert {one["role"] for one in facts(*options, folder=tmp_path)["processes"]} == {
            "router",
            "gateway",
            "controlplane",
        }
        rest.stop()
        assert "controlplane" not in {one["role"] for one in facts(*options, folder=tmp_path)["processes"]}
        hung.pause()
        assert any("There is no gateway." in one for one in facts(*options, folder=tmp_path)["problems"])
        hung.resume()


def test_without_a_cluster_it_says_what_to_give(tmp_path: Path) -> None:
    code, _, errors = status(folder=tmp_path)
    assert code == 1
    assert "--nats-servers" in errors
    code, _, errors = status("--nats-servers", "nats://127.0.0.1:1", folder=tmp_path)
    assert code == 1
    assert "127.0.0.1:1" in errors
    assert "Traceback" not in errors


def test_watching_goes_on_until_it_is_interrupted(tmp_path: Path) -> None:
    with Up(tmp_path, "--workers", "1", "--memory") as up:
        command = [sys.executable, "-m", "hubwire.cli.main", "status", "--watch", "0.2", "--json"]
        watching = subprocess.Popen(
            [*command, "--data", str(up.data)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert watching.stdout is not None
        try:
            seen = [json.loads(watching.stdout.readline()) for _ in range(3)]
            assert all(one["partitions"]["owned"] == 256 for one in seen)
            watching.send_signal(signal.SIGINT)
            assert watching.wait(30) == 130
        finally:
            watching.kill()
            watching.communicate()
