"""What is published by one kind of client, or by REST, as other kinds get it (client-protocols.md 3.10)."""

from __future__ import annotations

import base64
import json
from typing import Any, NamedTuple

import pytest
from google.protobuf import any_pb2, wrappers_pb2
from support.inventory import CROSS, SIMPLE
from support.webpubsub_proto import MessageData

_any = any_pb2.Any()
_any.Pack(wrappers_pb2.StringValue(value="hi"))
ANY = _any.SerializeToString()
ANY_FIELDS = {"type_url": _any.type_url, "value": _any.value}
BYTES = b"\0\xff\1"


class Kind(NamedTuple):
    """One payload: as JSON clients send and get it, as protobuf has it, as simple clients and REST do."""

    name: str
    data: Any
    member: dict[str, Any]
    frame: str | bytes
    content_type: str | None
    body: bytes


KINDS = [
    Kind("text", "hi é", {"text_data": "hi é"}, "hi é", "text/plain", "hi é".encode()),
    Kind("json", {"a": 1}, {"json_data": '{"a":1}'}, '{"a":1}', "application/json", b'{"a":1}'),
    Kind("json", "x", {"json_data": '"x"'}, '"x"', "application/json", b'"x"'),
    Kind(
        "binary", "AP8B", {"binary_data": b"\0\xff\1"}, b"\0\xff\1", "application/octet-stream", b"\0\xff\1"
    ),
    Kind("protobuf", base64.b64encode(ANY).decode(), {"protobuf_data": ANY_FIELDS}, ANY, None, b""),
]


def of_kind(*names):
    chosen = [pytest.param(kind, id=f"{kind.name} {kind.data!r:.8}") for kind in KINDS if kind.name in names]
    return pytest.mark.parametrize("kind", chosen)


async def _expect(world, kind, publish):
    """Members of all kinds, of all gateways, get what `publish` publishes."""
    members = [
        (
            await world.json(groups=["room"]),
            await world.protobuf(groups=["room"]),
            await world.simple(groups=["room"]),
        )
        for _ in range(2)
    ]
    await publish()
    for json_client, protobuf_client, simple_client in members:
        message = await json_client.message()
        assert (message["from"], message["dataType"], message["data"]) == ("group", kind.name, kind.data)
        assert await protobuf_client.data() == MessageData(**kind.member)
        assert await simple_client.frame() == kind.frame


@pytest.mark.compat(CROSS, "from JSON clients")
@pytest.mark.compat(SIMPLE, "receives text", "receives binary")
@of_kind("text", "json", "binary", "protobuf")
async def test_from_a_json_client(world, kind):
    sender = await world.json()

    async def publish():
        compact = json.dumps(kind.data, separators=(",", ":"), ensure_ascii=False)
        await sender.send_frame(
            f'{{"type":"sendToGroup","group":"room","dataType":"{kind.name}","data":{compact},"ackId":1}}'
        )
        assert (await sender.ack())["success"]

    await _expect(world, kind, publish)


@pytest.mark.compat(CROSS, "from protobuf clients")
@of_kind("text", "json", "binary", "protobuf")
async def test_from_a_protobuf_client(world, kind):
    sender = await world.protobuf()

    async def publish():
        assert (await sender.request("send_to_group_message", group="room", data=kind.member)).success

    await _expect(world, kind, publish)


@pytest.mark.compat(CROSS, "from simple clients")
@pytest.mark.compat(SIMPLE, "sendToGroup")
@of_kind("text", "binary")
async def test_from_a_simple_client_in_send_to_group_mode(world, kind):
    sender = await world.simple(query="&webpubsub_mode=sendToGroup&group=room")

    async def publish():
        await sender.send_frame(kind.frame)

    await _expect(world, kind, publish)


@pytest.mark.compat(CROSS, "from REST")
@of_kind("text", "json", "binary")
async def test_from_rest(world, kind):
    async def publish():
        headers = {"Content-Type": kind.content_type}
        assert (await world.rest("POST", "/groups/room/:send", data=kind.body, headers=headers))[0] == 202

    await _expect(world, kind, publish)
