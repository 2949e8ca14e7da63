"""What stands in an inbox, as it is packed and read back."""

from __future__ import annotations

import pytest

from hubwire.bus import inbox_entries as entries
from hubwire.bus.envelopes import pack, unpack
from hubwire.bus.inbox_batches import join_batch
from hubwire.model.errors import InvalidRequest


def test_a_batch_is_read_as_it_was_joined() -> None:
    packed = [
        entries.message_entry(7, 99, 3, "gateway-1", 12, "g\0hub\0a\ud800", b"body", "conn", 2**64 - 1),
        entries.direct_entry("conn", b"body"),
        entries.acked_entry([("conn", 5, [1, 9]), ("other", 2**64 - 1, None)]),
        entries.mark_entry("conn", 4, "gateway-2"),
    ]
    batch = entries.unpack_batch(join_batch(pack("router-1"), 41, packed))
    assert batch == (
        "router-1",
        41,
        [
            [entries.MESSAGE, 7, 99, 3, "gateway-1", 12, "g\0hub\0a\ud800", b"body", "conn", 2**64 - 1],
            [entries.DIRECT, "conn", b"body"],
            [entries.ACKED, [["conn", 5, [1, 9]], ["other", 2**64 - 1, None]]],
            [entries.MARK, "conn", 4, "gateway-2"],
        ],
    )


@pytest.mark.parametrize(
    "data", [b"", b"\x90", pack([1]), pack([1, 2, 3, []]), pack([1, "w", "3", []]), pack([9, "w", 3, []])]
)
def test_what_is_no_batch_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidRequest):
        entries.unpack_batch(data)


@pytest.mark.parametrize("size", [0, 1, entries.PART_BYTES, entries.PART_BYTES + 1, 3 * entries.PART_BYTES])
def test_a_state_larger_than_a_message_comes_in_parts(size: int) -> None:
    state = bytes(range(256)) * (size // 256 + 1)
    state = state[:size]
    read = [unpack(b"\x92\x01" + entry)[1] for entry in entries.adopted_entries("conn", 3, 17, state)]
    assert len(read) == max(1, -(-size // entries.PART_BYTES))
    assert [one[:6] for one in read] == [
        [entries.ADOPTED, "conn", 3, 17, part, len(read)] for part in range(len(read))
    ]
    assert b"".join(one[6] for one in read) == state
