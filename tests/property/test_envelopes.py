"""Any bytes from the bus are understood or refused, and nothing else happens."""

from __future__ import annotations

import contextlib

import msgpack
from hypothesis import given, settings
from hypothesis import strategies as st

from hubwire.bus.envelopes import (
    SNAPSHOT_PART_BYTES,
    VERSION,
    pack,
    pack_body,
    split_keys,
    unpack,
    unpack_body,
)
from hubwire.bus.owners import unpack_table
from hubwire.model.errors import InvalidRequest
from hubwire.model.message import DataType, Message
from hubwire.runtime.lease_bucket import unpack_lease

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.binary(max_size=50)
    | st.text(max_size=50),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.text(max_size=5), inner, max_size=5),
    max_leaves=30,
)
texts = st.text(st.characters(), max_size=40)  # with lone surrogates: they come in by JSON escapes


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_an_envelope_or_refused(data: bytes) -> None:
    for read in (unpack, unpack_table, unpack_lease):
        with contextlib.suppress(InvalidRequest):
            read(data)
    with contextlib.suppress(InvalidRequest):
        unpack_body(data, "group")


@settings(deadline=None)
@given(values)
def test_any_value_is_an_envelope_or_refused(value: object) -> None:
    for data in (msgpack.packb(value), pack([VERSION, value]), pack([VERSION, 1, value])):
        for read in (unpack, unpack_table, unpack_lease):
            with contextlib.suppress(InvalidRequest):
                read(data)
        with contextlib.suppress(InvalidRequest):
            unpack_body(data, "group")


@settings(deadline=None)
@given(values.map(lambda value: [VERSION, value]))
def test_an_envelope_comes_back_as_it_was_packed(envelope: list[object]) -> None:
    assert unpack(pack(envelope)) == envelope


@settings(deadline=None)
@given(
    st.sampled_from(DataType),
    st.binary(max_size=200),
    st.none() | texts,
    st.none() | st.dictionaries(texts, texts, min_size=1, max_size=5),
    st.lists(texts, max_size=5),
    st.none() | texts,
    st.integers(0, 300),
    st.floats(0, 1e10),
    texts,
)
def test_a_body_comes_back_as_it_was_packed(
    data_type: DataType,
    data: bytes,
    user: str | None,
    metadata: dict[str, str] | None,
    excluded: list[str],
    filter: str | None,
    ttl: int,
    accepted: float,
    trace: str,
) -> None:
    message = Message(data_type, data, None, user, metadata)
    body = unpack_body(pack_body(message, excluded, filter, ttl, accepted, trace), "g")
    assert body == (message._replace(group="g"), frozenset(excluded) or None, filter, ttl, accepted, trace)


@settings(deadline=None)
@given(st.lists(st.text(max_size=2000), max_size=60))
def test_parts_lose_nothing_keep_the_order_and_fit(keys: list[str]) -> None:
    parts = split_keys(keys)
    assert [key for part in parts for key in part] == keys
    assert all(len(pack(part)) <= SNAPSHOT_PART_BYTES + 16 for part in parts if len(part) > 1)
    assert len(parts) == 1 or all(parts)
