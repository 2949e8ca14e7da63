"""Who may call: the data plane with a token for the very request, the management API with an administrator's.

Both kinds are signed with an access key and told apart by their audience (rest-api.md section 2,
management-api.md 7.4); neither passes for the other. Beside them stand tokens of configured issuers
(controlplane.oidc), told by their algorithm.
"""

from __future__ import annotations

from aiohttp import web

from controlplane.endpoints import request_url_of
from controlplane.oidc.tokens import Issuers, is_for_an_issuer
from controlplane.operations import Operation
from controlplane.problems import Problem
from controlplane.settings import ControlPlaneConfig
from hubwire.model.cluster_settings import is_token
from hubwire.model.settings import AccessKeys
from hubwire.model.tokens import verify_admin_token, verify_rest_token


def token_in(authorization: str) -> str:
    """The token of an Authorization header. Raises Problem (401, empty body) when there is none."""
    scheme, _, token = authorization.strip().partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        raise Problem(401, "", "No bearer token.", headers={"WWW-Authenticate": "Bearer"})
    return token


async def authenticate_rest(
    request: web.Request,
    operation: Operation | None,
    keys: AccessKeys,
    config: ControlPlaneConfig,
    issuers: Issuers | None,
    now: float,
) -> None:
    """Let the request pass, or raise Unauthenticated or Problem (401), PermissionDenied (403), or Unavailable
    (503) while the keys of the token's issuer are not known."""
    authorization = request.headers.get("Authorization", "")
    if issuers is not None and is_for_an_issuer(token := token_in(authorization)):
        await issuers.check_rest(token, operation, now)
        return
    verify_signed(authorization, request_url_of(request), keys, config, now)


def verify_signed(
    authorization: str, url: str, keys: AccessKeys, config: ControlPlaneConfig, now: float
) -> None:
    """That a header holds a token for that absolute URL, signed with an access key. Raises Unauthenticated or
    Problem (401); also for a token of an issuer."""
    verify_rest_token(
        token_in(authorization),
        keys=(keys.primary, keys.secondary),
        request_url=url,
        public_endpoints=config.public_endpoints,
        now=now,
    )


async def authenticate_admin(
    request: web.Request,
    keys: AccessKeys,
    config: ControlPlaneConfig,
    issuers: Issuers | None,
    now: float,
) -> None:
    """Let the request pass, or raise as `authenticate_rest`."""
    token = token_in(request.headers.get("Authorization", ""))
    kept = config.admin_token_sha256
    if kept is not None and is_token(token, kept):
        return
    if issuers is not None and is_for_an_issuer(token):
        await issuers.check_management(token, now)
        return
    verify_admin_token(token, keys=(keys.primary, keys.secondary), now=now)
