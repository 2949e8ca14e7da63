"""What we rely on of two pinned packages beside their public API; a new version that changes it fails here.

picows: gateway/upgrade.py builds its `WSProtocol` and stands in for its transport.
nats-py: hubwire/bus/client.py takes messages from its read loop and writes past its flusher.
"""

from __future__ import annotations

import asyncio
import inspect
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from nats.aio.client import Client
from nats.aio.subscription import Subscription
from nats.aio.transport import TcpTransport
from picows import WSListener, WSUpgradeResponse, WSUpgradeResponseWithListener
from picows.picows import WSAutoPingStrategy, WSProtocol
from support.stack import BINARY, CLOSE, CONTINUATION, PING, TEXT, masked, until

from hubwire.bus.client import BusClient

ROOT = Path(__file__).parents[2]
HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: hubwire\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


@pytest.mark.parametrize("package", ["picows", "nats-py"])
def test_the_installed_version_is_the_pinned_one(package):
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert f"{package}=={version(package)}" in wanted


# --- picows ---


class Transport:
    """What `gateway.upgrade.Wire` is for picows."""

    def __init__(self):
        self.written = []
        self.closed = 0

    def get_extra_info(self, name, default=None):
        return {"socket": Socket()}.get(name, default)

    def get_write_buffer_size(self):
        return 1

    def write(self, data):
        self.written.append(bytes(data))

    def close(self):
        self.closed += 1


class Socket:
    def fileno(self):
        return -1

    def setsockopt(self, *_):
        pass

    def getsockopt(self, *_):
        return 0


class Listener(WSListener):
    def __init__(self):
        self.frames = []
        self.transports = []

    def on_ws_frame(self, transport, frame):
        self.transports.append(transport.underlying_transport)
        self.frames.append(
            (
                int(frame.msg_type),
                frame.get_payload_as_bytes(),
                bool(frame.fin),
                (frame.rsv1, frame.rsv2, frame.rsv3),
                frame.payload_size,
                frame.tail_size,
            )
        )


class Silent:
    def isEnabledFor(self, level):
        return False

    def nothing(self, *_):
        pass

    info = error = exception = warning = debug = nothing


def parser(listener, transport, *, limit=1000, headers=None, buffer=2048):
    response = WSUpgradeResponse.create_101_response(headers)
    made = WSProtocol(
        None,
        None,
        False,
        lambda request: WSUpgradeResponseWithListener(response, listener),
        Silent(),
        True,
        None,
        False,
        10,
        10,
        WSAutoPingStrategy.PING_WHEN_IDLE,
        False,
        limit,
        None,
        buffer,
    )
    made.connection_made(transport)
    feed(made, HANDSHAKE)
    return made


def feed(made, data):
    while data:
        room = made.get_buffer(-1)
        size = min(len(data), len(room))
        room[:size] = data[:size]
        made.buffer_updated(size)
        data = data[size:]


async def test_picows_answers_a_handshake_through_write():
    transport = Transport()
    parser(Listener(), transport, headers={"Sec-WebSocket-Protocol": "Mine"})
    (answer,) = transport.written
    lines = answer.decode().rstrip("\r\n").split("\r\n")
    assert lines[0] == "HTTP/1.1 101 Switching Protocols"
    named = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    assert named["sec-websocket-accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # RFC 6455, 1.3
    assert named["sec-websocket-protocol"] == "Mine"


async def test_picows_tells_of_frames_what_we_look_at():
    listener, transport = Listener(), Transport()
    made = parser(listener, transport)
    text, rest = masked(TEXT, b"hello"), masked(PING, b"p")
    feed(
        made,
        text
        + masked(BINARY, b"a", fin=False, reserved=5)
        + masked(CONTINUATION, b"b")
        + rest
        + masked(CLOSE, b"\x03\xe8x")
        + text[:3],
    )
    tails = [frame[-1] for frame in listener.frames]
    assert [frame[:-1] for frame in listener.frames] == [
        (TEXT, b"hello", True, (0, 0, 0), 5),
        (BINARY, b"a", False, (1, 0, 1), 1),
        (CONTINUATION, b"b", True, (0, 0, 0), 1),
        (PING, b"p", True, (0, 0, 0), 1),
        (CLOSE, b"\x03\xe8x", True, (0, 0, 0), 3),
    ]
    assert tails[-1] == 3  # the begun frame behind the last whole one
    assert tails == sorted(tails, reverse=True)
    assert set(listener.transports) == {transport}
    assert len(transport.written) == 1  # no pong, no close: we answer ourselves


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (masked(3), 1002),
        (b"\x81\x00", 1002),
        (masked(TEXT, b"", size=1001), 1009),
        (masked(CLOSE, b"\x03\xe8\xff"), 1007),
        (masked(CLOSE, b"\x00\x01"), 1002),
    ],
)
async def test_picows_tells_of_a_violation_by_writing_one_close_frame(bad, code):
    """And delivers the whole frame before it after that, in the same call."""
    listener, transport = Listener(), Transport()
    made = parser(listener, transport)
    feed(made, masked(TEXT, b"before") + bad)
    (_, close) = transport.written
    assert close[0] == 0x88
    assert close[1] == len(close) - 2
    assert int.from_bytes(close[2:4], "big") == code
    assert close[4:].decode()
    assert [frame[1] for frame in listener.frames] == [b"before"]
    await asyncio.sleep(0.05)
    assert transport.closed == 1  # "disconnect", which Wire ignores


