import re

import pytest

from hubwire.model.errors import InvalidRequest
from hubwire.model.names import (
    gateway_of,
    is_valid_event,
    is_valid_group,
    new_connection_id,
    normalize_hub,
)


@pytest.mark.parametrize("hub", ["a", "chat", "c`,.[]_9", "a" * 128])
def test_a_legal_hub_stays_as_it_is(hub):
    assert normalize_hub(hub) == hub


def test_hubs_that_differ_in_letter_case_are_one():
    assert normalize_hub("ChAt") == normalize_hub("chat") == "chat"


@pytest.mark.parametrize(
    "hub", ["", " ", "1chat", "_chat", "a-b", "a b", "chat\n", "é", "a" * 129, "a/b", "\u212a"]
)
def test_an_illegal_hub_is_refused_by_name(hub):
    with pytest.raises(InvalidRequest) as caught:
        normalize_hub(hub)
    assert caught.value.target == "hub"


@pytest.mark.parametrize("group", ["a", " a ", "a.b/c*", "é😀", "x" * 1024, "\n."])
def test_nearly_everything_is_a_group(group):
    assert is_valid_group(group)


@pytest.mark.parametrize("group", ["", " ", "\t\n ", "\u3000", "x" * 1025])
def test_blank_and_overlong_groups_are_not(group):
    assert not is_valid_group(group)


@pytest.mark.parametrize(
    ("event", "legal"),
    [
        ("a", True),
        ("order.v1-2_x", True),
        ("a" * 128, True),
        ("", False),
        ("1a", False),
        ("a" * 129, False),
        ("a b", False),
        ("a\n", False),
        ("é", False),
    ],
)
def test_event_names(event, legal):
    assert is_valid_event(event) is legal


def test_a_connection_id_looks_like_azures_and_names_its_gateway():
    made = new_connection_id(bytes(range(16)), "c82b04d71")
    assert len(made) == 31
    assert re.fullmatch(r"[A-Za-z0-9_-]+", made)
    assert gateway_of(made) == "c82b04d71"


def test_a_connection_id_begins_with_a_letter_whatever_the_random_bytes():
    for first in range(256):
        assert new_connection_id(bytes([first]) + b"\xff" * 15, "0" * 9)[0].isalpha()


def test_every_random_byte_counts():
    ids = {new_connection_id(bytes(1 if i == j else 0 for j in range(16)), "0" * 9) for i in range(16)}
    assert len(ids) == 16


@pytest.mark.parametrize(
    ("size", "gateway"), [(15, "0" * 9), (17, "0" * 9), (16, "0" * 8), (16, "ABCDEF012")]
)
def test_a_connection_id_is_not_made_from_the_wrong_parts(size, gateway):
    with pytest.raises(ValueError, match="16 random bytes"):
        new_connection_id(bytes(size), gateway)


@pytest.mark.parametrize(
    "text", ["", "x", "a" * 22 + "zzzzzzzzz", "a" * 22 + "c82b04d71\n", "a/" * 11 + "c82b04d71", "a" * 32]
)
def test_an_id_of_another_shape_has_no_gateway(text):
    assert gateway_of(text) is None
