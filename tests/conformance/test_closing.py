"""How connections end: the close codes and the text before them (client-protocols.md 1.11 to 1.13, 4.5)."""

from __future__ import annotations

import pytest
from support.inventory import CLOSING, JSON
from support.world import JSON_V1, PROTOBUF_V1
from websockets.exceptions import ConnectionClosed

RELIABLE = "json.reliable.webpubsub.azure.v1"


@pytest.mark.compat(CLOSING, "1003")
async def test_the_wrong_kind_of_frame_closes_with_1003(world):
    client = await world.json()
    await client.send_frame(b'{"type":"ping"}')
    assert (await client.closed())[0] == 1003
    other = await world.protobuf()
    await other.send_frame("text")
    assert (await other.closed())[0] == 1003


@pytest.mark.compat(CLOSING, "1007")
@pytest.mark.parametrize(
    "frame",
    [
        "not JSON",
        "[1]",
        '{"no":"type"}',
        '{"type":"unknown"}',
        '{"type":"joinGroup"}',
        '{"type":"joinGroup","group":" "}',
        '{"type":"joinGroup","group":"g","ackId":"1"}',
        '{"type":"joinGroup","group":"g","ackId":-1}',
        '{"type":"sendToGroup","group":"g","dataType":"binary","data":"no base64!"}',
        '{"type":"sendToGroup","group":"g","data":null}',
        '{"type":"sendToGroup","group":"g","data":1,"ttlSeconds":301}',
        '{"type":"event","event":"9","data":1}',
    ],
)
async def test_a_malformed_request_closes_with_1007_and_without_any_answer(world, frame):
    client = await world.json()
    await client.send_frame(frame)
    with pytest.raises(ConnectionClosed):
        await client.frame()
    assert client.socket.close_code == 1007


@pytest.mark.compat(CLOSING, "1007")
@pytest.mark.parametrize("frame", ["ff", "", "2200", "32020a00"])
async def test_malformed_protobuf_closes_with_1007(world, frame):
    client = await world.protobuf()
    await client.send_frame(bytes.fromhex(frame))
    assert (await client.closed())[0] == 1007


@pytest.mark.compat(CLOSING, "1009")
@pytest.mark.parametrize("kind", [JSON_V1, PROTOBUF_V1])
async def test_more_than_a_mebibyte_closes_with_1009(world, kind):
    client = await (world.json() if kind == JSON_V1 else world.protobuf())
    frame = "x" * 1_048_577
    try:
        await client.send_frame(frame if kind == JSON_V1 else frame.encode())
    except ConnectionClosed:
        pass  # refused by its header already
    assert (await client.closed())[0] == 1009


@pytest.mark.compat(CLOSING, "1009")
async def test_fragments_count_together(world):
    client = await world.json()
    try:
        await client.socket.send("x" * 262_144 for _ in range(5))
    except ConnectionClosed:
        pass
    assert (await client.closed())[0] == 1009


@pytest.mark.compat(CLOSING, "1000")
@pytest.mark.compat(JSON, "disconnected")
@pytest.mark.parametrize(
    ("query", "text"),
    [
        ([], "Application server closed the connection."),
        ([("reason", "maintenance é")], "Application server closed the connection. Reason: maintenance é"),
    ],
)
async def test_rest_close_says_why_and_then_closes_with_1000_and_no_text(world, query, text):
    client, simple = await world.json(), await world.simple("alice")
    assert (await world.rest("DELETE", f"/connections/{client.connection_id}", query))[0] == 204
    assert await client.message() == {"type": "system", "event": "disconnected", "message": text}
    assert await client.closed() == (1000, "")
    assert (await world.rest("POST", "/users/alice/:closeConnections", query))[0] == 204
    with pytest.raises(ConnectionClosed):
        await simple.frame()  # the close frame only
    assert (simple.socket.close_code, simple.socket.close_reason) == (1000, "")


@pytest.mark.compat(CLOSING, "1000")
@pytest.mark.parametrize(("code", "reason"), [(1000, "bye"), (3001, "app"), (4999, "")])
async def test_a_client_that_closes_gets_its_code_and_reason_back(world, code, reason):
    client = await world.json()
    await client.close(code, reason)
    received = client.socket.protocol.close_rcvd
    assert received is not None
    assert (received.code, received.reason) == (code, reason)


@pytest.mark.compat(CLOSING, "1008")
@pytest.mark.parametrize("offered", [[JSON_V1], [RELIABLE], None])
async def test_a_recovery_of_what_is_not_here_is_upgraded_and_closed_with_1008(world, offered):
    url = world.client_url() + "&awps_connection_id=gone&awps_reconnection_token=nonsense"
    socket = await world.open(url, offered)
    with pytest.raises(ConnectionClosed):
        await socket.recv()
    assert socket.close_code == 1008


async def test_a_closed_connection_is_gone_everywhere(world):
    client, other = await world.json("alice", groups=["room"]), await world.json(groups=["room"])
    await client.close()
    path = f"/connections/{client.connection_id}"
    await world.gone(path)
    await world.gone("/users/alice")
    await other.publish("room", "still here")
    assert await other.data() == "still here"
