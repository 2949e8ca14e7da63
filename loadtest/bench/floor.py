"""The floor that everything is compared with: a program that sends the same bytes to each client, no more."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from loadtest.clients import Clients

HERE = Path(__file__).resolve().parent.parent


def floor(members: int, rounds: int, size: int) -> dict[str, float | str]:
    """CPU microseconds per send(), and the language it is written in: C where there is a compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    with tempfile.TemporaryDirectory(prefix="hubwire-floor-") as folder:
        if compiler is None:
            command, kind = [sys.executable, str(HERE / "bare_send.py")], "Python"
        else:
            binary = str(Path(folder) / "bare_send")
            subprocess.run([compiler, "-O2", "-o", binary, str(HERE / "bare_send.c")], check=True)
            command, kind = [binary], "C"
        return {
            "us": _run([*command, str(members), str(rounds), str(size)], members, rounds * size),
            "in": kind,
        }


def _run(command: list[str], members: int, bytes_each: int) -> float:
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    assert server.stdin is not None
    clients = Clients()
    try:
        clients.connect_raw(int(server.stdout.readline().split()[1]), members)
        time.sleep(0.2)  # until it has accepted the last of them; not measured
        server.stdin.write("go\n")
        server.stdin.flush()
        clients.read_bytes(members * bytes_each, 120)
        return float(server.stdout.readline().split()[1]) / 1000
    finally:
        server.kill()
        server.wait()
        clients.close()
