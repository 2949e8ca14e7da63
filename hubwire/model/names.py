"""Names and ids of the domain: their types, and the rules for a legal one.

Rules: client-protocols.md 1.2 (hubs), 3.1 (groups, events), 1.9 (connection ids).
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64encode
from typing import NewType

from hubwire.model.errors import InvalidRequest
from hubwire.model.limits import MAX_EVENT_NAME_CHARACTERS, MAX_GROUP_CHARACTERS, MAX_HUB_CHARACTERS

HubName = NewType("HubName", str)  # always lower case
ConnectionId = NewType("ConnectionId", str)

CONNECTION_ID_RANDOM_BYTES = 16
CONNECTION_ID_CHARACTERS = 31
GATEWAY_NAME_CHARACTERS = 9

_HUB = re.compile(rf"[A-Za-z][A-Za-z0-9_`,.\[\]]{{0,{MAX_HUB_CHARACTERS - 1}}}")
_EVENT = re.compile(rf"[A-Za-z][A-Za-z0-9_.-]{{0,{MAX_EVENT_NAME_CHARACTERS - 1}}}")
_GATEWAY = re.compile(rf"[0-9a-f]{{{GATEWAY_NAME_CHARACTERS}}}")
_CONNECTION_ID = re.compile(rf"[A-Za-z0-9_-]{{22}}([0-9a-f]{{{GATEWAY_NAME_CHARACTERS}}})")


def normalize_hub(text: str) -> HubName:
    """The hub's name in lower case, the only form that is stored or compared (client-protocols.md 1.2).

    Raises `InvalidRequest` with target "hub" when the name is missing or illegal.
    """
    if _HUB.fullmatch(text) is None:
        raise InvalidRequest(
            f"The hub name {text[:MAX_HUB_CHARACTERS]!r} is not legal: it must begin with an ASCII letter "
            f"and have 1 to {MAX_HUB_CHARACTERS} characters out of letters, digits and _ ` , . [ ].",
            target="hub",
        )
    return HubName(text.lower())


def is_valid_group(text: str) -> bool:
    """1 to 1024 characters, not only white space, anything else goes (client-protocols.md 3.1)."""
    return 0 < len(text) <= MAX_GROUP_CHARACTERS and not text.isspace()


def is_valid_event(text: str) -> bool:
    """Client-protocols.md 3.1."""
    return _EVENT.fullmatch(text) is not None


def new_connection_id(random_bytes: bytes, gateway: str) -> ConnectionId:
    """31 URL-safe characters in the shape that Azure's ids have (client-protocols.md 1.9).

    The last nine are the name of the gateway's run, so that anybody who has the id knows which gateway
    made it. `random_bytes` are 16 bytes from a secure source: ids are what REST callers address. One bit
    of them is given up so that the id begins with a letter, never with a "-" that a command line would
    take for an option.
    """
    if len(random_bytes) != CONNECTION_ID_RANDOM_BYTES or _GATEWAY.fullmatch(gateway) is None:
        raise ValueError(f"16 random bytes and a gateway name of 9 hex digits are needed, not {gateway!r}")
    # The top six bits become the first character; below 32 that is a letter of A-Z or a-f.
    head = bytes((random_bytes[0] & 0x7F,))
    return ConnectionId(urlsafe_b64encode(head + random_bytes[1:])[:22].decode() + gateway)


def gateway_of(connection_id: str) -> str | None:
    """The name of the gateway run that made the id; None when the id cannot be one of ours.

    It says who made the id, not who holds the connection now: a reliable connection can have moved.
    """
    match = _CONNECTION_ID.fullmatch(connection_id)
    return match.group(1) if match is not None else None
