"""What a message carries, so that who gets it knows whether it is new, how old it is, and whether it was
meant."""

from __future__ import annotations

from typing import NamedTuple

MARK = "hubwire-load"
FIELDS = 6


class Stamp(NamedTuple):
    """`number` counts from 0 for each pair of sender and target; `sent_ns` is Unix time in nanoseconds."""

    run: str
    target: str
    sender: str
    number: int
    sent_ns: int


def write(stamp: Stamp, size: int) -> str:
    """A text of `size` characters, or of as many as the stamp needs."""
    text = f"{MARK}|{stamp.run}|{stamp.target}|{stamp.sender}|{stamp.number}|{stamp.sent_ns}|"
    return text.ljust(size, "x")


def read(text: str) -> Stamp | None:
    """None for a message that is not of a load test."""
    parts = text.split("|", FIELDS)
    if len(parts) <= FIELDS or parts[0] != MARK:
        return None
    try:
        return Stamp(parts[1], parts[2], parts[3], int(parts[4]), int(parts[5]))
    except ValueError:
        return None
