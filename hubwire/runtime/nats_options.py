"""How our processes connect to NATS: the keyword arguments for `nats.connect`."""

from __future__ import annotations

import ssl
from typing import Any

from hubwire.bus.subjects import inbox_prefix
from hubwire.runtime.process import ProcessConfig

RECONNECT_WAIT_SECONDS = 0.2
# A server that hangs, or a link that swallows everything, is left after three of these. With one vain
# attempt to connect (two seconds) that is before the lease of a gateway (five seconds by default, and a
# margin) can be ended, so that its clients stay.
PING_SECONDS = 1
# What nats-py keeps for a lost connection. Publishers repeat what is not answered, so a deep buffer
# would only deliver stale messages late: past it the publish fails and the caller hears `Unavailable`.
PENDING_BYTES = 8 * 1024 * 1024


def nats_options(config: ProcessConfig, *, name: str = "") -> dict[str, Any]:
    """Keyword arguments for nats-py's `connect`: reconnects for ever, to any of the servers.

    Callbacks (`error_cb`, `disconnected_cb` ...) are the caller's to add. Reads the TLS files now, and
    raises OSError or ssl.SSLError when they are not what they should be.
    """
    options: dict[str, Any] = {
        "servers": list(config.nats_servers),
        "name": name or config.name or f"hubwire-{config.role}",
        "allow_reconnect": True,
        "max_reconnect_attempts": -1,
        "reconnect_time_wait": RECONNECT_WAIT_SECONDS,
        "connect_timeout": 2,
        "ping_interval": PING_SECONDS,
        "max_outstanding_pings": 2,
        "pending_size": PENDING_BYTES,
        "inbox_prefix": inbox_prefix(config.role),
    }
    if config.nats_user:
        options["user"] = config.nats_user
        options["password"] = config.nats_password
    if config.nats_token:
        options["token"] = config.nats_token
    if config.nats_creds_file:
        options["user_credentials"] = config.nats_creds_file
    if config.nats_nkey_file:
        options["nkeys_seed"] = config.nats_nkey_file
    tls = tls_context(config)
    if tls is not None:
        options["tls"] = tls
        if config.nats_tls_hostname:
            options["tls_hostname"] = config.nats_tls_hostname
    return options


def tls_context(config: ProcessConfig) -> ssl.SSLContext | None:
    """The TLS settings for NATS, or None when nothing asks for TLS."""
    wanted = config.nats_tls_ca or config.nats_tls_cert
    if not wanted and not any(url.startswith(("tls://", "wss://")) for url in config.nats_servers):
        return None
    context = ssl.create_default_context(cafile=config.nats_tls_ca or None)
    if config.nats_tls_cert:
        context.load_cert_chain(config.nats_tls_cert, config.nats_tls_key)
    return context
