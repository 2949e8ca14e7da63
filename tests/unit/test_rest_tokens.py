"""Client tokens made by the service."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import jwt
import pytest
from support.rest import Rig, rest_rig

from controlplane.settings import ControlPlaneConfig
from hubwire.model.tokens import AudiencePolicy, sign_rest_token, verify_client_token

PATH = "/api/hubs/chat/:generateToken?api-version=2024-12-01"


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with rest_rig() as rig:
        yield rig


def claims(token: str) -> dict[str, Any]:
    return dict(jwt.decode(token, options={"verify_signature": False}))


async def test_a_token_opens_a_connection_with_what_was_asked(rig: Rig) -> None:
    query = "&userId=u%201&role=a&role=b&group=g&group=h%2Fi&minutesToExpire=5"
    answer = await rig.call("POST", PATH + query)
    assert (answer.status, list(answer.json)) == (200, ["token"])
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    now = time.time()
    found = verify_client_token(
        answer.json["token"],
        keys=[rig.settings.keys.salt],
        hub="chat",
        audiences=AudiencePolicy.of([], rig.base.removeprefix("http://")),
        now=now,
    )
    assert (found.user_id, found.roles, found.groups) == ("u 1", ("a", "b"), ("g", "h/i"))
    assert abs(found.claims["exp"] - now - 300) < 5


async def test_a_user_id_that_no_connection_could_have_is_refused(rig: Rig) -> None:
    assert (await rig.call("POST", PATH + "&userId=" + "u" * 1024)).status == 200
    answer = await rig.call("POST", PATH + "&userId=" + "u" * 1025)
    assert (answer.status, answer.json["target"]) == (400, "userId")


async def test_without_parameters_it_is_anonymous_for_an_hour(rig: Rig) -> None:
    found = claims((await rig.call("POST", PATH)).json["token"])
    assert found.keys() == {"aud", "iat", "exp"}
    assert found["exp"] - found["iat"] == 3600
    assert found["aud"] == f"{rig.base}/client/hubs/chat"


@pytest.mark.parametrize(
    ("client_type", "path"),
    [
        ("Default", "/client/hubs/"),
        ("default", "/client/hubs/"),
        ("mqtt", "/clients/mqtt/hubs/"),
        ("MQTT", "/clients/mqtt/hubs/"),
    ],
)
async def test_the_client_type_chooses_the_endpoint(rig: Rig, client_type: str, path: str) -> None:
    answer = await rig.call("POST", f"{PATH}&clientType={client_type}")
    assert claims(answer.json["token"])["aud"] == f"{rig.base}{path}chat"


async def test_the_endpoint_is_the_public_one() -> None:
    async with rest_rig(ControlPlaneConfig(public_endpoints=("https://PubSub.example.com/base",))) as rig:
        url = "https://pubsub.example.com/base" + PATH
        token = sign_rest_token(rig.settings.keys.primary, url, time.time())
        answer = await rig.call("POST", PATH, token=token)
        assert claims(answer.json["token"])["aud"] == "https://pubsub.example.com/base/client/hubs/chat"


async def test_a_bad_client_type_is_refused_in_the_services_words(rig: Rig) -> None:
    answer = await rig.call("POST", PATH + "&clientType=socketio")
    assert answer.status == 400
    assert answer.headers["x-ms-error-code"] == "Error.BadRequest"
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    assert answer.body == (
        b'{"code":"Error.BadRequest","message":"The value \'socketio\' is not valid.","target":"clientType",'
        b'"errors":{"clientType":["The value \'socketio\' is not valid."]},"type":null,'
        b'"title":"One or more validation errors occurred.","status":400,"detail":null,"instance":null,'
        b'"extensions":{}}'
    )


@pytest.mark.parametrize(
    ("query", "target"),
    [
        ("minutesToExpire=0", "minutesToExpire"),
        ("minutesToExpire=-5", "minutesToExpire"),
        ("minutesToExpire=2147483648", "minutesToExpire"),
        ("minutesToExpire=1.5", "minutesToExpire"),
        ("minutesToExpire=", "minutesToExpire"),
        ("group=", "group"),
        ("group=ok&group=%20", "group"),
        ("group=" + "g" * 1025, "group"),
    ],
)
async def test_bad_parameters_are_refused(rig: Rig, query: str, target: str) -> None:
    answer = await rig.call("POST", f"{PATH}&{query}")
    assert (answer.status, answer.json["target"]) == (400, target)


async def test_an_operator_can_limit_the_life_of_tokens() -> None:
    async with rest_rig(ControlPlaneConfig(max_minutes_to_expire=10)) as rig:
        assert (await rig.call("POST", PATH + "&minutesToExpire=11", check=False)).status == 400
        found = claims((await rig.call("POST", PATH)).json["token"])
        assert found["exp"] - found["iat"] == 600
