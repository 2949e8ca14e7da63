"""What REST measures: every answer, by operation and status."""

from __future__ import annotations

from controlplane.operations import OPERATIONS
from hubwire.model.buckets import Buckets
from hubwire.runtime.meters import Meter, Reader, Sample

DURATION = Meter(
    "http.server.request.duration",
    "histogram",
    "s",
    "Requests to REST, by operation and status: the data plane's by their name, `HealthCheck`, `Management` "
    "for the management API, `Uncategorized` for what is none of these.",
    ("rest_category", "http.response.status_code"),
    "RestApiResponseTime",
)
ACTIVE = Meter("http.server.active_requests", "updown", "{request}", "Requests to REST that are in progress.")
METERS = (DURATION, ACTIVE)

HEALTH, MANAGEMENT, OTHER = "HealthCheck", "Management", "Uncategorized"
_KNOWN = {operation.id for operation in OPERATIONS} | {HEALTH, MANAGEMENT, OTHER}


class RequestTimes:
    """How long requests took. Bounded: operations are known, and statuses are those that we give."""

    def __init__(self) -> None:
        self.active = 0
        """Requests in progress."""
        self._times: dict[tuple[str, int], Buckets] = {}

    def record(self, category: str, status: int, seconds: float) -> None:
        key = (category if category in _KNOWN else OTHER), status
        found = self._times.get(key)
        if found is None:
            found = self._times[key] = Buckets()
        found.record(seconds)

    def samples(self) -> list[Sample]:
        return [((category, str(status)), one) for (category, status), one in list(self._times.items())]


def readers(times: RequestTimes) -> dict[Meter, Reader]:
    """Where the metrics are read."""
    return {DURATION: times.samples, ACTIVE: lambda: times.active}
