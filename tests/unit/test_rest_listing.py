"""The members of a group, page by page, the way the SDKs follow nextLink."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from urllib.parse import parse_qsl, urlsplit

import pytest
from support.rest import Rig, rest_rig

from controlplane.settings import ControlPlaneConfig
from hubwire.model.tokens import sign_rest_token

PATH = "/api/hubs/chat/groups/a%2Fb%20c/connections"
GROUP = "a%2Fb c"
V = "api-version=2024-12-01"


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with rest_rig() as rig:
        yield rig


def members(rig: Rig, count: int) -> list[str]:
    ids = [f"id-{n:04}_02" for n in range(count)]
    for number, id in enumerate(ids):
        rig.cluster.connect("chat", id, f"user{number}" if number % 2 else None, GROUP)
    return ids


async def pages(rig: Rig, query: str) -> list[list[str]]:
    found = []
    target = f"{PATH}?{query}"
    while True:
        answer = await rig.call("GET", target)
        assert answer.status == 200
        found.append([item["connectionId"] for item in answer.json["value"]])
        link = answer.json.get("nextLink")
        if link is None:
            return found
        assert link.startswith(rig.base + PATH + "?")
        target = link.removeprefix(rig.base)


async def test_members_are_named_with_their_users(rig: Rig) -> None:
    members(rig, 2)
    rig.cluster.connect("chat", "x", None, "a%2Fb c ")
    answer = await rig.call("GET", f"{PATH}?{V}")
    assert answer.body == (
        b'{"value":[{"connectionId":"id-0000_02","userId":null},{"connectionId":"id-0001_02","userId":"user1"}]}'
    )
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"


@pytest.mark.parametrize(
    ("count", "query", "sizes"),
    [
        (0, V, [0]),
        (1, V, [1]),
        (200, V, [200]),
        (201, V, [200, 1]),
        (5, f"maxpagesize=2&{V}", [2, 2, 1]),
        (4, f"maxpagesize=2&{V}", [2, 2]),
        (5, f"top=3&{V}", [3]),
        (5, f"top=5&{V}", [5]),
        (5, f"top=9&{V}", [5]),
        (5, f"top=3&maxpagesize=2&{V}", [2, 1]),
        (5, f"top=4&maxpagesize=2&{V}", [2, 2]),
        (5, f"top=2&maxpagesize=2&{V}", [2]),
        (5, f"top=1&maxpagesize=200&{V}", [1]),
        (201, f"top=2147483647&{V}", [200, 1]),
        (3, "maxpagesize=2", [2, 1]),
    ],
)
async def test_every_member_is_listed_once_and_the_last_page_has_no_link(
    rig: Rig, count: int, query: str, sizes: list[int]
) -> None:
    ids = members(rig, count)
    found = await pages(rig, query)
    assert [len(page) for page in found] == sizes
    assert [id for page in found for id in page] == ids[: sum(sizes)]


async def test_the_link_has_the_services_order_of_parameters(rig: Rig) -> None:
    members(rig, 5)
    answer = await rig.call("GET", f"{PATH}?{V}&maxpagesize=2&top=4")
    names = [name for name, _ in parse_qsl(urlsplit(answer.json["nextLink"]).query)]
    assert names == ["top", "maxpagesize", "continuationToken", "api-version"]
    query = dict(parse_qsl(urlsplit(answer.json["nextLink"]).query))
    assert (query["top"], query["maxpagesize"], query["api-version"]) == ("2", "2", "2024-12-01")
    assert query["continuationToken"].replace("-", "").replace("_", "").isalnum()


async def test_those_who_stay_are_listed_while_others_come_and_go(rig: Rig) -> None:
    members(rig, 6)
    answer = await rig.call("GET", f"{PATH}?{V}&maxpagesize=2")
    hub = rig.cluster.hubs["chat"]
    del hub["id-0000_02"], hub["id-0001_02"], hub["id-0003_02"]
    rig.cluster.connect("chat", "id-0002_x", None, GROUP)
    answer = await rig.call("GET", answer.json["nextLink"].removeprefix(rig.base))
    answer2 = await rig.call("GET", answer.json["nextLink"].removeprefix(rig.base))
    ids = [item["connectionId"] for page in (answer, answer2) for item in page.json["value"]]
    assert ids == ["id-0002_02", "id-0002_x", "id-0004_02", "id-0005_02"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("maxpagesize", "0"),
        ("maxpagesize", "201"),
        ("maxpagesize", ""),
        ("maxpagesize", "x"),
        ("maxpagesize", "1&maxpagesize=1"),
        ("top", "0"),
        ("top", "2147483648"),
        ("top", ""),
        ("top", "1&top=2"),
        ("continuationToken", ""),
        ("continuationToken", "x"),
        ("continuationToken", "A" * 64),
        ("continuationToken", "A" * 2049),
        ("continuationToken", "%C3%A9"),
        ("continuationToken", "AAAA&continuationToken=AAAA"),
    ],
)
async def test_parameters_out_of_bounds_are_refused(rig: Rig, name: str, value: str) -> None:
    answer = await rig.call("GET", f"{PATH}?{V}&{name}={value}")
    assert (answer.status, answer.json["target"]) == (400, name)


async def test_a_token_is_good_for_its_own_group_only_and_survives_a_rotation(rig: Rig) -> None:
    members(rig, 5)
    link = (await rig.call("GET", f"{PATH}?{V}&maxpagesize=2")).json["nextLink"].removeprefix(rig.base)
    assert (await rig.call("GET", link.replace("chat", "other"))).status == 400
    assert (await rig.call("GET", link.replace("a%2Fb%20c", "x"))).status == 400
    token = dict(parse_qsl(urlsplit(link).query))["continuationToken"]
    swapped = token[:-1] + ("A" if token[-1] != "A" else "B")
    assert (await rig.call("GET", link.replace(token, swapped))).status == 400
    assert (await rig.call("GET", link.replace(token, token + "="))).status == 400
    await rig.settings.regenerate("Secondary")
    assert (await rig.call("GET", link)).status == 200


async def test_the_link_names_the_endpoint_that_the_client_knows() -> None:
    config = ControlPlaneConfig(public_endpoints=("https://pubsub.example.com/base/",))
    async with rest_rig(config) as rig:
        members(rig, 3)
        url = f"https://pubsub.example.com/base{PATH}?{V}&maxpagesize=2"
        token = sign_rest_token(rig.settings.keys.primary, url, time.time())
        answer = await rig.call("GET", f"{PATH}?{V}&maxpagesize=2", token=token)
        link = answer.json["nextLink"]
        assert link.startswith(f"https://pubsub.example.com/base{PATH}?maxpagesize=2&continuationToken=")
        token = sign_rest_token(rig.settings.keys.primary, link, time.time())
        answer = await rig.call("GET", link.removeprefix("https://pubsub.example.com"), token=token)
        assert [item["connectionId"] for item in answer.json["value"]] == ["id-0002_02"]
