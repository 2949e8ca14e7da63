"""The handshake: where tokens come from, which are good, how hubs are named (client-protocols.md 1 and 2)."""

from __future__ import annotations

import json
import time

import jwt
import pytest
from support.inventory import CONNECTING
from support.topology import ANONYMOUS_HUB, PUBLIC_ENDPOINT, new_key
from support.world import JSON_V1, PROTOBUF_V1
from websockets.exceptions import InvalidStatus


def token_of(url: str) -> tuple[str, str]:
    """A client access URL as the bare URL and its token."""
    bare, _, token = url.partition("?access_token=")
    return bare, token


async def greeting(world, url, **more):
    socket = await world.open(url, [JSON_V1], **more)
    first = json.loads(await socket.recv())
    await socket.close()
    return first


async def refused(world, url, **more):
    """The status with which a handshake is refused."""
    with pytest.raises(InvalidStatus) as answer:
        await world.open(url, [JSON_V1], **more)
    return answer.value.response.status_code


@pytest.mark.compat(CONNECTING, "token in the query", "token in the Authorization header")
async def test_the_token_comes_in_the_query_or_in_the_authorization_header(world):
    url = world.client_url(user_id="alice")
    assert (await greeting(world, url))["userId"] == "alice"
    assert (await greeting(world, url.replace("access_token", "ACCESS_TOKEN")))["userId"] == "alice"
    bare, token = token_of(url)
    for scheme in ("Bearer", "bearer"):
        assert (await greeting(world, bare, headers={"Authorization": f"{scheme} {token}"}))[
            "userId"
        ] == "alice"


@pytest.mark.compat(CONNECTING, "primary key", "secondary key")
async def test_both_keys_sign_tokens(world):
    for key in (world.topology.key, world.topology.secondary_key):
        assert (await greeting(world, world.client_url(user_id="alice", key=key)))["userId"] == "alice"


@pytest.mark.compat(CONNECTING, "401 for a bad or missing token")
async def test_a_bad_or_missing_token_is_refused_with_401(world):
    bare, token = token_of(world.client_url())
    claims = jwt.decode(token, options={"verify_signature": False})
    key = world.topology.key

    def signed(**other):
        return f"{bare}?access_token={jwt.encode({**claims, **other}, key)}"

    assert await refused(world, bare) == 401
    assert await refused(world, world.client_url(key=new_key())) == 401
    assert await refused(world, f"{bare}?access_token=nonsense") == 401
    assert await refused(world, f"{bare}?access_token={jwt.encode(claims, None, algorithm='none')}") == 401
    assert await refused(world, signed(exp=int(time.time()) - 3600)) == 401
    assert await refused(world, signed(nbf=int(time.time()) + 3600)) == 401
    assert await refused(world, signed(aud=claims["aud"] + "x")) == 401  # another hub
    assert await refused(world, signed(aud=bare.replace("client", "api").replace("ws", "http", 1))) == 401
    # Within the allowance of five minutes.
    assert (await greeting(world, signed(exp=int(time.time()) - 240)))["event"] == "connected"


@pytest.mark.compat(CONNECTING, "hub in any letter case", "hub in the query")
async def test_a_hub_has_one_name_in_any_letter_case_and_may_be_in_the_query(world):
    member = await world.json(groups=["room"])
    upper = await world.json(hub=world.hub.upper())
    await upper.publish("room", 1)
    assert await member.data() == 1
    # A token for one spelling opens the other.
    url = world.client_url(user_id="alice")
    assert (await greeting(world, url.replace(world.hub, world.hub.upper())))["userId"] == "alice"
    host, _, token = (
        url.replace("/client/hubs/", " ").replace("?access_token=", " ").split(" ")[0],
        "",
        token_of(url)[1],
    )
    for path in ("/client/", "/client"):
        in_query = f"{host}{path}?hub={world.hub}&access_token={token}"
        assert (await greeting(world, in_query))["userId"] == "alice"


@pytest.mark.compat(CONNECTING, "anonymous client of a hub that allows it")
async def test_a_hub_may_allow_clients_without_a_token(world):
    gateway = world.topology.gateway().replace("http", "ws", 1)
    first = await greeting(world, f"{gateway}/client/hubs/{ANONYMOUS_HUB}")
    assert (first["event"], first["userId"]) == ("connected", None)
    # It may do nothing, and a bad token stays bad.
    assert await refused(world, f"{gateway}/client/hubs/{ANONYMOUS_HUB}?access_token=nonsense") == 401


@pytest.mark.compat(CONNECTING, "groups of the token")
async def test_a_client_is_in_the_groups_of_its_token_without_any_role(world):
    members = [await world.json(groups=["a", "b"], roles=[]) for _ in range(3)]
    sender = await world.json()
    for group in ("a", "b"):
        await sender.publish(group, group)
        assert [await member.data() for member in members] == [group] * 3


@pytest.mark.compat(CONNECTING, "400 for a bad request", "404 for an unknown path")
async def test_bad_requests_and_unknown_paths_are_told_apart(world):
    gateway = world.topology.gateway().replace("http", "ws", 1)
    assert await refused(world, f"{gateway}/client/hubs/9bad?access_token=x") == 400
    assert await refused(world, f"{gateway}/client/?access_token=x") == 400
    assert await refused(world, world.client_url(groups=["x" * 1025])) == 400
    assert await refused(world, f"{gateway}/client/nothing/here") == 404
    status, _, _ = await world.rest.get(world.client_url().replace("ws", "http", 1))
    assert status == 400  # no upgrade


@pytest.mark.compat(CONNECTING, "public endpoint as audience")
async def test_a_token_for_the_public_endpoint_is_accepted(world):
    bare, _ = token_of(world.client_url())
    claims = {
        "aud": f"{PUBLIC_ENDPOINT}/client/hubs/{world.hub}",
        "exp": int(time.time()) + 60,
        "sub": "alice",
    }
    url = f"{bare}?access_token={jwt.encode(claims, world.topology.key)}"
    if world.topology.name == "up":
        assert await refused(world, url) == 401  # it was not told of a public endpoint
    else:
        assert (await greeting(world, url))["userId"] == "alice"


async def test_subprotocols_are_negotiated_by_the_clients_order(world):
    url = world.client_url()
    for offered, chosen in (
        ([JSON_V1], JSON_V1),
        (["unknown", PROTOBUF_V1, JSON_V1], PROTOBUF_V1),
        ([JSON_V1, PROTOBUF_V1], JSON_V1),
        ([JSON_V1.upper()], JSON_V1.upper()),
        (["unknown"], None),
        ([], None),
    ):
        socket = await world.open(url, offered or None)
        assert socket.subprotocol == chosen
        await socket.close()


async def test_every_connection_has_its_own_id(world):
    clients = await world.several(6, "alice")
    assert len({client.connection_id for client in clients}) == 6
