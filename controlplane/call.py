"""What a handler is given: one request, understood so far, and the services it may use."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

from aiohttp import web

from controlplane.events import EventsPort
from controlplane.oidc.tokens import Issuers
from controlplane.operations import Operation
from controlplane.pacing import HubPaces
from controlplane.paths import Target, decode_segment
from controlplane.ports import ClusterPort
from controlplane.problems import INVALID_GROUP, Problem, invalid
from controlplane.query import QueryString
from controlplane.settings import ControlPlaneConfig
from hubwire.model.cluster_settings import ClusterSettings
from hubwire.model.errors import InvalidRequest
from hubwire.model.names import HubName, is_valid_group, normalize_hub
from hubwire.model.settings import AccessKeys, HubLimits, HubSettings


class Settings(Protocol):
    """What the control plane uses of `hubwire.bus.settings.SettingsStore`; see there."""

    @property
    def keys(self) -> AccessKeys: ...

    def hubs(self) -> dict[str, HubSettings]: ...

    def hub_entry(self, name: str) -> tuple[str, HubSettings] | None: ...

    @property
    def cluster(self) -> ClusterSettings: ...

    def limits(self, hub: str) -> HubLimits: ...

    async def change_hub(
        self, name: str, change: Callable[[HubSettings | None], HubSettings]
    ) -> HubSettings: ...

    async def change_cluster(self, change: Callable[[ClusterSettings], ClusterSettings]) -> bool: ...

    async def delete_hub(self, name: str) -> bool: ...

    async def regenerate(self, key_type: str) -> AccessKeys: ...


@dataclass(frozen=True, slots=True)
class Services:
    """The parts that `create_app` puts together."""

    cluster: ClusterPort
    settings: Settings
    own: ControlPlaneConfig  # what this process was told; the cluster's settings lie over it
    clock: Callable[[], float]  # Unix seconds
    events: EventsPort | None = None  # None where there are no gateways to ask
    issuers: Issuers | None = None  # None where only access keys sign tokens
    paces: HubPaces = field(default_factory=HubPaces)

    @property
    def config(self) -> ControlPlaneConfig:
        """What is in force now. Take it once where several values have to fit together."""
        return self.own.under(self.settings.cluster)


@dataclass(frozen=True, slots=True)
class Call:
    """One authenticated request to a data-plane operation. Path parameters are decoded when asked for."""

    services: Services
    request: web.Request
    target: Target
    operation: Operation
    raw: dict[str, str]
    query: QueryString

    @property
    def cluster(self) -> ClusterPort:
        return self.services.cluster

    def hub(self) -> HubName:
        """Raises Problem (400) for a name that no hub can have."""
        try:
            return normalize_hub(decode_segment(self.raw["hub"], "hub"))
        except InvalidRequest as error:
            raise invalid("hub", str(error)) from None

    def group(self) -> str:
        """Raises Problem (400) for a name that no group can have."""
        name = decode_segment(self.raw["group"], "group")
        if not is_valid_group(name):
            raise invalid("group", INVALID_GROUP)
        return name

    def user_id(self) -> str:
        return decode_segment(self.raw["userId"], "userId")

    def connection_id(self) -> str:
        return decode_segment(self.raw["connectionId"], "connectionId")


Handler = Callable[[Call], Awaitable[web.Response]]


def not_existed(code: str, what: str, name: str) -> Problem:
    """A 404 in the service's words (rest-api.md 3.1). Names may hold anything, backticks too."""
    return Problem(404, code, f"{what} `{name}` is not found.", what)


def done(status: int) -> web.Response:
    """Success without a body: a Content-Length of 0, and none at all for 204 (rest-api.md 1.4)."""
    return web.Response(status=status, headers={} if status == 204 else {"Content-Length": "0"})
