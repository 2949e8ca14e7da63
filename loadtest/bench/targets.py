"""What is measured: how Hubwire and each peer is started, and how it is spoken to.

A target is a context manager with running processes. `Missing` says why one cannot run on this machine.
"""

from __future__ import annotations

import http.client
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from hubwire.model.errors import HubwireError
from hubwire.model.tokens import sign_client_token, sign_rest_token
from hubwire.runtime.nats_server import find_nats_server
from loadtest.bench.load_clients import Dialect, LoadClients
from loadtest.bench.measured_processes import Processes, free_port
from loadtest.clients import PROTOCOL, client_frame

ROOT = Path(__file__).resolve().parents[2]
HUB = "bench"
KEY = "loadtest-access-key-of-no-secret-0123456789"
RELIABLE = "json.reliable.webpubsub.azure.v1"
PING = b"\x89\x00"
PONG = client_frame(b"", 0xA)


class Missing(Exception):
    """This target is not installed here; the text says what is missing."""


Call = Callable[[http.client.HTTPConnection, str, bytes], None]


@dataclass
class Target:
    """A running server. `measured` are the processes whose CPU counts for one delivery; `call` sends the
    HTTP request that publishes data to a group (or here: a user) over a kept connection."""

    name: str
    port: int
    processes: Processes
    dialect: Dialect
    http_port: int = 0
    call: Call | None = None
    fan_out: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)

    def clients(self) -> LoadClients:
        return LoadClients(self.dialect, self.port)


def hubwire_dialect(path: Callable[[int, str], str], subprotocol: str = PROTOCOL) -> Dialect:
    """JSON clients that join their group and publish to it; the sender gets its message too."""

    def steps(number: int, group: str) -> list[tuple[bytes, bytes]]:
        join = json.dumps({"type": "joinGroup", "group": group, "ackId": 1}).encode()
        return [(b'"connected"', client_frame(join)), (b'"success":true', b"")]

    def publish(number: int, group: str, data: bytes) -> bytes:
        head = b'{"type":"sendToGroup","group":"%s","dataType":"text","noEcho":false,' % group.encode()
        return client_frame(head + b'"data":"%s"}' % data)

    return Dialect(path, publish, steps, subprotocol, PING, PONG, acks=subprotocol == RELIABLE)


def client_paths(port: int, count: int, first: int = 0) -> Callable[[int, str], str]:
    """The path of each of `count` clients from `first` on, with a token of its own, signed before anything
    is measured."""
    endpoint = f"http://127.0.0.1:{port}"
    roles = ("webpubsub.joinLeaveGroup", "webpubsub.sendToGroup")
    now = time.time()

    def path(number: int) -> str:
        token = sign_client_token(
            KEY, endpoint=endpoint, hub=HUB, user_id=f"user-{number}", roles=roles, minutes=600, now=now
        )
        return f"/client/hubs/{HUB}?access_token={token}"

    known = [path(number) for number in range(first, first + count)]
    return lambda number, group: known[number - first]


def rest_call(port: int) -> Call:
    """Send to a user, with a token that was never seen before, as the SDKs sign one for each call."""
    expires = iter(range(600, 1_000_000))

    def call(connection: http.client.HTTPConnection, user: str, data: bytes) -> None:
        path = f"/api/hubs/{HUB}/users/{user}/:send?api-version=2024-12-01"
        token = sign_rest_token(KEY, f"http://127.0.0.1:{port}{path}", time.time(), next(expires))
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "text/plain"}
        connection.request("POST", path, data, headers)

    return call


@contextmanager
def hubwire(
    clients: int = 1000, *, reliable: bool = False, rest: bool = False, **settings: str
) -> Iterator[Target]:
    """nats-server, a router, a gateway and, for REST, a control plane, as `hubwire ROLE` starts them."""
    with Processes() as running:
        nats_port, port, rest_port = free_port(), free_port(), free_port()
        conf = running.folder / "nats.conf"
        conf.write_text(
            f'listen: "127.0.0.1:{nats_port}"\nmax_payload: 4MB\n'
            f'jetstream {{ store_dir: "{running.folder}" }}\n'
        )
        running.start("nats", [find_nats_server(), "-c", str(conf)])
        running.wait_for_port("nats", nats_port)
        env = {
            "HUBWIRE_NATS_SERVERS": f"nats://127.0.0.1:{nats_port}",
            "HUBWIRE_DURABILITY": "memory",
            "HUBWIRE_ACCESS_KEY": KEY,
            "HUBWIRE_LOG_LEVEL": "warning",
            "HUBWIRE_DRAIN_SECONDS": "0",
            "HUBWIRE_ADMIN_PORT": "0",
            "HUBWIRE_LEASE_SECONDS": "30",  # a machine that starves the gateway is no reason to end it
        } | {f"HUBWIRE_{name.upper()}": value for name, value in settings.items()}
        command = [sys.executable, "-m", "hubwire.cli.main"]
        running.start("router", [*command, "router"], env=env, cwd=ROOT)
        running.start("gateway", [*command, "gateway", "--port", str(port)], env=env, cwd=ROOT)
        running.wait_for_port("gateway", port)
        if rest:
            running.start(
                "controlplane", [*command, "controlplane", "--port", str(rest_port)], env=env, cwd=ROOT
            )
            running.wait_for_port("controlplane", rest_port)
        dialect = hubwire_dialect(client_paths(port, clients), RELIABLE if reliable else PROTOCOL)
        target = Target("hubwire", port, running, dialect, fan_out=("gateway",))
        if rest:
            target.http_port, target.call = rest_port, rest_call(rest_port)
        until_served(target)
        yield replace(target, name="hubwire reliable") if reliable else target


def until_served(target: Target) -> None:
    """Until a client can join: the router owns its partitions now."""
    end = time.monotonic() + 40
    while True:
        probe = target.clients()
        try:
            probe.connect(1, lambda number: "probe", seconds=10)
            return
        except (ConnectionError, TimeoutError):
            if time.monotonic() > end:
                raise
            time.sleep(0.2)
        finally:
            probe.close()


def hubwire_is_here() -> str:
    """Its version. Raises Missing."""
    from importlib.metadata import version

    try:
        find_nats_server()
    except HubwireError as fault:
        raise Missing(str(fault)) from fault
    return version("hubwire")
