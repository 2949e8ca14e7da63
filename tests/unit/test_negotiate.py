import pytest

from gateway.protocol.json_reliable_v1 import JSON_RELIABLE_V1
from gateway.protocol.json_v1 import JSON_V1
from gateway.protocol.negotiate import Negotiated, echo_of_recovery, negotiate, negotiate_chosen
from gateway.protocol.protobuf_reliable_v1 import PROTOBUF_RELIABLE_V1
from gateway.protocol.protobuf_v1 import PROTOBUF_V1
from gateway.protocol.simple import SIMPLE
from hubwire.model.errors import ProtocolViolation

JSON, PROTOBUF = "json.webpubsub.azure.v1", "protobuf.webpubsub.azure.v1"
JSON_R, PROTOBUF_R = "json.reliable.webpubsub.azure.v1", "protobuf.reliable.webpubsub.azure.v1"


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


@pytest.mark.parametrize(
    ("offered", "codec", "echo"),
    [
        ([], SIMPLE, None),
        (["mine"], SIMPLE, None),
        ([JSON_R], JSON_RELIABLE_V1, JSON_R),
        (
            ["mine", "Protobuf.Reliable.webpubsub.azure.v1"],
            PROTOBUF_RELIABLE_V1,
            "Protobuf.Reliable.webpubsub.azure.v1",
        ),
        ([JSON_R, JSON], JSON_RELIABLE_V1, JSON_R),
        ([JSON, JSON_R], JSON_V1, JSON),
    ],
)
def test_reliable_names_are_predefined_where_sessions_can_be_recovered(offered, codec, echo):
    assert negotiate(offered, reliable=True) == Negotiated(codec, echo)


def test_a_connect_handler_can_choose_a_reliable_one_where_there_are_any():
    offered = [JSON, "JSON.reliable.webpubsub.azure.v1"]
    assert negotiate_chosen(offered, JSON_R, reliable=True) == Negotiated(JSON_RELIABLE_V1, offered[1])
    assert negotiate_chosen(offered, JSON_R) is None
    assert negotiate_chosen([JSON_R], JSON_R) == Negotiated(SIMPLE, JSON_R)


@pytest.mark.parametrize(
    ("offered", "echo"),
    [
        ([], None),
        ([JSON_R], JSON_R),
        (["mine", "JSON.RELIABLE.webpubsub.azure.v1"], "JSON.RELIABLE.webpubsub.azure.v1"),
        ([PROTOBUF_R, JSON_R], JSON_R),
        (["mine", JSON, PROTOBUF_R], JSON),
        (["mine", "other"], "mine"),
    ],
)
def test_a_recovery_confirms_its_old_subprotocol_or_else_what_a_client_can_accept(offered, echo):
    assert echo_of_recovery(offered, JSON_R) == echo


def test_a_recovery_of_nothing_known_confirms_what_was_offered():
    assert echo_of_recovery([JSON_R, PROTOBUF]) == JSON_R
    assert echo_of_recovery(["mine"]) == "mine"
    assert echo_of_recovery([]) is None


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
