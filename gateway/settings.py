"""The gateway's own limits, with their defaults and ranges (the process's settings are ProcessConfig)."""

from __future__ import annotations

from typing import NamedTuple

from hubwire.model.limits import OUTBOX_BYTES


class GatewayLimits(NamedTuple):
    """`max_connections`: past it a handshake is answered 429 (client-protocols.md 1.4, step 9).
    `outbox_bytes`: what may wait for one connection's socket before it is closed as a slow consumer.
    `register_seconds`: how long an owner may take to confirm a new connection's user and groups."""

    max_connections: int = 100_000
    outbox_bytes: int = OUTBOX_BYTES
    register_seconds: float = 10.0
