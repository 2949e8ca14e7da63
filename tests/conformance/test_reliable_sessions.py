"""The life of a reliable session: who may take it up again, what ends it, and what REST can do with one whose
client is away (client-protocols.md 1.12, 4.4, 4.5)."""

from __future__ import annotations

import asyncio
import time

import jwt
import pytest
from support.inventory import CLOSING, RELIABLE
from support.reliable_world import (
    JSON_RELIABLE,
    KINDS,
    PROTOBUF_RELIABLE,
    recovered,
    recovery_socket,
    reliable,
    verdict,
)
from support.world import JSON_V1, PROTOBUF_V1, SECONDS, World
from websockets.exceptions import ConnectionClosed

TEXT = {"Content-Type": "text/plain"}
both = pytest.mark.parametrize("subprotocol", KINDS)


async def refused(world, connection_id, token, *, hub=None, offered=JSON_RELIABLE):
    """A recovery there is upgraded with the subprotocol that was offered, and closed with 1008."""
    socket = await recovery_socket(world, connection_id, token, [offered], hub=hub)
    assert socket.subprotocol == offered
    return await verdict(socket) == 1008


def changed(token, **claims):
    """The same claims but for those given, signed with a key that is not the right one."""
    found = jwt.decode(token, options={"verify_signature": False})
    return jwt.encode({**found, **claims}, "a key that somebody else has made up")


@pytest.mark.compat(RELIABLE, "recovery refused with 1008")
@pytest.mark.compat(CLOSING, "1008")
@both
async def test_tokens_that_are_not_for_this_session_are_refused_and_do_it_no_harm(world, subprotocol):
    client = await reliable(world, "alice", subprotocol, groups=["room"])
    other = await reliable(world, "bob", subprotocol)
    plain = await world.json()
    head, claims, signature = client.token.split(".")
    with_access_key = jwt.encode(
        jwt.decode(client.token, options={"verify_signature": False}), world.topology.key
    )
    tokens = [
        other.token,
        "nonsense",
        "x" * 4_000,
        changed(client.token),
        changed(client.token, exp=int(time.time()) - 3_600),
        with_access_key,
        f"{head}.{claims}.{signature[:-4]}AAAA",
        f"{head}.{claims}.",
    ]
    for token in tokens:
        assert await refused(world, client.connection_id, token, offered=subprotocol)
    assert await refused(world, other.connection_id, client.token)
    assert await refused(world, plain.connection_id, client.token)
    assert await refused(world, "A" * 31, client.token)
    assert await refused(world, client.connection_id, client.token, hub=f"{world.hub}x")
    await plain.publish("room", "m1", "text")
    assert await client.numbered(1) == [(1, "m1")]
    client.cut()
    assert await refused(world, client.connection_id, other.token)
    again = await recovered(world, client)
    assert await again.numbered(1) == [(1, "m1")]


async def test_tokens_of_before_are_good_for_as_long_as_the_session_lives(world):
    client = await reliable(world, "alice")
    first = client.token
    for _ in range(3):
        client.cut()
        client = await recovered(world, client)
    client.token = first
    client.cut()
    client = await recovered(world, client)
    await client.close()
    await world.gone("/users/alice")
    for token in (first, client.token):
        assert await refused(world, client.connection_id, token)


async def test_the_hub_may_be_written_in_other_letters(world):
    client = await reliable(world)
    client.cut()
    await recovered(world, client, hub=world.hub.upper())


@pytest.mark.parametrize(
    ("offered", "echoed"),
    [
        ([PROTOBUF_RELIABLE], PROTOBUF_RELIABLE),
        ([PROTOBUF_V1, JSON_RELIABLE], JSON_RELIABLE),
        ([JSON_V1], JSON_V1),
        (None, None),
    ],
)
async def test_a_recovered_session_goes_on_in_its_own_subprotocol(world, offered, echoed):
    client = await reliable(world, "alice", groups=["room"])
    client.cut()
    socket = await recovery_socket(world, client.connection_id, client.token, offered)
    assert socket.subprotocol == echoed
    again = type(client)(socket)
    world._keep(again)
    await again.greeted()
    await again.publish("room", {"n": 1})
    assert await again.numbered(1) == [(1, {"n": 1})]


@both
async def test_the_newest_socket_wins_and_the_old_one_is_cut_without_a_close_frame(world, subprotocol):
    """Half open, as the client sees it: the service has not heard of the loss."""
    client = await reliable(world, "alice", subprotocol, groups=["room"])
    for number, gateway in enumerate(world.topology.gateways * 2, 1):
        old, client = client, await recovered(world, client, gateway=gateway)
        assert (await old.closed())[0] == 1006
        await (await world.json()).publish("room", f"m{number}", "text")
        assert await client.fresh(1) == [(number, f"m{number}")]


