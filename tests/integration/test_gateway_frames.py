"""Frames over a real socket: what RFC 6455 allows, what it does not, and how the gateway closes.

Client-protocols.md 1.11 to 1.13, 3.9.
"""

import asyncio

import pytest
import pytest_asyncio
import uvloop
from support.stack import (
    BINARY,
    CLOSE,
    CONTINUATION,
    JSON,
    PING,
    PONG,
    PROTOBUF,
    TEXT,
    Stack,
    masked,
    on_uvloop,
)

MEGABYTE = 1024 * 1024
ECHO = b'{"type":"sendToGroup","group":"room","dataType":"text","data":"'

pytestmark = [pytest.mark.asyncio(loop_scope="module"), on_uvloop]


@pytest.fixture(scope="module")
def event_loop_policy():
    return uvloop.EventLoopPolicy()  # as in production


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(tmp_path_factory):
    async with Stack(tmp_path_factory.mktemp("stack")) as one:
        yield one


def join(number, ack_id):
    return masked(TEXT, b'{"type":"joinGroup","group":"g%d","ackId":%d}' % (number, ack_id))


async def closes_with(client, code, reason=None):
    found = await client.closed()
    assert found[0] == code, found
    if reason is not None:
        assert found[1] == reason
    client.send(masked(CLOSE, code.to_bytes(2, "big")))
    assert await client.gone() == b""  # nothing follows a close frame


# --- what is allowed ---


async def test_frames_sent_with_the_head_are_processed_after_the_connected_message(stack):
    early = b"".join(join(n, n) for n in range(1, 6))
    async with await stack.client("alice", early=early) as client:
        assert (await client.hear())["event"] == "connected"
        assert [(await client.hear())["ackId"] for _ in range(5)] == [1, 2, 3, 4, 5]


async def test_several_messages_in_one_segment_and_one_message_in_many_are_the_same(stack):
    async with await stack.json() as client:
        client.send(b"".join(join(n, n) for n in range(1, 101)))
        assert [(await client.hear())["ackId"] for _ in range(100)] == list(range(1, 101))
        for byte in join(1, 200):
            client.send(bytes((byte,)))
            await client.writer.drain()
            await asyncio.sleep(0)
        assert (await client.hear())["ackId"] == 200


async def test_a_message_in_fragments_with_pings_between_them_is_one_message(stack):
    text = b'{"type":"joinGroup","group":"f","ackId":9}'
    async with await stack.json() as client:
        client.send(
            masked(TEXT, text[:10], fin=False)
            + masked(PING, b"one")
            + masked(CONTINUATION, b"", fin=False)
            + masked(CONTINUATION, text[10:20], fin=False)
            + masked(PONG, b"unasked")
            + masked(CONTINUATION, text[20:])
        )
        assert await client.frame() == (PONG, b"one")
        assert (await client.hear())["ackId"] == 9


async def test_a_character_cut_by_a_fragment_is_whole_again(stack):
    text = '{"type":"sendToGroup","group":"ü","dataType":"text","data":"é😀","ackId":1}'.encode()
    cut = text.index("😀".encode()) + 2
    async with await stack.json(groups=["ü"]) as client:
        client.send(masked(TEXT, text[:cut], fin=False) + masked(CONTINUATION, text[cut:]))
        heard = [await client.hear(), await client.hear()]
        assert sorted(one["type"] for one in heard) == ["ack", "message"]
        assert [one["data"] for one in heard if one["type"] == "message"] == ["é😀"]


@pytest.mark.parametrize("payload", [b"", b"x" * 125])
async def test_a_ping_is_answered_with_its_payload(stack, payload):
    async with await stack.json() as client:
        client.send(masked(PING, payload))
        assert await client.frame() == (PONG, payload)


async def test_a_message_of_exactly_one_megabyte_is_delivered_and_one_byte_more_is_not(stack):
    fill = MEGABYTE - len(ECHO) - len(b'","ackId":1}')
    async with await stack.json(groups=["room"]) as client:
        client.send(masked(TEXT, ECHO + b"a" * fill + b'","ackId":1}'))
        heard = [await client.hear(), await client.hear()]
        assert [len(one["data"]) for one in heard if one["type"] == "message"] == [fill]
        client.send(masked(TEXT, ECHO + b"a" * (fill + 1) + b'","ackId":2}'))
        await closes_with(client, 1009, "Messages are limited to 1048576 bytes.")


