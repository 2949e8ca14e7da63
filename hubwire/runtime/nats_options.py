"""How our processes connect to NATS: the keyword arguments for `nats.connect`."""

from __future__ import annotations

import ssl
from typing import Any

import structlog

from hubwire.bus.subjects import inbox_prefix
from hubwire.runtime.certificates import stat_of
from hubwire.runtime.process import ProcessConfig

log = structlog.get_logger(__name__)

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
    return RereadContext.of(config.nats_tls_ca, config.nats_tls_cert, config.nats_tls_key)


class RereadContext(ssl.SSLContext):
    """Looks before each connection whether its files have changed, and takes them then: certificates for NATS
    are renewed while processes run for months. Files that cannot be used are logged, and the ones before
    stay. It is a context only in name: another one, made from the files, does the work."""

    _files: tuple[str, str, str]
    _seen: tuple[object, ...]
    _current: ssl.SSLContext

    @classmethod
    def of(cls, ca: str, cert: str, key: str) -> RereadContext:
        """Raises OSError or ssl.SSLError when the files are not what they should be."""
        made = cls(ssl.PROTOCOL_TLS_CLIENT)
        made._files = ca, cert, key
        made._seen = made._signature()
        made._current = made._load()
        return made

    def wrap_bio(self, *arguments: Any, **options: Any) -> ssl.SSLObject:
        self._reread()
        return self._current.wrap_bio(*arguments, **options)

    def _reread(self) -> None:
        seen = self._signature()
        if seen == self._seen:
            return
        try:
            self._current = self._load()
        except OSError as error:
            log.error("nats_tls_files_refused", error=str(error))
            return  # tried again at the next connection: the other file may follow
        self._seen = seen
        log.info("nats_tls_files_replaced")

    def _load(self) -> ssl.SSLContext:
        ca, cert, key = self._files
        context = ssl.create_default_context(cafile=ca or None)
        if cert:
            context.load_cert_chain(cert, key, password="")  # or OpenSSL would ask the terminal
        return context

    def _signature(self) -> tuple[object, ...]:
        return tuple(stat_of(path) for path in self._files if path)
