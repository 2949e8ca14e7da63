"""What travels on the bus (hubwire.bus.envelopes)."""

import msgpack
import pytest

from hubwire.bus.envelopes import (
    COMMAND,
    DELIVER,
    DELIVER_OVERHEAD,
    PUBLISH,
    SNAPSHOT_PART_BYTES,
    VERSION,
    answer_to_batch,
    ask_gateway,
    batch_to_router,
    command_to_gateway,
    deliver_item,
    deliver_to_gateway,
    pack,
    pack_body,
    split_keys,
    unpack,
    unpack_body,
)
from hubwire.model.errors import InvalidRequest
from hubwire.model.message import DataType, Message

BODY = pack_body(Message(DataType.TEXT, b"hello"))


@pytest.mark.parametrize("data_type", list(DataType))
@pytest.mark.parametrize("data", [b"", b"x", b"\xff\x00" * 1000])
def test_a_body_comes_back_as_it_was_packed(data_type: DataType, data: bytes) -> None:
    message = Message(data_type, data, None, "alice", {"k": "v"})
    body = unpack_body(pack_body(message, ["c1", "c2"], "userId eq 'x'", 5), "room")
    assert body.message == message._replace(group="room")
    assert body.excluded == {"c1", "c2"}
    assert body.filter == "userId eq 'x'"
    assert body.ttl_seconds == 5


def test_a_body_without_extras_has_none() -> None:
    body = unpack_body(BODY, None)
    assert body == (Message(DataType.TEXT, b"hello"), None, None, 0, 0.0, "")


def test_names_with_lone_surrogates_survive() -> None:
    # They come in by JSON escapes; the bus must not be where they break.
    entry = [PUBLISH, 1, "g\0chat\0\ud800", 1, BODY]
    assert unpack(batch_to_router("sender", [(1, 7, [entry])]))[2] == [[1, 7, [entry]]]


def test_an_envelope_for_gateways_is_joined_from_items_that_were_packed_once() -> None:
    items = [deliver_item(p, 10 + p, "sender", p, "key", BODY) for p in range(3)]
    version, kind, router, found = unpack(deliver_to_gateway("router", items))
    assert (version, kind, router) == (VERSION, DELIVER, "router")
    assert found == [[p, 10 + p, "sender", p, "key", BODY] for p in range(3)]


@pytest.mark.parametrize("count", [0, 1, 15, 16, 65_535, 65_536])
def test_any_number_of_items_can_be_joined(count: int) -> None:
    item = pack([1])
    assert unpack(deliver_to_gateway("r", [item] * count))[3] == [[1]] * count


def test_an_entry_that_a_router_takes_fits_into_a_message_to_a_gateway() -> None:
    key, body, sender = "g\0" + "h" * 128 + "\0" + "\U0001f600" * 1024, b"x" * 1_000_000, "0123456ff"
    taken = batch_to_router(sender, [(255, 2**62, [[PUBLISH, 255, key, 2**63, body]])])
    forwarded = deliver_to_gateway("0123456ff", [deliver_item(255, 2**62, sender, 2**63, key, body)])
    assert len(forwarded) <= len(taken) + DELIVER_OVERHEAD


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x91",
        b"hello",
        pack(None),
        pack({}),
        pack([]),
        pack([VERSION + 1, 1]),
        pack(["1"]),
        msgpack.packb([VERSION]) + b"x",
    ],
)
def test_what_is_no_envelope_of_ours_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidRequest):
        unpack(data)


@pytest.mark.parametrize(
    "body", [b"", b"\xc1", pack(1), pack([]), pack([9, b"", None, None, None, None, 0]), pack([0] * 8)]
)
def test_what_is_no_body_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        unpack_body(body, "room")


def test_the_small_messages() -> None:
    assert unpack(answer_to_batch([0, 1, [["a"], []]])) == [VERSION, [0, 1, [["a"], []]]]
    assert unpack(ask_gateway("router", (1, 2))) == [VERSION, 1, "router", [1, 2]]
    assert unpack(command_to_gateway("close", ["hub"])) == [VERSION, COMMAND, "close", ["hub"]]


def test_no_keys_are_one_empty_part() -> None:
    assert split_keys([]) == [[]]


def test_keys_are_split_into_parts_that_fit_and_lose_nothing() -> None:
    keys = [f"g\0hub\0{'ü' * (n % 700)}{n}" for n in range(2000)]
    parts = split_keys(keys)
    assert len(parts) > 1
    assert [key for part in parts for key in part] == keys
    assert all(len(pack(part)) <= SNAPSHOT_PART_BYTES + 16 for part in parts)


def test_one_huge_key_is_a_part_of_its_own() -> None:
    keys = ["a", "x" * (2 * SNAPSHOT_PART_BYTES), "b"]
    assert split_keys(keys) == [["a"], [keys[1]], ["b"]]
