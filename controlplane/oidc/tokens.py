"""Verifies tokens of the configured issuers, and says what their bearers may do."""

from __future__ import annotations

import asyncio
from base64 import urlsafe_b64decode
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from controlplane.oidc.issuer import Issuer
from controlplane.oidc.key_set import ALGORITHMS
from controlplane.oidc.rights import Rights
from hubwire.model.audiences import fits_management
from hubwire.model.errors import PermissionDenied, Unauthenticated
from hubwire.model.jwt import check_lifetime
from hubwire.runtime.meters import Meter, Reader
from hubwire.runtime.process import ProcessConfig
from hubwire.runtime.service import end_tasks

KEYS_AGE = Meter(
    "hubwire.oidc.keys.age",
    "gauge",
    "s",
    "How long ago the keys of an issuer were fetched. They are fetched each hour, and used for a day.",
    ("issuer",),
)
FETCHES = Meter(
    "hubwire.oidc.fetches",
    "counter",
    "{fetch}",
    "Fetches of an issuer's keys: `ok`, or `failed`.",
    ("issuer", "outcome"),
)
UNREACHABLE = Meter(
    "hubwire.oidc.issuers_unreachable",
    "gauge",
    "{issuer}",
    "Issuers whose keys could not be fetched when that was tried last.",
)
METERS = (KEYS_AGE, FETCHES, UNREACHABLE)

_MAX_CHARACTERS = 32 * 1024
_object = msgspec.json.Decoder(dict[str, Any]).decode


class Issuers:
    """The issuers of one process. `start` makes their tasks, `close` ends them."""

    def __init__(self, issuers: Sequence[Issuer], audiences: Sequence[str], rights: Rights) -> None:
        self._issuers = {issuer.url: issuer for issuer in issuers}
        self._audiences = {audience.rstrip("/") for audience in audiences}
        self._rights = rights
        self._tasks: list[asyncio.Task[None]] = []

    @classmethod
    def of(cls, config: ProcessConfig) -> Issuers | None:
        """None where no issuer is configured."""
        if not config.oidc_issuers:
            return None
        issuers = [Issuer(url, config.oidc_ca_file) for url in config.oidc_issuers]
        rights = Rights.of(config.oidc_owners, config.oidc_readers, config.oidc_admins)
        return cls(issuers, config.oidc_audiences, rights)

    async def start(self) -> None:
        self._tasks = [
            asyncio.create_task(one.run(), name=f"issuer {one.url}") for one in self._issuers.values()
        ]

    async def close(self) -> None:
        await end_tasks(self._tasks)

    @property
    def readers(self) -> dict[Meter, Reader]:
        issuers = list(self._issuers.values())
        return {
            KEYS_AGE: lambda: [((one.url,), age) for one in issuers if (age := one.age_seconds) is not None],
            FETCHES: lambda: [
                ((one.url, outcome), count)
                for one in issuers
                for outcome, count in (("ok", one.fetches), ("failed", one.failures))
            ],
            UNREACHABLE: lambda: sum(bool(one.fault) for one in issuers),
        }

    async def check_rest(self, token: str, operation: Any, now: float) -> None:
        """Let a call of the data plane pass. Raises Unauthenticated (401), PermissionDenied (403), or
        Unavailable (503) while the issuer's keys are not known."""
        claims = await self._verified(token, now, management=False)
        if not self._rights.may_call(claims, operation):
            raise PermissionDenied(
                "The token is good, but its bearer has no role that allows this operation."
            )

    async def check_management(self, token: str, now: float) -> None:
        """As `check_rest`, for the management API; its own audience is good as well."""
        claims = await self._verified(token, now, management=True)
        if not self._rights.may_manage(claims):
            raise PermissionDenied("The token is good, but its bearer may not call the management API.")

    async def _verified(self, token: str, now: float, *, management: bool) -> Mapping[str, Any]:
        import jwt  # as in key_set

        header, unverified = _parts(token)
        algorithm = header.get("alg")
        if algorithm not in ALGORITHMS.values() or "crit" in header:
            raise Unauthenticated(f"The access token has the algorithm {str(algorithm)[:20]!r}.")
        issuer = self._issuers.get(str(unverified.get("iss")))
        if issuer is None:
            raise Unauthenticated("The access token is from an issuer that is not trusted here.")
        kid = header.get("kid")
        key = await issuer.key(kid if isinstance(kid, str) else "", str(algorithm))
        try:
            claims = _object(jwt.PyJWS().decode(token, key.key, algorithms=[str(algorithm)]))
        except (jwt.PyJWTError, ValueError, TypeError):
            raise Unauthenticated(
                "The signature of the access token does not fit its issuer's key."
            ) from None
        check_lifetime(claims, now)
        told = claims.get("aud")
        audiences = [one for one in (told if isinstance(told, list) else [told]) if isinstance(one, str)]
        if not any(
            one.rstrip("/") in self._audiences or (management and fits_management(one)) for one in audiences
        ):
            actual = ", ".join(one[:300] for one in audiences[:5])
            raise Unauthenticated(
                f"Failed to validate audience. Expected Audiences: <{', '.join(sorted(self._audiences))}>. "
                f"Actual Audiences: <{actual}>."
            )
        return claims


def is_for_an_issuer(token: str) -> bool:
    """Whether a token is signed as only an issuer does; False also for what is no token at all."""
    try:
        return _parts(token)[0].get("alg") in ALGORITHMS.values()
    except Unauthenticated:
        return False


def _parts(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims, not verified. Raises Unauthenticated."""
    parts = token.split(".")
    if len(token) > _MAX_CHARACTERS or len(parts) != 3 or not token.isascii():
        raise Unauthenticated("The access token is not a JWT.")
    try:
        header, claims = (_object(urlsafe_b64decode(part + "==")) for part in parts[:2])
    except (ValueError, RecursionError):
        raise Unauthenticated("The access token is not a JWT.") from None
    return header, claims
