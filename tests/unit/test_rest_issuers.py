"""REST with tokens of OpenID Connect issuers: who is let in, to what, and what if the issuer is away."""

from __future__ import annotations

import hmac
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from support.local_issuer import AUDIENCE, LocalIssuer
from support.rest import Rig, rest_rig

from controlplane.oidc.issuer import Issuer
from controlplane.oidc.rights import Rights
from controlplane.oidc.tokens import Issuers
from hubwire.model.tokens import sign_rest_token

QUERY = "?api-version=2024-12-01"
LOOK = "/api/hubs/chat/connections/x" + QUERY
SEND = "/api/hubs/chat/:send" + QUERY
TOKEN = "/api/hubs/chat/:generateToken" + QUERY
SETTINGS = "/hubwire/settings"
RIGHTS = Rights.of(
    ["roles=Web PubSub Service Owner", "appid=deployer"],
    ["roles=Web PubSub Service Reader", "scp=look"],
    ["groups=operators"],
)
OWNER = ["Web PubSub Service Owner"]
READER = ["Web PubSub Service Reader"]


@pytest.fixture
async def issuer() -> AsyncIterator[LocalIssuer]:
    async with LocalIssuer() as issuer:
        yield issuer


def trusting(issuer: LocalIssuer, gap_seconds: float = 0.0) -> Issuers:
    return Issuers([Issuer(issuer.url, gap_seconds=gap_seconds)], [AUDIENCE], RIGHTS)


@pytest.fixture
async def rig(issuer: LocalIssuer) -> AsyncIterator[Rig]:
    async with rest_rig(issuers=trusting(issuer)) as rig:
        yield rig


async def look(rig: Rig, token: str) -> int:
    """404 when let in: there is no such connection."""
    return (await rig.call("HEAD", LOOK, token=token)).status


async def send(rig: Rig, token: str) -> int:
    return (await rig.call("POST", SEND, "hello", "text/plain", token=token)).status


def signed_by_hand(claims: dict[str, Any], secret: bytes) -> str:
    """With HS256, by any secret."""
    parts = [{"alg": "HS256", "kid": "rsa-1"}, claims]
    encoded = ".".join(jwt.utils.base64url_encode(json.dumps(part).encode()).decode() for part in parts)
    mac = hmac.digest(secret, encoded.encode(), "sha256")
    return f"{encoded}.{jwt.utils.base64url_encode(mac).decode()}"


async def test_an_owner_may_do_everything_in_the_data_plane(rig: Rig, issuer: LocalIssuer) -> None:
    for token in (issuer.token(roles=OWNER), issuer.token(appid="deployer"), issuer.token(roles=OWNER[0])):
        assert (await look(rig, token), await send(rig, token)) == (404, 202)
        answer = await rig.call("POST", TOKEN, token=token)
        assert answer.status == 200
        assert answer.json["token"].count(".") == 2


async def test_a_reader_may_look_and_nothing_else(rig: Rig, issuer: LocalIssuer) -> None:
    for token in (issuer.token(roles=READER), issuer.token(scp="openid look")):
        assert (await look(rig, token), await send(rig, token)) == (404, 403)
        refused = await rig.call("POST", TOKEN, token=token)
        assert refused.status == 403
        assert "no role" in refused.json["message"]
    assert rig.cluster.calls == 2  # the two looks


@pytest.mark.parametrize(
    "claims", [{}, {"roles": ["Owner"]}, {"roles": {"Web PubSub Service Owner": True}}, {"scp": "lookout"}]
)
async def test_a_good_token_without_a_role_is_403(
    rig: Rig, issuer: LocalIssuer, claims: dict[str, Any]
) -> None:
    assert await look(rig, issuer.token(**claims)) == 403


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"seconds": -400}, "has expired"),
        ({"exp": None}, "no 'exp'"),
        ({"nbf": 2**33}, "not valid yet"),
        ({"aud": "https://elsewhere"}, "Failed to validate audience"),
        ({"aud": None}, "Failed to validate audience"),
        ({"iss": "https://elsewhere"}, "issuer that is not trusted"),
        ({"iss": None}, "issuer that is not trusted"),
    ],
)
async def test_a_bad_token_is_401_and_told_why(
    rig: Rig, issuer: LocalIssuer, wrong: dict[str, Any], why: str
) -> None:
    answer = await rig.call("HEAD", LOOK, token=issuer.token(roles=OWNER, **wrong))
    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"].startswith('Bearer error="invalid_token"')
    assert why in answer.headers["WWW-Authenticate"]


async def test_clocks_may_differ_by_minutes(rig: Rig, issuer: LocalIssuer) -> None:
    assert await look(rig, issuer.token(roles=OWNER, seconds=-100)) == 404
    assert await look(rig, issuer.token(roles=OWNER, nbf=int(time.time()) + 100)) == 404


