"""Sending over REST: what becomes of the body, who gets it, and what is refused before anything is sent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from urllib.parse import quote

import pytest
from support.rest import Rig, rest_rig

from controlplane.settings import ControlPlaneConfig
from hubwire.model.message import DataType, Message
from hubwire.model.tokens import sign_rest_token

SEND = "/api/hubs/chat/:send?api-version=2024-12-01"


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with rest_rig() as rig:
        rig.cluster.connect("chat", "a", "alice", "g")
        rig.cluster.connect("chat", "b", "bob")
        rig.cluster.connect("chat", "c", None, "g")
        rig.cluster.connect("other", "a", "alice", "g")
        yield rig


def received(rig: Rig) -> dict[str, list[Message]]:
    return {c.id: c.received for c in rig.cluster.hubs["chat"].values() if c.received}


@pytest.mark.parametrize(
    ("content_type", "body", "data_type", "data"),
    [
        ("text/plain", b"hello", DataType.TEXT, b"hello"),
        ("text/plain", b"", DataType.TEXT, b""),
        ("text/plain; charset=utf-8", "grüß".encode(), DataType.TEXT, "grüß".encode()),
        ("text/plain;charset=UTF-16LE", "grüß".encode("utf-16-le"), DataType.TEXT, "grüß".encode()),
        ("TEXT/Plain; charset=iso-8859-1", "grüß".encode("latin-1"), DataType.TEXT, "grüß".encode()),
        ('text/plain; charset="utf-8"', b"x", DataType.TEXT, b"x"),
        ("application/json", b'{"a": 1}', DataType.JSON, b'{"a": 1}'),
        ("application/json", b' [1 , "x"]\n', DataType.JSON, b' [1 , "x"]\n'),
        ("application/json", b'"text"', DataType.JSON, b'"text"'),
        ("application/json", b"\xef\xbb\xbf7", DataType.JSON, b"7"),
        ("application/json; charset=utf-16", '"é"'.encode("utf-16"), DataType.JSON, '"é"'.encode()),
        ("application/octet-stream", b"\x00\xff", DataType.BINARY, b"\x00\xff"),
        ("application/octet-stream; charset=utf-16", b"\xff", DataType.BINARY, b"\xff"),
        (None, b"\x00", DataType.BINARY, b"\x00"),
        (None, b"", DataType.BINARY, b""),
    ],
)
async def test_the_content_type_says_what_the_message_is(
    rig: Rig, content_type: str | None, body: bytes, data_type: DataType, data: bytes
) -> None:
    answer = await rig.call("POST", SEND, body, content_type)
    assert (answer.status, answer.body, answer.headers["Content-Length"]) == (202, b"", "0")
    assert received(rig) == {id: [Message(data_type, data)] for id in "abc"}


@pytest.mark.parametrize(
    ("content_type", "body", "status"),
    [
        ("application/json", b"", 400),
        ("application/json", b"{", 400),
        ("application/json", b"1 2", 400),
        ("application/json", b'"\xff"', 400),
        ("application/json; charset=utf-16", b'"x', 400),
        ("text/plain", b"\xff", 400),
        ("text/plain; charset=utf-16", b"x", 400),
        ("application/xml", b"<a/>", 415),
        ("application/x-protobuf", b"", 415),
        ("text", b"x", 415),
        ("text/plain; charset", b"x", 415),
        ("text/plain; charset=klingon", b"x", 415),
        ("text/plain; charset=idna", b"x", 415),
        ("text/plain; charset=rot13", b"x", 415),
        ("text/plain; charset=utf-7", b"x", 415),
        ("multipart/form-data; boundary=x", b"x", 415),
        ("text/plain, application/json", b"x", 415),
    ],
)
async def test_a_body_that_is_not_what_it_says_reaches_nobody(
    rig: Rig, content_type: str, body: bytes, status: int
) -> None:
    answer = await rig.call("POST", SEND, body, content_type)
    assert answer.status == status
    assert answer.json["target"] == "Request"
    assert answer.headers["x-ms-error-code"] == answer.json["code"]
    assert received(rig) == {}


async def test_invalid_json_is_named_as_the_service_names_it(rig: Rig) -> None:
    answer = await rig.call("POST", SEND, "nope", "application/json")
    assert answer.json["message"] == "The request body is not a valid JSON."


@pytest.mark.parametrize(
    ("path", "group", "who"),
    [
        ("/api/hubs/chat/:send", None, "abc"),
        ("/api/hubs/chat/groups/g/:send", "g", "ac"),
        ("/api/hubs/chat/users/bob/:send", None, "b"),
        ("/api/hubs/chat/connections/c/:send", None, "c"),
        ("/api/hubs/chat/connections/nobody/:send", None, ""),
        ("/api/hubs/chat/groups/nobody/:send", None, ""),
    ],
)
async def test_a_message_reaches_exactly_those_addressed(
    rig: Rig, path: str, group: str | None, who: str
) -> None:
    assert (await rig.call("POST", path, "x", "text/plain")).status == 202
    assert received(rig) == {id: [Message(DataType.TEXT, b"x", group)] for id in who}
    assert rig.cluster.hubs["other"]["a"].received == []


@pytest.mark.parametrize(
    ("path", "who"),
    [
        ("/api/hubs/chat/:send?excluded=a&excluded=b", "c"),
        ("/api/hubs/chat/:send?excluded=a,b", "abc"),
        ("/api/hubs/chat/:send?excluded=A", "abc"),
        ("/api/hubs/chat/:send?EXCLUDED=a&excluded=unknown", "bc"),
        ("/api/hubs/chat/groups/g/:send?excluded=c", "a"),
        ("/api/hubs/chat/users/bob/:send?excluded=b", "b"),  # not a parameter there
        ("/api/hubs/chat/:send?filter=", "abc"),
        ("/api/hubs/chat/:send?filter=" + quote("userId eq null"), "c"),
        ("/api/hubs/chat/:send?filter=" + quote("'g' in groups") + "&excluded=a", "c"),
        ("/api/hubs/chat/groups/g/:send?filter=userId+ne+null", "a"),
        ("/api/hubs/chat/users/alice/:send?filter=" + quote("connectionId eq 'b'"), ""),
    ],
)
async def test_the_filter_narrows_and_excluded_takes_away(rig: Rig, path: str, who: str) -> None:
    assert (await rig.call("POST", path, "x", "text/plain")).status == 202
    assert sorted(received(rig)) == sorted(who)


async def test_the_filter_is_checked_before_the_body(rig: Rig) -> None:
    answer = await rig.call("POST", SEND + "&filter=ab%20eq%201", b"{", "application/json")
    message = "Invalid syntax for 'ab eq 1': Token 'ab' is not supported. (Parameter 'filter')"
    assert (answer.status, answer.json["message"], answer.json["target"]) == (400, message, "filter")
    assert answer.headers["Content-Type"] == "application/problem+json; charset=utf-8"
    assert "api-supported-versions" not in answer.headers


@pytest.mark.parametrize("query", ["filter=%20", "filter=true&filter=true", "filter=%2B"])
async def test_filters_that_say_nothing_certain_are_refused(rig: Rig, query: str) -> None:
    answer = await rig.call("POST", f"{SEND}&{query}", "x", "text/plain")
    assert answer.status == 400
    assert received(rig) == {}


@pytest.mark.parametrize("path", ["", "/groups/g", "/users/alice", "/connections/a"])
@pytest.mark.parametrize(("text", "seconds"), [("0", 0), ("300", 300), ("+5", 5), ("7%20", 7)])
async def test_the_time_to_live_travels_with_the_message(
    rig: Rig, path: str, text: str, seconds: int
) -> None:
    answer = await rig.call("POST", f"/api/hubs/chat{path}/:send?messageTtlSeconds={text}", "x", "text/plain")
    assert answer.status == 202
    assert rig.cluster.hubs["chat"]["a"].ttls == [seconds]


@pytest.mark.parametrize(
    "text", ["-1", "301", "1.5", "", "x", "99999999999999", "1&messageTtlSeconds=1", "%D9%A1"]
)
async def test_a_time_to_live_out_of_bounds_is_refused(rig: Rig, text: str) -> None:
    answer = await rig.call("POST", f"{SEND}&messageTtlSeconds={text}", "x", "text/plain")
    assert answer.status == 400
    assert answer.json["target"] == "messageTtlSeconds"
    assert list(answer.json["errors"]) == ["messageTtlSeconds"]
    assert received(rig) == {}


async def test_metadata_headers_become_metadata(rig: Rig) -> None:
    headers = {"X-WebPubSub-Metadata-Trace": "a, b , c ", "x-webpubsub-metadata-n": "1"}
    assert (await rig.call("POST", SEND, "x", "text/plain", headers=headers)).status == 202
    assert received(rig)["a"][0].metadata == {"trace": "c", "n": "1"}


async def test_metadata_over_a_limit_is_refused(rig: Rig) -> None:
    headers = {"X-WebPubSub-Metadata-Trace": "x" * 1025}
    assert (await rig.call("POST", SEND, "x", "text/plain", headers=headers)).status == 400
    assert received(rig) == {}


async def test_a_body_of_exactly_the_limit_passes_and_one_more_byte_does_not() -> None:
    async with rest_rig(ControlPlaneConfig(max_body_bytes=1000)) as rig:
        rig.cluster.connect("chat", "a")
        assert (await rig.call("POST", SEND, b"x" * 1000, "text/plain")).status == 202
        answer = await rig.call("POST", SEND, b"x" * 1001, "text/plain")
        assert (answer.status, answer.json["code"]) == (413, "Error.BadRequest")
        # Half as many characters as bytes go in, three bytes for each come out.
        wide = ("€" * 400).encode("utf-16-le")
        answer = await rig.call("POST", SEND, wide, "text/plain; charset=utf-16le")
        assert answer.status == 413
        assert len(rig.cluster.hubs["chat"]["a"].received) == 1


async def test_the_limit_is_one_mebibyte_by_default(rig: Rig) -> None:
    assert (await rig.call("POST", SEND, b"x" * 1_048_576, "application/octet-stream")).status == 202
    assert (await rig.call("POST", SEND, b"x" * 1_048_577, "application/octet-stream")).status == 413


async def test_chunked_bodies_pass_up_to_the_limit() -> None:
    async with rest_rig(ControlPlaneConfig(max_body_bytes=1000)) as rig:
        connection = rig.cluster.connect("chat", "a")

        async def parts(count: int) -> AsyncIterator[bytes]:
            for _ in range(count):
                yield b"y" * 100

        for count, status in ((10, 202), (11, 413)):
            url = rig.base + SEND
            token = sign_rest_token(rig.settings.keys.primary, url, time.time())
            headers = {"Authorization": f"Bearer {token}", "Content-Type": "text/plain"}
            async with rig.session.post(url, data=parts(count), headers=headers) as response:
                assert response.status == status
        assert [len(message.data) for message in connection.received] == [1000]


async def test_a_body_that_never_comes_is_answered_in_bounded_time() -> None:
    async with rest_rig(ControlPlaneConfig(request_seconds=0.2)) as rig:
        rig.cluster.connect("chat", "a")
        host, _, port = rig.base.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        token = sign_rest_token(rig.settings.keys.primary, rig.base + SEND, time.time())
        writer.write(
            f"POST {SEND} HTTP/1.1\r\nHost: {host}:{port}\r\nAuthorization: Bearer {token}\r\n"
            "Content-Type: text/plain\r\nContent-Length: 10\r\n\r\nhalf".encode()
        )
        async with asyncio.timeout(5):
            line = await reader.readline()
        writer.close()
        assert line.split()[1] == b"408"
        assert rig.cluster.hubs["chat"]["a"].received == []


async def test_while_gateways_are_away_a_send_is_not_accepted(rig: Rig) -> None:
    rig.cluster.away = True
    answer = await rig.call("POST", SEND, "x", "text/plain")
    assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
    assert answer.json["code"] == "Error.ServiceUnavailable"
