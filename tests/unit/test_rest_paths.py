"""Paths on the wire: one decoding, no escape that changes the route; names; api-versions."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from support.rest import Rig, rest_rig

from controlplane.operations import SUPPORTED_VERSIONS, VERSION_ALIASES
from controlplane.paths import match, split_target


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with rest_rig() as rig:
        yield rig


@pytest.mark.parametrize(
    ("escaped", "group"),
    [
        ("a%20b", "a b"),
        ("a+b", "a+b"),
        ("a%2Bb", "a+b"),
        ("a%2Fb", "a%2Fb"),
        ("a%2fb", "a%2fb"),
        ("a%252Fb", "a%2Fb"),
        ("a%25252Fb", "a%252Fb"),
        ("%C3%A9", "é"),
        ("%F0%9F%98%80", "😀"),
        ("..%2F..%2Fusers", "..%2F..%2Fusers"),
        ("%2E%2E", ".."),
        ("a%3Fb%23c", "a?b#c"),
        ("100%", "100%"),
        (":send", ":send"),
        ("%20%20x", "  x"),
        ("g" * 1024, "g" * 1024),
    ],
)
async def test_a_group_is_decoded_once_and_slashes_stay(rig: Rig, escaped: str, group: str) -> None:
    connection = rig.cluster.connect("chat", "c1")
    assert (await rig.call("PUT", f"/api/hubs/chat/groups/{escaped}/connections/c1")).status == 200
    assert connection.groups == {group}
    assert (await rig.call("HEAD", f"/api/hubs/chat/groups/{escaped}")).status == 200


@pytest.mark.parametrize("escaped", ["%20", "%09%20", "g" * 1025, "%FF", "%C3"])
async def test_names_that_no_group_can_have_are_refused(rig: Rig, escaped: str) -> None:
    rig.cluster.connect("chat", "c1")
    answer = await rig.call("PUT", f"/api/hubs/chat/groups/{escaped}/connections/c1", check=False)
    assert (answer.status, answer.json["target"]) == (400, "group")
    assert "api-supported-versions" not in answer.headers


async def test_users_and_connections_are_exact(rig: Rig) -> None:
    rig.cluster.connect("chat", "Id-02", "u/1+é")
    rig.cluster.connect("chat", "Id-03", "u%2F1+é")
    assert (await rig.call("HEAD", "/api/hubs/chat/users/u%2F1%2B%C3%A9")).status == 200
    assert (await rig.call("POST", "/api/hubs/chat/users/u%2F1%2B%C3%A9/:closeConnections")).status == 204
    assert rig.cluster.hubs["chat"].keys() == {"Id-02"}
    assert (await rig.call("HEAD", "/api/hubs/chat/connections/id-02")).status == 404
    assert (await rig.call("HEAD", "/api/hubs/chat/connections/Id-02")).status == 200


@pytest.mark.parametrize(
    "path",
    [
        "/api/hubs/chat/connections/c1/",
        "/API/Hubs/CHAT/Connections/c1",
        "/api/hubs/ch%61t/connections/c1",
    ],
)
async def test_literal_segments_and_hubs_have_no_case(rig: Rig, path: str) -> None:
    rig.cluster.connect("chat", "c1")
    assert (await rig.call("HEAD", path)).status == 200


async def test_the_colon_of_an_action_may_be_escaped(rig: Rig) -> None:
    connection = rig.cluster.connect("chat", "c1")
    assert (await rig.call("POST", "/api/hubs/chat/%3Asend", "x", "text/plain")).status == 202
    assert (await rig.call("POST", "/api/hubs/chat/%3asend/", "x", "text/plain")).status == 202
    assert len(connection.received) == 2


@pytest.mark.parametrize(
    "path",
    [
        "/api",
        "/api/hubs",
        "/api/hubs/chat",
        "/api/hubs/chat/",
        "/api/hubs//:send",
        "/api/hubs/chat//:send",
        "/api/hubs/chat/groups",
        "/api/hubs/chat/groups/",
        "/api/hubs/chat/groups%2Fg",
        "/api/hubs/chat/groups/g/users/u",
        "/api/hubs/chat/connections/c1/groups/g",
        "/api/hubs/chat/:send/x",
        "/api/hub/chat/:send",
        "/api/hubs/chat/%253Asend",
    ],
)
async def test_what_is_not_an_operation_is_404(rig: Rig, path: str) -> None:
    answer = await rig.call("POST", path, "x", "text/plain")
    assert (answer.status, answer.body) == (404, b"")


@pytest.mark.parametrize("hub", ["a", "Chat_1", "a`,.[]", "a" * 128, "chat%5B1%5D", "%63hat"])
async def test_hubs_of_the_documented_form_are_good(rig: Rig, hub: str) -> None:
    assert (await rig.call("POST", f"/api/hubs/{hub}/:send", "x", "text/plain")).status == 202


@pytest.mark.parametrize("hub", ["1a", "_a", "a-b", "a%20b", "a%2Fb", "%C3%A9", "a" * 129, "%FF", "a%00"])
async def test_other_hubs_are_refused(rig: Rig, hub: str) -> None:
    answer = await rig.call("POST", f"/api/hubs/{hub}/:send", "x", "text/plain", check=False)
    assert (answer.status, answer.json["code"], answer.json["target"]) == (400, "Error.BadRequest", "hub")


@pytest.mark.parametrize("version", [*SUPPORTED_VERSIONS, *VERSION_ALIASES])
async def test_every_version_that_clients_send_is_served(rig: Rig, version: str) -> None:
    answer = await rig.call("POST", f"/api/hubs/chat/:send?api-version={version}", "x", "text/plain")
    assert answer.status == 202
    assert answer.headers["api-supported-versions"] == ", ".join(SUPPORTED_VERSIONS)


async def test_without_a_version_the_latest_is_meant_and_its_name_has_no_case(rig: Rig) -> None:
    assert (await rig.call("HEAD", "/api/hubs/chat/groups/g")).status == 404
    assert (await rig.call("HEAD", "/api/hubs/chat/groups/g?API-Version=2024-12-01")).status == 404
    assert (await rig.call("HEAD", "/api/hubs/chat/groups/g?API-Version=x")).status == 400


@pytest.mark.parametrize(
    "query",
    ["api-version=2019-01-01", "api-version=", "api-version=2024-12-01&api-version=2024-12-01"],
)
async def test_other_versions_are_refused(rig: Rig, query: str) -> None:
    answer = await rig.call("POST", f"/api/hubs/chat/:send?{query}", "x", "text/plain")
    assert answer.status == 400
    assert answer.json["code"] == answer.headers["x-ms-error-code"] == "Error.BadRequest"
    assert answer.json["target"] == "api-version"
    assert answer.json["message"] == "The specified API version is not supported."


async def test_an_old_version_may_use_what_is_new(rig: Rig) -> None:
    connection = rig.cluster.connect("chat", "c1", "u")
    path = "/api/hubs/chat/:send?api-version=2021-10-01&filter=userId%20eq%20null"
    assert (await rig.call("POST", path, "x", "text/plain")).status == 202
    assert connection.received == []


async def test_chat_is_said_to_be_missing(rig: Rig) -> None:
    path = "/api/hubs/chat/chat/rooms/r?api-version=2026-02-01-preview"
    assert (await rig.call("GET", path, token=None)).status == 401
    answer = await rig.call("GET", path)
    assert (answer.status, answer.json["code"]) == (501, "Error.NotImplemented")


@pytest.mark.parametrize(
    ("raw", "path", "query"),
    [
        ("/a?b=c", "/a", "b=c"),
        ("/a%3Fb", "/a%3Fb", ""),
        ("http://host:1/a?b", "/a", "b"),
        ("http://host", "/", ""),
        ("/http://x/a", "/http://x/a", ""),
    ],
)
def test_targets_are_split_raw(raw: str, path: str, query: str) -> None:
    assert split_target(raw) == (path, query)


def test_matching_never_decodes() -> None:
    found = match("/api/hubs/h/users/a%2Fb/groups/%20")
    assert found is not None
    assert found.raw == {"hub": "h", "userId": "a%2Fb", "group": "%20"}
    assert found.operations.keys() == {"PUT", "DELETE"}
