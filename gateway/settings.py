"""The gateway's own limits, with their defaults and ranges (the process's settings are ProcessConfig)."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import urlsplit

from gateway.upstream.config import ClientCredentials, TokenFile, UpstreamConfig
from hubwire.model.limits import OUTBOX_BYTES
from hubwire.runtime.process import ProcessConfig


class GatewayLimits(NamedTuple):
    """`max_connections`: past it a handshake is answered 429 (client-protocols.md 1.4, step 9).
    `outbox_bytes`: what may wait for one connection's socket before it is closed as a slow consumer.
    `register_seconds`: how long an owner may take to confirm a new connection's user and groups.
    `metrics_hubs`: how many hubs are counted apart."""

    max_connections: int = 100_000
    outbox_bytes: int = OUTBOX_BYTES
    register_seconds: float = 10.0
    metrics_hubs: int = 50


def upstream_config(config: ProcessConfig) -> UpstreamConfig:
    """How event handlers are called, from what the process was told."""
    public_host = config.public_host
    if not public_host and config.public_endpoints:
        public_host = urlsplit(config.public_endpoints[0]).netloc
    identity: ClientCredentials | TokenFile | None = None
    if config.upstream_token_url:
        identity = ClientCredentials(
            config.upstream_token_url,
            config.upstream_client_id,
            config.upstream_client_secret,
            config.upstream_scope_suffix,
        )
    elif config.upstream_token_file:
        identity = TokenFile(config.upstream_token_file)
    return UpstreamConfig(
        public_host=public_host,
        event_seconds=config.upstream_seconds,
        allow_private=config.upstream_addresses == "any",
        allow=config.upstream_allow,
        deny=config.upstream_deny,
        ca_file=config.upstream_ca_file,
        identity=identity,
    )
