"""What the writer of inboxes keeps of its entries while they are not stored.

A batch is one message of an inbox: `[VERSION, writer, number, [entry, ...]]`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from hubwire.bus.envelopes import VERSION, pack
from hubwire.model.errors import HubwireError

Stored = Callable[[int, HubwireError | None], None]
"""Called once: with the number at which the entry is stored (or before it) and None; with MISSING and None;
or with -1 and the error when it was given up."""

Wanted = Callable[[], bool]
"""Whether an entry is still to be written. Asked before its batch is sent or repeated."""

Passed = Callable[[HubwireError | None], None]
"""Called once: with None when everything before the barrier is stored, missing or given up; with the error
when the writer was closed."""

PATIENCE_SECONDS: Final = 1.0
MAX_PATIENCE_SECONDS: Final = 4.0
"""How long an answer is waited for before the batch is sent once more. The answer to any copy counts."""

SIGN_SECONDS: Final = 0.3
"""How long a sign of life is waited for from a stream that has not answered, before it is asked for anew."""

PAUSE_SECONDS: Final = 0.02
MAX_PAUSE_SECONDS: Final = 0.5
"""Before a batch is sent once more that was refused, or that nobody took."""

NO_STREAM: Final = 10059
ITEM_BYTES: Final = 128
"""What an entry costs beside its bytes while it waits."""


class _Fault(msgspec.Struct):
    err_code: int = 0
    description: str = ""


class _Answer(msgspec.Struct):
    """What the stream answers to a write, and the server to a question about the stream."""

    seq: int = 0
    stream: str = ""
    error: _Fault | None = None


_decode = msgspec.json.Decoder(_Answer).decode
_UNREADABLE = _Answer(error=_Fault(0, "the answer cannot be read"))


class Item:
    """An entry, or a barrier (`passed`), which costs nothing."""

    __slots__ = ("cost", "done", "entry", "passed", "wanted")

    def __init__(
        self, entry: bytes, done: Stored | None, wanted: Wanted | None, passed: Passed | None = None
    ) -> None:
        self.entry = entry
        self.cost = len(entry) + ITEM_BYTES if passed is None else 0
        self.done = done
        self.wanted = wanted
        self.passed = passed

    @property
    def is_wanted(self) -> bool:
        return self.wanted is None or self.wanted()


class Batch:
    """What is under way to an inbox, and how patiently."""

    __slots__ = ("cost", "entries", "items", "missed_at", "patience", "pause", "payload", "silent", "told")

    def __init__(self, payload: bytes, items: list[Item]) -> None:
        self.payload = payload
        self.items = items
        self.entries = sum(item.passed is None for item in items)
        self.cost = sum(item.cost for item in items)
        self.patience = PATIENCE_SECONDS
        self.pause = PAUSE_SECONDS
        self.missed_at: float | None = None  # when the server first said that there is no inbox
        self.told = False  # that it is refused was logged
        self.silent = False  # signs of life are asked for

    def next_pause(self) -> float:
        pause, self.pause = self.pause, min(self.pause * 2, MAX_PAUSE_SECONDS)
        return pause

    def next_patience(self) -> float:
        patience, self.patience = self.patience, min(self.patience * 2, MAX_PATIENCE_SECONDS)
        return patience

    def be_patient_again(self) -> None:
        """NATS is back: what was learnt before does not count."""
        self.pause, self.patience = PAUSE_SECONDS, PATIENCE_SECONDS


class Lane:
    """What goes to one inbox."""

    __slots__ = ("batch", "bytes", "gateway", "scheduled", "timer", "waiting")

    def __init__(self, gateway: str) -> None:
        self.gateway = gateway
        self.waiting: deque[Item] = deque()
        self.batch: Batch | None = None
        self.bytes = 0  # what the entries cost, waiting and in the batch
        self.scheduled = False
        self.timer: asyncio.TimerHandle | None = None


_HEAD: Final = b"\x94" + pack(VERSION)  # an array of four


def join_batch(writer: bytes, number: int, entries: Sequence[bytes]) -> bytes:
    """Joins entries that were packed once each, behind the packed name of their writer."""
    return b"".join((_HEAD, writer, pack(number), _array_header(len(entries)), *entries))


def _array_header(length: int) -> bytes:
    if length < 16:
        return bytes((0x90 | length,))
    if length < 65536:
        return b"\xdc" + length.to_bytes(2, "big")
    return b"\xdd" + length.to_bytes(4, "big")


def read_answer(data: bytes) -> _Answer:
    try:
        return _decode(data)
    except msgspec.DecodeError:
        return _UNREADABLE
