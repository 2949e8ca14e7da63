"""One HTTP exchange over a pool of keep-alive connections: the only place that knows aiohttp's client.

No redirects, no shared cookies, no proxies of the environment, no decompression; headers and bodies of
answers are bounded (server-events.md 4.1, 4.10, 8.4).
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Sequence
from contextvars import ContextVar
from functools import lru_cache
from typing import Any, Final

import aiohttp
from yarl import URL

from gateway.upstream.clock import Clock
from gateway.upstream.outcome import Answer, FailureCategory
from gateway.upstream.safety import (
    AddressPolicy,
    AddressRefused,
    Lookup,
    SafeResolver,
    is_numeric,
    system_lookup,
)

MAX_HEADER_BYTES: Final = 16 * 1024
"""Of one header: a connection state of 8 KiB has to fit."""
MAX_HEADERS: Final = 128
LARGE_BYTES: Final = 1024 * 1024
"""What an answer may hold before it counts as a large one, of which few are read at a time."""
IGNORED_BYTES: Final = 64 * 1024
"""What is read of a body that nobody looks at, so that the connection can be used again."""


class ExchangeFailed(Exception):
    """No usable answer. `retryable` is the verdict of the table in 4.8. `stale`: a connection that was kept
    turned out to be closed, which says nothing of the upstream. `status` is that of an answer that had
    begun."""

    def __init__(
        self,
        category: FailureCategory,
        reason: str,
        *,
        retryable: bool = False,
        stale: bool = False,
        status: int | None = None,
    ) -> None:
        super().__init__(reason)
        self.category: FailureCategory = category
        self.reason = reason
        self.retryable = retryable
        self.stale = stale
        self.status = status


class Exchanger:
    """Sends requests. Must be made, used and closed in one event loop.

    It bounds neither how many requests run at a time nor how long they take, only the time to connect:
    both are its callers'. A cancelled exchange closes its connection.
    """

    def __init__(
        self,
        policy: AddressPolicy,
        clock: Clock,
        *,
        connect_seconds: float,
        idle_seconds: float,
        ca_file: str = "",
        lookup: Lookup = system_lookup,
    ) -> None:
        self._resolver = SafeResolver(policy, clock, lookup)
        tls: ssl.SSLContext | bool = True
        if ca_file:
            tls = ssl.create_default_context()
            tls.load_verify_locations(ca_file)
        # A host that is an address is not resolved, so it is judged here; settings name few of them.
        self._numeric_fault = lru_cache(maxsize=1000)(
            lambda host: policy.fault(host) if is_numeric(host) else None
        )
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0,
                limit_per_host=0,
                resolver=self._resolver,
                use_dns_cache=False,  # the resolver has its own
                keepalive_timeout=idle_seconds,
                ssl=tls,
                socket_factory=_new_socket,
            ),
            timeout=aiohttp.ClientTimeout(total=None, connect=connect_seconds),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent"),
            headers={"User-Agent": "Hubwire"},
            auto_decompress=False,
            trust_env=False,
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
            max_headers=MAX_HEADERS,
        )

    async def close(self) -> None:
        await self._session.close()
        await self._resolver.close()

    async def exchange(
        self,
        method: str,
        url: str,
        headers: Sequence[tuple[str, str]],
        body: bytes | None = None,
        *,
        answer_bytes: int,
        large: asyncio.Semaphore | None = None,
        ignore_body: bool = False,
    ) -> Answer:
        """One attempt. `large` is taken while an answer of more than a mebibyte is read. Raises
        ExchangeFailed, whose text has no secrets of the URL in it."""
        target = URL(url, encoded=True)
        fault = self._numeric_fault(target.host or "")
        if fault is not None:
            raise ExchangeFailed("address_refused", fault)
        attempt = _Attempt()
        _current.set(attempt)
        try:
            response = await self._session.request(
                method, target, headers=headers, data=body, allow_redirects=False
            )
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
            stale = not attempt.connected and not isinstance(error, aiohttp.ClientConnectorError)
            raise ExchangeFailed("network", _network_reason(error), retryable=True, stale=stale) from error
        except aiohttp.ClientResponseError as error:
            # It had begun to answer, so it has got the event: not sent again.
            reason = "The answer is not HTTP/1.1, or its headers are too large, too many or illegal."
            raise ExchangeFailed("bad_answer", reason) from error
        except AddressRefused as error:
            raise ExchangeFailed("address_refused", str(error)) from error
        except (aiohttp.InvalidURL, ValueError) as error:
            raise ExchangeFailed("unsendable", "The request cannot be sent as HTTP.") from error
        except aiohttp.ClientError as error:
            raise ExchangeFailed("network", _network_reason(error), retryable=True) from error
        except TimeoutError as error:  # of connecting, since there is no other here
            raise ExchangeFailed("network", "No connection in time.", retryable=True) from error
        try:
            content = await _read(response, answer_bytes, large, ignore_body)
        except aiohttp.ClientError as error:
            # It had begun to answer, so it has got the event: not sent again.
            response.close()
            reason = "The connection broke in the middle of the answer."
            raise ExchangeFailed("network", reason, status=response.status) from error
        except BaseException:
            response.close()
            raise
        raw = (
            (name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in response.raw_headers
        )
        return Answer(response.status, tuple(raw), content)


class _Attempt:
    """`connected` says whether a connection was made for it; otherwise it went over a kept one."""

    connected = False


# How the factory of sockets finds the attempt that it makes one for: it runs in the attempt's task, or in
# one that the attempt has started. (aiohttp's tracing tells it too, but costs a fifth of a request.)
_current: ContextVar[_Attempt] = ContextVar("upstream_attempt")


def _new_socket(address: Any) -> socket.socket:
    _current.get().connected = True
    family, kind, protocol, *_ = address
    return socket.socket(family, kind, protocol)


async def _read(
    response: aiohttp.ClientResponse, limit: int, large: asyncio.Semaphore | None, ignore: bool
) -> bytes:
    """The body, up to `limit` bytes. Over it, or for a body that nobody wants and that is long, the
    connection is closed instead of read on."""
    if ignore:
        size = 0
        async for chunk in response.content.iter_any():
            size += len(chunk)
            if size > IGNORED_BYTES:
                response.close()
                break
        return b""
    encoding = response.headers.get("Content-Encoding", "").lower()
    if encoding not in ("", "identity"):
        raise ExchangeFailed(
            "bad_answer",
            f"The answer is compressed ({encoding[:20]}), which was not asked for.",
            status=response.status,
        )
    length = response.content_length
    if length is not None:
        if length > limit:
            raise _too_large(response, limit)
        if length <= LARGE_BYTES:
            return await response.content.read()  # the parser gives no more than that
    chunks: list[bytes] = []
    size = 0
    holds_large = False
    try:
        async for chunk in response.content.iter_any():
            size += len(chunk)
            if size > limit:
                raise _too_large(response, limit)
            chunks.append(chunk)
            if size > LARGE_BYTES and large is not None and not holds_large:
                await large.acquire()
                holds_large = True
        return b"".join(chunks)
    finally:
        if holds_large and large is not None:
            large.release()


def _too_large(response: aiohttp.ClientResponse, limit: int) -> ExchangeFailed:
    reason = f"The answer has more than {limit} bytes."
    return ExchangeFailed("too_large", reason, status=response.status)


def _network_reason(error: Exception) -> str:
    """For operators. aiohttp's own texts may have the whole URL in them, so they are not used."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "The host name cannot be resolved."
    if isinstance(error, (aiohttp.ClientConnectorCertificateError, aiohttp.ClientConnectorSSLError)):
        cause = getattr(error, "certificate_error", None) or getattr(error, "os_error", None)
        reason = getattr(cause, "verify_message", "") or getattr(cause, "reason", "") or "failed"
        return f"TLS: {reason}."
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return "No connection in time."
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "The connection was closed before an answer."
    if isinstance(error, OSError) and error.strerror:
        return f"The connection failed: {error.strerror}."
    return f"The connection failed ({type(error).__name__})."
