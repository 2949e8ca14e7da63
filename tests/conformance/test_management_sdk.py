"""azure-mgmt-webpubsub, unmodified: hubs and keys, and that what it changes holds on every gateway and
control plane (management-api.md 5.3, 6)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest
from azure.core.credentials import AccessToken
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError, ResourceNotFoundError
from azure.mgmt.webpubsub import WebPubSubManagementClient
from azure.mgmt.webpubsub.models import (
    EventHandler,
    RegenerateKeyParameters,
    UpstreamAuthSettings,
    WebPubSubHub,
    WebPubSubHubProperties,
)
from support.topology import new_key
from support.world import JSON_V1, SECONDS, World
from websockets.exceptions import InvalidStatus

from hubwire.model.tokens import sign_admin_token

AREA = "azure-mgmt-webpubsub"
SUBSCRIPTION = "11111111-2222-3333-4444-555555555555"
NAMES = ("rg", "mine")
IN_A_ROW = 6
T = TypeVar("T")


class Credential:
    def __init__(self, key: str) -> None:
        self._key = key

    def get_token(self, *_scopes: str, **_: Any) -> AccessToken:
        now = time.time()
        return AccessToken(sign_admin_token(self._key, now), int(now) + 300)


async def manage(world: World, use: Callable[[WebPubSubManagementClient], T], key: str = "") -> T:
    """Blocking calls of the SDK to the next control plane, in a thread."""

    def run() -> T:
        with WebPubSubManagementClient(
            Credential(key or world.topology.key),  # type: ignore[arg-type]
            SUBSCRIPTION,
            base_url=world.topology.control_plane(),
            retry_total=0,
        ) as client:
            return use(client)

    return await asyncio.to_thread(run)


async def let_in(world: World, url: str) -> bool:
    """Whether a client may connect. Anything but 101 and 401 raises."""
    try:
        socket = await world.open(url, [JSON_V1])
    except InvalidStatus as refused:
        if refused.response.status_code != 401:
            raise
        return False
    await socket.close()
    return True


async def everywhere(holds: Callable[[], Awaitable[bool]]) -> None:
    """Wait until something holds so often in a row that every process was asked, and asked twice where each
    has an address of its own: settings take milliseconds to be everywhere."""
    async with asyncio.timeout(SECONDS):
        row = 0
        while row < IN_A_ROW:
            row = row + 1 if await holds() else 0


def put(client: WebPubSubManagementClient, hub: str, policy: str) -> WebPubSubHub:
    handler = EventHandler(
        url_template="http://127.0.0.1:9/{hub}/{event}",
        user_event_pattern="nothing",
        system_events=[],
        auth=UpstreamAuthSettings(type="None"),
    )
    properties = WebPubSubHubProperties(event_handlers=[handler], anonymous_connect_policy=policy)
    made: WebPubSubHub = client.web_pub_sub_hubs.begin_create_or_update(
        hub, *NAMES, WebPubSubHub(properties=properties), enforce_https=False
    ).result()
    return made


@pytest.mark.compat(AREA, *(f"web_pub_sub_hubs.{m}" for m in ("begin_create_or_update", "get", "list")))
@pytest.mark.compat(AREA, "web_pub_sub_hubs.begin_delete")
async def test_a_hub_that_is_put_is_in_force_on_every_gateway_and_read_on_every_control_plane(
    world: World,
) -> None:
    async def anonymous() -> bool:
        endpoint = world.topology.gateway().replace("http", "ws", 1)
        return await let_in(world, f"{endpoint}/client/hubs/{world.hub}")

    def found(client: WebPubSubManagementClient) -> WebPubSubHub | None:
        listed = [hub.name for hub in client.web_pub_sub_hubs.list(*NAMES, enforce_https=False)]
        try:
            hub = client.web_pub_sub_hubs.get(world.hub, *NAMES, enforce_https=False)
        except ResourceNotFoundError:
            assert world.hub not in listed
            return None
        return hub if world.hub in listed else None  # it came between the two calls

    async def there() -> bool:
        return await manage(world, found) is not None

    assert not await anonymous()
    made = await manage(world, lambda client: put(client, world.hub, "allow"))
    assert made.name == world.hub
    assert made.properties.event_handlers[0].url_template == "http://127.0.0.1:9/{hub}/{event}"
    await everywhere(anonymous)
    await everywhere(there)
    hub = await manage(world, found)
    assert hub is not None
    assert hub.properties.as_dict() == made.properties.as_dict()

    await manage(world, lambda client: put(client, world.hub, "deny"))

    async def refused() -> bool:
        return not await anonymous()

    await everywhere(refused)
    await manage(
        world,
        lambda client: client.web_pub_sub_hubs.begin_delete(world.hub, *NAMES, enforce_https=False).result(),
    )

    async def gone() -> bool:
        return not await there()

    await everywhere(gone)


@pytest.mark.compat(AREA, "web_pub_sub.list_keys", "web_pub_sub.begin_regenerate_key")
async def test_a_key_that_is_regenerated_is_the_one_that_every_gateway_wants(world: World) -> None:
    topology = world.topology
    keys = await manage(world, lambda client: client.web_pub_sub.list_keys(*NAMES, enforce_https=False))
    assert (keys.primary_key, keys.secondary_key) == (topology.key, topology.secondary_key)
    assert f"AccessKey={topology.key};" in keys.primary_connection_string
    before = topology.secondary_key
    client = await world.json("alice", key=before)
    fresh = await manage(
        world,
        lambda client: client.web_pub_sub.begin_regenerate_key(
            *NAMES, RegenerateKeyParameters(key_type="Secondary"), enforce_https=False
        ).result(),
    )
    assert fresh.primary_key == topology.key
    assert fresh.secondary_key != before
    topology.secondary_key = fresh.secondary_key  # one topology serves all tests

    async def accepts(key: str) -> bool:
        return await let_in(world, world.client_url(key=key))

    async def old_is_refused() -> bool:
        return not await accepts(before)

    await everywhere(old_is_refused)
    await everywhere(lambda: accepts(fresh.secondary_key))
    await client.join("still-here")  # who is connected stays so


@pytest.mark.compat(AREA, "web_pub_sub.get", "web_pub_sub.list_by_resource_group", "operations.list")
@pytest.mark.compat(AREA, "web_pub_sub.list_by_subscription", "usages.list", "web_pub_sub_replicas.list")
async def test_the_resource_is_there_and_what_it_cannot_do_is_an_error_of_the_sdk(world: World) -> None:
    def use(client: WebPubSubManagementClient) -> None:
        found = client.web_pub_sub.get(*NAMES, enforce_https=False)
        assert (found.name, found.provisioning_state) == ("mine", "Succeeded")
        assert list(client.web_pub_sub.list_by_resource_group("rg", enforce_https=False))
        assert list(client.web_pub_sub.list_by_subscription(enforce_https=False))
        assert list(client.operations.list(enforce_https=False))
        assert list(client.usages.list("westeurope", enforce_https=False)) == []
        assert list(client.web_pub_sub_replicas.list(*NAMES, enforce_https=False)) == []
        with pytest.raises(HttpResponseError, match="FeatureNotSupported"):
            client.web_pub_sub.begin_restart(*NAMES, enforce_https=False)

    await manage(world, use)
    with pytest.raises(ClientAuthenticationError):
        await manage(world, use, new_key())
