"""The service under the permissions that `hubwire nats-config` prints, with one user for each role."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.nats import NatsServer
from support.reliable_world import recovered, reliable
from support.topology import DRAIN, START_SECONDS, Service, _join_some, new_key, settings_file
from support.world import World
from websockets.exceptions import WebSocketException

from hubwire.bus.client import BusClient
from hubwire.bus.settings import BUCKET
from hubwire.model.cluster_settings import ClusterSettings
from hubwire.model.errors import Unavailable
from hubwire.model.settings import HubSettings
from hubwire.runtime.nats_options import nats_options
from hubwire.runtime.nats_roles import ROLES, password_variable, rights_of, user_of
from hubwire.runtime.process import ProcessConfig
from hubwire.runtime.seeding import open_settings
from hubwire.runtime.service import Stop

PASSWORDS = {role: f"pw{role}0123456789abcdef" for role in (*ROLES, "operator")}
SECONDS = 30.0


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A NATS server whose accounts are what the command prints, with passwords from its environment."""
    command = [sys.executable, "-m", "hubwire.cli.main", "nats-config"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    with pytest.MonkeyPatch.context() as patch:
        for role, password in PASSWORDS.items():
            patch.setenv(password_variable(role), password)
        with NatsServer(tmp_path_factory.mktemp("roles"), more=printed) as running:
            yield running


def url_of(server: NatsServer, role: str) -> str:
    return f"nats://{user_of(role)}:{PASSWORDS[role]}@127.0.0.1:{server.port}"


def violations(server: NatsServer) -> list[str]:
    """What the server has refused until now."""
    return [line.text for line in [*server.lines] if " Violation - " in line.text]


class NarrowCluster:
    """A control plane, a router and two gateways, each signed in as its role's user."""

    name = "narrow"
    handler_port = 0

    def __init__(self, folder: Path, server: NatsServer) -> None:
        self.key, self.secondary_key = new_key(), new_key()
        config = settings_file(folder, self.key, self.secondary_key, 9)
        self.server = server
        options = ["--durability", "local", "--config", str(config), *DRAIN]

        def service(name: str, role: str, *more: str) -> Service:
            return Service(folder, name, role, [*options, "--nats", url_of(server, role), *more])

        self.control = service("controlplane-0", "controlplane")
        self.router = service("router-0", "router")
        public = ["--public-endpoints", self.control.endpoint]
        self.edge = [service(f"gateway-{n}", "gateway", *public) for n in range(2)]
        self._next = itertools.cycle(self.edge)

    @property
    def services(self) -> list[Service]:
        return [self.control, self.router, *self.edge]

    @property
    def gateways(self) -> list[str]:
        return [one.endpoint for one in self.edge]

    @property
    def control_planes(self) -> list[str]:
        return [self.control.endpoint]

    def gateway(self) -> str:
        return next(self._next).endpoint

    def control_plane(self) -> str:
        return self.control.endpoint

    def tail(self) -> str:
        return "\n".join(one.tail() for one in self.services)

    def logs(self) -> str:
        return "".join(one.log.read_text() for one in self.services)

    def start(self) -> None:
        for one in self.services:  # the control plane first: it alone may make the settings
            one.start()
        for gateway in self.gateways:
            self.wait_for_owners(gateway)

    def wait_for_owners(self, gateway: str) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                _join_some(gateway, self.key)
                return
            except (OSError, WebSocketException, TimeoutError, AssertionError) as error:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"{gateway} confirms nothing ({error!r}): {self.tail()}") from error
                time.sleep(0.1)


async def test_the_whole_service_runs_and_nothing_it_does_is_refused(tmp_path, server):
    before = violations(server)
    with contextlib.ExitStack() as ended:
        cluster = NarrowCluster(tmp_path, server)
        for service in cluster.services:
            ended.callback(service.close)
        cluster.start()
        async with World(cluster, "narrow") as world:
            first, second = await world.several(2, groups=["room"])
            await first.publish("room", "hello")
            assert [await one.data() for one in (first, second)] == ["hello", "hello"]
            text = {"Content-Type": "text/plain"}
            assert (await world.rest("POST", "/groups/room/:send", data=b"rest", headers=text))[0] == 202
            assert [await one.data() for one in (first, second)] == ["rest", "rest"]
            session = await reliable(world, "alice", groups=["room"])
            await session.socket.close(1001)
            again = await recovered(world, session)
            assert again is not None
            path = f"/connections/{session.connection_id}"
            assert (await world.rest("DELETE", path))[0] == 204
            assert (await world.rest("DELETE", f"/connections/{first.connection_id}"))[0] == 204
            # The other gateway takes over a session whose gateway is killed; the router sweeps up after that.
            lost, kept = cluster.edge
            orphan = await reliable(world, "bob", groups=["room"], gateway=lost.endpoint)
            lost.kill()
            heir = None
            async with asyncio.timeout(SECONDS):
                while heir is None:
                    with contextlib.suppress(TimeoutError):  # a busy machine: it has a deadline of its own
                        heir = await recovered(world, orphan, gateway=kept.endpoint)
            assert await heir.request("leaveGroup", group="room") is not None
        for service in reversed(cluster.services):
            if service.running:
                assert service.stop() == 0, service.tail()
        assert violations(server) == before
        assert "nats_refused" not in cluster.logs()


