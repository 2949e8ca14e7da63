"""Reconnection tokens: with one, a client takes its session up on another socket (client-protocols.md 4.5).

An HS256 JWT for one connection of one hub, good for a week and as often as it is wanted. It is signed with
keys of its own, so that access keys can be exchanged without ending what clients could recover, and so that
neither kind of token passes for the other.
"""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from typing import Final

import msgspec

from hubwire.model import jwt
from hubwire.model.errors import Unauthenticated
from hubwire.model.limits import RECONNECTION_TOKEN_SECONDS

_HEADER: Final = urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT"}').rstrip(b"=") + b"."


class _Claims(msgspec.Struct):
    aud: str
    hub: str
    exp: int


_claims: Final = msgspec.json.Encoder().encode


def issue_reconnection_token(key: str, *, connection_id: str, hub: str, now: float) -> str:
    """`key` is the first of the cluster's keys, `hub` normalised, `now` in Unix seconds.

    It has no `nbf`: clocks of gateways differ. Put together by hand, since every connect needs one
    (PyJWT takes ten times as long). Raises ValueError for an empty key.
    """
    if not key:
        raise ValueError("A reconnection token needs a key.")
    claims = _Claims(connection_id, hub, int(now) + RECONNECTION_TOKEN_SECONDS)
    signed = _HEADER + urlsafe_b64encode(_claims(claims)).rstrip(b"=")
    mac = urlsafe_b64encode(hmac.digest(key.encode(), signed, "sha256")).rstrip(b"=")
    return (signed + b"." + mac).decode()


def check_reconnection_token(
    token: str, *, keys: Sequence[str], connection_id: str, hub: str, now: float
) -> None:
    """Raises `Unauthenticated` unless one of the cluster's `keys` signed the token for this very connection
    of this hub (normalised) and it has not expired; clocks may differ as for access tokens. The sentence is
    for logs: clients are closed with 1008 whatever is wrong.
    """
    claims = jwt.verify(token, keys, now)
    if claims.get("aud") != connection_id:
        raise Unauthenticated("The reconnection token is another connection's.")
    if claims.get("hub") != hub:
        raise Unauthenticated("The reconnection token is for another hub.")
