"""A whole Hubwire under a test's control, in the two shapes in which people run it.

`HubwireUp`       the command `hubwire up --memory`: everything on one port
`HubwireCluster`  three NATS servers, two routers, three gateways, two control planes, each a process

Both hand out URLs by `gateway()` and `control_plane()`, the next one at every call, so that a test that
asks twice talks to two processes where there are two. Everything is started with the real command line,
has the settings of `settings_file`, and is ended by pid when the context is left.
"""

from __future__ import annotations

import itertools
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import jwt
import yaml
from support.nats import NatsCluster
from support.up import Up
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from hubwire.runtime.listen import HeldPort, hold_listen_port

START_SECONDS = 40.0
STOP_SECONDS = 15.0
POLL_SECONDS = 0.02
DRAIN = ["--drain-seconds", "1"]
ANONYMOUS_HUB = "open"
"""The hub whose settings let clients in without a token."""
HANDLED_HUB = "handled"
"""The hub whose events go to an application server at the topology's `handler_port`."""
PUBLIC_ENDPOINT = "https://wps.example.com"
"""A name by which clients know the cluster (its gateways accept tokens for it)."""

# The process goes when the test process does, however that ends.
_DIE_WITH_PARENT = (
    "import ctypes,os,sys;"
    "sys.platform=='linux' and ctypes.CDLL(None).prctl(1,9);"
    "os.getppid()==int(sys.argv[1]) and os.execv(sys.argv[2],sys.argv[2:])"
)


class Topology(Protocol):
    """What a conformance test needs to know of the service it talks to."""

    name: str
    key: str
    secondary_key: str
    handler_port: int

    @property
    def gateways(self) -> list[str]:
        """The endpoints (http://host:port) of the gateways that run."""

    @property
    def control_planes(self) -> list[str]:
        """The endpoints of the control planes that run."""

    def gateway(self) -> str:
        """The next gateway's endpoint."""

    def control_plane(self) -> str:
        """The next control plane's endpoint."""

    def jetstream(self) -> dict[str, Any]:
        """How `nats.connect` reaches the streams of event listeners."""

    def tail(self) -> str:
        """The last lines of all logs, for the report of a failed test."""


def new_key() -> str:
    return secrets.token_urlsafe(33)