async def test_many_large_messages_and_the_beginnings_of_others_arrive_whole(stack):
    """The parser is renewed after a large frame; what had come of the next one must survive it."""
    async with await stack.json(groups=["room"]) as client, asyncio.TaskGroup() as tasks:
        sizes = [40_000, 10, 70_000, 33_000, 1, 500_000, 0, 65_536, 40_000, 40_001]
        stream = b"".join(
            masked(TEXT, ECHO + bytes((97 + n,)) * size + b'"}') for n, size in enumerate(sizes)
        )

        async def write():
            for start in range(0, len(stream), 30_011):
                client.send(stream[start : start + 30_011])
                await client.writer.drain()

        tasks.create_task(write())
        for number, size in enumerate(sizes):
            assert (await client.hear())["data"] == chr(97 + number) * size


# --- what is not ---


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(masked(TEXT, b"{}", reserved=4), id="RSV1 without an extension"),
        pytest.param(masked(TEXT, b"{}", reserved=1), id="RSV3"),
        pytest.param(masked(PING, b"", reserved=2), id="RSV2 on a ping"),
        pytest.param(masked(3, b""), id="reserved opcode of data"),
        pytest.param(masked(11, b""), id="reserved opcode of control"),
        pytest.param(b"\x81\x02{}", id="not masked"),
        pytest.param(masked(CONTINUATION, b"x"), id="continuation of nothing"),
        pytest.param(masked(TEXT, b"{", fin=False) + masked(TEXT, b"{}"), id="message within a message"),
        pytest.param(masked(TEXT, b"{", fin=False) + masked(BINARY, b""), id="type changes within"),
        pytest.param(masked(PING, b"", fin=False), id="fragmented ping"),
        pytest.param(masked(PING, b"x" * 126), id="long ping"),
        pytest.param(masked(CLOSE, b"\x03"), id="close with one byte"),
        pytest.param(masked(CLOSE, b"\x03\xed"), id="close with 1005"),
        pytest.param(masked(CLOSE, b"\x03\xee"), id="close with 1006"),
        pytest.param(masked(CLOSE, b"\x03\xf7"), id="close with 1015"),
        pytest.param(masked(CLOSE, b"\x00\x00"), id="close with 0"),
        pytest.param(masked(CLOSE, b"\x03\xe7"), id="close with 999"),
        pytest.param(masked(CLOSE, b"\x13\x88"), id="close with 5000"),
        pytest.param(b"\x81\xff" + (2**63).to_bytes(8, "big") + b"\0\0\0\0", id="length above 2**63"),
        pytest.param(b"\x81\xff" + (5).to_bytes(8, "big") + b"\0\0\0\0abcde", id="length not minimal"),
        pytest.param(b"\x81\xfe\x00\x05\0\0\0\0abcde", id="16-bit length not minimal"),
    ],
)
async def test_an_illegal_frame_closes_with_1002_once_and_nothing_after_it_is_processed(stack, bad):
    async with await stack.json() as client:
        client.send(bad + join(1, 1) * 3)
        await closes_with(client, 1002)


async def test_a_close_frame_whose_reason_is_not_utf_8_closes_with_1007(stack):
    async with await stack.json() as client:
        client.send(masked(CLOSE, b"\x03\xe8\xff"))
        await closes_with(client, 1007)


async def test_what_came_before_an_illegal_frame_is_processed(stack):
    async with await stack.json() as client:
        client.send(masked(TEXT, b'{"type":"ping"}') + masked(PING, b"p") + masked(3, b""))
        assert (await client.hear())["type"] == "pong"
        assert await client.frame() == (PONG, b"p")
        await closes_with(client, 1002)


@pytest.mark.parametrize("size", [MEGABYTE + 1, 2**40, 2**63 - 1])
async def test_a_frame_above_the_limit_is_refused_by_its_head_alone(stack, size):
    async with await stack.json() as client:
        client.send(masked(TEXT, b"", size=size))
        await closes_with(client, 1009, "Messages are limited to 1048576 bytes.")


async def test_a_message_above_the_limit_is_not_processed_however_fast_it_comes(stack):
    """The parser refused a large frame by its length, and went on to parse it: sent at once, all of it was
    there before the socket was closed, and the message was published."""
    async with await stack.json("spy", groups=["room"]) as spy, await stack.json() as client:
        text = ECHO + b"a" * (MEGABYTE + 10) + b'","ackId":1}'
        client.send(masked(TEXT, text) + join(1, 2))
        await closes_with(client, 1009)
        async with await stack.json() as other:
            other.send(masked(TEXT, ECHO + b'fine"}'))
            assert (await spy.hear())["data"] == "fine"


