"""Credentials towards upstreams: what `ManagedIdentity` means on a service of one's own (1.5).

A token source is configured once per service: OAuth2 client credentials, or a file with a token that
somebody else renews. Without one, a handler that asks for `ManagedIdentity` gets no events.
"""

from __future__ import annotations

import asyncio
import os
from base64 import b64encode, urlsafe_b64decode
from collections.abc import Callable
from typing import Any, Final, Protocol
from urllib.parse import quote, quote_plus, urlencode

import msgspec

from gateway.upstream.clock import Clock
from gateway.upstream.config import ClientCredentials, TokenFile
from gateway.upstream.exchange import ExchangeFailed, Exchanger
from gateway.upstream.single_flight import SingleFlight

RENEW_SECONDS: Final = 300.0
"""How long before its expiry a token is renewed; tokens that live for less than twice that, at half time."""
DEFAULT_LIFETIME_SECONDS: Final = 300.0
FILE_SECONDS: Final = 30.0
"""How often a token file is looked at."""
MAX_TOKEN_BYTES: Final = 64 * 1024
REQUEST_SECONDS: Final = 30.0
MAX_BACK_OFF_SECONDS: Final = 60.0


class TokenUnavailable(Exception):
    """No token for the upstream; the text is a sentence for the operator, without secrets."""


class TokenSource(Protocol):
    async def token(self, resource: str) -> str:
        """A token that is valid now, for this audience. Raises TokenUnavailable."""

    async def close(self) -> None: ...


class NoIdentity:
    """Nothing is configured."""

    async def token(self, resource: str) -> str:
        raise TokenUnavailable(
            "The handler asks for ManagedIdentity, and the service has no identity set up."
        )

    async def close(self) -> None:
        pass


class _Cached:
    __slots__ = ("expires", "renew", "token")

    def __init__(self, token: str, lifetime: float, now: float) -> None:
        self.token = token
        self.expires = now + lifetime
        self.renew = now + max(lifetime - RENEW_SECONDS, lifetime / 2)


class _Failed:
    __slots__ = ("back_off", "reason", "until")

    def __init__(self, reason: str, back_off: float, now: float) -> None:
        self.reason = reason
        self.back_off = back_off
        self.until = now + back_off


class ClientCredentialsSource:
    """Tokens by the OAuth2 client credentials grant (RFC 6749, 4.4), one per resource.

    A token is used until about five minutes before its expiry; then it is renewed in the background and
    used on while that lasts. After a failure the authorization server is left alone for 1 s, doubling up to
    60 s, and events fail at once with the same reason, unless a token is still valid.
    """

    def __init__(self, config: ClientCredentials, exchanger: Exchanger, clock: Clock) -> None:
        self._config = config
        self._exchanger = exchanger
        self._clock = clock
        self._tokens: dict[str, _Cached] = {}
        self._failures: dict[str, _Failed] = {}
        self._flight: SingleFlight[str, str] = SingleFlight()

    async def token(self, resource: str) -> str:
        now = self._clock.monotonic()
        cached = self._tokens.get(resource)
        failed = self._failures.get(resource)
        resting = failed is not None and now < failed.until
        if cached is not None and now < cached.expires:
            if now >= cached.renew and not resting:
                self._flight.start(resource, lambda: self._fetch(resource))
            return cached.token
        if failed is not None and resting:
            raise TokenUnavailable(failed.reason)
        return await self._flight.run(resource, lambda: self._fetch(resource))

    async def close(self) -> None:
        await self._flight.close()

    async def _fetch(self, resource: str) -> str:
        try:
            cached = await self._ask(resource)
        except TokenUnavailable as error:
            before = self._failures.get(resource)
            back_off = min(before.back_off * 2, MAX_BACK_OFF_SECONDS) if before is not None else 1.0
            self._failures[resource] = _Failed(str(error), back_off, self._clock.monotonic())
            raise
        self._failures.pop(resource, None)
        self._tokens[resource] = cached
        return cached.token

    async def _ask(self, resource: str) -> _Cached:
        config = self._config
        scope = resource
        if config.scope_suffix:
            scope = resource.rstrip("/") + config.scope_suffix
        form = {"grant_type": "client_credentials"}
        if scope:
            form["scope"] = scope
        headers = [("Content-Type", "application/x-www-form-urlencoded"), ("Accept", "application/json")]
        if config.in_body:
            form |= {"client_id": config.client_id, "client_secret": config.client_secret}
        else:
            pair = f"{quote_plus(config.client_id)}:{quote_plus(config.client_secret)}"  # RFC 6749, 2.3.1
            headers.append(("Authorization", "Basic " + b64encode(pair.encode()).decode()))
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                answer = await self._exchanger.exchange(
                    "POST",
                    config.token_url,
                    headers,
                    urlencode(form).encode(),
                    answer_bytes=MAX_TOKEN_BYTES,
                )
        except ExchangeFailed as failure:
            raise TokenUnavailable(f"The authorization server gave no token: {failure.reason}") from failure
        except TimeoutError as error:
            raise TokenUnavailable("The authorization server does not answer.") from error
        content = _json_object(answer.body)
        if not answer.success:
            # `error` is one of RFC 6749's words, never a secret.
            said = str(content.get("error", ""))[:80]
            raise TokenUnavailable(f"The authorization server answered {answer.status} {said}".rstrip() + ".")
        token = content.get("access_token")
        if not isinstance(token, str) or not _is_token(token):
            raise TokenUnavailable("The authorization server answered without a usable access_token.")
        lifetime = content.get("expires_in")
        if isinstance(lifetime, str) and lifetime.isdigit():  # some servers write it as text
            lifetime = int(lifetime)
        if not isinstance(lifetime, (int, float)) or isinstance(lifetime, bool) or lifetime <= 0:
            lifetime = DEFAULT_LIFETIME_SECONDS
        return _Cached(token, float(lifetime), self._clock.monotonic())


