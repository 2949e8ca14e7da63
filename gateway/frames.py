"""WebSocket frames that a server sends, built once for all connections that get them (RFC 6455, 5.2)."""

from __future__ import annotations

TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA

MAX_CLOSE_REASON_BYTES = 123


def frame(opcode: int, payload: bytes) -> bytes:
    """One unfragmented, unmasked frame."""
    size = len(payload)
    if size < 126:
        return bytes((0x80 | opcode, size)) + payload
    if size < 65536:
        return bytes((0x80 | opcode, 126)) + size.to_bytes(2, "big") + payload
    return bytes((0x80 | opcode, 127)) + size.to_bytes(8, "big") + payload


def close_frame(code: int | None, reason: str = "") -> bytes:
    """A close frame; without a code it is empty. A reason that is too long is cut at a character."""
    if code is None:
        return frame(CLOSE, b"")
    text = reason.encode("utf-8", "replace")[:MAX_CLOSE_REASON_BYTES]
    text = text.decode("utf-8", "ignore").encode()
    return frame(CLOSE, code.to_bytes(2, "big") + text)


PING_FRAME = frame(PING, b"")
