"""What the roles of a token allow, and what REST gives and takes later (client-protocols.md 2.4 to 2.7)."""

from __future__ import annotations

import pytest
from support.inventory import REST, ROLES

JOIN, SEND = "webpubsub.joinLeaveGroup", "webpubsub.sendToGroup"


async def may(client, group):
    """Whether a client may join and leave, and whether it may send to a group."""
    joined = (await client.request("joinGroup", group=group))["success"]
    left = (await client.request("leaveGroup", group=group))["success"]
    assert joined == left
    return joined, (await client.request("sendToGroup", group=group, data=1, noEcho=True))["success"]


BOTH, JOINS, SENDS, NOTHING = (True, True), (True, False), (False, True), (False, False)
TABLE = [
    ("no role", [], {"room": NOTHING}),
    (JOIN, [JOIN], {"room": JOINS, "a.b": JOINS}),
    (SEND, [SEND], {"room": SENDS, "a.b": SENDS}),
    (f"{JOIN}.<group>", [f"{JOIN}.a.b"], {"a.b": JOINS, "a": NOTHING, "A.b": NOTHING}),
    (f"{SEND}.<group>", [f"{SEND}.a.b"], {"a.b": SENDS, "a": NOTHING}),
    (f"{JOIN}.<group>", [f"{JOIN}.a*"], {"a*": JOINS, "ab": NOTHING}),  # an asterisk is itself here
    (
        f"{JOIN}s.<pattern>",
        [f"{JOIN}s.chat.*"],
        {"chat.a": JOINS, "chat.": JOINS, "chat.a.b": NOTHING, "chat": NOTHING},
    ),
    (f"{SEND}s.<pattern>", [f"{SEND}s.chat.**"], {"chat.a.b": SENDS, "chat.": SENDS, "chat": NOTHING}),
    (
        f"{JOIN}s.<pattern>",
        [f"{JOIN}s.room-?"],
        {"room-1": JOINS, "room-": NOTHING, "room-12": NOTHING, "room-.": NOTHING},
    ),
    (f"{SEND}s.<pattern>", [f"{SEND}s.v1\\*"], {"v1*": SENDS, "v12": NOTHING}),
    (
        f"{JOIN}s.<pattern>",
        [f"{JOIN}s.*.eu.*", f"{SEND}s.Room*"],
        {"a.eu.b": JOINS, "RoomA": SENDS, "rooma": NOTHING},
    ),
    (f"{SEND}s.<pattern>", [f"{SEND}s.**"], {"any": SENDS}),
    (
        f"{SEND}s.<pattern>",
        [f"{SEND}s.a*b*c*d*e*f*", f"{JOIN}.x"],
        {"abcdef": NOTHING, "x": JOINS},
    ),  # six: ignored
    (
        f"{JOIN}s.<pattern>",
        [f"{JOIN}s.plain", "no.such.role", JOIN.upper()],
        {"plain": JOINS, "other": NOTHING},
    ),
]


@pytest.mark.parametrize(
    ("form", "roles", "expected"), TABLE, ids=[" ".join(row[1]) or "none" for row in TABLE]
)
async def test_roles_allow_what_they_say(world, compat, form, roles, expected):
    compat.used(ROLES, form)
    client = await world.json(roles=roles)
    assert {group: await may(client, group) for group in expected} == expected


@pytest.mark.compat(ROLES, "granted by REST", "revoked by REST")
@pytest.mark.compat(REST, "GrantPermission", "RevokePermission", "CheckPermission")
async def test_rest_gives_and_takes_permissions_at_once(world):
    client = await world.json(roles=[])

    async def change(method, permission, group):
        path = f"/permissions/{permission}/connections/{client.connection_id}"
        return (await world.rest(method, path, [("targetName", group)]))[0]

    assert await change("HEAD", "sendToGroup", "room") == 404
    assert await change("PUT", "sendToGroup", "room") == 200
    assert await change("HEAD", "sendToGroup", "room") == 200
    assert await may(client, "room") == SENDS
    assert await may(client, "other") == NOTHING
    assert await change("PUT", "joinLeaveGroup", "room") == 200
    assert await may(client, "room") == BOTH
    await client.join("room")
    for permission in ("sendToGroup", "joinLeaveGroup"):
        assert await change("DELETE", permission, "room") == 204
    assert await may(client, "room") == NOTHING
    # Taking the permission does not take the membership.
    assert (await world.rest("HEAD", "/groups/room"))[0] == 200


@pytest.mark.compat(ROLES, "revoked by REST")
async def test_a_revoked_group_is_denied_beside_a_wider_role_until_it_is_granted_again(world):
    client = await world.json(roles=[f"{JOIN}s.**", SEND])
    path = f"/permissions/sendToGroup/connections/{client.connection_id}"
    await world.rest("DELETE", path, [("targetName", "room")])
    assert await may(client, "room") == JOINS
    assert await may(client, "other") == BOTH
    await world.rest("PUT", path, [("targetName", "room")])
    assert await may(client, "room") == BOTH
    # A star is a group's name here.
    await world.rest("DELETE", path, [("targetName", "*")])
    assert await may(client, "other") == BOTH
    assert await may(client, "*") == JOINS
