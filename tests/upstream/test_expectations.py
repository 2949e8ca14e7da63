"""What the libraries for AspNetCore, Azure Functions and Java want to see, against what we send and accept.

These libraries cannot run here (the one for Express does, in test_express.py). Their checks are written down
in server-events.md sections 7 and 8; here they are functions that answer as the library would, and tables.
"""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pytest

from gateway.upstream.answers import (
    ConnectAccepted,
    ConnectRefused,
    EventAccepted,
    Identity,
    read_connect_answer,
    read_event_answer,
)
from gateway.upstream.outcome import Answer
from gateway.upstream.requests import (
    EventRequest,
    Stamp,
    connect_request,
    connected_request,
    disconnected_request,
    origin_of,
    presence_request,
    user_event_request,
)
from gateway.upstream.source import EventSource
from gateway.upstream.validation import judge
from hubwire.model.message import DataType
from hubwire.model.settings import EventHandler

KEY, OTHER_KEY = "primary-key-for-tests-0123456789abcdef", "secondary-key-for-tests-0123456789abcd"
HOST = "awps.example"
ORIGIN = origin_of(f"{HOST}:8080")
STAMP = Stamp(ORIGIN, (KEY, OTHER_KEY), 1772360430.0, "5b8d6c0e-5c0c-4a4b-9a0e-0d9a5a8e6f11")
FUNCTIONS = EventHandler("https://app.example/runtime/webhooks/webpubsub?code=s3cr3t")
# State 'cart' = 3 as each library writes it (3.6).
EXPRESS_STATE, DOTNET_STATE = "eyJjYXJ0IjozfQ==", "eyJjYXJ0IjoiTXc9PSJ9"


def source(**changes: Any) -> EventSource:
    made = EventSource("orders", "conn-0001", "ada", f"{HOST}:8080")
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def user(data_type: DataType, data: bytes, name: str = "order.created") -> EventRequest:
    known = source(subprotocol="json.webpubsub.azure.v1", state=DOTNET_STATE)
    return user_event_request(known, FUNCTIONS, STAMP, 2, name, data_type, data)


def connect(**changes: Any) -> EventRequest:
    given: dict[str, Any] = {
        "claims": {"sub": "ada", "role": ["webpubsub.joinLeaveGroup"], "exp": 1772364030, "deep": {"a": [1]}},
        "query": "tab=3&tab=4&flag&access_token=x",
        "headers": [("host", f"{HOST}:8080"), ("accept", "a"), ("accept", "b")],
        "offered": ["json.webpubsub.azure.v1"],
        **changes,
    }
    return connect_request(source(), FUNCTIONS, STAMP, **given)


BARE = connect(claims={}, query="", headers=[], offered=[])
EVENTS: dict[str, EventRequest] = {
    "connect": connect(),
    "connect of somebody with nothing": BARE,
    "connected": connected_request(source(state=DOTNET_STATE), FUNCTIONS, STAMP, 1),
    "disconnected": disconnected_request(source(), FUNCTIONS, STAMP, 3, "bye"),
    "disconnected without a word": disconnected_request(source(), FUNCTIONS, STAMP, 3, None),
    "joined": presence_request(source(), FUNCTIONS, STAMP, 1, "joined", "room ü"),
    "left": presence_request(source(), FUNCTIONS, STAMP, 1, "left", "room"),
    "text": user(DataType.TEXT, "grün".encode()),
    "JSON": user(DataType.JSON, b'{"a":1}'),
    "binary": user(DataType.BINARY, b"\x00\xff"),
    "a frame of a simple client": user(DataType.TEXT, b"hi", "message"),
}
SYSTEM = {
    name: one for name, one in EVENTS.items() if one.headers[0][1] == "application/json" and name != "JSON"
}


class Library(NamedTuple):
    """What its application was configured with: hub names, and keys by the host of a connection string."""

    hubs: tuple[str, ...] = ("Orders",)
    keys: Mapping[str, str | None] = {HOST: KEY}


def lower(request: EventRequest) -> dict[str, str]:
    return {name.lower(): value for name, value in request.headers}


