"""Every operation of the REST API on the wire: path, status, headers, and what clients see of it
(rest-api.md sections 3, 5, 6, 8, 9, 10)."""

from __future__ import annotations

import io
import json

import jwt
import pytest
from support.inventory import REST, REST_OPERATIONS
from support.topology import new_key

VERSIONS = "2021-10-01, 2022-11-01, 2023-07-01, 2024-01-01, 2024-12-01"
TEXT = {"Content-Type": "text/plain"}


async def send(world, path, text, query=()):
    status, headers, body = await world.rest("POST", path + "/:send", query, data=text, headers=TEXT)
    assert (status, body) == (202, b"")
    assert headers["api-supported-versions"] == VERSIONS


async def status(world, method, path, query=()):
    return (await world.rest(method, path, query))[0]


@pytest.mark.compat(REST, "GetServiceStatus")
async def test_health_needs_no_credentials(world):
    for method in ("HEAD", "GET"):
        code, headers, _ = await world.rest(method, "/api/health", authorization="")
        assert code == 200
        assert "api-supported-versions" not in headers


@pytest.mark.compat(REST, "SendToAll")
async def test_send_to_all_with_filter_and_excluded(world):
    alice, bob = await world.json("alice"), await world.json("bob", groups=["vip"])
    nobody = await world.json()
    await send(world, "", "all")
    await send(world, "", "vips", [("filter", "'vip' in groups")])
    await send(world, "", "users", [("filter", "userId ne null"), ("excluded", bob.connection_id)])
    excluded = [("excluded", client.connection_id) for client in (alice, bob)]
    await send(world, "", "others", excluded)
    await send(world, "", "end")
    assert [await alice.data() for _ in range(3)] == ["all", "users", "end"]
    assert [await bob.data() for _ in range(3)] == ["all", "vips", "end"]
    assert [await nobody.data() for _ in range(3)] == ["all", "others", "end"]


@pytest.mark.compat(REST, "SendToGroup")
async def test_send_to_group_reaches_its_members_on_every_gateway(world):
    members = [await world.json(f"user{n}", groups=["room"]) for n in range(4)]
    await send(world, "/groups/room", "all")
    await send(world, "/groups/room", "two", [("filter", "userId in ('user2', 'user3')")])
    await send(world, "/groups/room", "last", [("excluded", members[0].connection_id)])
    await send(world, "/groups/room", "end")
    first = await members[0].message()
    assert (first["from"], first["fromUserId"], first["group"]) == ("group", None, "room")
    assert (first["dataType"], first["data"]) == ("text", "all")
    assert await members[0].data() == "end"
    assert [await members[1].data() for _ in range(3)] == ["all", "last", "end"]
    for member in members[2:]:
        assert [await member.data() for _ in range(4)] == ["all", "two", "last", "end"]


@pytest.mark.compat(REST, "SendToUser")
async def test_send_to_user_reaches_all_connections_of_the_user(world):
    alices = await world.several(4, "alice")
    bob = await world.json("bob")
    await send(world, "/users/alice", "hi")
    await send(world, "/users/alice", "none", [("filter", "userId eq 'bob'")])
    await send(world, "", "end")
    for alice in alices:
        assert [await alice.data(), await alice.data()] == ["hi", "end"]
    assert await bob.data() == "end"
    await send(world, "/users/nobody", "lost")


@pytest.mark.compat(REST, "SendToConnection")
async def test_send_to_connection_reaches_that_one(world):
    first, second = await world.several(2, "alice")
    await send(world, f"/connections/{first.connection_id}", "hi", [("messageTtlSeconds", "30")])
    await send(world, "", "end")
    assert [await first.data(), await first.data()] == ["hi", "end"]
    assert await second.data() == "end"
    await send(world, "/connections/gone", "lost")


@pytest.mark.compat(REST, "ConnectionExists", "GroupExists", "UserExists")
async def test_existence_is_200_or_404_with_the_code_in_a_header(world):
    client = await world.json("alice", groups=["room"])
    there = (f"/connections/{client.connection_id}", "/groups/room", "/users/alice")
    for path in there:
        assert await status(world, "HEAD", path) == 200
    for path, code in (
        ("/connections/gone", "Warning.Connection.NotExisted"),
        ("/groups/Room", "Warning.Group.NotExisted"),
        ("/users/Alice", "Warning.User.NotExisted"),
    ):
        answer, headers, body = await world.rest("HEAD", path)
        assert (answer, headers["x-ms-error-code"], body) == (404, code, b"")
        assert headers["api-supported-versions"] == VERSIONS


