import pytest

from gateway.frames import BINARY, CLOSE, PING_FRAME, TEXT, close_frame, frame


@pytest.mark.parametrize(
    ("size", "head"),
    [
        (0, b"\x81\x00"),
        (1, b"\x81\x01"),
        (125, b"\x81\x7d"),
        (126, b"\x81\x7e\x00\x7e"),
        (65_535, b"\x81\x7e\xff\xff"),
        (65_536, b"\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x00"),
        (1_048_576, b"\x81\x7f\x00\x00\x00\x00\x00\x10\x00\x00"),
    ],
)
def test_the_shortest_length_is_used_and_nothing_is_masked(size, head):
    assert frame(TEXT, b"x" * size) == head + b"x" * size


def test_the_opcode_stands_in_the_first_byte():
    assert frame(BINARY, b"")[0] == 0x82
    assert PING_FRAME == b"\x89\x00"


@pytest.mark.parametrize(
    ("code", "reason", "payload"),
    [
        (None, "", b""),
        (1000, "", b"\x03\xe8"),
        (1008, "no", b"\x03\xf0no"),
        (4999, "é", b"\x13\x87\xc3\xa9"),
        (1001, "x" * 200, b"\x03\xe9" + b"x" * 123),
        (1001, "x" * 122 + "é", b"\x03\xe9" + b"x" * 122),
        (1001, "😀" * 40, b"\x03\xe9" + "😀".encode() * 30),
        (1007, "lone \ud800", b"\x03\xeflone ?"),
    ],
)
def test_a_close_frame_holds_code_and_reason_cut_at_a_character(code, reason, payload):
    assert close_frame(code, reason) == frame(CLOSE, payload)
    assert len(payload) <= 125
