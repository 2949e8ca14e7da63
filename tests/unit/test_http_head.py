import pytest

from gateway.http_head import BadHead, parse_head, path_of

HOST = b"Host: h\r\n"


def head(text: bytes):
    return parse_head(text)


def test_the_parts_of_a_request():
    found = head(b"GET /client/hubs/chat?a=1&b=/?x HTTP/1.1\r\nHost: h:1\r\nX-Y:  z \t\r\nx-y: w")
    assert found.method == "GET"
    assert found.path == "/client/hubs/chat"
    assert found.query == "a=1&b=/?x"
    assert found.headers == {"host": "h:1", "x-y": "z, w"}


def test_a_list_header_is_its_tokens_and_what_is_no_token_is_left_out():
    found = head(b"GET / HTTP/1.1\r\nHost: h\r\nP: a,, b ,c d,\xe9,e/f\r\nP: json.webpubsub.azure.v1")
    assert found.tokens("p") == ["a", "b", "json.webpubsub.azure.v1"]
    assert found.tokens("q") == []


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("/", "/", ""),
        ("http://other:80/client/hubs/a?b=c", "/client/hubs/a", "b=c"),
        ("https://other", "/", ""),
        ("http://other?b=/c", "/", "b=/c"),
        ("//x/y", "//x/y", ""),
        ("/a?", "/a", ""),
    ],
)
def test_path_and_query_of_a_target(target, path, query):
    found = head(f"GET {target} HTTP/1.1\r\nHost: h".encode())
    assert (found.path, found.query) == (path, query)
    assert path_of(target) == path


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"GET",
        b"GET /",
        b"GET / HTTP/1.1",
        b"GET / HTTP/2.0\r\n" + HOST[:-2],
        b"GET  / HTTP/1.1\r\nHost: h",
        b"GET / HTTP/1.1 \r\nHost: h",
        b"G\xe9T / HTTP/1.1\r\nHost: h",
        b"GET /\xe9 HTTP/1.1\r\nHost: h",
        b"GET /\x00 HTTP/1.1\r\nHost: h",
        b"GET * HTTP/1.1\r\nHost: h",
        b"CONNECT h:1 HTTP/1.1\r\nHost: h",
        b"GET / HTTP/1.1\r\nHost: h\r\nno colon",
        b"GET / HTTP/1.1\r\nHost: h\r\n: no name",
        b"GET / HTTP/1.1\r\nHost: h\r\nA b: c",
        b"GET / HTTP/1.1\r\nHost: h\r\nA : c",
        b"GET / HTTP/1.1\r\nHost: h\r\n folded",
        b"GET / HTTP/1.1\r\nHost: h\nX: injected",
        b"GET / HTTP/1.1\r\nHost: h\rX: injected",
        b"GET / HTTP/1.1\r\nHost: h\r\nX: a\x00b",
        b"GET / HTTP/1.1\r\nHost: h\r\nHost: i",
        b"GET / HTTP/1.1\r\nHost: h\r\nSec-WebSocket-Key: a\r\nsec-websocket-key: b",
        b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\nContent-Length: 5",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/1.1\nHost: h\n\nGET /client/hubs/a HTTP/1.1",
    ],
)
def test_what_is_no_request_is_refused(text):
    with pytest.raises(BadHead) as caught:
        head(text)
    assert str(caught.value).endswith(".")