async def test_fragments_above_the_limit_in_sum_close_with_1009(stack):
    async with await stack.json() as client:
        client.send(masked(TEXT, b"a" * 600_000, fin=False) + masked(CONTINUATION, b"b" * 600_000))
        await closes_with(client, 1009, "Messages are limited to 1048576 bytes.")


@pytest.mark.parametrize(
    ("subprotocol", "opcode", "code"), [(JSON, BINARY, 1003), (PROTOBUF, TEXT, 1003), (JSON, TEXT, 1007)]
)
async def test_the_wrong_kind_of_frame_closes_with_1003_and_nonsense_with_1007(
    stack, subprotocol, opcode, code
):
    async with await stack.client(subprotocols=[subprotocol]) as client:
        await client.frame()
        client.send(masked(opcode, b"nonsense"))
        assert (await client.closed())[0] == code


@pytest.mark.parametrize("text", [b"\xff\xfe", b"\xc3", b"\xed\xa0\x80", b'{"type":"ping","x":"\xff"}'])
@pytest.mark.parametrize("subprotocols", [[JSON], []])
async def test_text_that_is_not_utf_8_closes_with_1007(stack, text, subprotocols):
    async with await stack.client(subprotocols=subprotocols) as client:
        client.send(masked(TEXT, text))
        assert (await client.closed())[0] == 1007


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"type":1}',
        b'{"type":"nothing"}',
        b'{"type":"joinGroup"}',
        b'{"type":"joinGroup","group":" "}',
        b'{"type":"joinGroup","group":"g","ackId":-1}',
        b'{"type":"joinGroup","group":"g","ackId":18446744073709551616}',
        b'{"type":"joinGroup","group":"g","ackId":1' + b"0" * 10_000 + b"}",
        b'{"type":"joinGroup","group":"g","ackId":1.5}',
        b'{"type":"joinGroup","group":"g","ackId":"1"}',
        b'{"type":"sendToGroup","group":"g","dataType":"json","data":' + b"[" * 100_000 + b"}",
        b'{"type":"sendToGroup","group":"g","dataType":"json","data":' + b'{"a":' * 50_000 + b"}",
        b"[" * 500_000,
        b'{"type":"sendToGroup","group":"g"}',
        b'{"type":"sendToGroup","group":"g","dataType":"binary","data":"%"}',
        b'{"type":"sendToGroup","group":"g","dataType":"text","data":"x","ttlSeconds":301}',
        b'{"type":"sendToGroup","group":"g","dataType":"text","data":"x","noEcho":null}',
        b'{"type":"event","event":"1","data":1}',
        b'{"type":"event","event":"e\\r\\nX: y","data":1}',
        b'{"type":"sendToGroup","group":"g","data":1,"metadata":{"a":"1","a":"2"}}',
    ],
)
async def test_a_malformed_message_closes_with_1007_without_an_ack(stack, text):
    async with await stack.json(groups=["g"]) as client:
        client.send(masked(TEXT, text))
        opcode, payload = await client.frame()
        assert (opcode, payload[:2]) == (CLOSE, b"\x03\xef")
        assert len(payload) <= 125


# --- the closing handshake ---


@pytest.mark.parametrize(
    "payload",
    [b"", b"\x03\xe8", b"\x03\xe8bye", b"\x0f\xa1" + "grüße".encode()]
    + [code.to_bytes(2, "big") + b"r" for code in (1001, 1002, 1003, 1007, 1011, 3000, 4999)],
)
async def test_a_close_is_answered_with_the_same_code_and_reason_and_the_socket_is_closed(stack, payload):
    async with await stack.json() as client:
        client.send(masked(CLOSE, payload) + join(1, 1))
        assert await client.frame() == (CLOSE, payload)
        assert await client.gone() == b""
    await stack.nothing_left()


async def test_after_our_close_frame_the_answer_of_the_client_ends_it_at_once(stack):
    async with await stack.json() as client:
        client.send(masked(BINARY, b""))
        assert (await client.closed())[0] == 1003
        loop = asyncio.get_running_loop()
        began = loop.time()
        client.send(masked(TEXT, b"ignored") + masked(CLOSE, b"\x03\xeb"))
        await client.gone()
        assert loop.time() - began < 2


async def test_a_client_that_hangs_up_in_the_middle_of_a_frame_leaves_nothing(stack):
    for cut in range(0, 60, 7):
        async with await stack.json(groups=["g"]) as client:
            client.send((join(1, 1) * 2)[:cut])
            await client.writer.drain()
    await stack.nothing_left()
