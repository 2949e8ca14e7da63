"""Existence, group membership, permissions and closing over REST."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from support.rest import VERSION, Rig, rest_rig

from hubwire.model.errors import PermissionDenied

V = "?api-version=2024-12-01"
HUB = "/api/hubs/chat"


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with rest_rig() as rig:
        rig.cluster.connect("chat", "a", "alice", "g")
        rig.cluster.connect("chat", "b", "bob")
        rig.cluster.connect("chat", "b2", "bob", "g", "h")
        rig.cluster.connect("chat", "n")
        yield rig


def groups(rig: Rig) -> dict[str, set[str]]:
    return {c.id: c.groups for c in rig.cluster.hubs["chat"].values()}


@pytest.mark.parametrize(
    ("path", "code", "message", "target"),
    [
        (
            "/connections/xxxx",
            "Warning.Connection.NotExisted",
            "Connection `xxxx` is not found.",
            "Connection",
        ),
        ("/groups/foo", "Warning.Group.NotExisted", "Group `foo` is empty.", "Group"),
        ("/users/foo", "Warning.User.NotExisted", "User `foo` is not found.", "User"),
        (
            "/permissions/sendToGroup/connections/xxxx?targetName=g",
            "Info.Connection.NotExisted",
            "Connection `xxxx` is not found.",
            "Connection",
        ),
    ],
)
async def test_head_of_what_is_not_there_has_the_headers_of_a_body(
    rig: Rig, path: str, code: str, message: str, target: str
) -> None:
    answer = await rig.call("HEAD", HUB + path)
    body = f'{{"code":"{code}","message":"{message}","target":"{target}","details":null,"innererror":null}}'
    assert (answer.status, answer.body) == (404, b"")
    assert answer.headers["x-ms-error-code"] == code
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    assert answer.headers["Content-Length"] == str(len(body))


@pytest.mark.parametrize("path", ["/connections/a", "/groups/g", "/users/bob"])
async def test_head_of_what_is_there_is_200_and_empty(rig: Rig, path: str) -> None:
    answer = await rig.call("HEAD", HUB + path + V)
    assert (answer.status, answer.headers["Content-Length"]) == (200, "0")


@pytest.mark.parametrize(
    ("method", "path", "status", "code", "what", "name"),
    [
        ("PUT", "/groups/g/connections/x", 404, "Error.Connection.NotExisted", "Connection", "x"),
        ("PUT", "/users/x%60y/groups/g", 404, "Warning.User.NotExisted", "User", "x`y"),
        (
            "PUT",
            "/permissions/sendToGroup/connections/%C3%A9?targetName=g",
            404,
            "Info.Connection.NotExisted",
            "Connection",
            "é",
        ),
    ],
)
async def test_the_body_of_a_404_is_the_services_own(
    rig: Rig, method: str, path: str, status: int, code: str, what: str, name: str
) -> None:
    answer = await rig.call(method, HUB + path)
    assert answer.status == status
    expected = (
        f'{{"code":"{code}","message":"{what} `{name}` is not found.","target":"{what}",'
        '"details":null,"innererror":null}'
    )
    assert answer.body.decode() == expected
    assert answer.headers["x-ms-error-code"] == code
    assert answer.headers["Content-Length"] == str(len(expected.encode()))


async def test_putting_and_deleting_members_can_be_repeated(rig: Rig) -> None:
    for _ in range(2):
        assert (await rig.call("PUT", HUB + "/groups/new/connections/a" + V)).status == 200
        assert groups(rig)["a"] == {"g", "new"}
    for _ in range(2):
        answer = await rig.call("DELETE", HUB + "/groups/new/connections/a" + V)
        assert (answer.status, answer.body) == (204, b"")
        assert "Content-Length" not in answer.headers
        assert groups(rig)["a"] == {"g"}


async def test_a_user_is_all_connections_that_it_has_now(rig: Rig) -> None:
    assert (await rig.call("PUT", HUB + "/users/bob/groups/new" + V)).status == 200
    later = rig.cluster.connect("chat", "b3", "bob")
    assert [id for id, names in groups(rig).items() if "new" in names] == ["b", "b2"]
    assert (await rig.call("DELETE", HUB + "/users/bob/groups/new" + V)).status == 204
    assert groups(rig)["b2"] == {"g", "h"}
    assert (await rig.call("DELETE", HUB + "/users/bob/groups" + V)).status == 204
    assert groups(rig)["b2"] == later.groups == set()
    assert groups(rig)["a"] == {"g"}


async def test_a_connection_can_leave_all_groups(rig: Rig) -> None:
    assert (await rig.call("DELETE", HUB + "/connections/b2/groups" + V)).status == 204
    assert groups(rig)["b2"] == set()
    assert (await rig.call("DELETE", HUB + "/connections/nobody/groups" + V)).status == 204


@pytest.mark.parametrize("body", [{"groups": ["x", "y", "x"]}, {"Groups": ["x", "y"], "filter": ""}])
async def test_without_a_filter_everybody_joins(rig: Rig, body: Any) -> None:
    answer = await rig.call(
        "POST", HUB + "/:addToGroups" + V, json.dumps(body), "application/json", check=False
    )
    assert (answer.status, answer.body) == (200, b"")
    assert all({"x", "y"} <= names for names in groups(rig).values())


async def test_only_those_for_whom_the_filter_holds_join_and_leave(rig: Rig) -> None:
    body = json.dumps({"groups": ["x"], "filter": "userId eq 'bob'"})
    assert (await rig.call("POST", HUB + "/:addToGroups", body, "application/json")).status == 200
    assert [id for id, names in groups(rig).items() if "x" in names] == ["b", "b2"]
    body = json.dumps({"groups": ["x", "g"], "filter": "'h' in groups"})
    assert (await rig.call("POST", HUB + "/:removeFromGroups", body, "application/json")).status == 200
    assert groups(rig) == {"a": {"g"}, "b": {"x"}, "b2": {"h"}, "n": set()}


@pytest.mark.parametrize("action", ["/:addToGroups", "/:removeFromGroups"])
@pytest.mark.parametrize(
    ("body", "target", "shape"),
    [
        (None, "Groups", "problem"),
        ("null", "Groups", "problem"),
        ("[]", "Groups", "problem"),
        ("{}", "Groups", "problem"),
        ('{"groups":[]}', "Groups", "problem"),
        ('{"groups":null}', "Groups", "problem"),
        ('{"groups":"g"}', "Groups", "problem"),
        ('{"groups":["ok",""]}', "Groups", "problem"),
        ('{"groups":["ok"," "]}', "Groups", "problem"),
        ('{"groups":["ok",7]}', "Groups", "problem"),
        (json.dumps({"groups": ["g" * 1025]}), "Groups", "problem"),
        ('{"groups":["\\ud800"]}', None, None),
        ('{"groups":["g"],"filter":" "}', "Filter", "problem"),
        ('{"groups":["g"],"filter":7}', "Filter", "problem"),
        ("", "Groups", "problem"),
        (" ", "Groups", "problem"),
        ("{", "Request", "problem"),
    ],
)
async def test_a_bad_body_changes_nothing(
    rig: Rig, action: str, body: str | None, target: str | None, shape: str | None
) -> None:
    before = {id: set(names) for id, names in groups(rig).items()}
    content_type = None if body is None else "application/json"
    answer = await rig.call("POST", HUB + action, body, content_type)
    assert (answer.status, answer.json["code"]) == (400, "Error.BadRequest")
    assert answer.headers["x-ms-error-code"] == "Error.BadRequest"
    if target is not None:
        assert answer.json["target"] == target
        assert answer.headers["Content-Type"].startswith(
            "application/problem+json" if shape == "problem" else "application/json"
        )
    if target == "Groups" and body and "ok" in body:
        assert answer.json["message"].startswith("Invalid group name. Valid group name should be in between")
    assert groups(rig) == before


@pytest.mark.parametrize("content_type", ["text/plain", None, "application/octet-stream", "x"])
async def test_a_body_that_is_not_json_by_type_is_415(rig: Rig, content_type: str | None) -> None:
    answer = await rig.call("POST", HUB + "/:addToGroups", '{"groups":["x"]}', content_type)
    assert answer.status == 415


@pytest.mark.parametrize(
    ("permission", "name"),
    [
        ("sendToGroup", "sendToGroup"),
        ("SENDTOGROUP", "sendToGroup"),
        ("1", "sendToGroup"),
        ("joinleavegroup", "joinLeaveGroup"),
        ("2", "joinLeaveGroup"),
    ],
)
async def test_permissions_are_given_checked_and_taken(rig: Rig, permission: str, name: Any) -> None:
    path = f"{HUB}/permissions/{permission}/connections/a?targetName=%20room.*"
    assert (await rig.call("HEAD", path)).status == 404
    for _ in range(2):
        answer = await rig.call("PUT", path)
        assert (answer.status, answer.body) == (200, b"")
    assert rig.cluster.hubs["chat"]["a"].granted[name] == {" room.*"}
    assert (await rig.call("HEAD", path)).status == 200
    assert (await rig.call("HEAD", path.replace("room.*", "room.x"))).status == 404
    for _ in range(2):
        assert (await rig.call("DELETE", path)).status == 204
    assert (await rig.call("HEAD", path)).status == 404


@pytest.mark.parametrize("method", ["PUT", "HEAD", "DELETE"])
@pytest.mark.parametrize("permission", ["0", "3", "-1", "sendToGroup,joinLeaveGroup", "x", "%20"])
async def test_other_permissions_are_refused(rig: Rig, method: str, permission: str) -> None:
    path = f"{HUB}/permissions/{permission}/connections/a?targetName=g"
    answer = await rig.call(method, path)
    assert answer.status == 400
    if method != "HEAD":
        assert answer.json["target"] == "permission"


@pytest.mark.parametrize("method", ["PUT", "HEAD", "DELETE"])
@pytest.mark.parametrize("query", ["", "?targetName=", "?targetName=%20", "?targetName=" + "g" * 1025])
async def test_a_permission_needs_a_group(rig: Rig, method: str, query: str) -> None:
    answer = await rig.call(method, f"{HUB}/permissions/sendToGroup/connections/a{query}")
    assert answer.status == 400
    assert "api-supported-versions" in answer.headers
    if method != "HEAD":
        assert answer.json["target"] == "Request"


async def test_a_group_too_many_is_forbidden_and_described(rig: Rig) -> None:
    async def refuse(*_: object) -> bool:
        raise PermissionDenied("A connection of this hub may be in 2 groups at most.")

    rig.cluster.add_connection_to_group = rig.cluster.add_user_to_group = refuse  # type: ignore[method-assign]
    for path in ("/groups/g/connections/c", "/users/u/groups/g"):
        answer = await rig.call("PUT", f"/api/hubs/chat{path}?{VERSION}")
        assert (answer.status, answer.json["code"]) == (403, "Error.Forbidden")
        assert answer.json["message"] == "A connection of this hub may be in 2 groups at most."


async def test_one_rule_too_many_is_a_conflict(rig: Rig) -> None:
    rig.cluster.hubs["chat"]["a"].granted["sendToGroup"] = {f"g{n}" for n in range(1000)}
    answer = await rig.call("PUT", f"{HUB}/permissions/sendToGroup/connections/a?targetName=more")
    assert (answer.status, answer.json["code"]) == (409, "Error.Connection.Conflict")
    answer = await rig.call("PUT", f"{HUB}/permissions/sendToGroup/connections/a?targetName=g7")
    assert answer.status == 200


@pytest.mark.parametrize(
    ("method", "path", "closed"),
    [
        ("POST", "/:closeConnections?reason=bye%20now", ["a", "b", "b2", "n"]),
        ("POST", "/:closeConnections?reason=bye+now&excluded=a&excluded=b", ["b2", "n"]),
        ("POST", "/groups/g/:closeConnections?reason=bye+now&excluded=a", ["b2"]),
        ("POST", "/users/bob/:closeConnections?reason=bye+now&excluded=b", ["b2"]),
        ("DELETE", "/connections/n?reason=bye+now", ["n"]),
        ("DELETE", "/connections/n?reason=bye+now&excluded=n", ["n"]),
        ("DELETE", "/connections/unknown?reason=bye+now", []),
    ],
)
async def test_closing_reaches_those_addressed_with_the_reason(
    rig: Rig, method: str, path: str, closed: list[str]
) -> None:
    connections = dict(rig.cluster.hubs["chat"])
    answer = await rig.call(method, HUB + path)
    assert (answer.status, answer.body) == (204, b"")
    assert [id for id, c in connections.items() if c.closed] == closed
    assert all(connections[id].reason == "bye now" for id in closed)


async def test_no_reason_is_none(rig: Rig) -> None:
    connection = rig.cluster.hubs["chat"]["a"]
    await rig.call("DELETE", HUB + "/connections/a?reason=")
    assert connection.closed
    assert connection.reason is None


async def test_while_gateways_are_away_nothing_is_said_to_be_missing(rig: Rig) -> None:
    rig.cluster.away = True
    for method, path in (
        ("HEAD", "/connections/a"),
        ("PUT", "/groups/g/connections/a"),
        ("GET", "/groups/g/connections"),
        ("DELETE", "/connections/a"),
    ):
        answer = await rig.call(method, HUB + path + V)
        assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
