import pytest

from gateway.protocol.json_v1 import JSON_V1
from gateway.protocol.negotiate import Negotiated, negotiate, negotiate_chosen
from gateway.protocol.protobuf_v1 import PROTOBUF_V1
from gateway.protocol.simple import SIMPLE
from hubwire.model.errors import ProtocolViolation

JSON, PROTOBUF = "json.webpubsub.azure.v1", "protobuf.webpubsub.azure.v1"


@pytest.mark.parametrize(
    ("offered", "codec", "echo"),
    [
        ([], SIMPLE, None),
        ([JSON], JSON_V1, JSON),
        ([PROTOBUF], PROTOBUF_V1, PROTOBUF),
        (["JSON.WebPubSub.azure.v1"], JSON_V1, "JSON.WebPubSub.azure.v1"),
        (["mine"], SIMPLE, None),
        (["mine", PROTOBUF, JSON], PROTOBUF_V1, PROTOBUF),
        ([JSON, PROTOBUF], JSON_V1, JSON),
        (["json.reliable.webpubsub.azure.v1"], SIMPLE, None),
        (["json.reliable.webpubsub.azure.v1", JSON], JSON_V1, JSON),
    ],
)
def test_the_first_predefined_name_in_the_clients_order_is_taken(offered, codec, echo):
    assert negotiate(offered) == Negotiated(codec, echo)


@pytest.mark.parametrize(
    ("offered", "chosen", "result"),
    [
        ([], "mine", Negotiated(SIMPLE, None)),
        (["mine"], "mine", Negotiated(SIMPLE, "mine")),
        (["mine", JSON], "mine", Negotiated(SIMPLE, "mine")),
        (["mine", "JSON.webpubsub.azure.v1"], JSON, Negotiated(JSON_V1, "JSON.webpubsub.azure.v1")),
        (["mine"], "other", None),
        (["mine"], "MINE", None),
        (["mine"], JSON, None),
    ],
)
def test_a_connect_handler_can_choose_among_what_was_offered(offered, chosen, result):
    assert negotiate_chosen(offered, chosen) == result


def test_simple_clients_get_no_control_frames_and_send_no_requests():
    assert (
        SIMPLE.connected("c", "u")
        == SIMPLE.disconnected("x")
        == SIMPLE.ack(1, "a", "b")
        == SIMPLE.pong()
        == b""
    )
    with pytest.raises(ProtocolViolation):
        SIMPLE.decode(b'{"type":"ping"}')
