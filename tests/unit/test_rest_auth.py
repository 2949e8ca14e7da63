"""Who is let in: keys, audiences, life times, and what is answered before credentials are looked at."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import jwt
import pytest
from support.rest import Rig, rest_rig

from controlplane.settings import ControlPlaneConfig
from hubwire.model.tokens import sign_admin_token, sign_client_token, sign_rest_token

PATH = "/api/hubs/chat/connections/x"
QUERY = "?api-version=2024-12-01"


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with rest_rig(ControlPlaneConfig(public_endpoints=("https://pubsub.example.com/base",))) as rig:
        yield rig


async def head(rig: Rig, token: str | None, target: str = PATH + QUERY) -> int:
    """404 when let in: there is no such connection."""
    return (await rig.call("HEAD", target, token=token)).status


async def test_without_credentials_an_absent_connection_is_401_not_404(rig: Rig) -> None:
    answer = await rig.call("HEAD", PATH + QUERY, token=None)
    assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
    answer = await rig.call("PUT", "/api/hubs/chat/groups/g/connections/x", token=None)
    assert (answer.status, answer.body) == (401, b"")
    assert "x-ms-error-code" not in answer.headers
    assert rig.cluster.calls == 0


async def test_an_unknown_path_is_404_and_another_method_405_with_or_without_credentials(rig: Rig) -> None:
    for token in (None, ""):
        answer = await rig.call("GET", "/api/hubs/chat/nothing", token=token)
        assert (answer.status, answer.body) == (404, b"")
        answer = await rig.call("GET", PATH, token=token)
        assert (answer.status, answer.headers["Allow"]) == (405, "DELETE, HEAD")


async def test_credentials_are_looked_at_before_parameters(rig: Rig) -> None:
    bad = "/api/hubs/7/:send?api-version=1999-01-01&filter=%20&messageTtlSeconds=x"
    assert (await rig.call("POST", bad, "{", "application/json", token="x.y.z")).status == 401
    assert (await rig.call("POST", bad, "{", "application/json")).status == 400


async def test_both_keys_are_good_and_a_replaced_one_is_not(rig: Rig) -> None:
    url = rig.base + PATH + QUERY
    keys = rig.settings.keys
    for key in (keys.primary, keys.secondary):
        assert await head(rig, sign_rest_token(key, url, time.time())) == 404
    assert await head(rig, sign_rest_token(keys.salt, url, time.time())) == 401
    await rig.settings.regenerate("Primary")
    assert await head(rig, sign_rest_token(keys.primary, url, time.time())) == 401
    assert await head(rig, sign_rest_token(keys.secondary, url, time.time())) == 404


@pytest.mark.parametrize(
    ("audience", "status"),
    [
        ("{base}" + PATH + QUERY, 404),
        ("{base}" + PATH, 404),
        ("{base}" + PATH + "/", 404),
        ("{base}" + PATH + "/child?x=1", 404),
        ("{base}" + PATH + "Suffix", 401),
        ("{base}/api/hubs/chat/connections", 401),
        ("{base}" + PATH.upper(), 404),
        ("ws{rest}" + PATH, 404),
        ("wss{rest}" + PATH, 404),
        ("https{rest}" + PATH, 404),
        ("ftp{rest}" + PATH, 401),
        ("https://pubsub.example.com/base" + PATH + QUERY, 404),
        ("https://PubSub.example.com:443/base" + PATH, 404),
        ("https://pubsub.example.com.evil.net/base" + PATH, 401),
        ("https://elsewhere.example.com" + PATH, 401),
        ("https://management.azure.com", 401),
        ("", 401),
    ],
)
async def test_the_audience_must_name_the_request(rig: Rig, audience: str, status: int) -> None:
    audience = audience.format(base=rig.base, rest=rig.base.removeprefix("http"))
    token = sign_rest_token(rig.settings.keys.primary, audience, time.time())
    assert await head(rig, token) == status


async def test_a_proxy_that_keeps_its_prefix_is_understood(rig: Rig) -> None:
    token = sign_rest_token(rig.settings.keys.primary, "https://pubsub.example.com/base" + PATH, time.time())
    assert await head(rig, token, "/base" + PATH + QUERY) == 404


@pytest.mark.parametrize(
    "target",
    [
        "/api/hubs/chat%5B1%5D/groups/a+b%2Fc%3Fd",
        "/api/hubs/chat/groups/a%20b?x=a%2Fb",
        "/api/hubs/chat/groups/%C3%A9/",
    ],
)
async def test_the_raw_url_that_sdks_sign_is_accepted(rig: Rig, target: str) -> None:
    assert await head(rig, "", target) == 404


@pytest.mark.parametrize(
    ("claims", "status"),
    [
        ({"exp": -240}, 404),
        ({"exp": -360}, 401),
        ({"exp": 60, "nbf": 240}, 404),
        ({"exp": 60, "nbf": 360}, 401),
        ({"exp": 60, "iat": 360}, 401),
        ({}, 401),
    ],
)
async def test_clocks_may_differ_by_five_minutes(rig: Rig, claims: dict[str, int], status: int) -> None:
    now = time.time()
    payload = {"aud": rig.base + PATH, **{name: int(now + offset) for name, offset in claims.items()}}
    assert await head(rig, jwt.encode(payload, rig.settings.keys.primary, "HS256")) == status


async def test_other_algorithms_and_other_kinds_of_token_are_refused(rig: Rig) -> None:
    key = rig.settings.keys.primary
    payload = {"aud": rig.base + PATH, "exp": int(time.time() + 60)}
    client = sign_client_token(key, endpoint=rig.base, hub="chat", now=time.time())
    for token in (
        jwt.encode(payload, "", "none"),
        jwt.encode(payload, key * 2, "HS512"),
        client,
        sign_admin_token(key, time.time()),
        "not-a-token",
    ):
        assert await head(rig, token) == 401
    answer = await rig.call("HEAD", PATH, token=None, headers={"Authorization": "Basic eDp5"})
    assert answer.status == 401


async def test_the_answer_to_a_wrong_audience_tells_what_was_expected(rig: Rig) -> None:
    token = sign_rest_token(rig.settings.keys.primary, 'https://x/"\r\nSet-Cookie: y', time.time())
    answer = await rig.call("PUT", "/api/hubs/chat/groups/g/connections/x", token=token)
    challenge = answer.headers["WWW-Authenticate"]
    assert challenge.startswith('Bearer error="invalid_token", error_description="')
    assert challenge.count('"') == 4
    assert "Set-Cookie" not in answer.headers
