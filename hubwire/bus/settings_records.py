"""How one setting stands in the bucket `hw_settings`: its key and its value.

Keys are made of what a NATS subject allows: hub names may contain commas, brackets, dots and backticks
(rest-api.md 1.2), so names are written in hexadecimal. Hubs have no case: the key is made of the lower-case
name, the record keeps the name as it was given, for answers (management-api.md 7.3).

Each record carries a version of its own, one higher at every write. Revisions of the stream begin again
when a server in memory mode restarts; versions do not, so after a restart the newest known record wins.
A deleted hub stays as a record without a value, so that nobody who missed the deletion brings it back.
"""

from __future__ import annotations

import secrets
from typing import NamedTuple

import msgspec

from hubwire.model.cluster_settings import ClusterSettings
from hubwire.model.errors import Conflict, InternalError
from hubwire.model.limits import RECONNECTION_KEY_SECONDS, RECONNECTION_TOKEN_SECONDS
from hubwire.model.settings import AccessKeys, HubSettings, ReconnectionKeys

KEYS_KEY = "keys"
RECONNECTION_KEY = "reconnection"
CLUSTER_KEY = "cluster"
HUB_PREFIX = "hub."
VALUE_PREFIX = "value."


class Stored(msgspec.Struct, frozen=True):
    """The value of one key in the bucket. `value` is JSON null when the setting was deleted."""

    version: int
    name: str = ""
    value: msgspec.Raw = msgspec.Raw(b"null")


class HubEntry(NamedTuple):
    """A hub that has settings. `name` is in the case it was last put with."""

    name: str
    settings: HubSettings


class Record(NamedTuple):
    """One setting as this process knows it; `revision` is the stream's, in its present incarnation."""

    revision: int
    stored: Stored
    value: HubEntry | AccessKeys | ReconnectionKeys | ClusterSettings | object | None


def hub_key(name: str) -> str:
    """The bucket's key of a hub, whatever the case of its name."""
    return HUB_PREFIX + name.lower().encode().hex()


def value_key(name: str) -> str:
    """The bucket's key of a free-form cluster value."""
    return VALUE_PREFIX + name.encode().hex()


def encode_stored(version: int, name: str, value: object | None) -> bytes:
    """The bytes to store; `value` is anything that msgspec writes as JSON."""
    return msgspec.json.encode(Stored(version, name, msgspec.Raw(msgspec.json.encode(value))))


def decode_stored(key: str, revision: int, data: bytes) -> Record:
    """Read what is in the bucket.

    Raises InternalError for bytes that this version cannot read: the caller keeps what it had. Properties
    that a newer version added are ignored, so that versions can run side by side.
    """
    try:
        stored = msgspec.json.decode(data, type=Stored)
        value: HubEntry | AccessKeys | ReconnectionKeys | ClusterSettings | object | None
        if bytes(stored.value) == b"null":
            value = None
        elif key.startswith(HUB_PREFIX):
            value = HubEntry(stored.name, msgspec.json.decode(stored.value, type=HubSettings))
        elif key == KEYS_KEY:
            value = msgspec.json.decode(stored.value, type=AccessKeys)
        elif key == RECONNECTION_KEY:
            value = msgspec.json.decode(stored.value, type=ReconnectionKeys)
        elif key == CLUSTER_KEY:
            value = msgspec.json.decode(stored.value, type=ClusterSettings)
        else:
            value = msgspec.json.decode(stored.value)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InternalError(f"The setting {key!r} cannot be read: {error}.") from error
    # Raw is a view into the message's bytes; a copy lets go of the rest.
    return Record(revision, msgspec.structs.replace(stored, value=msgspec.Raw(bytes(stored.value))), value)


def new_access_key() -> str:
    """A fresh key of 256 bits and more: 44 characters that need no escaping in connection strings."""
    return secrets.token_urlsafe(33)


def new_access_keys() -> AccessKeys:
    """What `ensure_keys` is usually given."""
    return AccessKeys(primary=new_access_key(), secondary=new_access_key(), salt=new_access_key())


def next_reconnection_keys(present: ReconnectionKeys | None, now: float) -> ReconnectionKeys:
    """The keys after those that there are; the same when they are young enough. `now` is in Unix seconds."""
    if present is None or not present.current:
        return ReconnectionKeys(new_access_key(), "", int(now))
    if now < present.made_at + RECONNECTION_KEY_SECONDS:
        return present
    return ReconnectionKeys(new_access_key(), present.current, int(now))


def rotated_reconnection_keys(present: ReconnectionKeys | None, now: float, force: bool) -> ReconnectionKeys:
    """The next keys, however old those are. Two verify, so one more change within the life of a token would
    end sessions that could be recovered: that raises Conflict unless it is forced. `now` in Unix seconds."""
    if present is None or not present.current:
        return ReconnectionKeys(new_access_key(), "", int(now))
    until = present.made_at + RECONNECTION_TOKEN_SECONDS
    if present.previous and now < until and not force:
        days = int((until - now) // 86_400) + 1
        raise Conflict(
            "Clients may still hold reconnection tokens of the key before the one that signs now, for up to "
            f"{days} more days; they could not recover any more. Wait, or force it."
        )
    return ReconnectionKeys(new_access_key(), present.current, int(now))