@pytest.mark.compat(
    REST, "AddConnectionToGroup", "RemoveConnectionFromGroup", "RemoveConnectionFromAllGroups"
)
async def test_a_connection_is_put_into_groups_and_taken_out(world):
    client = await world.json(roles=[])
    one = f"/connections/{client.connection_id}"
    for group in ("a", "b"):
        assert await status(world, "PUT", f"/groups/{group}{one}") == 200
        assert await status(world, "PUT", f"/groups/{group}{one}") == 200
    await send(world, "/groups/a", "a")
    assert await status(world, "DELETE", f"/groups/a{one}") == 204
    await send(world, "/groups/a", "lost")
    await send(world, "/groups/b", "b")
    assert await status(world, "DELETE", f"{one}/groups") == 204
    await send(world, "/groups/b", "lost")
    await send(world, one, "end")
    assert [await client.data() for _ in range(3)] == ["a", "b", "end"]
    answer, headers, body = await world.rest("PUT", "/groups/a/connections/abc")
    assert (answer, headers["x-ms-error-code"]) == (404, "Error.Connection.NotExisted")
    assert body == (
        b'{"code":"Error.Connection.NotExisted","message":"Connection `abc` is not found.",'
        b'"target":"Connection","details":null,"innererror":null}'
    )
    assert await status(world, "DELETE", "/groups/a/connections/abc") == 204


@pytest.mark.compat(REST, "AddUserToGroup", "RemoveUserFromGroup", "RemoveUserFromAllGroups")
async def test_a_users_connections_of_now_are_put_into_groups_and_taken_out(world):
    alices = await world.several(3, "alice", roles=[])
    for group in ("a", "b"):
        assert await status(world, "PUT", f"/users/alice/groups/{group}") == 200
    later = await world.json("alice", roles=[])
    await send(world, "/groups/a", "a")
    assert await status(world, "DELETE", "/users/alice/groups/a") == 204
    await send(world, "/groups/a", "lost")
    await send(world, "/groups/b", "b")
    assert await status(world, "DELETE", "/users/alice/groups") == 204
    await send(world, "/groups/b", "lost")
    await send(world, "/users/alice", "end")
    for alice in alices:
        assert [await alice.data() for _ in range(3)] == ["a", "b", "end"]
    assert await later.data() == "end"
    answer, headers, _ = await world.rest("PUT", "/users/nobody/groups/a")
    assert (answer, headers["x-ms-error-code"]) == (404, "Warning.User.NotExisted")


@pytest.mark.compat(REST, "AddConnectionsToGroups", "RemoveConnectionsFromGroups")
async def test_the_connections_for_which_a_filter_holds_join_and_leave_groups(world):
    clients = [await world.json(f"user {n}", roles=[]) for n in range(3)]
    body = {"groups": ["a", "b"], "filter": "userId eq 'user 1' or userId eq 'user 2'"}
    assert (await world.rest("POST", "/:addToGroups", json=body))[0] == 200
    for group in ("a", "b"):
        await send(world, f"/groups/{group}", group)
    body = {"groups": ["a", "b"], "filter": "userId eq 'user 1'"}
    assert (await world.rest("POST", "/:removeFromGroups", json=body))[0] == 200
    await send(world, "/groups/a", "after")
    await send(world, "", "end")
    seen = [["end"], ["a", "b", "end"], ["a", "b", "after", "end"]]
    for client, expected in zip(clients, seen, strict=True):
        assert [await client.data() for _ in expected] == expected
    answer, headers, text = await world.rest("POST", "/:addToGroups", json={"filter": ""})
    assert (answer, headers["Content-Type"]) == (400, "application/problem+json; charset=utf-8")
    assert json.loads(text)["target"] == "Groups"


