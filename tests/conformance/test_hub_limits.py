"""Limits of a hub, set on one control plane: every gateway keeps them for clients that are there already."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import aiohttp
from support.world import JsonClient, World

from hubwire.model.tokens import sign_admin_token

SECONDS = 10.0
RESOURCE = "/subscriptions/any/resourceGroups/any/providers/Microsoft.SignalRService/webPubSub/any"


async def manage(world: World, method: str, path: str, body: object) -> Any:
    """A call of the management API of the next control plane."""
    headers = {"Authorization": f"Bearer {sign_admin_token(world.topology.key, time.time())}"}
    url = f"{world.topology.control_plane()}{path}?api-version=2024-03-01"
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(SECONDS)) as session,
        session.request(method, url, headers=headers, json=body) as answer,
    ):
        assert answer.status < 300, await answer.text()
        return await answer.json()


async def limit(world: World, limits: dict[str, int] | None) -> None:
    path = f"{RESOURCE}/hubs/{world.hub}"
    await manage(world, "PUT", path, {"properties": {"limits": limits}})


async def join_until(client: JsonClient, success: bool) -> dict[str, Any]:
    """Join group after group until one is answered as wished: settings take milliseconds to be everywhere."""
    async with asyncio.timeout(SECONDS):
        while True:
            ack = await client.request("joinGroup", group=f"g{time.monotonic_ns()}")
            if ack["success"] is success:
                return ack


async def test_a_limit_is_kept_by_all_gateways_for_open_connections_and_lifted_again(world: World) -> None:
    clients = await world.several(3)
    await limit(world, {"maxGroupsPerConnection": 1})
    for client in clients:
        ack = await join_until(client, False)
        assert ack["error"]["name"] == "Forbidden"
        path = f"/groups/another/connections/{client.connection_id}"
        status, headers, _ = await world.rest("PUT", path)
        assert (status, headers["x-ms-error-code"]) == (403, "Error.Forbidden")
    await limit(world, None)
    for client in clients:
        await join_until(client, True)
        path = f"/groups/another/connections/{client.connection_id}"
        assert (await world.rest("PUT", path))[0] == 200


async def test_what_all_processes_share_is_the_same_on_every_control_plane(world: World) -> None:
    origin = f"https://{world.hub.replace('_', '-')}.example.com"
    planes = world.topology.control_planes

    async def allowed() -> set[str | None]:
        found = set()
        for plane in planes * 2:  # under `hubwire up` several workers answer at one endpoint
            async with (
                aiohttp.ClientSession() as session,
                session.get(
                    f"{plane}/api/health", headers={"Origin": "https://elsewhere.example.com"}
                ) as answer,
            ):
                found.add(answer.headers.get("Access-Control-Allow-Origin"))
        return found

    async def until(wanted: set[str | None]) -> None:
        async with asyncio.timeout(SECONDS):
            while await allowed() != wanted:  # noqa: ASYNC110 - other processes know
                await asyncio.sleep(0.02)

    assert await allowed() == {"*"}
    await manage(world, "PATCH", "/hubwire/settings", {"corsOrigins": [origin]})
    try:
        await until({None})
    finally:
        await manage(world, "PATCH", "/hubwire/settings", {"corsOrigins": None})
    await until({"*"})
