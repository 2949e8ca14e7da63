"""The processes that are measured: started, asked for their CPU time and memory, ended. Linux only."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

READY_SECONDS = 40.0


def family(pid: int) -> list[int]:
    """A process and all that it started."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += family(int(child))
    return found


def cpu_seconds(pid: int) -> float:
    """CPU time so far of all threads of a process and of those that it started."""
    total = 0
    for one in family(pid):
        for task in Path(f"/proc/{one}/task").iterdir():
            total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def pss_kib(pid: int) -> int:
    """Memory of a process and of those that it started, shared pages by share."""
    total = 0
    for one in family(pid):
        for line in Path(f"/proc/{one}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def end_in_order() -> None:
    """SIGTERM ends this process as Ctrl-C does: what it has started is ended first."""

    def told(*_: object) -> None:
        raise SystemExit(143)

    signal.signal(signal.SIGTERM, told)


class Processes:
    """Named processes with a folder of their own, which goes with them. A context manager."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="hubwire-bench-"))
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(
        self,
        name: str,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> subprocess.Popen[bytes]:
        log = (self.folder / f"{name}.log").open("wb")
        with log:
            self.running[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=cwd,
                env={**os.environ, **(env or {})},
            )
        return self.running[name]

    def wait_for_port(self, name: str, port: int) -> None:
        """Until something listens. RuntimeError with the last words of one that ends or takes too long."""
        end = time.monotonic() + READY_SECONDS
        while time.monotonic() < end and self.running[name].poll() is None:
            with socket.socket() as sock:
                if sock.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.05)
        said = (self.folder / f"{name}.log").read_text(errors="replace")[-2000:]
        raise RuntimeError(f"{name} did not come up: {said}")

    def last_words(self) -> str:
        """The end of what each process has printed: why something failed often stands there."""
        said = {name: (self.folder / f"{name}.log").read_text(errors="replace") for name in self.running}
        return "".join(f"{name}: {text[-2000:]}\n" for name, text in said.items() if text)

    def cpu(self) -> dict[str, float]:
        return {name: cpu_seconds(process.pid) for name, process in self.running.items()}

    def cpu_since(self, before: Mapping[str, float]) -> dict[str, float]:
        return {name: now - before[name] for name, now in self.cpu().items()}

    def pss(self) -> dict[str, int]:
        return {name: pss_kib(process.pid) for name, process in self.running.items()}

    def close(self) -> None:
        for process in reversed(self.running.values()):
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
