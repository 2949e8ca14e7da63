"""Hub settings and access keys: what everyone watches (DESIGN.md section 4, KV `hw_settings`).

Property names on the wire are Azure's own (management-api.md 5.3); these are their typed form.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from hubwire.model.limits import MAX_MESSAGE_BYTES

Positive = Annotated[int, msgspec.Meta(ge=1)]
MessageBytes = Annotated[int, msgspec.Meta(ge=1, le=MAX_MESSAGE_BYTES)]
KeepAliveSeconds = Annotated[int, msgspec.Meta(ge=1, le=120)]


class ManagedIdentity(msgspec.Struct, frozen=True, rename="camel", omit_defaults=False):
    resource: str | None = None


class UpstreamAuth(msgspec.Struct, frozen=True, rename="camel"):
    type: Literal["None", "ManagedIdentity"] = "None"
    managed_identity: ManagedIdentity | None = None


class GroupPresenceEvents(msgspec.Struct, frozen=True, rename="camel"):
    event_names: tuple[Literal["joined", "left"], ...] = ()
    group_filters: tuple[str, ...] = ()


class EventHandler(msgspec.Struct, frozen=True, rename="camel"):
    """One upstream: the first handler of a hub that matches an event gets it."""

    url_template: str
    user_event_pattern: str | None = None
    system_events: tuple[Literal["connect", "connected", "disconnected"], ...] = ()
    auth: UpstreamAuth | None = None
    group_presence_events: GroupPresenceEvents | None = None


class EventNameFilter(msgspec.Struct, frozen=True, rename="camel"):
    """Which events a listener gets, Azure's only filter. `connect` can be named and never matches: it needs
    an answer (server-events.md 5.1)."""

    type: Literal["EventName"] = "EventName"
    system_events: tuple[Literal["connect", "connected", "disconnected"], ...] = ()
    user_event_pattern: str | None = None


class NatsEndpoint(msgspec.Struct, frozen=True, rename="camel", tag_field="type", tag="Nats"):
    """A JetStream stream of the cluster's own NATS (server-events.md 5.4). It is made, with bounds, when it
    is missing; one that is there is used as it is, and must take `<subjectPrefix>.>`."""

    stream: str = "AWPS"
    subject_prefix: str = "awps"


class EventHubEndpoint(msgspec.Struct, frozen=True, rename="camel", tag_field="type", tag="EventHub"):
    """Azure Event Hubs: understood, so that it can be refused with a clear sentence."""

    fully_qualified_namespace: str = ""
    event_hub_name: str = ""


class EventListener(msgspec.Struct, frozen=True, rename="camel"):
    """A copy of events for a broker. With `delivery` "required" a client's event that the broker did not
    take is a failed event; "bestEffort", Azure's way, has no effect on the client."""

    endpoint: NatsEndpoint | EventHubEndpoint
    filter: EventNameFilter = EventNameFilter()
    delivery: Literal["bestEffort", "required"] = "bestEffort"


class HubLimits(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """What one hub may take, an extension of Azure's settings (client-protocols.md 8). None: the cluster's
    `hub_limits`, and without those what the service itself bears. In force at once, for open connections too.

    `max_connections_per_gateway`: one more is refused with 429; those that are open stay.
    `max_message_bytes`: of a message that a client or a REST caller sends; 1009 or 413 above it.
    `outbox_bytes`: what may wait for a client that does not read; closed with 1008 above it.
    `max_groups_per_connection`: one more is refused; nobody is put out of a group.
    `messages_per_second`, `bytes_per_second`: a client's; what is above it waits, and the client's socket is
    not read meanwhile.
    `hub_messages_per_second_per_gateway`: those of all clients of a gateway; what is above it waits, each
    client in turn. A process that serves REST has so many sends too, and answers 429 above it.
    """

    max_connections_per_gateway: Positive | None = None
    max_message_bytes: MessageBytes | None = None
    outbox_bytes: Positive | None = None
    max_groups_per_connection: Positive | None = None
    messages_per_second: Positive | None = None
    bytes_per_second: Positive | None = None
    hub_messages_per_second_per_gateway: Positive | None = None


class HubSettings(msgspec.Struct, frozen=True, rename="camel"):
    """The settings of one hub. A hub without settings works with these defaults.

    `close_on_event_failure` is an extension of Azure's settings (server-events.md 4.6): a PubSub client whose
    event fails is closed with 1011, as Azure's first documents say, and gets no ack. Otherwise it gets a
    failed ack, and stays. A simple client is closed either way."""

    event_handlers: tuple[EventHandler, ...] = ()
    event_listeners: tuple[EventListener, ...] = ()
    anonymous_connect_policy: Literal["allow", "deny"] = "deny"
    web_socket_keep_alive_interval_in_seconds: KeepAliveSeconds = 20
    limits: HubLimits = HubLimits()
    close_on_event_failure: bool = False


class AccessKeys(msgspec.Struct, frozen=True):
    """Both keys verify tokens at any time; each is used as the UTF-8 bytes of its text.

    `salt` signs what `:generateToken` issues, so that "Salt" can be regenerated by itself.
    """

    primary: str
    secondary: str
    salt: str = ""


class ReconnectionKeys(msgspec.Struct, frozen=True):
    """What signs reconnection tokens, and nothing else. New tokens are signed with `current`; those of
    `previous` still verify, so that the keys can change while clients hold tokens. `made_at` is when
    `current` was made, in Unix seconds."""

    current: str
    previous: str = ""
    made_at: int = 0

    def __repr__(self) -> str:
        return f"ReconnectionKeys(made_at={self.made_at})"  # a traceback must not tell them

    @property
    def both(self) -> tuple[str, ...]:
        """All that verify; the one that signs comes first."""
        return tuple(key for key in (self.current, self.previous) if key)


DEFAULT_HUB_SETTINGS = HubSettings()
