"""`hubwire gateway --rest`: clients and REST on one port, as the Helm chart's Service has it."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.nats import NatsServer
from support.processes import KEY, Fleet

SECONDS = 60.0


@contextmanager
def gateway(nats: NatsServer, *more: str) -> Iterator[str]:
    """The command as an operator gives it; the address that its log tells."""
    command = [sys.executable, "-m", "hubwire.cli.main", "gateway", "--port", "0", "--admin-port", "0"]
    command += [
        "--nats",
        nats.url,
        "--access-key",
        KEY,
        "--drain-seconds",
        "0",
        "--log-format",
        "json",
        *more,
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    heard: queue.Queue[str] = queue.Queue()

    def read() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            heard.put(line)

    threading.Thread(target=read, daemon=True).start()
    try:
        while True:
            told = json.loads(heard.get(timeout=SECONDS))
            if told["event"] == "gateway_listening":
                yield f"http://127.0.0.1:{told['port']}"
                break
        process.terminate()
        assert process.wait(SECONDS) == 0
    finally:
        process.kill()
        process.wait()


def health(address: str) -> int:
    try:
        with urllib.request.urlopen(f"{address}/api/health", timeout=SECONDS) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as refused:
        return refused.code


@pytest.mark.parametrize(("more", "status"), [(("--rest",), 200), ((), 404)])
def test_a_gateway_serves_rest_when_it_is_told_to(tmp_path: Path, more: tuple[str, ...], status: int) -> None:
    with NatsServer(tmp_path / "nats") as nats, Fleet(tmp_path, [nats.url]) as fleet:
        fleet.start("router")
        with gateway(nats, *more) as address:
            assert health(address) == status
