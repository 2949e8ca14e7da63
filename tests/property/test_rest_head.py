"""What the short way takes for a request is one for aiohttp's parser too, and the same one."""

from __future__ import annotations

import asyncio

from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import HttpRequestParser
from hypothesis import given
from hypothesis import strategies as st

from controlplane.express import read_head

PIECES = [
    b"POST ",
    b"post ",
    b"/api/hubs/",
    b"chat",
    b"/users/ann",
    b"/groups/%20",
    b"/:send",
    b"?api-version=2024-12-01",
    b"#a",
    b" HTTP/1.1",
    b" HTTP/1.0",
    b"\r\n",
    b"\n",
    b"\r",
    b" ",
    b"\t",
    b":",
    b"\x00",
    b"\xe9",
    b"Host: x\r\n",
    b"Content-Length: 5\r\n",
    b"Content-Length:\r\n",
    b"Content-Length: +5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Upgrade: websocket\r\n",
    b"Connection: keep-alive\r\n",
    b"Connection: close\r\n",
    b"a: b\r\n",
]
GOOD = b"POST /api/hubs/chat/users/ann/:send HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n"


@st.composite
def heads(draw: st.DrawFn) -> bytes:
    """A good one in which something was put in, or which is random."""
    start = draw(st.sampled_from([GOOD, GOOD, GOOD, b""]))
    for piece in draw(st.lists(st.one_of(st.sampled_from(PIECES), st.binary(max_size=3)), max_size=4)):
        at = draw(st.one_of(st.integers(0, len(start)), st.just(len(start))))
        start = start[:at] + piece + start[at:]
    return start.partition(b"\r\n\r\n")[0].rstrip(b"\r\n") + b"\r\n\r\n"


@given(heads())
def test_what_is_taken_aiohttp_reads_alike(head: bytes) -> None:
    taken = read_head(head)
    if taken is None:
        return
    loop = asyncio.new_event_loop()
    try:
        parser = HttpRequestParser(
            BaseProtocol(loop), loop, 2**16, max_line_size=80_000, max_field_size=80_000
        )
        try:
            messages, upgraded, _ = parser.feed_data(head)
        except HttpProcessingError as error:
            raise AssertionError("It is no request.") from error
    finally:
        loop.close()
    ((message, _),) = messages
    assert (message.method, message.path, tuple(message.version)) == ("POST", taken.raw, (1, 1))
    assert {name.lower(): value for name, value in message.headers.items()} == taken.fields
    assert len(message.headers) == len(taken.fields)
    unusual = [message.should_close, message.chunked, message.upgrade, message.compression, upgraded]
    assert not any(unusual)


def test_a_good_one_is_taken() -> None:
    assert read_head(GOOD + b"\r\n") is not None
