"""Where the CPU of a Python process goes, by function: py-spy beside it for as long as something is measured.

Only with --profile, since it costs CPU itself; its samples are of threads that run, and native code counts
for the Python function that called it.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from loadtest.bench.measured_processes import Processes

PYTHON = ("gateway", "router", "controlplane")
RATE = 250


def py_spy() -> str:
    """Its path. RuntimeError when it is not installed."""
    beside = Path(sys.executable).parent / "py-spy"
    found = str(beside) if beside.exists() else shutil.which("py-spy")
    if not found:
        raise RuntimeError("--profile needs py-spy; install it with: pip install py-spy.")
    return found


@contextmanager
def profiled(processes: Processes, found: dict[str, Counter[str]]) -> Iterator[None]:
    """Adds to `found`, by process, how many samples ended in each function."""
    with ExitStack() as stack:
        for name in PYTHON:
            if name in processes.running:
                raw = processes.folder / f"{name}.samples"
                stack.enter_context(_one(processes.running[name].pid, raw, found.setdefault(name, Counter())))
        yield


@contextmanager
def _one(pid: int, raw: Path, found: Counter[str]) -> Iterator[None]:
    command = [py_spy(), "record", "--pid", str(pid), "--rate", str(RATE), "--format", "raw", "--nonblocking"]
    spy = subprocess.Popen(
        [*command, "--duration", "600", "--output", str(raw)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        spy.send_signal(signal.SIGINT)
        spy.wait(60)
    if raw.exists():
        found.update(self_samples(raw.read_text()))


def self_samples(text: str) -> Counter[str]:
    """Samples by innermost function, from lines of `outer;inner (file:line) COUNT`; lines of one function
    count together."""
    found: Counter[str] = Counter()
    for line in text.splitlines():
        stack, _, count = line.rpartition(" ")
        found[_function(stack.rpartition(";")[2])] += int(count)
    return found


def _function(frame: str) -> str:
    name, _, where = frame.partition(" (")
    file = where.rpartition(":")[0]
    return f"{name} ({file})" if file else name


def shares(found: dict[str, Counter[str]], lines: int = 15) -> dict[str, list[tuple[str, float]]]:
    """By process the functions with the most samples, and their share of all."""
    return {
        process: [(name, round(n / max(1, samples.total()), 3)) for name, n in samples.most_common(lines)]
        for process, samples in found.items()
    }