def signed(library: Library, headers: Mapping[str, str]) -> bool:
    """N3, and the same of the trigger: the origin as it stands chooses the key; items are not trimmed."""
    for host in headers["webhook-request-origin"].split(","):
        if host not in library.keys:
            continue
        key = library.keys[host]
        if key is None:
            return True
        wanted = "sha256=" + hmac.digest(key.encode(), headers["ce-connectionid"].encode(), "sha256").hex()
        return any(item.lower() == wanted for item in headers["ce-signature"].split(","))
    return False


def media_type(headers: Mapping[str, str]) -> str:
    return headers["content-type"].partition(";")[0].strip().lower()


def connect_json_is_readable(body: bytes) -> bool:
    """N5: the converters throw where one of the five is not there, or a value is not an array of strings."""
    fields = json.loads(body)
    lists = [*fields["claims"].values(), *fields["query"].values(), *fields["headers"].values()]
    return all(
        isinstance(one, list) and all(isinstance(item, str) for item in one)
        for one in [*lists, fields["subprotocols"]]
    ) and isinstance(fields["clientCertificates"], list)


MEDIA_TYPES = ("text/plain", "application/json", "application/octet-stream")


def aspnetcore(library: Library, request: EventRequest) -> int:
    """The middleware's status before the hub's method runs (N2 to N6); 404: not for it."""
    headers = lower(request)
    if "ce-awpsversion" not in headers or "webhook-request-origin" not in headers:
        return 404
    if headers["ce-hub"].lower() not in [hub.lower() for hub in library.hubs]:
        return 400
    if not signed(library, headers):
        return 401
    _, _, kind, name = headers["ce-type"].split(".", 3)
    if kind == "user":
        return 200 if media_type(headers) in MEDIA_TYPES else 400
    if name == "connect":
        return 200 if connect_json_is_readable(request.body) else 500
    return 200 if isinstance(json.loads(request.body), dict) else 500


def functions(library: Library, request: EventRequest) -> int:
    """The trigger's status before the function runs (section 7)."""
    headers = lower(request)
    needed = ("ce-connectionid", "ce-hub", "ce-type", "ce-eventname", "webhook-request-origin")
    if any(not headers.get(name) for name in needed):
        return 400
    kind = "user" if headers["ce-type"].startswith("azure.webpubsub.user.") else "system"
    found = {f"{hub}.{kind}.{headers['ce-eventname']}".lower() for hub in library.hubs}
    if f"{headers['ce-hub']}.{kind}.{headers['ce-eventname']}".lower() not in found:
        return 404
    if not signed(library, headers):
        return 401
    return 200 if media_type(headers) in MEDIA_TYPES else 400


def java(_: Library, request: EventRequest) -> int:
    """No middleware. The vendor's samples look at `ce-type` and `ce-userId` and read the body as text; some
    servers there want a Content-Length, which the client adds to bodies that are whole, as ours are."""
    headers = lower(request)
    return 200 if headers["ce-type"].startswith("azure.webpubsub.") and headers["ce-userid"] == "ada" else 500


LIBRARIES = [aspnetcore, functions, java]
Takes = Callable[[Library, EventRequest], int]


@pytest.mark.parametrize("takes", LIBRARIES)
@pytest.mark.parametrize("name", EVENTS)
def test_each_library_takes_each_event(takes: Takes, name: str) -> None:
    assert takes(Library(), EVENTS[name]) == 200


@pytest.mark.parametrize("takes", [aspnetcore, functions])
@pytest.mark.parametrize(
    ("library", "status"),
    [
        (Library(keys={HOST: OTHER_KEY}), 200),  # an application that was given the secondary key
        (Library(keys={HOST: None}), 200),  # one with an identity and no key
        (Library(keys={"else.example": KEY, HOST: OTHER_KEY}), 200),
        (Library(keys={HOST: "another"}), 401),
        (Library(keys={f"{HOST}:8080": KEY}), 401),  # they take the port off; so do we
        (Library(keys={}), 401),
        (Library(hubs=("ORDERS", "chat")), 200),
        (Library(hubs=("chat",)), 400),
    ],
)
def test_the_keys_and_hubs_of_an_application_decide(takes: Takes, library: Library, status: int) -> None:
    if takes is functions and status == 400:
        status = 404
    for request in EVENTS.values():
        assert takes(library, request) == status


