"""Event listeners: which events they get, and what an event looks like for a broker. Pure.

Rules: server-events.md section 5. The form is CloudEvents 1.0 in binary mode; each broker's binding says how
the attributes are spelled there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from hubwire.model.errors import InvalidRequest, Unavailable
from hubwire.model.event_handlers import EventKind, HandlerEvent, matches_user_event
from hubwire.model.settings import EventListener, EventNameFilter, HubSettings

METADATA_PREFIX: Final = "x-webpubsub-metadata-"
MAX_SUBJECT_BYTES: Final = 1024
"""A NATS server cuts connections that send a longer control line than 4 KiB; ours stay far below."""
MAX_PREFIX_CHARACTERS: Final = 64
_RESERVED: Final = ("hw", "_inbox", "_r_", "_hw")

_PREFIX = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_STREAM = re.compile(r"[A-Za-z0-9_-]{1,64}")
_HEADER_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")


class UnsendableCopy(InvalidRequest):
    """The event cannot be written in the broker's form: trying again does not help."""

    code = "unsendable_copy"


class NotTaken(Unavailable):
    """The broker did not take the event in so many attempts. Whether it arrived is not known."""

    def __init__(self, message: str, attempts: int) -> None:
        super().__init__(message)
        self.attempts = attempts


class CloudEvent(NamedTuple):
    """One event for brokers. `data` is its body as it is; `time` is as in `ce-time`; `content_type` has no
    charset (5.3). `metadata` is that of a user event."""

    hub: str
    kind: EventKind
    name: str
    connection_id: str
    event_id: int
    time: str
    content_type: str
    data: bytes
    user_id: str | None = None
    subprotocol: str | None = None
    state: str | None = None
    metadata: Mapping[str, str] | None = None

    @property
    def message_id(self) -> str:
        """The same for all attempts and all listeners: what brokers drop duplicates by."""
        return f"{self.connection_id}/{self.event_id}"

    def attributes(self) -> Iterator[tuple[str, str]]:
        """CloudEvents attributes, all in lower case, without a binding's prefix."""
        yield "specversion", "1.0"
        yield "awpsversion", "1.0"
        yield "type", f"azure.webpubsub.{self.kind}.{self.name}"
        yield "source", f"/hubs/{self.hub}/client/{self.connection_id}"
        yield "id", str(self.event_id)
        yield "time", self.time
        yield "hub", self.hub
        yield "eventname", self.name
        yield "connectionid", self.connection_id
        if self.user_id:
            yield "userid", self.user_id
        if self.subprotocol:
            yield "subprotocol", self.subprotocol
        if self.state:
            yield "connectionstate", self.state


# -- which listeners -----------------------------------------------------------------------------------


def listens(chosen: EventNameFilter, event: HandlerEvent) -> bool:
    """Whether a filter lets an event through, with the grammar of event handlers (1.3). `connect` needs an
    answer, so no listener gets it; neither do `joined` and `left`, for which Azure has no filter."""
    if event.kind == "user":
        return matches_user_event(chosen.user_event_pattern, event.name)
    return event.kind == "sys" and event.name != "connect" and event.name in chosen.system_events


def choose_listeners(settings: HubSettings, event: HandlerEvent) -> tuple[EventListener, ...]:
    """All that match; two identical ones get two copies (5.2)."""
    return tuple(each for each in settings.event_listeners if listens(each.filter, event))


# -- the NATS binding ----------------------------------------------------------------------------------


def nats_subject(prefix: str, event: CloudEvent) -> str:
    """`awps.{hub}.{kind}.{event}`. Raises UnsendableCopy for one that would be too long."""
    subject = f"{prefix}.{subject_token(event.hub)}.{event.kind}.{subject_token(event.name)}"
    if len(subject) > MAX_SUBJECT_BYTES:
        raise UnsendableCopy(f"The subject for the event has {len(subject)} bytes, too many for NATS.")
    return subject


def subject_token(name: str) -> str:
    """A name as one token: what NATS gives a meaning, and `%` itself, as %XX of the byte, so that two names
    never become one."""
    return "".join(
        chr(byte) if 0x20 < byte < 0x7F and byte not in b".*>%" else f"%{byte:02X}"
        for byte in name.encode("utf-8", "surrogatepass")
    )


def nats_headers(event: CloudEvent) -> list[tuple[str, str]]:
    """CloudEvents NATS binding, binary mode, and the id by which JetStream drops duplicates. Values are
    percent-encoded where they are not printable ASCII. Raises UnsendableCopy for a metadata key that no
    header can have."""
    headers = [("Nats-Msg-Id", header_value(event.message_id)), ("content-type", event.content_type)]
    headers += [(f"ce-{name}", header_value(value)) for name, value in event.attributes()]
    for key, value in {key.lower(): value for key, value in (event.metadata or {}).items()}.items():
        if _HEADER_NAME.fullmatch(key) is None:
            raise UnsendableCopy(f"The metadata key {key[:40]!r} cannot stand in a header.")
        headers.append((METADATA_PREFIX + key, header_value(value)))
    return headers


def header_value(text: str) -> str:
    """Percent-encoded as CloudEvents says for headers: white space, `"`, `%`, control characters and all
    that is not ASCII."""
    if text.isascii() and text.isprintable() and not any(c in ' "%' for c in text):
        return text
    return "".join(
        chr(byte) if 0x20 < byte < 0x7F and byte not in b'"%' else f"%{byte:02X}"
        for byte in text.encode("utf-8", "surrogatepass")
    )


# -- what can be saved -----------------------------------------------------------------------------------


def endpoint_faults(endpoint: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What is wrong with one endpoint, and in which property, beyond the types."""
    if endpoint.get("type") != "Nats":
        return
    prefix, stream = endpoint.get("subjectPrefix"), endpoint.get("stream")
    if isinstance(prefix, str):
        legal = len(prefix) <= MAX_PREFIX_CHARACTERS and _PREFIX.fullmatch(prefix) is not None
        if not legal or prefix.lower().split(".")[0] in _RESERVED:
            # Not `$`, `hw` and `_INBOX`: an event must never be taken for a message of the cluster itself.
            yield (
                "subjectPrefix",
                f"A prefix has 1 to {MAX_PREFIX_CHARACTERS} letters, digits, '-' and '_', with single dots "
                "between them, and does not begin with 'hw' or '_INBOX', which the cluster uses itself.",
            )
    if isinstance(stream, str) and (
        _STREAM.fullmatch(stream) is None or stream.lower().startswith(("kv_", "obj_", "hw"))
    ):
        yield (
            "stream",
            "A stream has 1 to 64 letters, digits, '-' and '_', and does not begin with 'KV_', 'OBJ_' or "
            "'hw', which are taken.",
        )


def with_lower_case_filter(listener: Mapping[str, Any]) -> dict[str, Any]:
    """The same entry with the names of system events in lower case, as for event handlers (1.3)."""
    changed, chosen = dict(listener), listener.get("filter")
    if isinstance(chosen, dict) and isinstance(chosen.get("systemEvents"), list):
        names = [name.lower() if isinstance(name, str) else name for name in chosen["systemEvents"]]
        changed["filter"] = {**chosen, "systemEvents": names}
    return changed
