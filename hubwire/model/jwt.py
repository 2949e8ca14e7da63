"""HS256 JSON web tokens, with the time as an argument.

Signed with PyJWT. Verified by hand, since PyJWT reads the clock, and this is on the path of every connect
(measured: a quarter of the time, docs/decisions/0007). The tests hold the two against each other.
"""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import msgspec

from hubwire.model.errors import Unauthenticated
from hubwire.model.limits import CLOCK_SKEW_SECONDS

Claims = dict[str, Any]

_MAX_CHARACTERS: Final = 64 * 1024  # above what an HTTP head can carry
_object: Final = msgspec.json.Decoder(dict[str, Any]).decode


def sign(key: str, claims: Mapping[str, Any]) -> str:
    """A token with the claims in their order. The key is used as the UTF-8 bytes of its text."""
    import jwt  # here, as its import costs more than all else that a command needs

    return jwt.encode(dict(claims), key.encode(), algorithm="HS256")


def verify(token: str, keys: Sequence[str], now: float) -> Claims:
    """The claims, when one of the keys signed the token and `exp` and `nbf` allow it now.

    `now` is in Unix seconds; clocks may differ by five minutes (client-protocols.md 2.1). Empty keys are
    passed over. Raises `Unauthenticated`; its sentence never holds a part of the token.
    """
    if len(token) > _MAX_CHARACTERS:
        raise Unauthenticated("The access token is too long.")
    head, dot, signature = token.rpartition(".")
    header, dot, payload = head.partition(".")
    if not dot or not payload or "." in payload or not token.isascii():
        raise Unauthenticated("The access token is not a JWT: three parts with dots between them are needed.")
    _check_header(header)
    signed = head.encode()
    given = signature.encode()
    if not any(hmac.compare_digest(_encode(_mac(key, signed)), given) for key in keys if key):
        raise Unauthenticated(
            "The signature of the access token does not fit any of the access keys of this service."
        )
    try:
        claims = _object(_decode(payload))
    except (ValueError, RecursionError) as error:  # msgspec's and binascii's errors are ValueErrors
        raise Unauthenticated("The claims of the access token are not a JSON object.") from error
    check_lifetime(claims, now)
    return claims


@lru_cache(maxsize=256)
def _check_header(header: str) -> None:
    """Remembered, as nearly all tokens have one of a few headers; exceptions are not."""
    try:
        members = _object(_decode(header))
    except (ValueError, RecursionError) as error:
        raise Unauthenticated("The header of the access token is not a JSON object.") from error
    algorithm = members.get("alg")
    if algorithm != "HS256":
        raise Unauthenticated(f"The access token has the algorithm {str(algorithm)[:20]!r}, not 'HS256'.")
    if "crit" in members:
        raise Unauthenticated("The access token demands extensions ('crit'), which are not supported.")


def check_lifetime(claims: Claims, now: float) -> None:
    """That `exp` is there and not over, and that `nbf`, if there, has come. Raises `Unauthenticated`."""
    expiry = _number(claims.get("exp"))
    if expiry is None:
        raise Unauthenticated("The access token has no 'exp', or one that is not a number.")
    if now > expiry + CLOCK_SKEW_SECONDS:
        raise Unauthenticated(f"The access token has expired {now - expiry:.0f} seconds ago.")
    check_not_before(claims, "nbf", now)


def check_not_before(claims: Claims, name: str, now: float) -> None:
    """That the time in the claim, when there is one, has come."""
    if claims.get(name) is None:
        return
    start = _number(claims[name])
    if start is None:
        raise Unauthenticated(f"The '{name}' of the access token is not a number.")
    if now < start - CLOCK_SKEW_SECONDS:
        raise Unauthenticated(f"The access token is not valid yet: its '{name}' is in the future.")


def _number(value: object) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def _mac(key: str, signed: bytes) -> bytes:
    return hmac.digest(key.encode(), signed, "sha256")


def _encode(data: bytes) -> bytes:
    return urlsafe_b64encode(data).rstrip(b"=")


def _decode(text: str) -> bytes:
    return urlsafe_b64decode(text + "==")
