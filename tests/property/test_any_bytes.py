"""Whatever a client sends, in whichever pieces: no exception, one end, and only legal frames in answer."""

from __future__ import annotations

import asyncio
import os
from itertools import pairwise
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.link import KEY, Executor, new_connection
from support.stack import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, masked

from gateway.http_head import BadHead, Head, parse_head
from gateway.protocol.json_reliable_v1 import JSON_RELIABLE_V1
from gateway.protocol.json_v1 import JSON_V1
from gateway.protocol.protobuf_reliable_v1 import PROTOBUF_RELIABLE_V1
from gateway.protocol.protobuf_v1 import PROTOBUF_V1
from gateway.protocol.simple import SIMPLE
from gateway.upgrade import hand_over

PAYLOADS = st.one_of(
    st.binary(max_size=200),
    st.sampled_from(
        [
            b"",
            b'{"type":"ping"}',
            b'{"type":"joinGroup","group":"g","ackId":1}',
            b'{"type":"sendToGroup","group":"g","data":[1],"ackId":2}',
            b'{"type":"event","event":"e","data":"x","ackId":3}',
            b'{"type":"sequenceAck","sequenceId":18446744073709551615}',
            b'{"type":"sequenceAck","sequenceId":-1}',
            b"\x42\x02\x08\x05",
            b'{"type":"sendTo',
            b'Group","group":"g","data":{}}',
            b"\x0a\x08\x0a\x01g\x1a\x03\x0a\x01x",
            b"\x03\xe8bye",
            b"x" * 40_000,
            b'{"type":"ping"' + b" " * 40_000 + b"}",
        ]
    ),
)
FRAMES = st.builds(
    lambda opcode, payload, fin, reserved: masked(opcode, payload, fin=fin, reserved=reserved),
    st.one_of(st.sampled_from([TEXT, TEXT, BINARY, CONTINUATION, PING, PONG, CLOSE]), st.integers(0, 15)),
    PAYLOADS,
    st.sampled_from([True, True, True, False]),
    st.sampled_from([0, 0, 0, 0, 0, 1, 2, 4]),
)
STREAMS = st.lists(st.one_of(FRAMES, FRAMES, FRAMES, st.binary(max_size=50)), max_size=12).map(b"".join)


class Pipe:
    """A transport whose socket is a pipe that we read."""

    def __init__(self) -> None:
        self.out, self.fd = os.pipe()
        os.set_blocking(self.fd, False)
        os.set_blocking(self.out, False)
        self.protocol: Any = None
        self.read = b""
        self.over = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self

    def fileno(self) -> int:
        return self.fd

    def setsockopt(self, *_: object) -> None: ...

    def getsockopt(self, *_: object) -> int:
        return 0

    def set_write_buffer_limits(self, high: int) -> None: ...

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def get_write_buffer_size(self) -> int:
        return 0

    def write(self, data: bytes) -> None:
        assert not self.over
        self.take()
        self.read += bytes(data)

    def take(self) -> None:
        try:
            while data := os.read(self.out, 1 << 20):
                self.read += data
        except BlockingIOError:
            pass

    def is_closing(self) -> bool:
        return self.over

    def resume_reading(self) -> None: ...

    def pause_reading(self) -> None: ...

    def write_eof(self) -> None: ...

    def close(self) -> None:
        self.over = True

    abort = close

    def __enter__(self) -> Pipe:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)
        os.close(self.out)


def server_frames(data: bytes) -> list[tuple[int, bytes]]:
    found = []
    while data:
        assert data[0] & 0xF0 == 0x80, "not a whole frame without reserved bits"
        size, at = data[1], 2
        if size == 126:
            size, at = int.from_bytes(data[2:4], "big"), 4
        elif size == 127:
            size, at = int.from_bytes(data[2:10], "big"), 10
        assert len(data) >= at + size
        found.append((data[0] & 15, data[at : at + size]))
        data = data[at + size :]
    return found


async def converse(stream: bytes, cuts: list[int], codec: Any, at_once: bool) -> None:
    executor = Executor(at_once)
    connection = new_connection(executor, codec=codec)
    edges = sorted({min(cut, len(stream)) for cut in cuts} | {0, len(stream)})
    with Pipe() as pipe:
        hand_over(pipe, connection, KEY, None, b"")  # type: ignore[arg-type]
        pipe.take()
        head, _, pipe.read = pipe.read.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101")
        for start, end in pairwise(edges):
            if pipe.over:
                break
            piece = memoryview(stream)[start:end]
            while piece and not pipe.over:  # as a socket would be read
                room = pipe.protocol.get_buffer(-1)
                size = min(len(room), len(piece))
                room[:size] = piece[:size]
                pipe.protocol.buffer_updated(size)
                piece = piece[size:]
            await asyncio.sleep(0)
            while executor.pending:
                executor.finish()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            pipe.take()
        for _ in range(3):
            await asyncio.sleep(0)
        pipe.take()
        frames = server_frames(pipe.read)
        closes = [at for at, (opcode, _) in enumerate(frames) if opcode == CLOSE]
        assert closes in ([], [len(frames) - 1]), "one close frame at most, and the last"
        if closes:
            payload = frames[-1][1]
            assert len(payload) != 1
            payload[2:].decode()
            assert connection.closing
        assert bool(closes) == connection.over
        assert len(executor.ends) == connection.over
        assert "ServiceTransientError" not in executor.ends
        pipe.protocol.connection_lost(None)
        assert len(executor.ends) == 1


@settings(max_examples=300, deadline=None)
@given(
    STREAMS,
    st.lists(st.integers(0, 3000), max_size=6),
    st.sampled_from([JSON_V1, PROTOBUF_V1, JSON_RELIABLE_V1, PROTOBUF_RELIABLE_V1, SIMPLE]),
    st.booleans(),
)
@example(masked(TEXT, b"x" * 40_000)[:-1], [1, 70], SIMPLE, True)
@example(masked(TEXT, b'{"type":"ping"}') + masked(3) + masked(TEXT, b'{"type":"ping"}'), [], JSON_V1, True)
def test_a_connection_survives_any_bytes(stream: bytes, cuts: list[int], codec: Any, at_once: bool) -> None:
    asyncio.run(converse(stream, cuts, codec, at_once))


@settings(max_examples=500, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=300),
        st.lists(
            st.one_of(
                st.sampled_from([b"GET / HTTP/1.1", b"Host: h", b"Upgrade: websocket", b": ", b" ", b"\r"]),
                st.binary(max_size=30),
            ),
            max_size=8,
        ).map(b"\r\n".join),
    )
)
def test_a_head_is_parsed_or_refused(data: bytes) -> None:
    try:
        head = parse_head(data)
    except BadHead:
        return
    assert isinstance(head, Head)
    assert head.path.startswith("/")
    for name, value in head.headers.items():
        assert not set("\r\n\0") & set(name + value)
