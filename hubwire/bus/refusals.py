"""What NATS does not let this process do: said once for each subject, and counted."""

from __future__ import annotations

from typing import Final

import structlog

log = structlog.get_logger(__name__)

MAX_TOLD: Final = 100
"""So many different refusals are logged; inboxes have a new name each time."""


class Refusals:
    """Of one connection. `count` only grows."""

    def __init__(self) -> None:
        self.count = 0
        self._told: set[str] = set()

    def heard(self, error: Exception) -> bool:
        """Whether the error is one; it is counted and logged then."""
        text = str(error)
        if "permissions violation" not in text.lower():
            return False
        self.count += 1
        if text not in self._told and len(self._told) < MAX_TOLD:
            self._told.add(text)
            log.error("nats_refused", error=text)
        return True
