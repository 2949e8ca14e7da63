"""Event handlers of a whole service, by plain clients and the vendor's own (client-protocols.md 1.7, 3.5, 6).

What becomes of every single answer is tested in tests/integration/test_event_handlers.py.
"""

from __future__ import annotations

import json
import queue
from urllib.parse import quote

import pytest
from azure.messaging.webpubsubclient import WebPubSubClient, WebPubSubClientCredential
from azure.messaging.webpubsubclient.models import (
    CallbackType,
    SendMessageError,
    WebPubSubDataType,
    WebPubSubProtocolType,
)
from support.inventory import CLIENT, CONNECTING, JSON, PROTOBUF, SIMPLE
from support.topology import HANDLED_HUB
from support.world import PROTOBUF_V1, SECONDS, ProtobufClient, World
from websockets.exceptions import InvalidStatus


def become(**answer):
    return "&become=" + quote(json.dumps(answer))


@pytest.mark.compat(JSON, "event", "message from server")
async def test_the_answer_comes_before_the_ack_and_a_failure_leaves_the_connection_open(handled):
    client = await handled.json("alice")
    for data_type, data in (
        ("json", {"id": [7, None]}),
        ("text", "grüße"),
        ("binary", "AP8="),
        ("json", "s"),
    ):
        await client.send(
            type="event", event="order", dataType=data_type, data=data, ackId=client.next_ack_id()
        )
        message, ack = json.loads(await client.frame()), json.loads(await client.frame())
        assert message == {"type": "message", "from": "server", "dataType": data_type, "data": data}
        assert ack["success"] is True
    assert (await client.request("event", event="quiet", data=1))["success"] is True
    refused = await client.request("event", event="fail", data=1)
    assert (refused["success"], refused["error"]["name"]) == (False, "InternalServerError")
    for count in ("1", "2", "3"):
        await client.send(type="event", event="count", data=1)
        assert await client.data() == count


@pytest.mark.compat(PROTOBUF, "event", "message from server")
async def test_events_of_protobuf_clients_are_answered(handled):
    client = await handled.protobuf("alice")
    for data in ({"text_data": "grüße"}, {"binary_data": b"\0\xff"}, {"json_data": '{"a":[1]}'}):
        assert (await client.request("event_message", event="order", data=data)).success
        found = await client.data()
        ((member, value),) = data.items()
        assert getattr(found, member) == value
    assert not (await client.request("event_message", event="fail", data={"text_data": "x"})).success


@pytest.mark.compat(SIMPLE, "sendEvent", "receives text", "receives binary")
async def test_frames_of_simple_clients_are_answered_in_kind(handled):
    client = await handled.simple("alice")
    for frame in ("hello", '{"type":"ping"}', b"\0\1"):
        await client.send_frame(frame)
        assert await client.frame() == frame


@pytest.mark.compat(CONNECTING, "user, roles and groups of a connect event handler")
async def test_a_connect_handler_says_who_a_client_is_and_what_it_may(handled):
    url = handled.client_url(user_id="alice", roles=[], groups=["token"])
    answer = become(userId="bob", groups=["given"], roles=["webpubsub.sendToGroup.given"])
    client = await handled.json_by_url(url + answer)
    assert client.user_id == "bob"
    assert (await client.request("sendToGroup", group="given", data="hi"))["success"] is True
    message = await client.message()
    assert (message["fromUserId"], message["group"], message["data"]) == ("bob", "given", "hi")
    assert (await client.request("joinGroup", group="given"))["error"]["name"] == "Forbidden"
    assert (await handled.rest("HEAD", "/users/bob"))[0] == 200


@pytest.mark.compat(CONNECTING, "subprotocol of a connect event handler")
async def test_a_connect_handler_chooses_among_the_subprotocols_that_are_offered(handled):
    url = handled.client_url(user_id="alice")
    offered = ["json.webpubsub.azure.v1", PROTOBUF_V1, "mine"]
    for chosen in (PROTOBUF_V1, "mine"):
        socket = await handled.open(url + become(subprotocol=chosen), offered)
        try:
            assert socket.subprotocol == chosen
            if chosen == "mine":
                await socket.send("hello")
                assert await socket.recv() == "hello"
            else:
                await ProtobufClient(socket).greeted()
        finally:
            await socket.close()
    with pytest.raises(InvalidStatus) as refused:
        await handled.open(url + become(subprotocol="other"), offered)
    assert refused.value.response.status_code == 500


@pytest.mark.compat(CONNECTING, "refused by a connect event handler")
@pytest.mark.parametrize("status", [400, 401, 403, 404])
async def test_a_connect_handler_refuses_with_its_own_status_and_words(handled, status):
    with pytest.raises(InvalidStatus) as refused:
        await handled.json_by_url(handled.client_url(user_id="alice") + f"&deny={status}")
    assert refused.value.response.status_code == status
    assert json.loads(refused.value.response.body) == {"no": "way"}


@pytest.mark.usefixtures("application")
def test_the_vendors_python_client_gets_the_answer(topology, compat):
    url = World(topology, HANDLED_HUB).client_url(user_id="alice")
    client = WebPubSubClient(
        WebPubSubClientCredential(lambda: url),
        protocol_type=WebPubSubProtocolType.JSON,
        ack_timeout=1.0,
        message_retry_total=0,
    )
    watched = compat.watch(client, CLIENT)
    answers = queue.Queue()
    watched.subscribe(CallbackType.SERVER_MESSAGE, answers.put)
    watched.open()
    try:
        watched.send_event("order", {"id": 7}, WebPubSubDataType.JSON)
        watched.send_event("order", "text", WebPubSubDataType.TEXT)
        found = [answers.get(timeout=SECONDS) for _ in range(2)]
        assert [(each.data_type, each.data) for each in found] == [
            (WebPubSubDataType.JSON, {"id": 7}),
            (WebPubSubDataType.TEXT, "text"),
        ]
        with pytest.raises(SendMessageError) as refused:
            watched.send_event("fail", 1, WebPubSubDataType.JSON)
        assert refused.value.error_detail.name == "InternalServerError"
    finally:
        watched.close()
