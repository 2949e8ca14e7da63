"""The supervisor: starts in order, restarts what dies, stops in order, leaves nothing."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).resolve().parent.parent
SECONDS = 20.0


class Family:
    """One run of `support.supervised`: what it tells, line by line, from both of its outputs."""

    def __init__(self, scenario: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "support.supervised", scenario],
            cwd=TESTS,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.told: list[dict[str, Any]] = []
        self._lines: queue.Queue[dict[str, Any] | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            try:
                self._lines.put(json.loads(line))
            except ValueError:
                self._lines.put({"text": line.decode()})
        self._lines.put(None)

    def wait_for(self, **facts: object) -> dict[str, Any]:
        """The next line that has these facts."""
        deadline = time.monotonic() + SECONDS
        while True:
            line = self._lines.get(timeout=max(0.01, deadline - time.monotonic()))
            assert line is not None, f"ended without {facts}: {self.told}"
            self.told.append(line)
            if facts.items() <= line.items():
                return line

    def end(self) -> int:
        """Wait for the end of the supervisor and of all its output (that is, of all its children)."""
        code = self.process.wait(SECONDS)
        while (line := self._lines.get(timeout=SECONDS)) is not None:
            self.told.append(line)
        return code

    def pids(self) -> list[int]:
        return [line["pid"] for line in self.told if "child" in line and "event" not in line]


@pytest.fixture
def family(request: pytest.FixtureRequest) -> Iterator[Family]:
    running = Family(request.param)
    yield running
    if running.process.poll() is None:
        running.process.kill()
        running.process.wait()
    assert running.process.stdout is not None
    for pid in running.pids():
        assert not exists(pid)


def exists(pid: int) -> bool:
    """Whether the process still runs (a zombie that nobody has collected yet does not)."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return False
        if state == "Z":
            return False
        time.sleep(0.01)
    return True


@pytest.mark.parametrize("family", ["family"], indirect=True)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_children_start_by_stage_and_stop_by_rank(family: Family, number: signal.Signals) -> None:
    family.wait_for(ready=True)
    assert next(line["child"] for line in family.told if "child" in line and "event" not in line) == "bus"
    family.process.send_signal(number)
    assert family.end() == 0
    assert [line["stopped"] for line in family.told if "stopped" in line] == ["gateway", "router", "bus"]


@pytest.mark.parametrize("family", ["family"], indirect=True)
def test_a_child_that_is_killed_comes_back_and_the_others_stay(family: Family) -> None:
    family.wait_for(ready=True)
    before = {line["child"]: line["pid"] for line in family.told if "child" in line and "event" not in line}
    os.kill(before["router"], signal.SIGKILL)
    ended = family.wait_for(event="child_ended", child="router")
    assert ended["reason"] == "killed by SIGKILL"
    again = family.wait_for(event="child_ready", child="router")
    assert again["pid"] != before["router"]
    family.process.send_signal(signal.SIGTERM)
    assert family.end() == 0
    assert before["gateway"] in family.pids()
    assert (
        sum("child" in line and line["child"] == "gateway" and "event" not in line for line in family.told)
        == 1
    )


@pytest.mark.parametrize("family", ["dying"], indirect=True)
def test_a_child_that_keeps_dying_is_tried_with_growing_pauses_and_its_reason_is_told(family: Family) -> None:
    family.wait_for(ready=True)
    os.kill(next(line["pid"] for line in family.told if line.get("child") == "weak"), signal.SIGKILL)
    family.wait_for(event="child_ended", child="weak", reason="killed by SIGKILL")
    pauses = []
    for _ in range(3):
        ended = family.wait_for(event="child_ended", child="weak")
        assert ended["reason"] == "exit code 1: RuntimeError: the cable was pulled"
        pauses.append(ended["restart_in_seconds"])
    assert pauses == [0.2, 0.5, 1.0]
    family.process.send_signal(signal.SIGTERM)
    assert family.end() == 0


@pytest.mark.parametrize("family", ["beating"], indirect=True)
def test_a_child_that_hangs_is_killed_and_comes_back(family: Family) -> None:
    family.wait_for(ready=True)
    hung = next(line["pid"] for line in family.told if line.get("child") == "beating")
    os.kill(hung, signal.SIGSTOP)
    told = family.wait_for(event="child_hung", child="beating", pid=hung)
    assert told["reason"] == "nothing was heard of it for 0.8 seconds"
    ended = family.wait_for(event="child_ended", child="beating")
    assert ended["reason"] == f"killed by SIGKILL: hung: {told['reason']}"
    again = family.wait_for(event="child_ready", child="beating")
    assert again["pid"] != hung
    family.process.send_signal(signal.SIGTERM)
    assert family.end() == 0


@pytest.mark.parametrize("family", ["beating"], indirect=True)
def test_nobody_hangs_because_the_whole_machine_slept(family: Family) -> None:
    family.wait_for(ready=True)
    everybody = [*family.pids(), family.process.pid]
    for pid in everybody:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(2.0)  # the fault itself
    for pid in reversed(everybody):  # the supervisor is the first to wake
        os.kill(pid, signal.SIGCONT)
    time.sleep(1.0)  # longer than anybody may be silent
    family.process.send_signal(signal.SIGTERM)
    assert family.end() == 0
    assert not [line for line in family.told if line.get("event") in ("child_hung", "child_ended")]


@pytest.mark.parametrize("family", ["stubborn"], indirect=True)
def test_a_child_that_does_not_stop_is_killed_at_its_deadline(family: Family) -> None:
    family.wait_for(ready=True)
    family.process.send_signal(signal.SIGTERM)
    family.wait_for(event="child_killed", child="stubborn")
    assert family.end() == 0


@pytest.mark.parametrize("family", ["patient"], indirect=True)
def test_a_second_interrupt_ends_the_patience(family: Family) -> None:
    family.wait_for(ready=True)
    family.process.send_signal(signal.SIGINT)
    family.wait_for(event="stop_requested")
    family.process.send_signal(signal.SIGINT)
    family.wait_for(event="stop_hurried")
    assert family.end() == 0


@pytest.mark.parametrize(
    ("family", "why"),
    [
        ("broken", "bad could not start: the disk is full"),
        ("silent", "quiet could not start: not ready within 0.3 seconds"),
    ],
    indirect=["family"],
)
def test_a_first_start_that_fails_stops_everything_and_says_why(family: Family, why: str) -> None:
    assert family.end() == 1
    assert {"fault": why} in family.told
    assert {"stopped": "good"} in family.told


@pytest.mark.parametrize("family", ["family"], indirect=True)
def test_children_do_not_outlive_a_supervisor_that_is_killed(family: Family) -> None:
    family.wait_for(ready=True)
    family.process.send_signal(signal.SIGKILL)
    family.end()
    assert len(family.pids()) == 3  # the fixture looks whether they are gone


@pytest.mark.parametrize("family", ["family"], indirect=True)
@pytest.mark.parametrize("moment", range(12))  # from before the first fork to after the last
def test_a_signal_while_starting_leaves_nothing(family: Family, moment: int) -> None:
    time.sleep(0.03 * moment)
    family.process.send_signal(signal.SIGTERM)
    assert family.end() in (0, -signal.SIGTERM)  # the latter: the interpreter itself was still starting