async def test_of_many_recoveries_at_the_same_time_one_is_left_and_nothing_is_lost_or_refused(world):
    client = await reliable(world, "alice", groups=["room"])
    sender = await world.json()
    await sender.publish("room", "m1", "text")
    assert await client.numbered(1) == [(1, "m1")]
    client.cut()
    for turn in range(2, 5):
        attempts = await asyncio.gather(*(recovered(world, client) for _ in range(6)), return_exceptions=True)
        for attempt in attempts:
            if isinstance(attempt, ConnectionClosed):
                assert attempt.rcvd is None or attempt.rcvd.code != 1008
            else:
                assert not isinstance(attempt, BaseException), attempt
        # The sockets of some are cut when they are greeted, or before: a client comes again then.
        client = await recovered(world, client)
        await sender.publish("room", f"m{turn}", "text")
        assert await client.fresh(1) == [(turn, f"m{turn}")]
        for attempt in attempts:
            if not isinstance(attempt, BaseException):
                code, _ = await attempt.closed()
                assert code != 1008
    assert (await world.rest("HEAD", "/users/alice"))[0] == 200


@pytest.mark.compat(CLOSING, "1000")
@pytest.mark.parametrize("code", [1000, None])
async def test_a_close_with_1000_or_no_code_ends_the_session_at_once(world, code):
    client = await reliable(world, "alice", groups=["room"])
    if code is None:
        client.socket.protocol.send_close()
        client.socket.transport.write(b"".join(client.socket.protocol.data_to_send()))
        await client.closed()
    else:
        await client.close(code)
    for path in (f"/connections/{client.connection_id}", "/users/alice", "/groups/room"):
        await world.gone(path)
    assert await refused(world, client.connection_id, client.token)


@pytest.mark.parametrize("code", [1001, 1011, 3000, 4999])
async def test_other_closes_only_detach_it(world, code):
    client = await reliable(world, "alice", groups=["room"])
    await client.close(code, "later")
    received = client.socket.protocol.close_rcvd
    assert (received.code, received.reason) == (code, "later")
    for path in (f"/connections/{client.connection_id}", "/users/alice", "/groups/room"):
        assert (await world.rest("HEAD", path))[0] == 200
    again = await recovered(world, client)
    await again.publish("room", "m1", "text")
    assert await again.numbered(1) == [(1, "m1")]


@pytest.mark.compat(RELIABLE, "REST on a session whose client is away")
@both
async def test_rest_does_everything_with_a_session_whose_client_is_away(world, subprotocol):
    client = await reliable(world, "alice", subprotocol, roles=[], groups=["first"])
    client.cut()
    here = f"/connections/{client.connection_id}"
    for path in (here, "/users/alice", "/groups/first"):
        assert (await world.rest("HEAD", path))[0] == 200
    sent = 0
    for path in (f"{here}/:send", "/users/alice/:send", "/groups/first/:send", "/:send"):
        assert (await world.rest("POST", path, data=f"m{(sent := sent + 1)}", headers=TEXT))[0] == 202
    assert (await world.rest("PUT", f"/groups/second{here}"))[0] == 200
    assert (await world.rest("DELETE", f"/groups/first{here}"))[0] == 204
    assert (await world.rest("HEAD", "/groups/second"))[0] == 200
    assert (await world.rest("HEAD", "/groups/first"))[0] == 404
    status, _, listed = await world.rest("GET", "/groups/second/connections")
    assert status == 200
    assert client.connection_id in listed.decode()
    permission = f"/permissions/sendToGroup{here}"
    assert (await world.rest("PUT", permission, [("targetName", "second")]))[0] == 200
    assert (await world.rest("HEAD", permission, [("targetName", "second")]))[0] == 200
    for group in ("first", "second"):
        assert (await world.rest("POST", f"/groups/{group}/:send", data=group, headers=TEXT))[0] == 202
    again = await recovered(world, client)
    assert await again.numbered(5) == [(1, "m1"), (2, "m2"), (3, "m3"), (4, "m4"), (5, "second")]
    if subprotocol == JSON_RELIABLE:
        await again.publish("second", "allowed", "text")
    else:
        await again.publish("second", "allowed")
    assert await again.numbered(1) == [(6, "allowed")]


@pytest.mark.compat(RELIABLE, JSON_RELIABLE)
@pytest.mark.parametrize("whom", ["connection", "user", "group", "hub"])
async def test_rest_close_ends_a_session_whose_client_is_away(world, whom):
    client = await reliable(world, "alice", groups=["room"])
    client.cut()
    here = f"/connections/{client.connection_id}"
    method, path = {
        "connection": ("DELETE", here),
        "user": ("POST", "/users/alice/:closeConnections"),
        "group": ("POST", "/groups/room/:closeConnections"),
        "hub": ("POST", "/:closeConnections"),
    }[whom]
    assert (await world.rest(method, path))[0] == 204
    for path in (here, "/users/alice", "/groups/room"):
        await world.gone(path)
    assert await refused(world, client.connection_id, client.token)


