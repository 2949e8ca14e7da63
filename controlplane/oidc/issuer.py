"""One issuer as this process knows it: its keys, fetched in the background and kept.

Requests never wait for an issuer but in two cases: its keys were never fetched, or a token names a key that
is not among them. Then one fetch serves all that wait, and the next is some time off, so that nobody can have
us knock at an issuer's door by sending tokens with made-up names of keys.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from typing import TYPE_CHECKING

import aiohttp
import structlog

from controlplane.oidc.key_set import BadKeys, jwks_url_of, keys_of
from hubwire.model.errors import Unauthenticated, Unavailable
from hubwire.runtime.parsers import https_url

if TYPE_CHECKING:
    import jwt

FETCH_SECONDS = 5.0
"""For both documents of an issuer together."""
MAX_BYTES = 256 * 1024
"""Of each."""
REFRESH_SECONDS = 3600.0
RETRY_SECONDS = 30.0
"""After a failure."""
GAP_SECONDS = 10.0
"""The least between two fetches that requests bring about."""
NO_KEYS_GAP_SECONDS = 1.0
"""The same while no keys are known: callers repeat what is answered 503 after a second."""
KEEP_SECONDS = 24 * 3600.0
"""How long keys are good that cannot be fetched again: one that was withdrawn must go some day."""

log = structlog.get_logger(__name__)


class Issuer:
    """`run()` in a task, until cancelled; `key` from any number of requests."""

    def __init__(self, url: str, ca_file: str = "", *, gap_seconds: float = GAP_SECONDS) -> None:
        self.url = url
        self._ca_file = ca_file
        self._gap_seconds = gap_seconds
        self._asked = asyncio.Event()
        self._round: asyncio.Future[None] | None = None  # done when a fetch is, whatever came of it
        self._next_at = 0.0
        self._fetched_at: float | None = None
        self.keys: dict[str, jwt.PyJWK] = {}
        self.fault = ""
        """Why the last fetch failed; empty when it did not, or there was none."""
        self.fetches = 0
        self.failures = 0

    @property
    def age_seconds(self) -> float | None:
        """Since the keys were fetched last; None when they never were."""
        return None if self._fetched_at is None else time.monotonic() - self._fetched_at

    async def key(self, kid: str, algorithm: str) -> jwt.PyJWK:
        """The key of that name. Raises Unauthenticated when the issuer has none, Unavailable when what it
        has is not known."""
        found = self._find(kid, algorithm)
        if found is None and time.monotonic() >= self._next_at:
            await self._fetch_soon()
            found = self._find(kid, algorithm)
        if found is not None:
            return found
        if not self._usable:
            raise Unavailable(f"The keys of the issuer {self.url} are not known: {self.fault}.")
        raise Unauthenticated(f"The issuer {self.url} has no key {kid[:100]!r} for {algorithm}.")

    @property
    def _usable(self) -> bool:
        age = self.age_seconds
        return age is not None and age < KEEP_SECONDS

    def _find(self, kid: str, algorithm: str) -> jwt.PyJWK | None:
        if not self._usable:
            return None
        found = self.keys.get(kid)
        if found is None and not kid and len(self.keys) == 1:
            (found,) = self.keys.values()
        return found if found is not None and found.algorithm_name == algorithm else None

    async def _fetch_soon(self) -> None:
        """Have `run` fetch now; wait for what comes of it."""
        if self._round is None:
            self._round = asyncio.get_running_loop().create_future()
        self._asked.set()
        try:
            async with asyncio.timeout(FETCH_SECONDS + 1):
                await asyncio.shield(self._round)
        except TimeoutError:
            pass

    async def run(self) -> None:
        """Fetch now, each hour, when somebody needs it, and soon again after a failure."""
        async with self._session() as session:
            while True:
                await self._fetch(session)
                gap = self._gap_seconds if self._usable else min(self._gap_seconds, NO_KEYS_GAP_SECONDS)
                self._next_at = time.monotonic() + gap
                self._asked.clear()
                done, self._round = self._round, None
                if done is not None and not done.done():
                    done.set_result(None)
                try:
                    async with asyncio.timeout(RETRY_SECONDS if self.fault else REFRESH_SECONDS):
                        await self._asked.wait()
                except TimeoutError:
                    pass

    async def _fetch(self, session: aiohttp.ClientSession) -> None:
        before = self.fault
        try:
            async with asyncio.timeout(FETCH_SECONDS):
                document = await _get(session, self.url.rstrip("/") + "/.well-known/openid-configuration")
                url = jwks_url_of(document, self.url)
                try:
                    https_url(url)
                except ValueError as fault:
                    raise BadKeys(f"its jwks_uri {fault}") from None
                self.keys = keys_of(await _get(session, url))
        except TimeoutError:
            self.fault = f"it did not answer within {FETCH_SECONDS:g} s"
        except (aiohttp.ClientError, OSError, ValueError, BadKeys) as fault:
            self.fault = (str(fault) or type(fault).__name__)[:500]
        else:
            first = self._fetched_at is None
            self.fault, self._fetched_at = "", time.monotonic()
            self.fetches += 1
            if first or before:
                log.info("issuer_keys_fetched", issuer=self.url, keys=len(self.keys))
            return
        self.failures += 1
        if self.fault != before:
            log.warning("issuer_keys_not_fetched", issuer=self.url, error=self.fault)

    def _session(self) -> aiohttp.ClientSession:
        context: ssl.SSLContext | bool = True
        if self._ca_file:
            context = ssl.create_default_context(cafile=self._ca_file)
        connector = aiohttp.TCPConnector(ssl=context, limit=2, force_close=True)
        return aiohttp.ClientSession(
            connector=connector, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False
        )


async def _get(session: aiohttp.ClientSession, url: str) -> bytes:
    async with session.get(
        url, allow_redirects=False, headers={"Accept": "application/json", "Accept-Encoding": "identity"}
    ) as answer:
        if answer.status != 200:
            raise BadKeys(f"{url} answers {answer.status}")
        body = bytearray()
        async for chunk in answer.content.iter_any():
            body += chunk
            if len(body) > MAX_BYTES:
                raise BadKeys(f"{url} answers more than {MAX_BYTES} bytes")
        return bytes(body)