def settings_file(
    folder: Path, key: str, secondary_key: str, handler_port: int, handler_path: str = "/{hub}/{event}"
) -> Path:
    """The config file that every process of a topology gets: keys, the hub for anonymous clients, and the
    one with an event handler."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "hubwire.yaml"
    settings = {
        "accessKeys": {"primary": key, "secondary": secondary_key},
        "hubs": {
            ANONYMOUS_HUB: {"anonymousConnectPolicy": "allow"},
            HANDLED_HUB: {
                "eventHandlers": [
                    {
                        "urlTemplate": f"http://127.0.0.1:{handler_port}{handler_path}",
                        "userEventPattern": "*",
                        "systemEvents": ["connect", "connected", "disconnected"],
                    }
                ]
            },
        },
    }
    path.write_text(yaml.safe_dump(settings))
    path.chmod(0o600)
    return path


class _Rotating:
    """Hands out what runs in turn."""

    def __init__(self) -> None:
        self._count = itertools.count()

    def of(self, found: list[str]) -> str:
        return found[next(self._count) % len(found)]


class HubwireUp:
    """`hubwire up --memory` with two workers; one endpoint serves clients and REST."""

    name = "up"

    def __init__(
        self, folder: Path, *options: str, handler_port: int = 0, handler_path: str = "/{hub}/{event}"
    ) -> None:
        self.key, self.secondary_key = new_key(), new_key()
        # A port that nobody else gets, unless there is an application server already.
        self._handler = hold_listen_port("127.0.0.1", 0) if not handler_port else None
        self.handler_port = self._handler.port if self._handler is not None else handler_port
        config = settings_file(folder, self.key, self.secondary_key, self.handler_port, handler_path)
        self.up = Up(folder, "--memory", "--workers", "2", "--config", str(config), *DRAIN, *options)

    @property
    def gateways(self) -> list[str]:
        return [self.up.endpoint]

    control_planes = gateways

    def gateway(self) -> str:
        return self.up.endpoint

    def control_plane(self) -> str:
        return self.up.endpoint

    def jetstream(self) -> dict[str, Any]:
        nats = json.loads((self.up.data / "endpoint.json").read_text())["nats"]
        return {"servers": nats["url"], "user": nats["user"], "password": nats["password"]}

    def tail(self) -> str:
        return "\n".join([*map(str, self.up.log[-20:]), *self.up.printed[-20:]])

    def __enter__(self) -> Self:
        self.up.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.up.process.poll() is None:
            self.up.signal(signal.SIGTERM)
            try:
                self.up.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.up.process.kill()
        self.up.end()
        if self._handler is not None:
            self._handler.socket.close()


class Service:
    """One process of a cluster: `hubwire ROLE OPTIONS`, its output in a file of its own.

    The port (of roles that have one) is held for the whole life of this object, so that it is the same
    after `kill` and `start`.
    """

    def __init__(self, folder: Path, name: str, role: str, options: list[str]) -> None:
        self.name = name
        self.role = role
        self.log = folder / f"{name}.log"
        self._held: HeldPort | None = None
        command = [sys.executable, "-m", "hubwire.cli.main", role, *options, "--name", name]
        command += ["--log-format", "json", "--log-level", "info", "--admin-port", "0"]
        if role != "router":
            self._held = hold_listen_port("127.0.0.1", 0)
            command += ["--port", str(self.port)]
        self.command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._began = 0  # where in the log the output of this run begins

    @property
    def port(self) -> int:
        assert self._held is not None, f"{self.name} has no port"
        return self._held.port

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self.name} does not run"
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def launch(self) -> None:
        """Start the process without waiting for it to serve."""
        assert not self.running, f"{self.name} runs already"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HUBWIRE_")}
        shim = [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid())]
        self._began = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                [*shim, *self.command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )

    def wait_ready(self, seconds: float = START_SECONDS) -> None:
        """Until it serves: a gateway accepts, a control plane is healthy, a router owns partitions."""
        checks: dict[str, Callable[[], bool]] = {
            "gateway": self._accepts,
            "controlplane": self._healthy,
            "router": self._started,
        }
        check, deadline = checks[self.role], time.monotonic() + seconds
        while not check():
            if not self.running or time.monotonic() > deadline:
                raise RuntimeError(
                    f"{self.name} {'is not ready' if self.running else 'ended'}: {self.tail()}"
                )
            time.sleep(POLL_SECONDS)

    def _accepts(self) -> bool:
        with socket.socket() as one:
            one.settimeout(2)
            return one.connect_ex(("127.0.0.1", self.port)) == 0

    def _healthy(self) -> bool:
        if not self._accepts():
            return False
        try:
            with urllib.request.urlopen(f"{self.endpoint}/api/health", timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def _started(self) -> bool:
        return b'"partitions_gained"' in self.log.read_bytes()[self._began :]

    def start(self) -> None:
        self.launch()
        self.wait_ready()

    def stop(self) -> int:
        """An orderly stop (SIGTERM); the exit code."""
        return self._end(signal.SIGTERM)

    def kill(self) -> None:
        """kill -9: nothing is flushed, nothing is said."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop in order and start again on the same port."""
        self.stop()
        self.start()

    def pause(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def tail(self, lines: int = 15) -> str:
        if not self.log.exists():
            return f"--- {self.name}: nothing"
        text = self.log.read_text(errors="replace").splitlines()[-lines:]
        return "\n".join([f"--- {self.name}", *text])

    def _end(self, how: signal.Signals) -> int:
        process = self._process
        if process is None:
            return 0
        if process.poll() is None:
            process.send_signal(how)
            if how is not signal.SIGKILL:
                process.send_signal(signal.SIGCONT)  # a paused process cannot stop
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._process = None
        return process.returncode

    def close(self) -> None:
        self.kill()
        if self._held is not None:
            self._held.socket.close()


class HubwireCluster:
    """Two routers, three gateways and two control planes over three NATS servers, everything replicated."""

    name = "cluster"

    def __init__(
        self,
        folder: Path,
        *,
        gateways: int = 3,
        routers: int = 2,
        control_planes: int = 2,
        handler_port: int = 0,
        handler_path: str = "/{hub}/{event}",
    ) -> None:
        self.folder = Path(folder)
        self.key, self.secondary_key = new_key(), new_key()
        self._handler = hold_listen_port("127.0.0.1", 0) if not handler_port else None
        self.handler_port = self._handler.port if self._handler is not None else handler_port
        config = settings_file(self.folder, self.key, self.secondary_key, self.handler_port, handler_path)
        self.nats = NatsCluster(self.folder / "nats")
        options = [
            "--nats",
            ",".join(self.nats.urls),
            "--durability",
            "replicated",
            "--config",
            str(config),
            *DRAIN,
        ]

        def several(role: str, count: int, options: list[str]) -> list[Service]:
            return [Service(self.folder, f"{role}-{number}", role, options) for number in range(count)]

        self.router_services = several("router", routers, options)
        self.control_plane_services = several("controlplane", control_planes, options)
        # Behind one load balancer all would have one name. Here the gateways are told those by which the
        # control planes know themselves, since tokens that these make are for their own host.
        endpoints = [PUBLIC_ENDPOINT, *(service.endpoint for service in self.control_plane_services)]
        public = ["--public-endpoints", ",".join(endpoints)]
        upstream = ["--upstream-addresses", "any"]  # the tests' application servers are on this machine
        self.gateway_services = several("gateway", gateways, [*options, *public, *upstream])
        self._gateways, self._control_planes = _Rotating(), _Rotating()

    @property
    def services(self) -> list[Service]:
        return [*self.router_services, *self.gateway_services, *self.control_plane_services]

    @property
    def gateways(self) -> list[str]:
        return [service.endpoint for service in self.gateway_services if service.running]

    @property
    def control_planes(self) -> list[str]:
        return [service.endpoint for service in self.control_plane_services if service.running]

    def gateway(self) -> str:
        return self._gateways.of(self.gateways)

    def control_plane(self) -> str:
        return self._control_planes.of(self.control_planes)

    def jetstream(self) -> dict[str, Any]:
        return {"servers": self.nats.urls}

    def start(self) -> None:
        self.nats.start()
        # All at once, as Kubernetes does.
        for service in self.services:
            service.launch()
        for service in self.services:
            service.wait_ready()
        for gateway in self.gateways:
            self.wait_for_owners(gateway)

    def wait_for_owners(self, gateway: str, seconds: float = START_SECONDS) -> None:
        """Until joins through this gateway are confirmed: until the partitions have owners."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                _join_some(gateway, self.key)
            except (OSError, WebSocketException, TimeoutError, AssertionError) as error:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"{gateway} confirms nothing ({error!r}): {self.tail()}") from error
                time.sleep(0.1)
            else:
                return

    def tail(self) -> str:
        return "\n".join(service.tail() for service in self.services)

    def close(self) -> None:
        for service in self.services:
            service.close()
        self.nats.close()
        if self._handler is not None:
            self._handler.socket.close()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _join_some(gateway: str, key: str, groups: int = 32) -> None:
    """Join groups of many partitions and see each join confirmed. Raises when one is not."""
    hub = "readiness"
    claims = {
        "aud": f"{gateway}/client/hubs/{hub}",
        "exp": int(time.time()) + 60,
        "role": ["webpubsub.joinLeaveGroup"],
    }
    url = f"{gateway.replace('http', 'ws', 1)}/client/hubs/{hub}?access_token={jwt.encode(claims, key)}"
    with connect(
        url, subprotocols=[Subprotocol("json.webpubsub.azure.v1")], open_timeout=5, close_timeout=1
    ) as client:
        client.recv(5)
        for number in range(groups):
            client.send(f'{{"type":"joinGroup","group":"g{number}","ackId":{number + 1}}}')
        for _ in range(groups):
            answer = str(client.recv(5))
            assert '"success":true' in answer, answer
