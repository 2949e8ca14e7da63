"""What answers of event handlers mean, from the tables of server-events.md section 4."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.upstream.answers import (
    MAX_STATE_CHARACTERS,
    BadAnswer,
    ConnectAccepted,
    ConnectRefused,
    EventAccepted,
    Identity,
    StateUpdate,
    accepted_without_handler,
    read_connect_answer,
    read_event_answer,
    state_update,
)
from gateway.upstream.outcome import Answer, DeliveryFailure, failed_status, is_retried
from hubwire.model.message import DataType, Message

TOKEN = Identity("u", ("r1",), ("g1",))
JSON_V1 = "json.webpubsub.azure.v1"


def answer(status: int = 200, body: bytes | str | dict[str, Any] = b"", *headers: tuple[str, str]) -> Answer:
    if isinstance(body, dict):
        body = json.dumps(body)
    return Answer(status, headers, body.encode() if isinstance(body, str) else body)


def connect(
    body: bytes | str | dict[str, Any] = b"", status: int = 200, offered: Any = (), *headers: tuple[str, str]
) -> ConnectAccepted | ConnectRefused:
    return read_connect_answer(answer(status, body, *headers), TOKEN, offered)


# -- connect (4.2) -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        # The table of examples of 4.2.
        (204, "", Identity("u", ("r1",), ("g1",))),
        (200, {"roles": [], "groups": []}, Identity("u", (), ("g1",))),
        (200, {"roles": ["r2"], "groups": ["g2"]}, Identity("u", ("r2",), ("g2",))),
        (200, {"userId": ""}, Identity(None, ("r1",), ("g1",))),
        # Its text.
        (200, "", TOKEN),
        (200, "null", TOKEN),
        (200, "{}", TOKEN),
        (202, {"userId": "v"}, TOKEN._replace(user_id="v")),
        (299, {"userId": "v"}, TOKEN._replace(user_id="v")),
        (200, {"userId": None, "roles": None, "groups": None, "subprotocol": None}, TOKEN),
        (200, {"USERID": "v", "Roles": ["r2"]}, Identity("v", ("r2",), ("g1",))),
        (200, {"userId": "用户", "unknown": {"a": [1]}, "states": {"x": 1}}, TOKEN._replace(user_id="用户")),
        (200, {"groups": ["g2", "g2"]}, TOKEN._replace(groups=("g2",))),
        (200, b'\xef\xbb\xbf{"userId":"v"}', TOKEN._replace(user_id="v")),
        (200, "\r\n", TOKEN),
    ],
)
def test_an_accepted_connect_keeps_or_replaces_what_the_token_says(
    status: int, body: Any, expected: Identity
) -> None:
    accepted = connect(body, status)
    assert isinstance(accepted, ConnectAccepted)
    assert Identity(accepted.user_id, accepted.roles, accepted.groups) == expected


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("{", "valid JSON"),
        (b"\xff{}", "valid JSON"),
        ("[]", "JSON object"),
        ('"ada"', "JSON object"),
        ("7", "JSON object"),
        ({"userId": 7}, "userId"),
        ({"userId": "a\r\nb"}, "userId"),
        ({"userId": "x" * 1025}, "userId"),
        ({"roles": "r"}, "roles"),
        ({"roles": ["r", None]}, "roles"),
        ({"roles": {}}, "roles"),
        ({"groups": ["g", " "]}, "groups"),
        ({"groups": ["x" * 1025]}, "groups"),
        ({"groups": [None]}, "groups"),
        ({"subprotocol": " "}, "subprotocol"),
        ({"subprotocol": ""}, "subprotocol"),
        ({"subprotocol": ["mine"]}, "subprotocol"),
        ("[" * 100_000, "valid JSON"),
    ],
)
def test_an_answer_that_makes_no_sense_refuses_the_client_with_500(body: Any, reason: str) -> None:
    refused = connect(body)
    assert isinstance(refused, ConnectRefused)
    assert refused.status == 500
    assert refused.fault is not None
    assert refused.fault.category == "bad_answer"
    assert reason in refused.fault.reason
    assert reason.encode() not in refused.body, "the client is not told how the handler failed"


@pytest.mark.parametrize(
    ("offered", "chosen", "name", "echo"),
    [
        # client-protocols.md 1.6.
        ([], None, "", None),
        ([], "mine", "", None),
        ([JSON_V1], None, JSON_V1, JSON_V1),
        (["mine"], None, "", None),
        (["mine"], "mine", "", "mine"),
        (["mine", JSON_V1], None, JSON_V1, JSON_V1),
        (["mine", JSON_V1], "mine", "", "mine"),
        (["mine", JSON_V1.upper()], JSON_V1, JSON_V1, JSON_V1.upper()),
    ],
)
def test_the_subprotocol_is_the_handlers_choice_or_the_first_that_we_speak(
    offered: list[str], chosen: str | None, name: str, echo: str | None
) -> None:
    accepted = connect({"subprotocol": chosen}, 200, offered)
    assert isinstance(accepted, ConnectAccepted)
    assert (accepted.negotiated.codec.name, accepted.negotiated.echo) == (name, echo)


def test_a_subprotocol_that_the_client_does_not_offer_is_a_fault_of_the_handler() -> None:
    refused = connect({"subprotocol": "other"}, 200, ["mine", JSON_V1])
    assert isinstance(refused, ConnectRefused)
    assert refused.status == 500
    assert refused.fault is not None
    assert "does not offer" in refused.fault.reason


@pytest.mark.parametrize(
    ("status", "seen", "is_fault"),
    [
        (400, 400, False),
        (401, 401, False),
        (404, 404, False),
        (429, 429, False),
        (499, 499, False),
        (500, 500, True),
        (503, 503, True),
        (301, 500, True),
        (307, 500, True),
        (600, 500, True),
    ],
)
def test_a_refusal_reaches_the_client_with_its_status(status: int, seen: int, is_fault: bool) -> None:
    refused = connect("nope", status, (), ("content-type", "text/html"), ("www-authenticate", "Basic"))
    assert isinstance(refused, ConnectRefused)
    assert refused.status == seen
    assert (refused.fault is not None) is is_fault
    if 400 <= status < 500:
        assert (refused.content_type, refused.body) == ("text/html", b"nope")
    else:
        assert b"nope" not in refused.body


def test_a_client_sees_4_kib_of_a_refusal_at_most() -> None:
    refused = connect(b"x" * 5000, 403)
    assert isinstance(refused, ConnectRefused)
    assert refused.body == b"x" * 4096
    assert refused.content_type is None
    odd = connect(b"x", 403, (), ("content-type", "text/ü"))
    assert isinstance(odd, ConnectRefused)
    assert odd.content_type is None


def test_without_a_handler_the_token_decides() -> None:
    accepted = accepted_without_handler(Identity("", ("r",), ("g",)), [JSON_V1])
    assert (accepted.user_id, accepted.roles, accepted.groups) == (None, ("r",), ("g",))
    assert accepted.negotiated.echo == JSON_V1
    assert accepted.state == StateUpdate(None)


# -- state (4.4) -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "state"),
    [
        ([], None),
        ([("ce-connectionstate", "s")], "s"),
        ([("ce-connectionstate", "")], ""),
        ([("ce-connectionstate", "s"), ("ce-connectionstate", "t")], "t"),
        ([("ce-connectionstate", "x" * MAX_STATE_CHARACTERS)], "x" * MAX_STATE_CHARACTERS),
    ],
)
def test_a_successful_answer_can_set_the_state(headers: list[tuple[str, str]], state: str | None) -> None:
    accepted = connect("", 204, (), *headers)
    assert isinstance(accepted, ConnectAccepted)
    assert accepted.state == StateUpdate(state)
    event = read_event_answer(answer(204, b"", *headers), simple=True)
    assert isinstance(event, EventAccepted)
    assert event.state == StateUpdate(state)


def test_a_state_over_the_limit_is_ignored_and_says_so() -> None:
    event = read_event_answer(answer(204, b"", ("ce-connectionstate", "x" * 8193)), simple=True)
    assert isinstance(event, EventAccepted)
    assert event.state.value is None
    assert "8193" in event.state.ignored


# -- user events (4.5, 4.6) --------------------------------------------------------------------------------

ANY = b"\n\x01t\x12\x01v"


def received(message: Message | None) -> tuple[DataType, bytes] | None:
    return None if message is None else (message.data_type, message.data)


@pytest.mark.parametrize(
    ("content_type", "body", "simple", "pubsub"),
    [
        ("text/plain", b"", None, None),
        ("application/octet-stream", b"", None, None),
        ("application/xml", b"", None, None),
        (None, b"", None, None),
        ("text/plain", b"hi", (DataType.TEXT, b"hi"), (DataType.TEXT, b"hi")),
        (
            "Text/Plain; charset=latin-1",
            "ü".encode(),
            (DataType.TEXT, "ü".encode()),
            (DataType.TEXT, "ü".encode()),
        ),
        ("text/plain", b"\xff", "fault", "fault"),
        ("application/json", b'{"a":1}', (DataType.JSON, b'{"a":1}'), (DataType.JSON, b'{"a":1}')),
        ("application/json ;charset=utf-8", b"null", (DataType.JSON, b"null"), (DataType.JSON, b"null")),
        ("application/json", b"{", (DataType.JSON, b"{"), "fault"),
        ("application/json", b"\xff", "fault", "fault"),
        ("application/octet-stream", b"\xff", (DataType.BINARY, b"\xff"), (DataType.BINARY, b"\xff")),
        (None, b"hi", (DataType.BINARY, b"hi"), (DataType.BINARY, b"hi")),
        ("application/x-protobuf", ANY, "fault", (DataType.PROTOBUF, ANY)),
        ("application/x-protobuf", b"\xff", "fault", "fault"),
        ("application/xml", b"<a/>", "fault", "fault"),
        ("text/html", b"<a/>", "fault", "fault"),
    ],
)
def test_the_content_type_of_an_answer_decides_what_the_client_gets(
    content_type: str | None, body: bytes, simple: Any, pubsub: Any
) -> None:
    headers = [("content-type", content_type)] if content_type is not None else []
    for is_simple, expected in ((True, simple), (False, pubsub)):
        result = read_event_answer(answer(200, body, *headers), simple=is_simple)
        if expected == "fault":
            assert isinstance(result, BadAnswer)
            assert result.category == "bad_answer"
        else:
            assert isinstance(result, EventAccepted)
            assert received(result.message) == expected


@pytest.mark.parametrize("status", [199, 300, 302, 400, 401, 404, 500, 503])
def test_an_answer_that_is_no_success_is_a_failure(status: int) -> None:
    headers = (("content-type", "text/plain"), ("ce-connectionstate", "s"))
    result = read_event_answer(answer(status, b"hi", *headers), simple=True)
    assert isinstance(result, BadAnswer)
    assert result.category == "status"


@pytest.mark.parametrize(
    ("content_type", "passed"),
    [
        ("text/html", True),
        ("text/html; charset=utf-8", True),
        ('application/problem+json;charset="utf-8"; v=1', True),
        ("text/html;  X-Evil: 1", False),  # a folded header as the parser joins it
        ("text/html, text/plain", False),
        ("text/html\r\nX-Evil: 1", False),
        ("html", False),
        ("", False),
    ],
)
def test_only_a_media_type_of_a_refusal_is_passed_on(content_type: str, passed: bool) -> None:
    refused = connect(b"x", 403, (), ("content-type", content_type))
    assert isinstance(refused, ConnectRefused)
    assert refused.content_type == (content_type if passed else None)


def test_json_may_begin_with_a_byte_order_mark_that_clients_do_not_get() -> None:
    said = answer(200, b'\xef\xbb\xbf{"a":1}', ("content-type", "application/json"))
    for simple in (True, False):
        assert read_event_answer(said, simple=simple) == EventAccepted(Message(DataType.JSON, b'{"a":1}'))


@pytest.mark.parametrize(
    ("status", "retried"), [(408, True), (500, True), (599, True), (499, False), (600, False), (999, False)]
)
def test_what_is_no_status_of_http_is_not_tried_again(status: int, retried: bool) -> None:
    assert is_retried(status) is retried
    assert DeliveryFailure("status", status, "", 1, 0.0, "").may_work_later is retried


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_every_2xx_is_a_success(status: int) -> None:
    assert isinstance(read_event_answer(answer(status), simple=True), EventAccepted)


def test_metadata_of_an_answer_reach_pubsub_clients() -> None:
    headers = (
        ("content-type", "text/plain"),
        ("x-webpubsub-metadata-a", "1"),
        ("x-webpubsub-metadata-a", "x, 2 "),
        ("x-webpubsub-metadata-", "ignored"),
    )
    pubsub = read_event_answer(answer(200, b"hi", *headers), simple=False)
    assert pubsub == EventAccepted(Message(DataType.TEXT, b"hi", metadata={"a": "2"}))
    simple = read_event_answer(answer(200, b"hi", *headers), simple=True)
    assert simple == EventAccepted(Message(DataType.TEXT, b"hi"))


def test_metadata_without_a_body_are_an_empty_text_message() -> None:
    header = ("x-webpubsub-metadata-k", "v")
    assert read_event_answer(answer(204, b"", header), simple=False) == EventAccepted(
        Message(DataType.TEXT, b"", metadata={"k": "v"})
    )
    assert read_event_answer(answer(204, b"", header), simple=True) == EventAccepted(None)


def test_metadata_that_no_client_may_get_are_a_fault() -> None:
    result = read_event_answer(answer(200, b"hi", ("x-webpubsub-metadata-k", "ü")), simple=False)
    assert isinstance(result, BadAnswer)
    assert "X-WebPubSub-Metadata" in result.reason


@pytest.mark.parametrize(
    ("category", "status", "later"),
    [
        ("network", None, True),
        ("timeout", None, True),
        ("overloaded", None, True),
        ("validation", None, True),
        ("status", 503, True),
        ("status", 429, True),
        ("status", 408, True),
        ("status", 404, False),
        ("status", 302, False),
        ("unsendable", None, False),
        ("bad_answer", 200, False),
        ("address_refused", None, False),
    ],
)
def test_a_failure_says_whether_another_time_may_be_better(
    category: Any, status: int | None, later: bool
) -> None:
    assert DeliveryFailure(category, status, "", 1, 0.0, "").may_work_later is later


def test_a_redirect_is_named_as_what_it_is() -> None:
    assert "not followed" in failed_status(answer(302), "u").reason


def test_a_state_that_is_not_ascii_is_not_taken_and_the_reason_is_said():
    update = state_update(Answer(200, (("ce-connectionstate", "\u00e9"),), b""))
    assert update.value is None
    assert "ASCII" in update.ignored


def test_a_handler_chooses_a_reliable_subprotocol_only_where_there_are_any() -> None:
    reliable = "json.reliable.webpubsub.azure.v1"
    offered = (JSON_V1, reliable)
    chosen = answer(200, {"subprotocol": reliable})
    accepted = read_connect_answer(chosen, TOKEN, offered, reliable=True)
    assert isinstance(accepted, ConnectAccepted)
    assert (accepted.negotiated.codec.name, accepted.negotiated.echo) == (reliable, reliable)
    # Elsewhere the name is one of the application's own.
    unknown = read_connect_answer(chosen, TOKEN, offered)
    assert isinstance(unknown, ConnectAccepted)
    assert (unknown.negotiated.codec.name, unknown.negotiated.echo) == ("", reliable)
    silent = read_connect_answer(answer(204), TOKEN, (reliable,), reliable=True)
    assert isinstance(silent, ConnectAccepted)
    assert silent.negotiated.codec.name == reliable
    assert accepted_without_handler(TOKEN, (reliable,), reliable=True).negotiated.echo == reliable
    assert accepted_without_handler(TOKEN, (reliable,)).negotiated.echo is None
