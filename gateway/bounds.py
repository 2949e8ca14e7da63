"""What the connections of a hub may take: one object for all of them, changed in place with the settings.

So a limit is in force at once for open connections too, and costs a connection one reference. The source is
`hubwire.model.settings.HubLimits`; what nobody has limited has the service's own bound, or none.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from weakref import WeakValueDictionary

from gateway.tally import HubTally
from hubwire.model.limits import MAX_MESSAGE_BYTES, OUTBOX_BYTES
from hubwire.model.pace import Pace
from hubwire.model.settings import HubLimits
from hubwire.runtime.meters import PerHub

NONE = sys.maxsize
"""Where there is no limit: what is compared with it is never above it."""


class Bounds:
    """The limits of one hub, ready to be compared with. Those a second are 0 when there is no limit, and
    `paced` says whether there is one; `line` is where the hub's clients wait for their turns.

    `deciding` counts the clients of the hub that wait to be let in, and belongs to the gateway. `tally` is
    where what happens to the connections is counted."""

    __slots__ = (
        "__weakref__",
        "bytes_per_second",
        "deciding",
        "hub_messages_per_second",
        "line",
        "max_connections",
        "max_groups",
        "max_message_bytes",
        "messages_per_second",
        "outbox_bytes",
        "paced",
        "tally",
    )

    def __init__(
        self,
        limits: HubLimits = HubLimits(),  # noqa: B008 (immutable)
        outbox_bytes: int = OUTBOX_BYTES,
        tally: HubTally | None = None,
    ) -> None:
        self.deciding = 0
        self.hub_messages_per_second = 0
        self.line = Pace()
        self.tally = tally if tally is not None else HubTally()
        self.set(limits, outbox_bytes)

    def set(self, limits: HubLimits, outbox_bytes: int) -> None:
        """Make these the limits; `outbox_bytes` where they say nothing of it."""
        self.max_connections = limits.max_connections_per_gateway or NONE
        self.max_groups = limits.max_groups_per_connection or NONE
        self.max_message_bytes = min(limits.max_message_bytes or NONE, MAX_MESSAGE_BYTES)
        self.messages_per_second = limits.messages_per_second or 0
        self.bytes_per_second = limits.bytes_per_second or 0
        per_hub = limits.hub_messages_per_second_per_gateway or 0
        if per_hub != self.hub_messages_per_second:
            self.line = Pace()  # the places in the old one were given at another pace
        self.hub_messages_per_second = per_hub
        self.paced = bool(self.messages_per_second or self.bytes_per_second or per_hub)
        self.outbox_bytes = limits.outbox_bytes or outbox_bytes


class HubBounds:
    """The bounds of each hub that has connections here. Bounded by those: the others are forgotten."""

    def __init__(
        self,
        limits_of: Callable[[str], HubLimits],
        outbox_bytes: int,
        tallies: PerHub[HubTally] | None = None,
    ) -> None:
        self._tallies: PerHub[HubTally] = tallies if tallies is not None else PerHub(HubTally, 0)
        self._limits_of = limits_of
        self._outbox_bytes = outbox_bytes
        self._by_hub: WeakValueDictionary[str, Bounds] = WeakValueDictionary()

    def __len__(self) -> int:
        return len(self._by_hub)

    def of(self, hub: str) -> Bounds:
        """The bounds of a hub, by its name in lower case. Whoever keeps them sees every change."""
        found = self._by_hub.get(hub)
        if found is None:
            tally = self._tallies.of(hub)
            found = self._by_hub[hub] = Bounds(self._limits_of(hub), self._outbox_bytes, tally)
        return found

    def settings_changed(self) -> None:
        """The settings are others: so are the bounds."""
        for hub, bounds in list(self._by_hub.items()):
            bounds.set(self._limits_of(hub), self._outbox_bytes)
