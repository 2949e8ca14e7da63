"""The WebSocket shell: frames in, frames out, a bounded outbox, pings, closing.

DESIGN.md section 6. picows parses what comes in; what goes out are frames built once (gateway.frames)
and written straight to the socket, all that one turn of the event loop has for one connection in one
write. What the kernel does not take waits in the connection's outbox, up to a bound in bytes; past the
bound the connection is closed and nobody else notices.

The socket itself, and everything of picows that is not public API, is in gateway.upgrade alone.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

import structlog
from picows import WSListener

from gateway.bounds import Bounds
from gateway.flusher import Flusher
from gateway.frames import CLOSE, PONG, close_frame, frame
from hubwire.model.limits import OUTBOX_MESSAGE_BYTES
from hubwire.runtime.tls_transport import direct_descriptor

log = structlog.get_logger(__name__)

CONTINUATION, OP_TEXT, OP_BINARY, OP_CLOSE, OP_PING, OP_PONG = 0, 1, 2, 8, 9, 10

CLOSE_SECONDS = 5.0
"""How long a peer has to answer our close frame before the connection is cut."""
SERVE_SECONDS = 10.0
"""How long what a peer sent before its close frame may take, until the close frame is answered anyway."""
WRITE_CHUNK = 64 * 1024
LARGE_FRAME_BYTES = 32 * 1024
"""A frame above it leaves a read buffer behind that is not worth keeping."""
_ILLEGAL_CLOSE_CODES = (0, 1005, 1006, 1015)  # RFC 6455, 7.4; more of them are refused by picows


class _Outbox:
    """What the kernel did not take yet: whole frames, each with the time after which it is dropped. `bytes`
    is what that costs, beside the frames' own bytes too."""

    __slots__ = ("bytes", "frames")

    def __init__(self) -> None:
        self.frames: deque[tuple[bytes, float]] = deque()
        self.bytes = 0


