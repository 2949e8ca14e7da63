"""What all processes of a cluster share beside hubs and access keys: one record in KV `hw_settings`.

Nothing in it must be there: what is absent has its default where it is read. So what somebody gives can be
laid over what there is, leaf by leaf, and a cluster that was told nothing has an empty record.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import msgspec

from hubwire.model.errors import InvalidRequest
from hubwire.model.settings import HubLimits, Positive
from hubwire.model.wording import wanted

MIN_ADMIN_TOKEN_CHARACTERS = 16

Seconds = Annotated[float, msgspec.Meta(gt=0)]
S = TypeVar("S", bound=msgspec.Struct)


class RestLimits(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Of each process that serves REST; meanings and defaults are those of
    `controlplane.settings.ControlPlaneConfig`."""

    max_body_bytes: Positive | None = None
    max_minutes_to_expire: Positive | None = None
    max_concurrent_requests: Positive | None = None
    request_seconds: Seconds | None = None


class ManagementSettings(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """How the instance presents itself over Azure's management API, and a static token for it.

    Of the token only the hash is kept: who reads the bucket cannot use it. It is not slow to compute, so
    that it can be checked at each request; a token that a generator made is long enough for that.
    `upstream_identity` says that the gateways have credentials for handlers with auth ManagedIdentity."""

    admin_token_sha256: str | None = None
    subscription_id: str | None = None
    resource_group: str | None = None
    resource_name: str | None = None
    location: str | None = None
    upstream_identity: bool | None = None


class ClusterSettings(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """`cors_origins`: browser origins that may call REST. `limits` are those of REST, `hub_limits` those of
    each hub whose own settings do not say otherwise."""

    cors_origins: tuple[str, ...] | None = None
    limits: RestLimits = RestLimits()
    hub_limits: HubLimits = HubLimits()
    management: ManagementSettings = ManagementSettings()


def overlaid(base: S, over: S) -> S:
    """`over`, and what it leaves open as it is in `base`; for structs whose leaves may be None."""
    found: dict[str, Any] = {}
    for name in base.__struct_fields__:
        mine, its = getattr(base, name), getattr(over, name)
        if isinstance(mine, msgspec.Struct):
            found[name] = overlaid(mine, its)
        else:
            found[name] = mine if its is None else its
    return type(base)(**found)


def hash_of_token(token: str) -> str:
    """What is kept of an administrator's token."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def is_token(token: str, kept: str) -> bool:
    """Whether a token is the one whose hash is kept; takes as long for every wrong one."""
    return hmac.compare_digest(hash_of_token(token), kept)


def changed(settings: ClusterSettings, change: object) -> ClusterSettings:
    """The settings after a change: an object in the form of the config file, in which null takes a setting
    away (RFC 7396). Raises InvalidRequest, which names the setting."""
    plain = msgspec.to_builtins(settings)
    return msgspec.convert(_merged(plain, _with_hashed_token(change), ClusterSettings, ""), ClusterSettings)


def shown(settings: ClusterSettings) -> dict[str, Any]:
    """For people and REST: in the form of the config file, the token only as something that is there."""
    plain: dict[str, Any] = msgspec.to_builtins(settings)
    management = plain.get("management", {})
    if management.pop("adminTokenSha256", None) is not None:
        management["adminToken"] = "***"
    return {name: value for name, value in plain.items() if value != {}}


def _with_hashed_token(change: object) -> object:
    management = change.get("management") if isinstance(change, dict) else None
    if not isinstance(change, dict) or not isinstance(management, dict):
        return change
    if "adminTokenSha256" in management:
        raise InvalidRequest("Give the token itself, as adminToken.", target="management.adminTokenSha256")
    if "adminToken" not in management:
        return change
    token = management["adminToken"]
    if token is not None and (not isinstance(token, str) or len(token) < MIN_ADMIN_TOKEN_CHARACTERS):
        text = f"management.adminToken must be text of {MIN_ADMIN_TOKEN_CHARACTERS} characters or more."
        raise InvalidRequest(text, target="management.adminToken")
    rest = {name: value for name, value in management.items() if name != "adminToken"}
    return {
        **change,
        "management": {**rest, "adminTokenSha256": None if token is None else hash_of_token(token)},
    }


def _merged(
    present: Mapping[str, Any], change: object, struct: type[msgspec.Struct], place: str
) -> dict[str, Any]:
    if not isinstance(change, Mapping):
        raise InvalidRequest(f"{place or 'The settings'} must be an object.", target=place or None)
    fields = {field.encode_name: field for field in msgspec.structs.fields(struct)}
    merged = dict(present)
    for name, value in change.items():
        inside = f"{place}.{name}" if place else str(name)
        field = fields.get(name)
        if field is None:
            known = ", ".join(sorted(fields)).replace("adminTokenSha256", "adminToken")
            raise InvalidRequest(f"{inside} is not a setting; known here: {known}.", target=inside)
        if value is None:
            merged.pop(name, None)
        elif isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            merged[name] = _merged(merged.get(name, {}), value, field.type, inside)
        else:
            try:
                msgspec.convert(value, field.type)
            except msgspec.ValidationError:
                text = f"{inside} is {value!r}: it must be {wanted(field.type)}."
                raise InvalidRequest(text, target=inside) from None
            merged[name] = value
    return merged