@pytest.mark.compat(
    REST, "CloseConnection", "CloseUserConnections", "CloseGroupConnections", "CloseAllConnections"
)
async def test_connections_are_closed_one_by_one_by_user_by_group_and_all(world):
    one, spared = await world.json(groups=["room"]), await world.json(groups=["room"])
    alices, members = await world.several(3, "alice"), await world.several(3, groups=["room"])
    others = await world.several(3)
    assert await status(world, "DELETE", f"/connections/{one.connection_id}", [("reason", "r1")]) == 204
    assert await status(world, "POST", "/users/alice/:closeConnections", [("reason", "r2")]) == 204
    keep = [("excluded", spared.connection_id)]
    assert await status(world, "POST", "/groups/room/:closeConnections", [("reason", "r3"), *keep]) == 204
    assert await status(world, "POST", "/:closeConnections", keep) == 204
    told = "Application server closed the connection."
    for clients, text in (
        ([one], f"{told} Reason: r1"),
        (alices, f"{told} Reason: r2"),
        (members, f"{told} Reason: r3"),
        (others, told),
    ):
        for client in clients:
            assert (await client.message())["message"] == text
            assert await client.closed() == (1000, "")
    await send(world, "", "you are spared")
    assert await spared.data() == "you are spared"
    assert await status(world, "DELETE", "/connections/gone") == 204


@pytest.mark.compat(REST, "GrantPermission", "CheckPermission", "RevokePermission")
async def test_permissions_are_granted_checked_and_revoked(world):
    client = await world.json(roles=["webpubsub.joinLeaveGroups.a.*"])
    one = f"/connections/{client.connection_id}"
    target = [("targetName", "room")]
    for permission in ("sendToGroup", "joinLeaveGroup", "SENDTOGROUP", "1"):
        path = f"/permissions/{permission}{one}"
        assert await status(world, "HEAD", path, target) == 404
        assert await status(world, "PUT", path, target) == 200
        assert await status(world, "HEAD", path, target) == 200
        assert await status(world, "DELETE", path, target) == 204
    assert await status(world, "HEAD", f"/permissions/joinLeaveGroup{one}", [("targetName", "a.b")]) == 200
    answer, headers, body = await world.rest("PUT", "/permissions/sendToGroup/connections/abc", target)
    assert (answer, headers["x-ms-error-code"]) == (404, "Info.Connection.NotExisted")
    assert json.loads(body)["message"] == "Connection `abc` is not found."
    assert await status(world, "DELETE", "/permissions/sendToGroup/connections/abc", target) == 204
    assert await status(world, "PUT", f"/permissions/other{one}", target) == 400
    assert await status(world, "PUT", f"/permissions/sendToGroup{one}") == 400


@pytest.mark.compat(REST, "ListConnectionsInGroup")
async def test_members_are_listed_page_by_page_each_once(world):
    members = [await world.json(f"user{n}" if n % 2 else None, groups=["room"]) for n in range(7)]
    seen, link = [], ""
    query = [("maxpagesize", "3"), ("top", "6")]
    code, _, body = await world.rest("GET", "/groups/room/connections", query)
    pages = 0
    while True:
        assert code == 200
        page = json.loads(body)
        pages += 1
        assert len(page["value"]) <= 3
        seen += [(one["connectionId"], one["userId"]) for one in page["value"]]
        link = page.get("nextLink")
        if link is None:
            break
        code, _, body = await world.rest.follow(link)
    assert (pages, len(seen)) == (2, 6)
    assert set(seen) < {(member.connection_id, member.user_id) for member in members}
    _, _, body = await world.rest("GET", "/groups/room/connections")
    page = json.loads(body)
    assert "nextLink" not in page
    assert {one["connectionId"] for one in page["value"]} == {member.connection_id for member in members}
    code, _, body = await world.rest("GET", "/groups/empty/connections")
    assert (code, body) == (200, b'{"value":[]}')
    for bad in (("maxpagesize", "0"), ("maxpagesize", "201"), ("top", "0"), ("continuationToken", "forged")):
        assert await status(world, "GET", "/groups/room/connections", [bad]) == 400


@pytest.mark.compat(REST, "ListConnectionsInGroup")
async def test_a_page_has_200_members_unless_less_is_asked_for(world):
    members = [client for _ in range(15) for client in await world.at_once(14, groups=["room"])]
    code, _, body = await world.rest("GET", "/groups/room/connections")
    first = json.loads(body)
    assert (code, len(first["value"])) == (200, 200)
    _, _, body = await world.rest.follow(first["nextLink"])
    second = json.loads(body)
    assert (len(second["value"]), "nextLink" in second) == (10, False)
    listed = {one["connectionId"] for page in (first, second) for one in page["value"]}
    assert listed == {member.connection_id for member in members}