class TokenFileSource:
    """A token from a file that an agent renews, such as a projected service account token of Kubernetes.

    The file is looked at every 30 s. A token that has expired is a failure, not sent.
    """

    def __init__(self, config: TokenFile, clock: Clock, read: Callable[[str], bytes] | None = None) -> None:
        self._config = config
        self._clock = clock
        self._read = read or _read_file
        self._known: dict[str, tuple[float, str]] = {}

    async def token(self, resource: str) -> str:
        now = self._clock.monotonic()
        known = self._known.get(resource)
        if known is None or now >= known[0]:
            known = (now + FILE_SECONDS, self._load(resource))
            self._known[resource] = known
        expires = _expiry(known[1])
        if expires is not None and expires <= self._clock.time():
            self._known.pop(resource)
            raise TokenUnavailable(f"The token in {self._path(resource)} has expired and was not renewed.")
        return known[1]

    async def close(self) -> None:
        pass

    def _path(self, resource: str) -> str:
        return self._config.path.replace("{resource}", quote(resource, safe=""))

    def _load(self, resource: str) -> str:
        path = self._path(resource)
        try:
            content = self._read(path)
        except OSError as error:
            raise TokenUnavailable(
                f"The token file {path} cannot be read ({error.strerror or type(error).__name__})."
            ) from error
        token = content.decode("latin-1").strip()
        if not _is_token(token):
            raise TokenUnavailable(f"The file {path} has no token in it.")
        return token


def token_source(
    identity: ClientCredentials | TokenFile | None, exchanger: Exchanger, clock: Clock
) -> TokenSource:
    if isinstance(identity, ClientCredentials):
        return ClientCredentialsSource(identity, exchanger, clock)
    if isinstance(identity, TokenFile):
        return TokenFileSource(identity, clock)
    return NoIdentity()


def _read_file(path: str) -> bytes:
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size > MAX_TOKEN_BYTES:
            return b""
        return file.read(MAX_TOKEN_BYTES)


def _is_token(text: str) -> bool:
    return bool(text) and text.isascii() and text.isprintable() and " " not in text


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        content = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _expiry(token: str) -> float | None:
    """`exp` of a JWT, not verified: it is our own. None for other kinds of tokens."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = _json_object(urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except ValueError:
        return None
    expires = claims.get("exp")
    return float(expires) if isinstance(expires, (int, float)) and not isinstance(expires, bool) else None
