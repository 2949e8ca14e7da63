"""azure-messaging-webpubsubservice, unmodified: each public method of both clients, sync and aio.

Every method has one exercise, a coroutine of the method's name in `Exercises`; the sync client's calls run
in threads, so that one exercise serves both. A method without an exercise fails its test.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from typing import Any

import jwt
import pytest
from azure.core.credentials import AzureKeyCredential
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError, ResourceNotFoundError
from azure.core.rest import HttpRequest
from support.inventory import SERVICE, SERVICE_AIO, public_methods, python_classes
from support.world import World

CLASSES = {area: python_classes()[area] for area in (SERVICE, SERVICE_AIO)}


class Service:
    """One interface to both clients: awaitable methods, and `listed` for the pager."""

    def __init__(self, client: Any, watched: Any) -> None:
        self.client = client
        self._watched = watched
        self._sync = not hasattr(client, "__aenter__")

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._watched, name)

        async def call(*arguments: Any, **options: Any) -> Any:
            if self._sync:
                return await asyncio.to_thread(method, *arguments, **options)
            return await method(*arguments, **options)

        return call

    async def listed(self, **options: Any) -> list[tuple[str, str | None]]:
        pager = self._watched.list_connections(**options)
        members = await asyncio.to_thread(list, pager) if self._sync else [one async for one in pager]
        return [(one.connection_id, one.user_id) for one in members]


class Exercises:
    """One for each public method, by its name."""

    def __init__(self, world: World, service: Service) -> None:
        self.world = world
        self.service = service

    async def from_connection_string(self) -> None:
        endpoint = self.world.topology.control_plane()
        for text in (
            f"Endpoint={endpoint};AccessKey={self.world.topology.key};Version=1.0;",
            f"accesskey={self.world.topology.secondary_key};endpoint={endpoint}/",
        ):
            made = type(self.service.client).from_connection_string(text, self.world.hub)
            one = Service(made, made)
            assert await one.user_exists("nobody") is False
            await one.close()

    async def close(self) -> None:
        assert await self.service.user_exists("nobody") is False
        await self.service.close()

    async def get_client_access_token(self) -> None:
        # The gateway's endpoint: the audience of a client token is where the client connects.
        gateway = self.world.topology.gateway()
        client = type(self.service.client)(
            gateway, self.world.hub, AzureKeyCredential(self.world.topology.key)
        )
        one = Service(client, client)
        made = await one.get_client_access_token(
            user_id="alice",
            roles=["webpubsub.sendToGroup.room"],
            groups=["room"],
            minutes_to_expire=5,
            jwt_headers={"kid": "any"},
        )
        await one.close()
        assert made["url"] == f"{made['baseUrl']}?access_token={made['token']}"
        opened = await self.world.json_by_url(made["url"])
        assert opened.user_id == "alice"
        await opened.publish("room", 1)
        assert await opened.data() == 1
        # The method of the client under test, too.
        other = await self.service.get_client_access_token(client_protocol="MQTT")
        audience = jwt.decode(other["token"], options={"verify_signature": False})["aud"]
        assert audience.endswith(f"/clients/mqtt/hubs/{self.world.hub}")

    async def send_to_all(self) -> None:
        alice, bob = await self.world.json("alice"), await self.world.json("bob")
        await self.service.send_to_all({"a": [1, "é"]})
        await self.service.send_to_all("a string")
        # ASCII: azure-core's aio transport announces the characters of a text, not its bytes, as its length.
        await self.service.send_to_all("text", content_type="text/plain")
        await self.service.send_to_all(io.BytesIO(b"\0\1"), content_type="application/octet-stream")
        await self.service.send_to_all("not bob", excluded=[bob.connection_id, "gone"])
        await self.service.send_to_all("only bob", filter="userId eq 'bob'")
        await self.service.send_to_all("end")
        everybodys = [("json", {"a": [1, "é"]}), ("json", "a string"), ("text", "text"), ("binary", "AAE=")]
        for client, last in ((alice, "not bob"), (bob, "only bob")):
            seen = [await client.message() for _ in range(6)]
            expected = [*everybodys, ("json", last), ("json", "end")]
            assert [(one["dataType"], one["data"]) for one in seen] == expected
            assert {one["from"] for one in seen} == {"server"}

    async def send_to_group(self) -> None:
        members = await self.world.several(3, groups=["a b/c"])
        name = "a b%2Fc"  # SDKs encode the slash, and the service keeps it encoded
        renamed = await self.world.json("vip", groups=[name])
        await self.service.send_to_group("a b/c", {"n": 1})
        await self.service.send_to_group(name.replace("%2F", "/"), "vips", filter="userId eq 'vip'")
        await self.service.send_to_group("a b/c", "nobody", excluded=[renamed.connection_id])
        await self.service.send_to_group("a b/c", "end", content_type="text/plain")
        assert [await renamed.data() for _ in range(3)] == [{"n": 1}, "vips", "end"]
        await self.service.send_to_all("fin")
        assert [await member.data() for member in members] == ["fin"] * 3

    async def send_to_user(self) -> None:
        alices = await self.world.several(3, "u/1+é")
        await self.service.send_to_user("u/1+é", {"n": 1})
        await self.service.send_to_user("u%2F1+é", "unknown")
        plain = await self.world.several(2, "plain user")
        await self.service.send_to_user("plain user", "hi", content_type="text/plain")
        await self.service.send_to_user("plain user", "none", filter="userId eq 'x'")
        await self.service.send_to_user("plain user", "end")
        for client in plain:
            assert [await client.data(), await client.data()] == ["hi", "end"]
        await self.service.send_to_all("fin")
        for alice in alices:  # a slash cannot be addressed by REST (rest-api.md 1.2)
            assert await alice.data() == "fin"

    async def send_to_connection(self) -> None:
        first, second = await self.world.several(2, "alice")
        await self.service.send_to_connection(
            first.connection_id, b"\0\1", content_type="application/octet-stream"
        )
        await self.service.send_to_connection(second.connection_id, {"n": 1})
        assert (await first.data(), await second.data()) == ("AAE=", {"n": 1})
        await self.service.send_to_connection("gone", "lost")

    async def connection_exists(self) -> None:
        client = await self.world.json()
        assert await self.service.connection_exists(client.connection_id) is True
        assert await self.service.connection_exists("gone") is False

    async def user_exists(self) -> None:
        await self.world.json("alice")
        assert await self.service.user_exists("alice") is True
        assert await self.service.user_exists("Alice") is False

    async def group_exists(self) -> None:
        await self.world.json(groups=["room"])
        assert await self.service.group_exists("room") is True
        assert await self.service.group_exists("Room") is False

    async def add_connection_to_group(self) -> None:
        client = await self.world.json(roles=[])
        await self.service.add_connection_to_group("room", client.connection_id)
        await self.service.send_to_group("room", "hi")
        assert await client.data() == "hi"
        with pytest.raises(ResourceNotFoundError) as missing:
            await self.service.add_connection_to_group("room", "gone")
        assert missing.value.error.code == "Error.Connection.NotExisted"

    async def remove_connection_from_group(self) -> None:
        first, second = await self.world.several(2, groups=["room"])
        await self.service.remove_connection_from_group("room", first.connection_id)
        await self.service.send_to_group("room", "hi")
        await self.service.send_to_all("end")
        assert await first.data() == "end"
        assert [await second.data(), await second.data()] == ["hi", "end"]
        await self.service.remove_connection_from_group("room", "gone")

    async def remove_connection_from_all_groups(self) -> None:
        client = await self.world.json(groups=["a", "b"])
        await self.service.remove_connection_from_all_groups(client.connection_id)
        assert await self.service.group_exists("a") is False
        assert await self.service.group_exists("b") is False

    async def add_user_to_group(self) -> None:
        alices = await self.world.several(3, "alice", roles=[])
        await self.service.add_user_to_group("room", "alice")
        await self.service.send_to_group("room", "hi")
        assert [await alice.data() for alice in alices] == ["hi"] * 3
        with pytest.raises(ResourceNotFoundError) as missing:
            await self.service.add_user_to_group("room", "nobody")
        assert missing.value.error.code == "Warning.User.NotExisted"

    async def remove_user_from_group(self) -> None:
        alices = await self.world.several(3, "alice", groups=["a", "b"])
        await self.service.remove_user_from_group("a", "alice")
        await self.service.send_to_group("a", "lost")
        await self.service.send_to_group("b", "hi")
        assert [await alice.data() for alice in alices] == ["hi"] * 3

    async def remove_user_from_all_groups(self) -> None:
        await self.world.several(3, "alice", groups=["a", "b"])
        await self.service.remove_user_from_all_groups("alice")
        assert await self.service.group_exists("a") is False
        assert await self.service.group_exists("b") is False

    async def list_connections(self) -> None:
        # More than one page: a page has 200 members unless it is asked for less.
        members = [await self.world.json("alice" if n % 2 else None, groups=["room"]) for n in range(5)]
        everybody = {(member.connection_id, member.user_id) for member in members}
        found = await self.service.listed(group="room")
        assert (len(found), set(found)) == (5, everybody)
        paged = await self.service.listed(group="room", params={"maxpagesize": 2})
        assert (len(paged), set(paged)) == (5, everybody)
        top = await self.service.listed(group="room", top=3, params={"maxpagesize": 2})
        assert len(top) == 3
        assert set(top) < everybody
        assert await self.service.listed(group="empty") == []

    async def grant_permission(self) -> None:
        client = await self.world.json(roles=[])
        await self.service.grant_permission("sendToGroup", client.connection_id, target_name="room")
        await client.publish("room", 1)
        assert (await client.request("joinGroup", group="room"))["success"] is False
        await self.service.grant_permission("joinLeaveGroup", client.connection_id, target_name="room")
        await client.join("room")
        with pytest.raises(ResourceNotFoundError) as missing:
            await self.service.grant_permission("sendToGroup", "gone", target_name="room")
        assert missing.value.error.code == "Info.Connection.NotExisted"

    async def revoke_permission(self) -> None:
        client = await self.world.json()
        await self.service.revoke_permission("sendToGroup", client.connection_id, target_name="room")
        ack = await client.request("sendToGroup", group="room", data=1)
        assert (ack["success"], ack["error"]["name"]) == (False, "Forbidden")
        await client.publish("other", 1)
        await self.service.revoke_permission("sendToGroup", "gone", target_name="room")

    async def has_permission(self) -> None:
        client = await self.world.json(roles=["webpubsub.sendToGroups.room.*"])
        for target, expected in (("room.1", True), ("room", False)):
            has = await self.service.has_permission("sendToGroup", client.connection_id, target_name=target)
            assert has is expected
        assert await self.service.has_permission("sendToGroup", "gone", target_name="room.1") is False

    async def close_connection(self) -> None:
        client = await self.world.json()
        await self.service.close_connection(client.connection_id, reason="enough")
        text = "Application server closed the connection. Reason: enough"
        assert await client.message() == {"type": "system", "event": "disconnected", "message": text}
        assert await client.closed() == (1000, "")
        await self.service.close_connection(client.connection_id)

    async def close_user_connections(self) -> None:
        alices = await self.world.several(3, "alice")
        bob = await self.world.json("bob")
        await self.service.close_user_connections("alice", excluded=[alices[0].connection_id], reason="r")
        for alice in alices[1:]:
            assert (await alice.closed())[0] == 1000
        await self.service.send_to_all("end")
        assert (await alices[0].data(), await bob.data()) == ("end", "end")

    async def close_group_connections(self) -> None:
        members = await self.world.several(3, groups=["room"])
        other = await self.world.json()
        await self.service.close_group_connections("room", excluded=[members[0].connection_id])
        for member in members[1:]:
            assert (await member.closed())[0] == 1000
        await self.service.send_to_all("end")
        assert (await members[0].data(), await other.data()) == ("end", "end")

    async def close_all_connections(self) -> None:
        clients = await self.world.several(4)
        await self.service.close_all_connections(excluded=[clients[0].connection_id], reason="maintenance")
        for client in clients[1:]:
            told = await client.message()
            assert told["message"] == "Application server closed the connection. Reason: maintenance"
            assert await client.closed() == (1000, "")
        await self.service.send_to_all("end")
        assert await clients[0].data() == "end"

    async def send_request(self) -> None:
        answer = await self.service.send_request(
            HttpRequest("POST", f"/api/hubs/{self.world.hub}/:generateToken?api-version=2024-12-01&userId=x")
        )
        assert answer.status_code == 200
        assert answer.json()["token"]


@pytest.fixture
async def service(request, world, compat) -> AsyncIterator[Service]:
    """A client of the area under test, for the next control plane."""
    area = request.getfixturevalue("area")
    key = AzureKeyCredential(world.topology.key)
    client = CLASSES[area](world.topology.control_plane(), world.hub, key)
    one = Service(client, compat.watch(client, area))
    yield one
    await one.close()


@pytest.mark.parametrize(
    ("area", "method"), [(area, method) for area, cls in CLASSES.items() for method in public_methods(cls)]
)
async def test_method(world, service, compat, area, method):
    exercise = getattr(Exercises(world, service), method, None)
    assert exercise is not None, f"{method} of {area} has no exercise"
    compat.used(area, method)
    await exercise()


@pytest.mark.parametrize("area", CLASSES)
async def test_errors_of_the_service_are_the_errors_that_the_package_knows(world, service, area):
    wrong = CLASSES[area](world.topology.control_plane(), world.hub, AzureKeyCredential("k" * 44))
    other = Service(wrong, wrong)
    with pytest.raises(ClientAuthenticationError):
        await other.user_exists("x")
    await other.close()
    with pytest.raises(HttpResponseError) as bad:
        await service.send_to_all("x", filter="userId lt 1")
    assert (bad.value.status_code, bad.value.error.code) == (400, "Error.BadRequest")
    assert "Type 'string', expect 'int'" in bad.value.message
