"""What an application server of its own, without any SDK, is asked and told by a whole service."""

from __future__ import annotations

import asyncio
import hmac
import itertools

import pytest
from support.examples import hubwire
from support.inventory import HANDLERS
from support.notified import eventually
from support.upstreams import app_server
from support.world import World

SECONDS = 30.0
_numbers = itertools.count()


@pytest.mark.compat(
    HANDLERS,
    "abuse protection",
    "ce-signature with each access key",
    "connected and disconnected, once and in order",
)
async def test_a_handler_is_asked_whether_it_agrees_and_can_check_who_tells_it_of_each_connection(topology):
    hub = f"told{next(_numbers)}"
    service = f"Endpoint={topology.control_plane()};AccessKey={topology.key};Version=1.0;"
    async with app_server() as app, World(topology, hub) as world:
        handler = (f"url={app.base}/events", "events=*", "system=connect,connected,disconnected")
        await asyncio.to_thread(hubwire, service, "hubs", "set", hub, "--event-handler", *handler)
        assert app.validations[0].value("webhook-request-origin")
        clients = await world.several(6)
        names = {}
        for client in clients:
            await client.request("event", event="e", data=1)
            await client.close()

        async def all_told():
            names.clear()
            for seen in app.seen:
                connection = seen.value("ce-connectionid")
                names.setdefault(connection, []).append(seen.value("ce-eventname").decode())
            return sum(told[-1] == "disconnected" for told in names.values()) == len(clients)

        await eventually(all_told, SECONDS)
        # A user event need not wait for the answer to `connected` (3.17).
        for told in names.values():
            assert [told[0], told[-1]] == ["connect", "disconnected"]
            assert sorted(told) == ["connect", "connected", "disconnected", "e"]
        for seen in app.seen:
            expected = [
                "sha256=" + hmac.new(key.encode(), seen.value("ce-connectionid"), "sha256").hexdigest()
                for key in (topology.key, topology.secondary_key)
            ]
            assert seen.value("ce-signature").decode() == ",".join(expected)