async def test_a_quarter_of_free_room_keeps_picows_from_doubling_its_buffer():
    listener = Listener()
    made = parser(listener, Transport(), limit=1 << 20)
    size = len(made.get_buffer(-1))
    assert size <= 2048
    text = masked(TEXT, b"x" * 50)
    for _ in range(1000):
        room = made.get_buffer(-1)
        piece = text * ((len(room) - len(room) // 4) // len(text))
        room[: len(piece)] = piece
        made.buffer_updated(len(piece))
    assert len(made.get_buffer(-1)) == size
    feed(made, masked(TEXT, b"x" * 100_000))
    assert len(made.get_buffer(-1)) > 100_000  # which is why Wire renews the parser


# --- nats-py ---


def test_nats_py_has_what_we_use():
    client = Client()
    assert client._pending == []
    assert client._pending_data_size == 0
    assert client._transport is None
    assert list(inspect.signature(Client._process_msg).parameters) == [
        "self",
        "sid",
        "subject",
        "reply",
        "data",
        "headers",
    ]
    assert inspect.iscoroutinefunction(Client._process_msg)
    assert TcpTransport()._io_writer is None
    assert "_id" in vars(Subscription(client, id=7, subject="s"))


class FakeServer:
    """As little of a NATS server as a client needs; keeps what it was sent."""

    def __init__(self):
        self.lines = []
        self.news = asyncio.Event()
        self.writer = None

    async def __aenter__(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self.server.close()
        await self.server.wait_closed()

    async def serve(self, reader, writer):
        self.writer = writer
        writer.write(b'INFO {"server_id":"x","version":"2.10.0","max_payload":1048576,"headers":true}\r\n')
        while line := await reader.readline():
            if line == b"PING\r\n":
                writer.write(b"PONG\r\n")
            self.lines.append(line.rstrip(b"\r\n"))
            self.news.set()
        writer.close()

    async def has(self, line):
        async with asyncio.timeout(5):
            while line not in self.lines:
                self.news.clear()
                await self.news.wait()


async def test_nats_py_reads_into_our_function_and_writes_our_buffer():
    async with FakeServer() as server:
        bus = await BusClient.connect(
            {"servers": [f"nats://127.0.0.1:{server.port}"], "allow_reconnect": False}
        )
        got = []
        arrived = asyncio.Event()

        def handler(*message):
            got.append(message)
            arrived.set()

        unsubscribe = await bus.subscribe("a.b", handler)
        sid = next(line.split()[-1] for line in server.lines if line.startswith(b"SUB a.b"))
        server.writer.write(b"MSG a.b %b 2\r\nhi\r\nMSG a.b %b re.ply 0\r\n\r\n" % (sid, sid))
        await asyncio.wait_for(arrived.wait(), 5)
        assert got == [("a.b", "", b"hi"), ("a.b", "re.ply", b"")]
        assert all(type(part) in (str, bytes) for message in got for part in message)

        bus.publish("x", b"one")
        bus.publish("y", b"two", "back")
        assert bus.nats._pending_data_size > 0
        await server.has(b"two")
        assert server.lines[-4:] == [b"PUB x 3", b"one", b"PUB y back 3", b"two"]
        assert bus.nats._pending_data_size == 0

        answers = []
        bus.request("z", b"?", lambda *answer: answers.append(answer), 5)
        await server.has(b"?")
        inbox = next(line.split()[2] for line in server.lines if line.startswith(b"PUB z"))
        sid = next(line.split()[-1] for line in server.lines if line.startswith(b"SUB _INBOX"))
        server.writer.write(b"HMSG %b %b 16 16\r\nNATS/1.0 503\r\n\r\n\r\n" % (inbox, sid))
        await until(lambda: answers)
        assert answers == [(None, "no responders")]
        await unsubscribe()
        await bus.close()