@pytest.mark.parametrize("name", EVENTS)
def test_headers_are_spelled_as_documented(name: str) -> None:
    """Names have no case in HTTP, but some servers of that world compare them as they are (3.2)."""
    spelled = [each for each, _ in EVENTS[name].headers]
    always = [
        "Content-Type", "WebHook-Request-Origin", "ce-specversion", "ce-awpsversion", "ce-type", "ce-source",
        "ce-id", "ce-time", "ce-signature", "ce-connectionId", "ce-hub", "ce-eventName", "ce-userId",
        "x-ms-client-request-id",
    ]  # fmt: skip
    sometimes = {"ce-subprotocol", "ce-connectionState"}
    assert [each for each in spelled if each not in sometimes] == always
    assert len(set(spelled)) == len(spelled)


@pytest.mark.parametrize("name", EVENTS)
def test_nothing_makes_a_library_believe_in_mqtt(name: str) -> None:
    """N4 and E22: `ce-subprotocol: mqtt` with a physical connection would be read into other classes."""
    headers = lower(EVENTS[name])
    assert headers.get("ce-subprotocol") != "mqtt"
    assert "ce-physicalconnectionid" not in headers


@pytest.mark.parametrize(
    ("name", "ce_type", "event_name"),
    [
        ("connect", "azure.webpubsub.sys.connect", "connect"),
        ("connected", "azure.webpubsub.sys.connected", "connected"),
        ("disconnected", "azure.webpubsub.sys.disconnected", "disconnected"),
        ("joined", "azure.webpubsub.gp.joined", "joined"),
        ("left", "azure.webpubsub.gp.left", "left"),
        ("text", "azure.webpubsub.user.order.created", "order.created"),
        ("a frame of a simple client", "azure.webpubsub.user.message", "message"),
    ],
)
def test_the_type_names_the_event(name: str, ce_type: str, event_name: str) -> None:
    headers = lower(EVENTS[name])
    assert (headers["ce-type"], headers["ce-eventname"]) == (ce_type, event_name)


@pytest.mark.parametrize("name", SYSTEM)
def test_bodies_of_system_events_are_objects(name: str) -> None:
    """E14: without valid JSON the event is lost, though it was answered 200."""
    assert isinstance(json.loads(SYSTEM[name].body), dict)


def test_a_claim_is_a_list_of_strings_whatever_it_was() -> None:
    claims = json.loads(EVENTS["connect"].body)["claims"]
    assert claims["exp"] == ["1772364030"]
    assert claims["sub"] == ["ada"]
    assert all(isinstance(item, str) for values in claims.values() for item in values)


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("awps.example", "awps.example"),
        ("awps.example:8080", "awps.example"),
        ("AWPS.Example:443", "awps.example"),
        ("127.0.0.1:8080", "127.0.0.1"),
        ("localhost:8080", "localhost"),
        ("[::1]:8080", "[::1]"),
    ],
)
def test_the_origin_is_one_host_without_its_port(host: str, origin: str) -> None:
    """N1: the libraries look it up among the hosts of their connection strings, ports taken off."""
    assert origin_of(host).host == origin
    request = connected_request(source(), FUNCTIONS, STAMP._replace(origin=origin_of(host)), 1)
    assert lower(request)["webhook-request-origin"] == origin


def allowed(status: int, *lines: str) -> bool:
    answer = Answer(status, tuple(("webhook-allowed-origin", line) for line in lines), b"")
    return judge(answer, ORIGIN, 0.0).allowed


@pytest.mark.parametrize(
    ("who", "status", "lines", "agreed"),
    [
        ("AspNetCore, a host of ours configured", 200, ["*"], True),
        ("AspNetCore, none of ours", 400, [], False),
        ("Functions of old", 200, [HOST], True),
        ("Functions of today", 200, ["*"], True),
        ("Functions without any connection string", 200, ["*"], True),
        ("Functions, none of ours", 400, [], False),
        ("an HTTP function that forgot OPTIONS", 404, [], False),
        ("the samples in Java and Python", 200, ["*"], True),
        ("Express with allowedEndpoints", 200, ["else.example", f"{HOST}:8080"], True),
        ("Express with the allowedEndpoints of others", 200, ["else.example", "other.example:8080"], False),
        ("one that a proxy joined into a line", 200, [f"else.example, {HOST}"], True),
    ],
)
def test_each_library_can_agree_to_be_called(who: str, status: int, lines: list[str], agreed: bool) -> None:
    assert allowed(status, *lines) is agreed, who