@contextlib.asynccontextmanager
async def signed_in(server: NatsServer, role: str) -> AsyncIterator[BusClient]:
    bus = await BusClient.connect(nats_options(config_of(server, role), name=role))
    try:
        yield bus
    finally:
        await bus.close()


async def refused(bus: BusClient, subject: str) -> bool:
    """Whether the server does not let this user publish there."""
    before = bus.refusals.count
    bus.publish(subject, b"")
    await bus.synchronize()  # the server says so before it answers what was sent afterwards
    return bus.refusals.count > before


FORBIDDEN = {
    "gateway": (
        f"$KV.{BUCKET}.keys",
        f"$JS.API.STREAM.PURGE.KV_{BUCKET}",
        f"$JS.API.STREAM.DELETE.KV_{BUCKET}",
        f"$JS.API.STREAM.MSG.DELETE.KV_{BUCKET}",
        "$KV.hw_owners.table",
        "$KV.hw_leases.router.r1",
        "hw.gw.g1",
    ),
    "router": (
        f"$KV.{BUCKET}.keys",
        f"$JS.API.STREAM.MSG.GET.KV_{BUCKET}",
        f"$JS.API.DIRECT.GET.KV_{BUCKET}",
        f"$JS.API.CONSUMER.CREATE.KV_{BUCKET}",
        f"$JS.API.STREAM.DELETE.KV_{BUCKET}",
        "$JS.API.STREAM.CREATE.a_copy_of_the_keys",
        "hw.session.c1",
        "hw.dead",
    ),
    "controlplane": (
        "$KV.hw_owners.table",
        "$KV.hw_leases.gateway.g1",
        "hw.inbox.g1",
        f"$JS.API.STREAM.DELETE.KV_{BUCKET}",
    ),
}


@pytest.mark.parametrize(("role", "subject"), [(r, s) for r, found in FORBIDDEN.items() for s in found])
async def test_a_role_is_refused_what_is_not_its_work(server, role, subject):
    async with signed_in(server, role) as bus:
        assert await refused(bus, subject)
        assert not await refused(bus, "hw.census")  # what it may, it may


@pytest.mark.parametrize("role", ROLES)
async def test_a_role_cannot_listen_to_the_answers_of_another(server, role):
    """The settings, access keys among them, are brought to gateways in an inbox."""
    others = [f"_INBOX.{other}.>" for other in ROLES if other != role]
    async with signed_in(server, role) as bus:
        for subject in (*others, "_INBOX.>", ">", f"$KV.{BUCKET}.>"):
            before = bus.refusals.count
            await bus.subscribe(subject, lambda *_: None)
            assert bus.refusals.count > before, subject


def config_of(server: NatsServer, role: str, **more: object) -> ProcessConfig:
    config = ProcessConfig(role=role, nats_servers=(f"nats://127.0.0.1:{server.port}",), **more)  # type: ignore[arg-type]
    return config.replace(nats_user=user_of(role), nats_password=PASSWORDS[role])


async def open_as(server: NatsServer, role: str, **more: object):
    config = config_of(server, role, **more)
    bus = await BusClient.connect(nats_options(config, name=role))
    try:
        return bus, await open_settings(bus, config, Stop())
    except BaseException:
        await bus.close()
        raise


async def test_a_gateway_that_may_not_write_serves_with_what_the_control_plane_put_there(server):
    writer, store = await open_as(server, "controlplane")
    try:
        bus, read = await open_as(server, "gateway", hubs={"unknown": HubSettings()})
        try:
            assert read.keys == store.keys
            assert bus.refusals.count > 0
            with pytest.raises(Unavailable):
                await read.change_cluster(lambda _: ClusterSettings(cors_origins=("https://evil.example",)))
            assert store.hub_entry("unknown") is None
        finally:
            await read.close()
            await bus.close()
    finally:
        await store.close()
        await writer.close()


def test_the_rights_are_printed_as_json_too():
    command = [sys.executable, "-m", "hubwire.cli.main", "nats-config", "--json", "--listener-prefix", "mine"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    found = json.loads(printed)
    assert set(found) == {user_of(role) for role in ROLES}
    assert found["hubwire-gateway"]["publish"] == list(rights_of("gateway", "mine").publish)
    assert "mine.>" in found["hubwire-gateway"]["publish"]
