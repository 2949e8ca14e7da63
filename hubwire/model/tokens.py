"""The three kinds of access token, all HS256 JWTs under the service's access keys.

A kind is told by its audience alone: the client endpoint of a hub, the URL of a REST request, or the
management API. None of them passes for another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from hubwire.model import jwt
from hubwire.model.audiences import (
    CLIENT_PATHS,
    MANAGEMENT_AUDIENCE,
    AudiencePolicy,
    ClientType,
    expected_client,
    expected_rest,
    fits_client,
    fits_management,
    fits_rest,
)
from hubwire.model.errors import InvalidRequest, Unauthenticated
from hubwire.model.limits import MAX_USER_ID_CHARACTERS
from hubwire.model.names import is_valid_group

__all__ = [
    "AudiencePolicy",
    "ClientClaims",
    "claims_as_strings",
    "sign_admin_token",
    "sign_client_token",
    "sign_rest_token",
    "verify_admin_token",
    "verify_client_token",
    "verify_rest_token",
]

NAME_IDENTIFIER: Final = "http://schemas.xmlsoap.org/ws/2005/05/identity/claims/nameidentifier"
ROLE: Final = "http://schemas.microsoft.com/ws/2008/06/identity/claims/role"
_USER_ID_CLAIMS: Final = ("sub", "nameid", NAME_IDENTIFIER)
_ROLE_CLAIMS: Final = ("role", ROLE)
_GROUP_CLAIM: Final = "webpubsub.group"


class ClientClaims(NamedTuple):
    """What a client token says of its connection. `claims` is everything in it, as parsed."""

    user_id: str | None
    roles: tuple[str, ...]
    groups: tuple[str, ...]
    claims: dict[str, Any]


def verify_client_token(
    token: str,
    *,
    keys: Sequence[str],
    hub: str,
    audiences: AudiencePolicy,
    now: float,
    client_type: ClientType = "default",
) -> ClientClaims:
    """Client-protocols.md 2.1 to 2.3. `hub` is normalised; `now` in Unix seconds.

    Raises `Unauthenticated` (401), or `InvalidRequest` (400) when the token is good but puts the
    connection into a group with an illegal name (2.2).
    """
    claims = jwt.verify(token, keys, now)
    _check_audience(
        claims,
        lambda audience: fits_client(audience, hub, audiences, client_type),
        lambda: expected_client(hub, audiences, client_type),
    )
    roles = tuple(role for name in _ROLE_CLAIMS for role in _strings(claims.get(name)))
    groups = _groups(claims.get(_GROUP_CLAIM))
    return ClientClaims(_user_id(claims), roles, groups, claims)


def verify_rest_token(
    token: str,
    *,
    keys: Sequence[str],
    request_url: str,
    public_endpoints: Sequence[str] = (),
    now: float,
) -> dict[str, Any]:
    """The claims of a token for one REST request (rest-api.md 2.1).

    `request_url` is absolute and as it was on the wire, escapes untouched: scheme, Host and raw target.
    Raises `Unauthenticated`.
    """
    claims = jwt.verify(token, keys, now)
    jwt.check_not_before(claims, "iat", now)
    policy = AudiencePolicy.of(public_endpoints)
    _check_audience(
        claims,
        lambda audience: fits_rest(audience, request_url, policy),
        lambda: expected_rest(request_url, policy),
    )
    return claims


def verify_admin_token(token: str, *, keys: Sequence[str], now: float) -> dict[str, Any]:
    """The claims of a token for the management API: its audience is Azure's, so SDK credentials fit.

    Raises `Unauthenticated`, as for every client token and data-plane REST token.
    """
    claims = jwt.verify(token, keys, now)
    _check_audience(claims, fits_management, lambda: MANAGEMENT_AUDIENCE)
    return claims


def sign_client_token(
    key: str,
    *,
    endpoint: str,
    hub: str,
    user_id: str | None = None,
    roles: Sequence[str] = (),
    groups: Sequence[str] = (),
    minutes: float = 60,
    now: float,
    extra: Mapping[str, Any] | None = None,
    client_type: ClientType = "default",
) -> str:
    """As the service SDKs write it, member for member. `extra` claims cannot replace those given here."""
    claims: dict[str, Any] = {
        "aud": endpoint.rstrip("/").lower() + CLIENT_PATHS[client_type] + hub,
        "iat": int(now),
        "exp": int(now + minutes * 60),
    }
    if user_id:
        claims["sub"] = user_id
    if roles:
        claims["role"] = list(roles)
    if groups:
        claims[_GROUP_CLAIM] = list(groups)
    return jwt.sign(key, {**claims, **{n: v for n, v in (extra or {}).items() if n not in claims}})


def sign_rest_token(key: str, url: str, now: float, seconds: float = 60) -> str:
    """For one REST request; `url` is the whole of it, with its query, as the SDKs sign it."""
    return jwt.sign(key, {"aud": url, "exp": int(now + seconds)})


def sign_admin_token(key: str, now: float, seconds: float = 300) -> str:
    return jwt.sign(key, {"aud": MANAGEMENT_AUDIENCE, "iat": int(now), "exp": int(now + seconds)})


def claims_as_strings(claims: Mapping[str, Any]) -> dict[str, list[str]]:
    """Every claim as an array of strings, as the connect handler gets them (server-events.md, connect).

    `sub` stands also under the long name that .NET gives it, which is what Azure's service shows.
    """
    texts = {
        name: [_text(each) for each in (value if isinstance(value, list) else [value])]
        for name, value in claims.items()
        if value is not None
    }
    if "sub" in texts:
        texts.setdefault(NAME_IDENTIFIER, texts["sub"])
    return texts


def _text(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _check_audience(
    claims: Mapping[str, Any], fits: Callable[[str], bool], expected: Callable[[], str]
) -> None:
    audiences = _strings(claims.get("aud"))
    if any(fits(audience) for audience in audiences):
        return
    actual = ", ".join(audience[:300] for audience in audiences[:5])
    # The same sentence as in Azure's log, since this is the commonest mistake in setting a service up.
    raise Unauthenticated(
        f"Failed to validate audience. Expected Audiences: <{expected()}>. Actual Audiences: <{actual}>."
    )


def _strings(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list):
        return tuple(each for each in value if isinstance(each, str))
    return ()


def _user_id(claims: Mapping[str, Any]) -> str | None:
    for name in _USER_ID_CLAIMS:
        value = claims.get(name)
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if value is None or value == "":
            continue
        if not isinstance(value, str) or len(value) > MAX_USER_ID_CHARACTERS:
            raise Unauthenticated(
                f"The claim '{name}' must be one string of up to {MAX_USER_ID_CHARACTERS} characters."
            )
        return value
    return None


def _groups(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    names = value if isinstance(value, list) else [value]
    for name in names:
        if not isinstance(name, str) or not is_valid_group(name):
            raise InvalidRequest(
                f"The claim '{_GROUP_CLAIM}' names an illegal group: {str(name)[:64]!r}. A group name has 1 "
                "to 1024 characters that are not all white space.",
                target=_GROUP_CLAIM,
            )
    return tuple(dict.fromkeys(names))