class WebSocketPeer(WSListener):
    """One accepted WebSocket. Subclasses get `opened`, `received`, `ended`; the last exactly once."""

    __slots__ = (
        "_closer",
        "_flusher",
        "_fragment_opcode",
        "_fragments",
        "_outbox",
        "_transport",
        "bounds",
        "closing",
        "direct",
        "finished",
        "over",
        "peer_closing",
        "ping_slot",
        "silent",
        "turn",
    )

    def __init__(self, flusher: Flusher, bounds: Bounds) -> None:
        self._flusher = flusher
        self.bounds = bounds
        self._transport: asyncio.Transport | None = None
        # The gateway.flusher's: what is to be written at the end of this turn, and the descriptor to write it
        # to, past the transport, while the connection is open and nothing waits; -1 otherwise.
        self.turn: bytes | list[bytes] | None = None
        self.direct = -1
        self._outbox: _Outbox | None = None
        self._fragments: bytearray | None = None
        self._fragment_opcode = 0
        self._closer: asyncio.TimerHandle | None = None
        self.closing = False
        self.finished = False
        self.over = False
        self.peer_closing = False  # it has said that it closes, and what it sent before is still served
        # The keep-alive's: pings since anything was heard, and the slot of its wheel.
        self.silent = 0
        self.ping_slot = 0

    # -- for subclasses ----------------------------------------------------------------------------

    def opened(self) -> None:
        """The 101 is on its way; frames may be sent."""

    def received(self, payload: bytes, binary: bool) -> None:
        """One complete message, reassembled, within the bounds. UTF-8 is not checked here."""

    def ended(self, category: str, reason: str | None) -> None:
        """The connection is over for us, though its socket may live on for the closing handshake.
        `reason` is what was said by who closed it; None when nothing was."""

    # -- sending -----------------------------------------------------------------------------------

    @property
    def queued_bytes(self) -> int:
        return self._outbox.bytes if self._outbox is not None else 0

    @property
    def flusher(self) -> Flusher:
        return self._flusher

    @property
    def open(self) -> bool:
        """Whether it has a socket: handed over, and not lost yet."""
        return self._transport is not None

    def send(self, data: bytes) -> None:
        """Queue a whole frame for the end of this turn. Ignored before the 101, when nobody can know of
        the connection yet, and once it closes."""
        if self.closing or self._transport is None:
            return
        turn = self.turn
        if turn is None:
            self.turn = data
            self._flusher.add(self)
        elif isinstance(turn, bytes):
            self.turn = [turn, data]
        else:
            turn.append(data)

    def send_until(self, data: bytes, deadline: float) -> None:
        """`send` for a message with a time to live: while it waits in the outbox past the deadline (of
        the event loop's clock) it is dropped (rest-api.md 6.2)."""
        if self.closing:
            return
        if self._outbox is None:
            self.send(data)
            return
        self.flush()
        self._queue(data, deadline)

    def flush(self) -> None:
        """Write what this turn gathered, in one write."""
        turn, self.turn = self.turn, None
        if turn is None or self._transport is None or self.finished:
            return
        frames = [turn] if isinstance(turn, bytes) else turn
        if self._outbox is not None:
            for data in frames:
                self._queue(data, 0.0)
        else:
            self.write(b"".join(frames))

    def write(self, data: bytes) -> None:
        """To the kernel while nothing waits; what it does not take makes the outbox begin."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        # The limit of the transport's buffer is zero, so resume_writing comes when the kernel has taken
        # all of this.
        transport.write(data)
        if waiting := transport.get_write_buffer_size():
            self.direct = -1
            self._outbox = self._outbox or _Outbox()
            if waiting > self.bounds.outbox_bytes:
                self.too_slow()

    def _queue(self, data: bytes, deadline: float) -> None:
        outbox = self._outbox
        if outbox is None:
            return
        outbox.frames.append((data, deadline))
        outbox.bytes += len(data) + OUTBOX_MESSAGE_BYTES
        if outbox.bytes > self.bounds.outbox_bytes and not self.closing:
            self.too_slow()

    def resume_writing(self) -> None:
        """The kernel took everything: write the next of the outbox."""
        now = asyncio.get_running_loop().time()
        while self._outbox is not None and self._transport is not None and not self.finished:
            outbox = self._outbox
            chunk: list[bytes] = []
            size = 0
            while outbox.frames and size < WRITE_CHUNK:
                data, deadline = outbox.frames.popleft()
                outbox.bytes -= len(data) + OUTBOX_MESSAGE_BYTES
                if not deadline or deadline >= now:
                    chunk.append(data)
                    size += len(data)
            if not outbox.frames:
                self._outbox = None
            if chunk:
                self.write(b"".join(chunk))
                if self._transport.get_write_buffer_size():
                    return  # resume_writing comes again
        if self._transport is not None and not self.closing:
            self.direct = direct_descriptor(self._transport)

    def too_slow(self) -> None:
        """The outbox is over its bound (client-protocols.md 8.2): 1008 if it still gets through, then cut."""
        if self._outbox is not None:
            self._outbox.frames.clear()
            self._outbox.bytes = 0
        self.close(1008, "The client does not read fast enough.", "SlowClient", seconds=1.0)

    def pause_reading(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    # -- closing -----------------------------------------------------------------------------------

    def close(
        self,
        code: int | None,
        reason: str,
        category: str,
        *,
        last: bytes = b"",
        seconds: float = CLOSE_SECONDS,
        told: str | None = None,
    ) -> None:
        """Send what is queued, `last` (a whole frame) and a close frame, and wait for the peer's, at
        most `seconds`. The connection is over at once for everybody else. Idempotent.

        `told` is the reason for others when it is not the one of the close frame."""
        if self.closing:
            return
        told = told or reason or None
        if self._transport is None:
            self.closing = True
            self._end(category, told)
            return
        if last:
            self.send(last)
        self.send(close_frame(code, reason))
        self.closing = True
        self.direct = -1
        self._end(category, told)
        self.resume_reading()  # for the peer's close frame; all else is ignored from now on
        self._close_within(seconds)

    def _close_within(self, seconds: float) -> None:
        if self._closer is None:
            self._closer = asyncio.get_running_loop().call_later(seconds, self.abort)

    def abort(self) -> None:
        """Cut the connection without a close frame. Idempotent."""
        self.closing = True
        self.direct = -1
        self.turn = None
        self._outbox = None
        if self._transport is not None:
            self._transport.abort()
        self._end("Normal")

    def broken(self) -> None:
        """The kernel refused a write: `lost` follows, as after a read that fails."""
        self.turn = None
        self.direct = -1
        if self._transport is not None:
            self._transport.abort()

    def cut(self, category: str, reason: str | None = None) -> None:
        """`abort`, with the reason for the books."""
        self._end(category, reason)
        self.abort()

    def _end(self, category: str, reason: str | None = None) -> None:
        if not self.over:
            self.over = True
            self.ended(category, reason)

    # -- what the wire brings (gateway.upgrade) ------------------------------------------------------

    def connected(self, transport: asyncio.Transport) -> None:
        """The 101 is written; frames may follow it."""
        self._transport = transport
        if transport.get_write_buffer_size() == 0:
            self.direct = direct_descriptor(transport)
        self.opened()

    def lost(self) -> None:
        """The socket is gone."""
        self.finished = True
        self.closing = True
        self.direct = -1
        self.turn = None
        self._outbox = None
        self._fragments = None
        if self._closer is not None:
            self._closer.cancel()
            self._closer = None
        self._end("Normal")
        self._transport = None

    def violated(self, code: int, reason: str) -> None:
        """The bytes are no frame that RFC 6455 allows, or a too large one; what comes after is not
        looked at. A frame before it in the same reading is received yet, before this turn ends."""
        asyncio.get_running_loop().call_soon(self._fail, code, reason)

    def _fail(self, code: int, reason: str) -> None:
        if not self.closing:
            self._outbox = None  # whole frames: it must get the close frame now
            self.close(code, reason, "BadRequest")
        self.flush()
        transport = self._transport
        waits = self._outbox is not None and self._outbox.frames
        if transport is not None and not waits and not transport.is_closing():
            # Its close frame cannot be read any more, so the end of our data tells it that we are done.
            # Closing at once, with bytes of it unread, would reset the connection and lose our frame.
            transport.write_eof()

    def on_ws_frame(self, transport: Any, ws_frame: Any) -> None:
        wire = transport.underlying_transport
        wire.tail = ws_frame.tail_size
        if ws_frame.payload_size > LARGE_FRAME_BYTES:
            wire.large = True
        try:
            self._on_frame(ws_frame)
        except Exception:
            log.exception("connection_failed")
            self.close(1011, "Internal error.", "ServiceTransientError")

    def _on_frame(self, ws_frame: Any) -> None:
        opcode = ws_frame.msg_type
        if self.peer_closing or (self.closing and opcode != OP_CLOSE):
            return  # nothing counts behind a close frame
        if ws_frame.rsv1 or ws_frame.rsv2 or ws_frame.rsv3:
            self.close(1002, "Reserved bits are set, but no extension was agreed.", "BadRequest")
        elif opcode in (OP_TEXT, OP_BINARY):
            if self._fragments is not None:
                self.close(1002, "A new message began within a fragmented one.", "BadRequest")
            elif ws_frame.payload_size > self.bounds.max_message_bytes:
                self._too_large()
            elif ws_frame.fin:
                self.received(ws_frame.get_payload_as_bytes(), opcode == OP_BINARY)
            else:
                self._fragments = bytearray(ws_frame.get_payload_as_bytes())
                self._fragment_opcode = int(opcode)
        elif opcode == CONTINUATION:
            self._continue_message(ws_frame)
        elif opcode == OP_PING:
            self.send(frame(PONG, ws_frame.get_payload_as_bytes()))
        elif opcode == OP_CLOSE:
            self._peer_closes(ws_frame)

    def _continue_message(self, ws_frame: Any) -> None:
        fragments = self._fragments
        if fragments is None:
            self.close(1002, "A continuation without a message to continue.", "BadRequest")
            return
        fragments += ws_frame.get_payload_as_bytes()
        if len(fragments) > self.bounds.max_message_bytes:
            self._fragments = None
            self._too_large()
        elif ws_frame.fin:
            self._fragments = None
            self.received(bytes(fragments), self._fragment_opcode == OP_BINARY)

    def _too_large(self) -> None:
        self.close(1009, f"Messages are limited to {self.bounds.max_message_bytes} bytes.", "BadRequest")

    def serve_first(self, payload: bytes) -> bool:
        """For subclasses: True when messages that came before the peer's close frame are still to be
        served; they call `answer_close(payload)` when that is done."""
        return False

    def _peer_closes(self, ws_frame: Any) -> None:
        """A close frame is read in its turn: first what came before it (server-events.md 3.17)."""
        payload = ws_frame.get_payload_as_bytes()
        if not self.closing and self.serve_first(payload):
            self.peer_closing = True
            asyncio.get_running_loop().call_later(SERVE_SECONDS, self.answer_close, payload)
        else:
            self.answer_close(payload)

    def answer_close(self, payload: bytes) -> None:
        """Answer with the same code and reason (1.12), then hang up. Idempotent."""
        if self.over and self.peer_closing:
            return
        if not self.closing:
            self._outbox = None  # it does not want what waits any more
            code = int.from_bytes(payload[:2], "big")
            if payload and (code in _ILLEGAL_CLOSE_CODES or code >= 5000):
                self.send(close_frame(1002, f"{code} is not a code that a close frame may have."))
            else:
                self.send(frame(CLOSE, payload))
        self.flush()
        self.closing = True
        self.direct = -1
        self._end("Normal", payload[2:].decode("utf-8", "replace") or None)
        if self._transport is not None:
            self._transport.close()
            self._close_within(CLOSE_SECONDS)  # it may never read what the kernel did not take yet
