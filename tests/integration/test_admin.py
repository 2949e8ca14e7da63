"""The admin listener of real processes: health, and that it is there when it is needed."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from base64 import b64encode
from pathlib import Path

import pytest
from support.admin import admin_url, ask, scrape
from support.nats import NatsServer
from support.processes import KEY, Fleet, Role, eventually
from support.up import Up

from hubwire.model.tokens import sign_client_token

SECONDS = 30.0


@pytest.fixture
def nats(tmp_path: Path) -> NatsServer:
    return NatsServer(tmp_path / "nats")


@pytest.mark.parametrize("role", ["gateway", "router", "controlplane"])
def test_a_process_is_alive_before_nats_is_there_and_ready_only_with_it(
    tmp_path: Path, role: Role, nats: NatsServer
) -> None:
    with nats, Fleet(tmp_path, [nats.url]) as fleet:
        nats.kill()
        service = fleet.make(role).launch()
        url = admin_url(service)
        assert ask(url, "/livez") == (200, "alive\n")
        assert ask(url, "/startupz")[0] == 503
        status, text = ask(url, "/readyz")
        assert (status, text) == (503, "It is starting: NATS has not been reached yet.\n")
        assert scrape(url).value("hubwire_process_ready") == 0

        nats.start()
        if role != "router":
            fleet.start("router")
        service.wait_ready()
        eventually(lambda: ask(url, "/readyz")[0] == 200, SECONDS, "ready")
        assert ask(url, "/startupz")[0] == 200
        assert scrape(url).value("hubwire_process_ready") == 1

        nats.kill()
        eventually(lambda: "NATS is not connected." in ask(url, "/readyz")[1], SECONDS, "not ready")
        assert ask(url, "/livez")[0] == 200
        assert ask(url, "/startupz")[0] == 200

        nats.start()
        eventually(lambda: ask(url, "/readyz")[0] == 200, SECONDS, "ready again")


def test_a_gateway_that_is_being_stopped_says_so_while_its_clients_leave(
    tmp_path: Path, nats: NatsServer
) -> None:
    with nats, Fleet(tmp_path, [nats.url]) as fleet:
        fleet.start("router")
        gateway = fleet.make("gateway")
        gateway.config = gateway.config.replace(drain_seconds=15.0)
        gateway.start()
        url = admin_url(gateway)
        host = f"127.0.0.1:{gateway.port}"
        token = sign_client_token(
            KEY, endpoint=f"http://{host}", hub="chat", user_id="u", roles=(), now=time.time()
        )
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=SECONDS) as client:
            client.sendall(
                (
                    f"GET /client/hubs/chat?access_token={token} HTTP/1.1\r\nHost: {host}\r\n"
                    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                    f"Sec-WebSocket-Key: {b64encode(os.urandom(16)).decode()}\r\n\r\n"
                ).encode()
            )
            assert client.recv(12).startswith(b"HTTP/1.1 101")
            # It never answers the close frame, so the gateway has to wait for it.
            gateway.terminate()
            eventually(lambda: ask(url, "/readyz") == (503, "It is being stopped.\n"), SECONDS, "says so")
            assert ask(url, "/livez")[0] == 200
        assert gateway.join(SECONDS) == 0
        with pytest.raises(OSError, match="refused"):
            ask(url, "/livez")


def test_it_answers_no_more_than_it_is_asked(tmp_path: Path, nats: NatsServer) -> None:
    with nats, Fleet(tmp_path, [nats.url]) as fleet:
        url = admin_url(fleet.start("router"))
        assert ask(url, "/metrics", method="HEAD") == (200, "")
        assert ask(url, "/metrics", method="POST")[0] == 405
        status, text = ask(url, "/")
        assert status == 404
        assert "/readyz" in text
        address = ("127.0.0.1", int(url.rpartition(":")[2]))
        with socket.create_connection(address, timeout=SECONDS) as raw:
            raw.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n" * 2)  # two at once
            heard = b""
            while heard.count(b"alive") < 2:
                heard += raw.recv(4096)
        with socket.create_connection(address, timeout=SECONDS) as raw:
            raw.sendall(b"GET /" + b"x" * 20_000)
            assert raw.recv(4096).startswith(b"HTTP/1.1 431")
        with socket.create_connection(address, timeout=SECONDS) as raw:
            raw.sendall(b"hello\r\n\r\n")
            assert raw.recv(4096).startswith(b"HTTP/1.1 400")


def test_a_port_that_is_taken_is_told_in_a_sentence() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-m", "hubwire.cli.main", "router", "--admin-port", str(port)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    assert f"Port {port} on 127.0.0.1 is in use" in done.stderr
    assert "--admin-port" in done.stderr


def instance(url: str) -> str:
    """Host and process id."""
    return scrape(url).found("target_info")[0].labels["service_instance_id"]


def test_each_process_of_up_has_its_port_and_keeps_it_when_it_is_started_again(tmp_path: Path) -> None:
    with Up(tmp_path, "--workers", "2", "--memory") as up:
        admin = up.facts["admin"]
        assert list(admin) == ["gateway-0", "gateway-1", "router"]
        assert json.loads((up.data / "endpoint.json").read_text())["admin"] == admin
        for url in admin.values():
            assert ask(url, "/readyz") == (200, "ready\n")
        before = instance(admin["gateway-1"])
        os.kill(int(before.rpartition("-")[2]), signal.SIGKILL)

        def is_back() -> bool:
            try:
                return instance(admin["gateway-1"]) != before and ask(admin["gateway-1"], "/readyz")[0] == 200
            except OSError:
                return False

        eventually(is_back, SECONDS, "gateway-1 answers again")