def test_the_key_of_a_functions_host_goes_along_and_is_not_shown() -> None:
    for request in EVENTS.values():
        assert request.url == request.validation_url == FUNCTIONS.url_template
        assert "s3cr3t" not in request.shown


@pytest.mark.parametrize(
    ("state", "read"),
    [(EXPRESS_STATE, {"cart": 3}), (DOTNET_STATE, {"cart": base64.b64encode(b"3").decode()})],
)
def test_state_comes_back_as_a_library_wrote_it(state: str, read: object) -> None:
    """N7: what is not base64 of a JSON object is read as no state at all."""
    answer = Answer(200, (("ce-connectionstate", state),), b"")
    accepted = read_event_answer(answer, simple=False)
    assert isinstance(accepted, EventAccepted)
    sent = lower(connected_request(source(state=accepted.state.value), FUNCTIONS, STAMP, 1))
    assert sent["ce-connectionstate"] == state
    assert json.loads(base64.b64decode(sent["ce-connectionstate"])) == read


def given(status: int, content_type: str = "", body: str = "") -> Answer:
    return Answer(status, (("content-type", content_type),) if content_type else (), body.encode())


DOTNET_CONNECT = '{"userId":"eve","groups":["g"],"subprotocol":null,"roles":null}'


@pytest.mark.parametrize(
    ("who", "answer", "user_id", "groups"),
    [
        ("AspNetCore", given(200, "application/json; charset=utf-8", DOTNET_CONNECT), "eve", ("g",)),
        ("AspNetCore, nothing to say", given(204), "ada", ("token",)),
        ("Functions", given(200, "application/json", DOTNET_CONNECT), "eve", ("g",)),
        ("Functions, the method returned nothing", given(200), "ada", ("token",)),
        ("an HTTP function: JSON sent as text", given(200, "text/plain", DOTNET_CONNECT), "eve", ("g",)),
        ("names as C# has them", given(200, "application/json", '{"UserId":"eve"}'), "eve", ("token",)),
        ("the sample in Java", given(200, "text/html; charset=UTF-8"), "ada", ("token",)),
        ("a framework that answers 202", given(202), "ada", ("token",)),
    ],
)
def test_each_library_can_let_a_client_in(
    who: str, answer: Answer, user_id: str, groups: tuple[str, ...]
) -> None:
    accepted = read_connect_answer(answer, Identity("ada", (), ("token",)), ())
    assert isinstance(accepted, ConnectAccepted), who
    assert (accepted.user_id, accepted.groups) == (user_id, groups)


@pytest.mark.parametrize(
    ("who", "status", "fault"),
    [
        ("AspNetCore: UnauthorizedAccessException", 401, False),
        ("AspNetCore: any other exception", 500, True),
        ("Functions: no function for the event", 404, False),
        ("Functions: WebPubSubErrorCode.UserError", 400, False),
        ("the sample in Java: halt(401)", 401, False),
    ],
)
def test_each_library_can_refuse_a_client(who: str, status: int, fault: bool) -> None:
    refused = read_connect_answer(given(status, "text/plain", "No."), Identity("ada"), ())
    assert isinstance(refused, ConnectRefused), who
    assert (refused.status, refused.body) == (status, b"" if fault else b"No.")
    assert (refused.fault is not None) is fault


@pytest.mark.parametrize(
    ("who", "answer", "data_type"),
    [
        ("AspNetCore: text", given(200, "text/plain; charset=utf-8", "hi"), DataType.TEXT),
        ("AspNetCore: text", given(200, "text/plain", "hi"), DataType.TEXT),
        ("AspNetCore: JSON", given(200, "application/json; charset=utf-8", "1"), DataType.JSON),
        ("AspNetCore: binary", given(200, "application/octet-stream", "hi"), DataType.BINARY),
        ("Functions without a content type", given(200, "", "hi"), DataType.BINARY),
        ("Functions: nothing", given(204), None),
        ("AspNetCore: nothing", given(200), None),
        ("the sample in Java: an empty page", given(200, "text/html;charset=utf-8"), None),
    ],
)
def test_each_library_can_answer_an_event(who: str, answer: Answer, data_type: DataType | None) -> None:
    accepted = read_event_answer(answer, simple=False)
    assert isinstance(accepted, EventAccepted), who
    assert (accepted.message.data_type if accepted.message else None) == data_type
