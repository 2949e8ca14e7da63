"""Events as HTTP requests, from server-events.md section 3."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from gateway.upstream.cookies import MAX_COOKIES, Cookie, cookie_header, store
from gateway.upstream.requests import (
    EventRequest,
    Origin,
    Stamp,
    UnsendableEvent,
    canonical_name,
    connect_request,
    connected_request,
    disconnected_request,
    event_time,
    origin_of,
    presence_request,
    signature,
    user_event_request,
)
from gateway.upstream.source import EventSource, SourceSnapshot
from hubwire.model.message import DataType
from hubwire.model.settings import EventHandler, ManagedIdentity, UpstreamAuth

PRIMARY = "primary-key-for-tests-0123456789abcdef"
SECONDARY = "secondary-key-for-tests-0123456789abcd"
SIGNED_PRIMARY = "sha256=814a0e4932efccd192d8513a0991a993a3ee30d426f8a8df59274eaf1fb32117"
SIGNED_SECONDARY = "sha256=9b3630e9373163a337c6af899393278ceef68f99365b87ffb261f6266cd68987"
NOW = 1772360430.987  # 2026-03-01T10:20:30Z
STAMP = Stamp(Origin("awps.example", "awps.example"), (PRIMARY, SECONDARY), NOW, "guid-1")
HANDLER = EventHandler("https://auth.example/hooks/{hub}/{event}?code=s3cr3t")


def source(**changes: Any) -> EventSource:
    made = EventSource("orders", "conn-0001", "ada", "awps.example")
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def headers_of(request: EventRequest) -> dict[str, str]:
    headers = dict(request.headers)
    assert len(headers) == len(request.headers), "a header was given twice"
    return headers


def user_event(from_: EventSource | None = None, name: str = "ping", **more: Any) -> EventRequest:
    given = {"data_type": DataType.TEXT, "data": b"hi", **more}
    return user_event_request(from_ or source(), HANDLER, STAMP, 2, name, **given)


@pytest.mark.parametrize(
    ("key", "connection_id", "item"),
    [
        (
            "7aab239577fd4f24bc919802fb629f5f",
            "0f9c97a2f0bf4706afe87a14e0797b11",
            "sha256=7767effcb3946f3e1de039df4b986ef02c110b1469d02c0a06f41b3b727ab561",
        ),
        (PRIMARY, "conn-0001", SIGNED_PRIMARY),
        (SECONDARY, "conn-0001", SIGNED_SECONDARY),
    ],
)
def test_the_signature_is_that_of_the_vectors(key: str, connection_id: str, item: str) -> None:
    assert signature((key,), connection_id) == item


def test_both_keys_sign_with_a_comma_and_no_space_between() -> None:
    assert signature((PRIMARY, SECONDARY), "conn-0001") == f"{SIGNED_PRIMARY},{SIGNED_SECONDARY}"
    assert signature((PRIMARY, ""), "conn-0001") == SIGNED_PRIMARY


def test_a_connect_event_is_the_request_of_the_specification() -> None:
    request = connect_request(
        source(),
        HANDLER,
        STAMP,
        claims={"sub": "ada", "role": ["webpubsub.joinLeaveGroup"], "exp": 1772364030},
        query="access_token=SECRET&tab=3&Access_Token=SECRET&tab=4&empty=",
        headers=[
            ("host", "awps.example"),
            ("user-agent", "shop/2.1"),
            ("authorization", "Bearer SECRET"),
            ("x-asrs-internal-thing", "SECRET"),
            ("sec-websocket-key", "k"),
            ("cookie", "a=b"),
        ],
        offered=["json.webpubsub.azure.v1", "mine"],
    )
    assert request.url == "https://auth.example/hooks/orders/connect?code=s3cr3t"
    assert request.validation_url == "https://auth.example/hooks/orders/validate?code=s3cr3t"
    assert request.shown == "https://auth.example/hooks/orders/connect?code=***"
    assert request.blocking
    assert request.headers == (
        ("Content-Type", "application/json"),
        ("WebHook-Request-Origin", "awps.example"),
        ("ce-specversion", "1.0"),
        ("ce-awpsversion", "1.0"),
        ("ce-type", "azure.webpubsub.sys.connect"),
        ("ce-source", "/hubs/orders/client/conn-0001"),
        ("ce-id", "0"),
        ("ce-time", "2026-03-01T10:20:30Z"),
        ("ce-signature", f"{SIGNED_PRIMARY},{SIGNED_SECONDARY}"),
        ("ce-connectionId", "conn-0001"),
        ("ce-hub", "orders"),
        ("ce-eventName", "connect"),
        ("ce-userId", "ada"),
        ("x-ms-client-request-id", "guid-1"),
    )
    body = json.loads(request.body)
    name_identifier = "http://schemas.xmlsoap.org/ws/2005/05/identity/claims/nameidentifier"
    assert body == {
        "claims": {
            "sub": ["ada"],
            "role": ["webpubsub.joinLeaveGroup"],
            "exp": ["1772364030"],
            name_identifier: ["ada"],
        },
        "query": {"tab": ["3", "4"], "empty": [""]},
        "headers": {
            "Host": ["awps.example"],
            "User-Agent": ["shop/2.1"],
            "Sec-WebSocket-Key": ["k"],
            "Cookie": ["a=b"],
        },
        "subprotocols": ["json.webpubsub.azure.v1", "mine"],
        "clientCertificates": [],
    }
    assert b"SECRET" not in request.body


def test_the_five_fields_of_connect_are_there_when_there_is_nothing_to_say() -> None:
    request = connect_request(source(), HANDLER, STAMP, claims={}, query="", headers=[], offered=[])
    assert json.loads(request.body) == {
        "claims": {},
        "query": {},
        "headers": {},
        "subprotocols": [],
        "clientCertificates": [],
    }


def test_connect_never_says_subprotocol_or_state() -> None:
    known = source(subprotocol="json.webpubsub.azure.v1", state="s")
    request = connect_request(known, HANDLER, STAMP, claims={}, query="", headers=[], offered=[])
    assert not {"ce-subprotocol", "ce-connectionState"} & headers_of(request).keys()


@pytest.mark.parametrize(
    ("request_", "type_", "name", "body", "blocking"),
    [
        (connected_request(source(), HANDLER, STAMP, 1), "sys.connected", "connected", b"{}", False),
        (
            disconnected_request(source(), HANDLER, STAMP, 1, "bye"),
            "sys.disconnected",
            "disconnected",
            b'{"reason":"bye"}',
            False,
        ),
        (
            disconnected_request(source(), HANDLER, STAMP, 1, None),
            "sys.disconnected",
            "disconnected",
            b'{"reason":null}',
            False,
        ),
        (
            presence_request(source(), HANDLER, STAMP, 1, "joined", "raum ü"),
            "gp.joined",
            "joined",
            '{"group":"raum ü"}'.encode(),
            False,
        ),
        (
            presence_request(source(), HANDLER, STAMP, 1, "left", "g"),
            "gp.left",
            "left",
            b'{"group":"g"}',
            False,
        ),
        (user_event(name="order.created"), "user.order.created", "order.created", b"hi", True),
        (user_event(name="connected"), "user.connected", "connected", b"hi", True),
    ],
)
def test_each_kind_of_event_has_its_type_and_body(
    request_: EventRequest, type_: str, name: str, body: bytes, blocking: bool
) -> None:
    headers = headers_of(request_)
    assert headers["ce-type"] == f"azure.webpubsub.{type_}"
    assert headers["ce-eventName"] == name
    assert request_.url == f"https://auth.example/hooks/orders/{name}?code=s3cr3t"
    assert request_.body == body
    assert request_.blocking is blocking
    if blocking:
        assert headers["ce-id"] == "2"
    else:
        assert headers["Content-Type"] == "application/json"


@pytest.mark.parametrize(
    ("data_type", "content_type"),
    [
        (DataType.TEXT, "text/plain; charset=utf-8"),
        (DataType.JSON, "application/json"),
        (DataType.BINARY, "application/octet-stream"),
        (DataType.PROTOBUF, "application/x-protobuf"),
    ],
)
def test_a_user_event_has_the_content_type_of_its_data_and_the_data_unchanged(
    data_type: DataType, content_type: str
) -> None:
    data = b' {"a" : 1}\n'
    request = user_event(data_type=data_type, data=data)
    assert headers_of(request)["Content-Type"] == content_type
    assert request.body == data


def test_what_is_known_of_the_connection_stands_in_every_later_event() -> None:
    known = source(subprotocol="json.webpubsub.azure.v1", state="eyJjYXJ0IjozfQ==")
    for request in (user_event(known), connected_request(known, HANDLER, STAMP, 1)):
        headers = headers_of(request)
        assert headers["ce-subprotocol"] == "json.webpubsub.azure.v1"
        assert headers["ce-connectionState"] == "eyJjYXJ0IjozfQ=="


def test_a_state_that_was_never_set_is_not_sent_and_an_empty_one_is() -> None:
    assert "ce-connectionState" not in headers_of(user_event())
    assert headers_of(user_event(source(state="")))["ce-connectionState"] == ""


@pytest.mark.parametrize("user_id", [None, ""])
def test_an_anonymous_client_has_no_user_id_header(user_id: str | None) -> None:
    assert "ce-userId" not in headers_of(user_event(source(user_id=user_id)))


def test_a_service_without_keys_signs_nothing() -> None:
    request = connected_request(source(), HANDLER, STAMP._replace(keys=("", "")), 1)
    assert "ce-signature" not in headers_of(request)


def test_only_the_user_id_may_be_other_than_ascii() -> None:
    assert headers_of(user_event(source(user_id="用户")))["ce-userId"] == "用户"
    for broken in (source(state="ü"), source(subprotocol="ü")):
        with pytest.raises(UnsendableEvent, match="not ASCII"):
            user_event(broken)
    with pytest.raises(UnsendableEvent, match="not ASCII"):
        user_event(name="größe")
    with pytest.raises(UnsendableEvent, match="not ASCII"):
        user_event(metadata={"k": "ü"})


@pytest.mark.parametrize(
    "bad", ["a\r\nX-Admin: 1", "a\nb", "a\rb", "a\0b", "a\x1bb", "a\x7f", "ü\r\nx", "ü\x00"]
)
def test_no_value_can_break_out_of_its_header(bad: str) -> None:
    for broken in (
        source(user_id=bad),
        source(state=bad),
        source(connection_id=bad),
        source(subprotocol=bad),
    ):
        with pytest.raises(UnsendableEvent):
            user_event(broken)
    with pytest.raises(UnsendableEvent):
        user_event(metadata={"k": bad})
    with pytest.raises(UnsendableEvent):
        user_event(metadata={f"k{bad}": "v"})
    with pytest.raises(UnsendableEvent):
        connected_request(source(), HANDLER, STAMP._replace(origin=Origin(bad, bad)), 1)


def test_a_lone_surrogate_is_refused_and_a_tab_goes() -> None:
    with pytest.raises(UnsendableEvent, match="UTF-8"):
        user_event(source(user_id="a\ud800"))
    assert headers_of(user_event(source(state="a\tb")))["ce-connectionState"] == "a\tb"


def test_metadata_become_headers_in_lower_case_and_the_last_of_one_name_wins() -> None:
    headers = headers_of(user_event(metadata={"Trace-Id": "1", "trace-id": "2", "X": ""}))
    assert headers["x-webpubsub-metadata-trace-id"] == "2"
    assert headers["x-webpubsub-metadata-x"] == ""


def test_a_key_vault_reference_without_a_secret_is_a_failed_delivery() -> None:
    handler = EventHandler("{@Microsoft.KeyVault(SecretUri=https://v/s)}")
    with pytest.raises(UnsendableEvent, match="cannot be resolved"):
        connected_request(source(), handler, STAMP, 1)
    stamp = STAMP._replace(secret_of={"https://v/s": "https://a.example/{event}?k=s"}.get)
    assert connected_request(source(), handler, stamp, 1).url == "https://a.example/connected?k=s"


def test_the_auth_of_the_handler_goes_along() -> None:
    auth = UpstreamAuth("ManagedIdentity", ManagedIdentity("api://orders"))
    assert connected_request(source(), EventHandler("https://a/", auth=auth), STAMP, 1).auth is auth


def test_event_ids_count_from_one_and_survive_a_move_to_another_gateway() -> None:
    first = source(state="s", subprotocol="mine")
    assert [first.next_id(), first.next_id()] == [1, 2]
    packed = msgspec.msgpack.encode(first.snapshot())
    moved = EventSource.restored(msgspec.msgpack.decode(packed, type=SourceSnapshot))
    assert moved.next_id() == 3
    assert (moved.state, moved.subprotocol, moved.user_id, moved.host) == ("s", "mine", "ada", "awps.example")
    assert user_event_request(
        first.snapshot(), HANDLER, STAMP, 2, "ping", DataType.TEXT, b"hi"
    ) == user_event(first)


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("awps.example", Origin("awps.example", "awps.example")),
        ("AWPS.example:8080", Origin("awps.example", "awps.example:8080")),
        ("[::1]:8080", Origin("[::1]", "[::1]:8080")),
        ("", Origin("", "")),
    ],
)
def test_the_origin_is_the_host_without_its_port(host: str, origin: Origin) -> None:
    assert origin_of(host) == origin


def test_times_are_whole_seconds_of_utc() -> None:
    assert event_time(0) == "1970-01-01T00:00:00Z"
    assert event_time(1772360430.999) == "2026-03-01T10:20:30Z"


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("sec-websocket-key", "Sec-WebSocket-Key"),
        ("user-agent", "User-Agent"),
        ("HOST", "Host"),
        ("dnt", "DNT"),
        ("x-forwarded-for", "X-Forwarded-For"),
    ],
)
def test_header_names_get_their_usual_casing(name: str, canonical: str) -> None:
    assert canonical_name(name) == canonical


# -- cookies (3.8) -----------------------------------------------------------------------------------------

URL = "https://a.example/hooks/orders/ping?x=1"


def jar(*lines: str, url: str = URL, now: float = 0) -> tuple[Cookie, ...]:
    return store((), url, lines, now)


@pytest.mark.parametrize(
    ("line", "url", "sent"),
    [
        ("s=1", URL, "s=1"),
        ("s=1", "https://a.example/hooks/orders/", "s=1"),
        ("s=1", "https://a.example/hooks/other", None),  # the default path is the folder of the request
        ("s=1; Path=/", "https://a.example/other", "s=1"),
        ("s=1; Path=/hooks", "https://a.example/hooksx", None),
        ("s=1; Path=/", "https://b.example/", None),
        ("s=1; Path=/", "https://x.a.example/", None),
        ("s=1; Path=/; Domain=a.example", "https://x.a.example/", "s=1"),
        ("s=1; Path=/; Domain=.A.example", "https://x.a.example/", "s=1"),
        ("s=1; Path=/; Domain=evil.example", "https://evil.example/", None),
        ("s=1; Path=/; Domain=example", URL, None),
        ("s=1; Path=/; Secure", "http://a.example/", None),
        ("s=1; Path=/; secure; HttpOnly; SameSite=Lax", URL, "s=1"),
        ("s=1; Max-Age=60", URL, "s=1"),
        ("s=1; Max-Age=0", URL, None),
        ("s=1; Max-Age=-1", URL, None),
        ("s=1; Max-Age=50; Expires=Wed, 21 Oct 2065 07:28:00 GMT", URL, "s=1"),
        ("s=1; Expires=Thu, 01 Jan 1970 00:00:05 GMT", URL, None),
        ("s=1; Expires=rubbish", URL, "s=1"),
        ("s=a=b", URL, "s=a=b"),
        ("s", URL, None),
        ("=1", URL, None),
        ("s=ü", URL, None),
        ("s=" + "x" * 5000, URL, None),
    ],
)
def test_a_cookie_is_sent_where_it_belongs(line: str, url: str, sent: str | None) -> None:
    assert cookie_header(jar(line, now=10), url, 20) == sent


def test_cookies_expire_are_replaced_and_removed() -> None:
    assert cookie_header(jar("s=1; Max-Age=60"), URL, 61) is None
    replaced = store(jar("s=1", "t=2"), URL, ["s=3"], 0)
    assert cookie_header(replaced, URL, 0) == "t=2; s=3"
    assert store(replaced, URL, ["s=; Max-Age=0"], 0) == jar("t=2")


def test_a_jar_is_bounded_and_keeps_the_newest() -> None:
    full = jar(*(f"c{i}={i}" for i in range(100)))
    assert len(full) == MAX_COOKIES
    assert (cookie_header(full, URL, 0) or "").endswith("; c99=99")


def test_matching_cookies_are_one_header_of_the_next_event() -> None:
    known = source()
    known.store_cookies("https://auth.example/hooks/orders/connect", ["a=1; Path=/", "b=2; Path=/hooks"], NOW)
    known.store_cookies("https://other.example/", ["c=3"], NOW)
    assert headers_of(user_event(known))["Cookie"] == "b=2; a=1"
    assert "Cookie" not in headers_of(user_event())
