"""How long events take to their event handlers, by hub, kind of event and what became of them."""

from __future__ import annotations

from gateway.upstream.outcome import Answer, DeliveryFailure
from hubwire.model.buckets import Buckets
from hubwire.model.event_handlers import HandlerEvent
from hubwire.runtime.meters import PerHub, Sample


class CallTimes:
    """Bounded: `hubs` of them, seven kinds of events (all events of clients are `user`) and the categories of
    `gateway.upstream.outcome`."""

    def __init__(self, hubs: int) -> None:
        self._hubs: PerHub[dict[tuple[str, str], Buckets]] = PerHub(dict, hubs)

    def record(self, hub: str, event: HandlerEvent, outcome: Answer | DeliveryFailure) -> None:
        """One event, with all its repeats."""
        if isinstance(outcome, DeliveryFailure):
            said = str(outcome.category)
        else:
            said = "success" if outcome.success else "status"
        times = self._hubs.of(hub)
        key = ("user" if event.kind == "user" else event.name), said
        found = times.get(key)
        if found is None:
            found = times[key] = Buckets()
        found.record(outcome.seconds)

    def samples(self) -> list[Sample]:
        return [
            ((hub, event, outcome), one)
            for hub, times in self._hubs.items()
            for (event, outcome), one in list(times.items())
        ]
