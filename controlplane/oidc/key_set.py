"""The keys of one issuer, from what it publishes: pure (RFC 7517, OpenID Connect Discovery 1.0)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    import jwt  # its import costs what all else does that a service without issuers needs

ALGORITHMS = {"RSA": "RS256", "EC": "ES256"}
"""By kind of key. Others are not taken: one that is both secret and published (oct) would be the end."""
MAX_KEYS = 100
_LEAST_RSA_BITS = 2048  # RFC 7518, 3.3


class BadKeys(Exception):
    """What was published cannot be used; the sentence says why."""


def jwks_url_of(document: bytes, issuer: str) -> str:
    """Where the keys are, from the discovery document. Raises BadKeys, also when it is another issuer's."""
    content = _object(document)
    told = content.get("issuer")
    if told != issuer:
        raise BadKeys(f"its discovery document is that of {str(told)[:200]!r}; give the issuer just so")
    url = content.get("jwks_uri")
    if not isinstance(url, str):
        raise BadKeys("its discovery document has no jwks_uri")
    return url


def keys_of(document: bytes) -> dict[str, jwt.PyJWK]:
    """The keys that may sign tokens, by `kid` ("" for one that has none). What cannot be used is left out.
    Raises BadKeys when nothing is left."""
    entries = _object(document).get("keys")
    if not isinstance(entries, list):
        raise BadKeys("what it publishes is no set of keys")
    found: dict[str, jwt.PyJWK] = {}
    for entry in entries[:MAX_KEYS]:
        key = _key(entry)
        if key is not None:
            found[str(entry.get("kid") or "")] = key
    if not found:
        raise BadKeys("it publishes no key for RS256 or ES256")
    return found


def _key(entry: Any) -> jwt.PyJWK | None:
    if not isinstance(entry, dict) or entry.get("use", "sig") != "sig":
        return None
    algorithm = ALGORITHMS.get(str(entry.get("kty")))
    if algorithm is None or entry.get("alg", algorithm) != algorithm:
        return None
    if algorithm == "ES256" and entry.get("crv") != "P-256":
        return None
    import jwt
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    try:
        key = jwt.PyJWK(entry, algorithm=algorithm)
    except (jwt.PyJWTError, ValueError, TypeError):
        return None
    if isinstance(key.key, RSAPublicKey) and key.key.key_size < _LEAST_RSA_BITS:
        return None
    return key


def _object(document: bytes) -> dict[str, Any]:
    try:
        content = msgspec.json.decode(document, type=dict[str, Any])
    except (ValueError, RecursionError):
        raise BadKeys("what it answers is not a JSON object") from None
    return content
