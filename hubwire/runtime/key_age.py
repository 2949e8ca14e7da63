"""Keeps the keys of reconnection tokens young in a process that runs for months."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog

from hubwire.bus.settings import SettingsStore
from hubwire.model.errors import HubwireError

log = structlog.get_logger(__name__)

LOOK_SECONDS = 3600.0


async def keep_reconnection_keys_young(
    store: SettingsStore, now: Callable[[], float] = time.time, pause_seconds: float = LOOK_SECONDS
) -> None:
    """Look now and then whether the key that signs is to be followed by the next, until cancelled. Any number
    of processes may: they agree. What fails, as NATS is away, is done the next time."""
    while True:
        await asyncio.sleep(pause_seconds)
        try:
            before = store.reconnection_keys.made_at
            after = (await store.ensure_reconnection_keys(now())).made_at
            if before != after:
                log.info("reconnection_key_made", made_at=after)
        except HubwireError as error:
            log.debug("reconnection_key_not_looked_at", error=str(error))
