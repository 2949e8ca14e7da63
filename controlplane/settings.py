"""The control plane's settings: typed, frozen, those of the process with those of the cluster over them."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import msgspec

from hubwire.model.cluster_settings import ClusterSettings
from hubwire.model.limits import MAX_MESSAGE_BYTES


class ManagementConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How this instance presents itself over Azure's management API (management-api.md 1).

    An empty id or name means that any is answered for; lists then show the stand-in below.
    """

    subscription_id: str = ""
    resource_group: str = ""
    resource_name: str = ""
    location: str = "local"
    upstream_identity: bool = False
    """Whether `auth.type` "ManagedIdentity" of event handlers is backed by an OAuth client (section 6)."""

    @property
    def shown_subscription_id(self) -> str:
        return self.subscription_id or "00000000-0000-0000-0000-000000000000"

    @property
    def shown_resource_group(self) -> str:
        return self.resource_group or "hubwire"

    @property
    def shown_resource_name(self) -> str:
        return self.resource_name or "hubwire"


class ControlPlaneConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, dict=True):
    """Everything that the REST data plane and the management API can be told.

    Raises ValueError when a value is out of range.
    """

    public_endpoints: tuple[str, ...] = ()
    """URLs, also with a path, by which clients know the service: audiences, connection strings, nextLink."""
    cors_origins: tuple[str, ...] = ("*",)
    """Browser origins that may call the REST API; "*" is every one, an empty list switches CORS off."""
    max_body_bytes: int = MAX_MESSAGE_BYTES
    """Of a REST body, and of the message it becomes after transcoding to UTF-8 (rest-api.md section 4)."""
    max_minutes_to_expire: int | None = None
    """Longest life that :generateToken grants; None is Azure's, no limit (rest-api.md section 9)."""
    max_concurrent_requests: int | None = 1000
    """Requests in progress in this process; one more is answered 429 with Retry-After. None: no limit."""
    request_seconds: float = 30.0
    """Time for a whole request, the body's arrival included: then 408 or 503, never a hang."""
    admin_token_sha256: str | None = None
    """Hash of a static bearer token for the management API, beside the tokens signed with an access key."""
    management: ManagementConfig = ManagementConfig()

    def __post_init__(self) -> None:
        for endpoint in self.public_endpoints:
            url = urlsplit(endpoint)
            if url.scheme not in ("http", "https") or not url.netloc or url.query or url.fragment:
                raise ValueError(
                    f"publicEndpoints: {endpoint!r} is not a URL such as https://pubsub.example.com."
                )
        if self.max_body_bytes < 1 or self.request_seconds <= 0:
            raise ValueError("maxBodyBytes and requestSeconds must be above zero.")
        for name in ("max_minutes_to_expire", "max_concurrent_requests"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, or absent.")

    def under(self, cluster: ClusterSettings) -> ControlPlaneConfig:
        """This with what the cluster's settings say over it. Costs nothing while those stay the same."""
        seen: tuple[ClusterSettings, ControlPlaneConfig] | None = self.__dict__.get("_under")
        if seen is not None and seen[0] is cluster:
            return seen[1]
        said = _said(cluster.limits)
        if cluster.cors_origins is not None:
            said["cors_origins"] = cluster.cors_origins
        names = _said(cluster.management)
        if "admin_token_sha256" in names:
            said["admin_token_sha256"] = names.pop("admin_token_sha256")
        # A process that has credentials of its own knows that there are some.
        names["upstream_identity"] = self.management.upstream_identity or bool(names.get("upstream_identity"))
        said["management"] = msgspec.structs.replace(self.management, **names)
        found = msgspec.structs.replace(self, **said)
        self.__dict__["_under"] = (cluster, found)
        return found


def _said(section: msgspec.Struct) -> dict[str, Any]:
    return {name: value for name, value in msgspec.structs.asdict(section).items() if value is not None}