async def test_only_the_issuers_own_keys_sign(rig: Rig, issuer: LocalIssuer) -> None:
    good = issuer.token(roles=OWNER)
    claims = jwt.decode(good, options={"verify_signature": False})
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    forged = jwt.encode(claims, other, algorithm="RS256", headers={"kid": "rsa-1"})
    # The classic: the public key, which everybody has, as the secret of HS256.
    confused = signed_by_hand(claims, json.dumps(issuer.jwks["keys"][0]).encode())
    unsigned = jwt.encode(claims, "", algorithm="none", headers={"kid": "rsa-1"})
    head, _, signature = good.split(".")
    swapped = f"{head}.{good.split('.')[1][::-1]}.{signature}"
    for token in (forged, confused, unsigned, swapped, good[:-8], "a.b.c", good + ".x"):
        assert await look(rig, token) == 401


async def test_access_keys_work_beside_an_issuer(rig: Rig) -> None:
    assert await look(rig, sign_rest_token(rig.settings.keys.primary, rig.base + LOOK, time.time())) == 404


async def test_a_key_that_was_added_is_fetched_when_a_token_names_it(rig: Rig, issuer: LocalIssuer) -> None:
    assert await look(rig, issuer.token(roles=OWNER)) == 404
    issuer.add_key("ec-2")
    assert await look(rig, issuer.token("ec-2", roles=OWNER)) == 404


async def test_made_up_names_of_keys_do_not_have_us_ask_each_time(issuer: LocalIssuer) -> None:
    async with rest_rig(issuers=trusting(issuer, gap_seconds=3600.0)) as rig:
        assert await look(rig, issuer.token(roles=OWNER)) == 404
        asked = len(issuer.asked)
        issuer.add_key("ec-2")
        for _ in range(5):
            assert await look(rig, issuer.token("ec-2", roles=OWNER)) == 401
        assert len(issuer.asked) == asked


async def test_an_issuer_that_is_away_hurts_only_who_needs_a_new_key(issuer: LocalIssuer) -> None:
    issuers = trusting(issuer)
    async with rest_rig(issuers=issuers) as rig:
        assert await look(rig, issuer.token(roles=OWNER)) == 404
        issuer.away = True
        issuer.add_key("ec-2")
        assert await look(rig, issuer.token("ec-2", roles=OWNER)) == 401
        assert _unreachable(issuers) == 1
        assert await look(rig, issuer.token(roles=OWNER)) == 404
        issuer.away = False
        assert await look(rig, issuer.token("ec-2", roles=OWNER)) == 404
        assert _unreachable(issuers) == 0


async def test_before_an_issuer_was_ever_reached_its_callers_are_asked_to_repeat(issuer: LocalIssuer) -> None:
    issuer.away = True
    async with rest_rig(issuers=trusting(issuer)) as rig:
        answer = await rig.call("HEAD", LOOK, token=issuer.token(roles=OWNER))
        assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
        key = rig.settings.keys.primary
        assert await look(rig, sign_rest_token(key, rig.base + LOOK, time.time())) == 404
        issuer.away = False
        assert await look(rig, issuer.token(roles=OWNER)) == 404


@pytest.mark.parametrize(
    ("path", "document"),
    [
        (
            "/.well-known/openid-configuration",
            b'{"issuer": "https://other", "jwks_uri": "https://other/keys"}',
        ),
        ("/.well-known/openid-configuration", b"[" * 100_000),
        ("/keys", b'{"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "rsa-1", "alg": "HS256"}]}'),
        ("/keys", b'{"keys": ["x", {"kty": "RSA", "n": "AQAB", "e": "AQAB", "kid": "rsa-1"}]}'),
        ("/keys", b'{"keys": []}' + b" " * 300_000),
    ],
)
async def test_what_an_issuer_should_not_publish_is_not_taken(
    issuer: LocalIssuer, path: str, document: bytes
) -> None:
    issuer.documents[path] = document
    issuers = trusting(issuer)
    async with rest_rig(issuers=issuers) as rig:
        assert await look(rig, issuer.token(roles=OWNER)) == 503
        assert _unreachable(issuers) == 1
        del issuer.documents[path]
        assert await look(rig, issuer.token(roles=OWNER)) == 404


async def test_the_management_api_is_for_those_who_are_named_for_it(rig: Rig, issuer: LocalIssuer) -> None:
    azure = "https://management.azure.com"
    for claims, status in (
        ({"groups": ["operators"]}, 200),
        ({"groups": ["operators"], "aud": azure}, 200),
        ({"roles": OWNER}, 403),
        ({"groups": ["operators"], "aud": "https://elsewhere"}, 401),
    ):
        answer = await rig.call("GET", SETTINGS, token=issuer.token(**claims), check=False)
        assert answer.status == status, claims
    # The audience of the management API is none for the data plane.
    assert await look(rig, issuer.token(roles=OWNER, aud=azure)) == 401
    assert await look(rig, issuer.token(groups=["operators"])) == 403


def _unreachable(issuers: Issuers) -> Any:
    (read,) = (reader for meter, reader in issuers.readers.items() if meter.name.endswith("unreachable"))
    return read()
