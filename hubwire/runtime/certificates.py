"""The certificate for clients and REST: read, looked at again and again, replaced while connections live.

Kubernetes replaces a mounted Secret by another symlink, certbot writes new files: either way the stat of the
two paths changes. A pair that cannot be used is logged and the one before stays in force.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from collections.abc import Callable
from typing import NamedTuple

import structlog

from hubwire.model.errors import InvalidRequest
from hubwire.runtime.meters import Meter, Reader
from hubwire.runtime.process import ProcessConfig
from hubwire.runtime.tls_transport import TlsEdge, TlsTally

LOOK_SECONDS = 10.0
"""How often the files are looked at."""
SOON_SECONDS = 14 * 86400.0
"""A certificate with less time to live is warned of."""
WARN_EVERY_SECONDS = 6 * 3600.0

REMAINING = Meter(
    "hubwire.tls.certificate.remaining",
    "gauge",
    "s",
    "How long the certificate for clients and REST is still valid; negative once it has expired. Only with "
    "`tls_cert`.",
)
REFUSED = Meter(
    "hubwire.tls.certificate.refused",
    "counter",
    "{pair}",
    "Changed certificates or keys that could not be used; the pair before stays in force.",
)
HANDSHAKES = Meter(
    "hubwire.tls.handshakes",
    "counter",
    "{connection}",
    "Accepted sockets that spoke: TLS with success (`done`), something that it could not agree on "
    "(`failed`), or plain HTTP (`plain`).",
    ("outcome",),
)
METERS = (REMAINING, REFUSED, HANDSHAKES)

log = structlog.get_logger(__name__)


class Certificate(NamedTuple):
    """A pair that fits. `names` are those of the certificate, `not_after` is in Unix seconds."""

    context: ssl.SSLContext
    names: tuple[str, ...]
    not_after: float


def load_certificate(cert: str, key: str) -> Certificate:
    """Read both files. Raises InvalidRequest with a sentence that names them."""
    from cryptography import x509  # here, as most commands need none

    try:
        with open(cert, "rb") as file:
            leaf = x509.load_pem_x509_certificates(file.read())[0]
    except (OSError, ValueError) as fault:
        raise InvalidRequest(f"{cert} holds no certificate that can be read ({fault}).") from fault
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(cert, key, password="")  # or OpenSSL would ask the terminal
    except (OSError, ValueError) as fault:
        why = getattr(fault, "reason", None) or getattr(fault, "strerror", None) or str(fault)
        raise InvalidRequest(
            f"{cert} and {key} cannot be used together ({why}); the key must be PEM, without a passphrase, "
            "and that of the first certificate."
        ) from fault
    return Certificate(context, _names(leaf), leaf.not_valid_after_utc.timestamp())


def _names(leaf: object) -> tuple[str, ...]:
    from cryptography import x509

    assert isinstance(leaf, x509.Certificate)
    try:
        found = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    addresses = [str(one) for one in found.get_values_for_type(x509.IPAddress)]
    return (*found.get_values_for_type(x509.DNSName), *addresses)


class ServedCertificate:
    """The pair in force. `run()` in the service's task group, until cancelled."""

    def __init__(self, cert: str, key: str, *, look_seconds: float = LOOK_SECONDS) -> None:
        """Raises InvalidRequest when the files cannot be used: without a certificate nothing is served."""
        self._paths = cert, key
        self._look_seconds = look_seconds
        self._seen = self._signature()
        self._fault = ""
        self._refused = 0
        self._warned = float("-inf")
        self.current = load_certificate(cert, key)
        self.tally = TlsTally()
        self.edge = TlsEdge(lambda: self.current.context, self.tally)

    @classmethod
    def of(cls, config: ProcessConfig) -> ServedCertificate | None:
        """None where nothing asks for TLS."""
        return cls(config.tls_cert, config.tls_key) if config.tls_cert else None

    @property
    def seconds_left(self) -> float:
        return self.current.not_after - time.time()

    @property
    def readers(self) -> dict[Meter, Reader]:
        tally = self.tally
        return {
            REMAINING: lambda: self.seconds_left,
            REFUSED: lambda: self._refused,
            HANDSHAKES: lambda: [
                (("done",), tally.done),
                (("failed",), tally.failed),
                (("plain",), tally.plain),
            ],
        }

    async def run(self) -> None:
        log.info("tls_certificate_in_use", **self._facts())
        while True:
            self._warn()
            await asyncio.sleep(self._look_seconds)
            # On a thread: the files may be on a file system that hangs.
            await asyncio.to_thread(self.look)

    def look(self) -> None:
        """Take the files if they have changed. One that was refused is tried each time: the other of the two
        may have followed. Never raises."""
        seen = self._signature()
        if seen == self._seen and not self._fault:
            return
        try:
            found = load_certificate(*self._paths)
        except InvalidRequest as fault:
            if str(fault) != self._fault or seen != self._seen:
                self._refused += 1
                log.error("tls_certificate_refused", error=str(fault), not_after=_day(self.current.not_after))
            self._fault = str(fault)
            self._seen = seen
            return
        self._seen, self._fault = seen, ""
        self.current = found
        self._warned = float("-inf")
        log.info("tls_certificate_replaced", **self._facts())

    def _signature(self) -> tuple[object, ...]:
        """Changes when a file does, also by a symlink on the way to it."""
        return tuple(stat_of(path) for path in self._paths)

    def _facts(self) -> dict[str, object]:
        return {"names": list(self.current.names), "not_after": _day(self.current.not_after)}

    def _warn(self) -> None:
        now = time.monotonic()
        left = self.seconds_left
        if left > SOON_SECONDS or now - self._warned < WARN_EVERY_SECONDS:
            return
        self._warned = now
        log.warning(
            "tls_certificate_expires", not_after=_day(self.current.not_after), days=round(left / 86400, 1)
        )


def stat_of(path: str) -> tuple[int, int, int, int] | None:
    """What changes when a file does, also by a symlink on the way to it; None when there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


Around = Callable[[Callable[[], asyncio.BaseProtocol]], Callable[[], asyncio.BaseProtocol]]


def around(certificate: ServedCertificate | None) -> Around:
    """Puts TLS below a factory of protocols, or nothing."""
    return certificate.edge.around if certificate is not None else lambda make: make
