"""Hub settings in Azure's own form, checked: what the management API and config files may contain.

`HubSettings` itself ignores what it does not know, so that stored settings can be read by older
versions. What people write must not be ignored: each fault is named with its place
(management-api.md 5.3).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from hubwire.model.errors import InvalidRequest
from hubwire.model.event_handlers import (
    KEY_VAULT_REFERENCE,
    handler_faults,
    pattern_fault,
    with_lower_case_events,
)
from hubwire.model.event_listeners import endpoint_faults, with_lower_case_filter
from hubwire.model.settings import (
    EventHandler,
    EventHubEndpoint,
    EventListener,
    EventNameFilter,
    GroupPresenceEvents,
    HubLimits,
    HubSettings,
    ManagedIdentity,
    NatsEndpoint,
    UpstreamAuth,
)
from hubwire.model.wording import annotation_at, wanted

__all__ = [
    "KEY_VAULT_REFERENCE",
    "MAX_EVENT_LISTENERS",
    "HubFault",
    "InvalidHubSettings",
    "hub_faults",
    "parse_hub_settings",
    "place_text",
]

MAX_EVENT_LISTENERS = 10

Place = tuple[str | int, ...]

_INSIDE: dict[type[msgspec.Struct], dict[str, type[msgspec.Struct]]] = {
    HubSettings: {"eventHandlers": EventHandler, "eventListeners": EventListener, "limits": HubLimits},
    EventListener: {"filter": EventNameFilter},
    EventHandler: {"auth": UpstreamAuth, "groupPresenceEvents": GroupPresenceEvents},
    UpstreamAuth: {"managedIdentity": ManagedIdentity},
}
_ENDPOINTS: dict[object, type[msgspec.Struct]] = {"Nats": NatsEndpoint, "EventHub": EventHubEndpoint}


class HubFault(NamedTuple):
    """What is wrong and where: `place` is the way to it, of names and positions."""

    place: Place
    text: str


class InvalidHubSettings(InvalidRequest):
    """All faults of one hub's settings; the message has one sentence for each."""

    def __init__(self, faults: list[HubFault]) -> None:
        super().__init__(
            " ".join(f"{place_text(fault.place)}: {fault.text}" for fault in faults),
            target=place_text(faults[0].place),
        )
        self.faults = faults


def place_text(place: Place) -> str:
    """`eventHandlers[0].urlTemplate`, as in error messages."""
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text or "properties"


def parse_hub_settings(properties: object) -> HubSettings:
    """The settings that Azure's `properties` of a hub stand for; null counts as absent.

    Raises InvalidHubSettings with every fault that can be found in one go.
    """
    plain = _lower_case_words(_without_nulls(properties))
    faults = list(hub_faults(plain))
    if faults:
        raise InvalidHubSettings(faults)
    try:
        return msgspec.convert(plain, HubSettings)
    except msgspec.ValidationError as error:
        text, _, path = str(error).partition(" - at `$")
        place = _parse_place(path.rstrip("`"))
        raise InvalidHubSettings([HubFault(place, _type_fault(plain, place) or f"{text}.")]) from error


def hub_faults(properties: object) -> Iterator[HubFault]:
    """What is wrong beyond the types; `properties` has no nulls and may be of any type."""
    if not isinstance(properties, dict):
        yield HubFault((), "An object with the settings of the hub is needed.")
        return
    yield from _unknown(properties, HubSettings, ())
    handlers = properties.get("eventHandlers")
    if isinstance(handlers, list):
        for index, handler in enumerate(handlers):
            if isinstance(handler, dict):
                for place, text in handler_faults(handler):
                    yield HubFault(("eventHandlers", index, *place), text)
    listeners = properties.get("eventListeners")
    if isinstance(listeners, list):
        yield from _listener_faults(listeners)


def _listener_faults(listeners: list[object]) -> Iterator[HubFault]:
    if len(listeners) > MAX_EVENT_LISTENERS:
        yield HubFault(("eventListeners",), f"There can be {MAX_EVENT_LISTENERS} event listeners at most.")
    for index, listener in enumerate(listeners):
        if not isinstance(listener, dict):
            continue
        chosen = listener.get("filter")
        pattern = chosen.get("userEventPattern") if isinstance(chosen, dict) else None
        text = pattern_fault(pattern) if isinstance(pattern, str) else None
        if text is not None:
            yield HubFault(("eventListeners", index, "filter", "userEventPattern"), text)
        endpoint = listener.get("endpoint")
        if not isinstance(endpoint, dict):
            continue
        place = ("eventListeners", index, "endpoint")
        struct = _ENDPOINTS.get(endpoint.get("type"))
        if struct is not None:
            rest = {name: value for name, value in endpoint.items() if name != "type"}
            yield from _unknown(rest, struct, place)
        for name, text in endpoint_faults(endpoint):
            yield HubFault((*place, name), text)


def _unknown(value: Mapping[str, object], struct: type[msgspec.Struct], place: Place) -> Iterator[HubFault]:
    known = {field.encode_name for field in msgspec.structs.fields(struct)}
    for name, inner in value.items():
        if name not in known:
            yield HubFault((*place, name), f"This is not a setting; known here: {', '.join(sorted(known))}.")
            continue
        inside = _INSIDE.get(struct, {}).get(name)
        if inside is None:
            continue
        if isinstance(inner, dict):
            yield from _unknown(inner, inside, (*place, name))
        elif isinstance(inner, list):
            for index, item in enumerate(inner):
                if isinstance(item, dict):
                    yield from _unknown(item, inside, (*place, name, index))


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nulls(inner) for name, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value


def _lower_case_words(properties: Any) -> Any:
    if not isinstance(properties, dict):
        return properties
    changed = dict(properties)
    policy = changed.get("anonymousConnectPolicy")
    if isinstance(policy, str):
        changed["anonymousConnectPolicy"] = policy.lower()
    for name, lower in (
        ("eventHandlers", with_lower_case_events),
        ("eventListeners", with_lower_case_filter),
    ):
        if isinstance(changed.get(name), list):
            changed[name] = [lower(each) if isinstance(each, dict) else each for each in changed[name]]
    return changed


def _type_fault(plain: Any, place: Place) -> str | None:
    """A value of another type than it must have, in words; None where msgspec's own say more."""
    annotation = annotation_at(HubSettings, place)
    if annotation is None:
        return None
    value = plain
    for part in place:
        value = value[part]
    if isinstance(value, dict):
        return None  # something is missing in it
    return f"It is {value!r}, and must be {wanted(annotation)}."


def _parse_place(path: str) -> Place:
    """From msgspec's way of saying it, such as `.eventHandlers[0].urlTemplate`."""
    place: list[str | int] = []
    for part in path.replace("[", ".[").split("."):
        if part.startswith("["):
            index = part[1:-1]
            place.append(int(index) if index.isdigit() else index)
        elif part:
            place.append(part)
    return tuple(place)