@both
async def test_rest_close_says_why_and_ends_a_session_whose_client_is_there(world, subprotocol):
    client = await reliable(world, "alice", subprotocol)
    here = f"/connections/{client.connection_id}"
    assert (await world.rest("DELETE", here, [("reason", "maintenance é")]))[0] == 204
    told = await client.message()
    text = "Application server closed the connection. Reason: maintenance é"
    if subprotocol == JSON_RELIABLE:
        assert told == {"type": "system", "event": "disconnected", "message": text}
    else:
        assert told.system_message.disconnected_message.reason == text
    assert await client.closed() == (1000, "")
    await world.gone(here)
    assert await refused(world, client.connection_id, client.token)


@pytest.mark.compat(RELIABLE, "end of a session that nobody comes back for")
async def test_a_session_waits_half_a_minute_for_its_client_and_no_more(world):
    """Of two, one comes back after 25 seconds, the other does not."""
    back, away = await reliable(world, groups=["room"]), await reliable(world, "alice", groups=["room"])
    lost_at = time.monotonic()
    for client in (back, away):
        client.cut()
    await (await world.json()).publish("room", "m1", "text")
    await asyncio.sleep(25)  # what is tested is this time
    back = await recovered(world, back)
    assert await back.numbered(1) == [(1, "m1")]
    assert (await world.rest("HEAD", "/users/alice"))[0] == 200
    async with asyncio.timeout(20 + SECONDS):
        while (await world.rest("HEAD", f"/connections/{away.connection_id}"))[0] == 200:  # noqa: ASYNC110
            await asyncio.sleep(0.2)
    assert time.monotonic() - lost_at > 30
    assert await refused(world, away.connection_id, away.token)
    await world.gone("/users/alice")
    await (await world.json()).publish("room", "m2", "text")
    assert await back.numbered(1) == [(2, "m2")]


async def test_event_handlers_hear_once_of_a_session_that_is_taken_up_again(handled, application):
    """Its state goes along; `connect` is not asked again."""
    client = await reliable(handled, "alice")
    counted = []

    async def count():
        await client.send(type="event", event="count", dataType="text", data="x", ackId=client.next_ack_id())
        counted.append((await client.message())["data"])
        assert (await client.ack())["success"]

    await count()
    for _ in range(3):
        client.cut()
        client = await recovered(handled, client)
        assert [data for _, data in await client.numbered(len(counted))] == counted
        await count()
    assert counted == ["1", "2", "3", "4"]
    await client.close()
    await application.hears(client.connection_id, "disconnected")
    assert application.heard(client.connection_id) == ["connect", "connected", "disconnected"]


async def test_one_hub_is_another_world(topology, world):
    """A session of one hub is not there in another, also for REST."""
    client = await reliable(world, "alice")
    async with World(topology, f"{world.hub}_other") as other:
        assert (await other.rest("HEAD", f"/connections/{client.connection_id}"))[0] == 404
        assert await refused(other, client.connection_id, client.token)


@both
async def test_rest_finds_a_session_on_whatever_gateway_it_is(world, subprotocol):
    """The connection id names the gateway on which it began."""
    client = await reliable(world, "alice", subprotocol, roles=[])
    here = f"/connections/{client.connection_id}"
    for number, gateway in enumerate(world.topology.gateways * 2, 1):
        client.cut()
        client = await recovered(world, client, gateway=gateway)
        assert (await world.rest("HEAD", here))[0] == 200
        group = f"g{number}"
        assert (await world.rest("PUT", f"/groups/{group}{here}"))[0] == 200
        permission, target = f"/permissions/sendToGroup{here}", [("targetName", group)]
        assert (await world.rest("HEAD", permission, target))[0] == 404
        assert (await world.rest("PUT", permission, target))[0] == 200
        assert (await world.rest("HEAD", permission, target))[0] == 200
        assert (await world.rest("POST", f"/groups/{group}/:send", data="group", headers=TEXT))[0] == 202
        assert (await world.rest("POST", f"{here}/:send", data="own", headers=TEXT))[0] == 202
        assert {data for _, data in await client.fresh(2)} == {"group", "own"}
    assert (await world.rest("DELETE", f"{here}/groups"))[0] == 204
    assert (await world.rest("HEAD", f"/groups/{group}"))[0] == 404
    assert (await world.rest("DELETE", here))[0] == 204
    await client.message()
    assert await client.closed() == (1000, "")
    assert (await world.rest("HEAD", here))[0] == 404
    assert await refused(world, client.connection_id, client.token, offered=subprotocol)
