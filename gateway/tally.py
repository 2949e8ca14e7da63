"""What a gateway counts of a hub: plain integers, changed where it happens, read by `gateway.meters`.

The connections of a hub find theirs by their `Bounds`, so counting a message looks nothing up.
"""

from __future__ import annotations

import time
from collections import Counter

from hubwire.model.buckets import SHORT_SECONDS, Buckets

SIMPLE = "none"
"""The label of connections without a subprotocol."""

GROUP, HUB, USER, CONNECTION, EVENT = "group", "hub", "user", "connection", "event"
KIND_OF_KEY = {"g": GROUP, "h": HUB, "u": USER}

SAY_EVERY_SECONDS = 60.0
"""How often what happens to a hub's messages is logged, however many they are."""

STAMP_EVERY = 16
"""One in so many publishes of clients carries when it was accepted, and those of REST all do: what that costs
must not be felt, and a sixteenth has the same distribution as the whole."""


class Sent:
    """Messages to clients, and the bytes of their frames."""

    __slots__ = ("bytes", "messages")

    def __init__(self) -> None:
        self.messages = 0
        self.bytes = 0


class HubTally:
    """One hub's, or all those beyond the cap's together."""

    __slots__ = (
        "active",
        "closed",
        "delivery",
        "events",
        "events_bytes",
        "failed",
        "held",
        "opened",
        "published",
        "published_bytes",
        "say_failed_at",
        "say_held_at",
        "sent",
    )

    def __init__(self) -> None:
        self.opened: Counter[str] = Counter()
        """By subprotocol."""
        self.active: Counter[str] = Counter()
        """By subprotocol: those that are open."""
        self.closed: Counter[str] = Counter()
        """By category."""
        self.published = 0
        self.published_bytes = 0
        self.events = 0
        self.events_bytes = 0
        self.held = 0
        """Messages of clients that had to wait for their turn."""
        self.failed = 0
        """Publishes of clients that no owner has confirmed."""
        self.say_held_at = self.say_failed_at = float("-inf")
        self.sent: dict[str, Sent] = {}
        """By what they were addressed to."""
        self.delivery = Buckets(SHORT_SECONDS)
        """From accepting a publish to writing it, in seconds, where that is told."""

    def begins(self, protocol: str) -> None:
        """A connection is open."""
        self.opened[protocol or SIMPLE] += 1
        self.active[protocol or SIMPLE] += 1

    def ends(self, protocol: str, category: str) -> None:
        """One that was open is over."""
        self.active[protocol or SIMPLE] -= 1
        self.closed[category] += 1

    def holds_up(self, now: float) -> bool:
        """A message has to wait for its turn. True when that may be logged: once in a while, however many."""
        self.held += 1
        if now < self.say_held_at:
            return False
        self.say_held_at = now + SAY_EVERY_SECONDS
        return True

    def fails(self, now: float) -> bool:
        """A publish was not confirmed. True when that may be logged."""
        self.failed += 1
        if now < self.say_failed_at:
            return False
        self.say_failed_at = now + SAY_EVERY_SECONDS
        return True

    def delivered(self, accepted: float) -> None:
        """What was accepted then is written now. By two clocks, when another host has accepted it: what seems
        to have come before it was sent took no time."""
        self.delivery.record(max(0.0, time.time() - accepted))

    def sent_to(self, kind: str) -> Sent:
        found = self.sent.get(kind)
        if found is None:
            found = self.sent[kind] = Sent()
        return found