@pytest.mark.compat(REST, "GenerateClientToken")
async def test_a_token_made_by_the_service_opens_a_connection(world):
    query = [
        ("userId", "alice"),
        ("role", "webpubsub.sendToGroup.room"),
        ("role", "webpubsub.joinLeaveGroup"),
        ("group", "room"),
        ("minutesToExpire", "5"),
    ]
    code, headers, body = await world.rest("POST", "/:generateToken", query)
    assert (code, headers["Content-Type"]) == (200, "application/json; charset=utf-8")
    token = json.loads(body)["token"]
    claims = jwt.decode(token, options={"verify_signature": False})
    assert (claims["sub"], claims["aud"].rpartition("/")[2]) == ("alice", world.hub)
    # Made by a control plane, good at every gateway.
    gateway = world.topology.gateway().replace("http", "ws", 1)
    client = await world.json_by_url(f"{gateway}/client/hubs/{world.hub}?access_token={token}")
    assert client.user_id == "alice"
    await client.publish("room", "to myself")
    assert await client.data() == "to myself"
    answer, headers, body = await world.rest("POST", "/:generateToken", [("clientType", "socketio")])
    assert (answer, headers["x-ms-error-code"]) == (400, "Error.BadRequest")
    assert body == (
        b'{"code":"Error.BadRequest","message":"The value \'socketio\' is not valid.","target":"clientType",'
        b'"errors":{"clientType":["The value \'socketio\' is not valid."]},"type":null,'
        b'"title":"One or more validation errors occurred.","status":400,"detail":null,"instance":null,'
        b'"extensions":{}}'
    )


async def test_both_keys_sign_requests_and_nothing_else_does(world):
    for key in (world.topology.key, world.topology.secondary_key):
        assert (await world.rest("HEAD", "/users/x", key=key))[0] == 404
    for bad in ({"key": new_key()}, {"authorization": ""}, {"authorization": "Bearer nonsense"}):
        code, headers, body = await world.rest("HEAD", "/users/x", **bad)
        assert (code, body) == (401, b"")
        assert headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize("text", ["not length(userId) gt 5", "userId lt 1", "ab eq 1", " ", "invalid(ab,c)"])
async def test_a_bad_filter_is_refused_before_anything_is_sent(world, text):
    client = await world.json("alice")
    code, _, body = await world.rest("POST", "/:send", [("filter", text)], data="lost", headers=TEXT)
    assert (code, json.loads(body)["code"]) == (400, "Error.BadRequest")
    await send(world, "", "end")
    assert await client.data() == "end"


@pytest.mark.parametrize("size", [65_537, 1_048_576])
async def test_bodies_up_to_one_mebibyte_arrive_whole(world, size):
    client = await world.json()
    await send(world, f"/connections/{client.connection_id}", io.BytesIO(b"x" * size))
    assert await client.data() == "x" * size
    code, _, _ = await world.rest("POST", "/:send", data=io.BytesIO(b"x" * 1_048_577), headers=TEXT)
    assert code == 413


@pytest.mark.parametrize(
    ("segment", "group"),
    [
        ("a%20b", "a b"),
        ("a%2Fb", "a%2Fb"),
        ("a%252Fb", "a%2Fb"),
        ("a+b", "a+b"),
        ("%C3%A9", "é"),
        ("x" * 1024, "x" * 1024),
    ],
)
async def test_names_in_paths_are_decoded_once_and_slashes_never(world, segment, group):
    client = await world.json(groups=[group])
    await send(world, f"/groups/{segment}", "hi")
    assert (await client.message())["group"] == group


async def test_messages_of_one_caller_arrive_in_order(world):
    client = await world.json("alice", groups=["room"])
    for number in range(40):
        await send(world, "/groups/room", str(number))
    assert [await client.data() for _ in range(40)] == [str(number) for number in range(40)]


def test_every_operation_has_a_test():
    marked = {
        name
        for test in globals().values()
        for mark in getattr(test, "pytestmark", [])
        if mark.name == "compat" and mark.args[0] == REST
        for name in mark.args[1:]
    }
    assert marked == set(REST_OPERATIONS)
