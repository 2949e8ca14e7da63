"""What the answers of event handlers mean (server-events.md section 4). Pure.

An answer is either accepted, with everything that it changes, or a fault with a sentence that tells the
author of the upstream what was wrong. Nothing of an answer takes effect unless all of it is accepted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec

from gateway.protocol.negotiate import Negotiated, negotiate, negotiate_chosen
from gateway.upstream.outcome import Answer, FailureCategory
from gateway.upstream.requests import METADATA_PREFIX
from hubwire.model.limits import MAX_USER_ID_CHARACTERS
from hubwire.model.message import DataType, Message
from hubwire.model.names import is_valid_group
from hubwire.model.payload import is_any, is_json, is_utf8, metadata_fault

MAX_STATE_CHARACTERS: Final = 8 * 1024
"""Of a `ce-connectionState`; a larger one is ignored and logged (4.4)."""
MAX_REFUSAL_BYTES: Final = 4 * 1024
"""What a client sees of the body of a refused `connect` (4.2)."""
_STATE = "ce-connectionstate"
_BOM = b"\xef\xbb\xbf"
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,127}"
_MEDIA_TYPE = re.compile(f'{_TOKEN}/{_TOKEN}( ?; ?{_TOKEN}=({_TOKEN}|"[ !#-\\[\\]-~]{{0,127}}")){{0,8}}')
_CONNECT_FIELDS = ("userId", "roles", "groups", "subprotocol")


class Identity(NamedTuple):
    """What a client's token says of it: the user id, if any, and what is replaced by an answer."""

    user_id: str | None = None
    roles: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()


class StateUpdate(NamedTuple):
    """`value` is the new connection state; None: it stays (4.4). `ignored` says why one was not taken."""

    value: str | None = None
    ignored: str = ""


class BadAnswer(NamedTuple):
    """An answer that is a failure. `reason` is for operators and upstream authors, never for clients."""

    category: FailureCategory
    reason: str


class ConnectAccepted(NamedTuple):
    """The client is let in with these. `negotiated` has the codec and what goes into
    `Sec-WebSocket-Protocol`. `user_id` is None for anonymous clients, never empty."""

    user_id: str | None
    roles: tuple[str, ...]
    groups: tuple[str, ...]
    negotiated: Negotiated
    state: StateUpdate = StateUpdate()


class ConnectRefused(NamedTuple):
    """The answer to the client's request instead of an upgrade. `fault` says why when it is not simply the
    handler's decision."""

    status: int
    content_type: str | None
    body: bytes
    fault: BadAnswer | None


class EventAccepted(NamedTuple):
    """`message` is what the client gets, before its ack; None: nothing."""

    message: Message | None
    state: StateUpdate = StateUpdate()


def state_update(answer: Answer) -> StateUpdate:
    """What a successful answer to a blocking event does to the state; of several headers the last."""
    value = answer.value(_STATE)
    if value is not None and len(value) > MAX_STATE_CHARACTERS:
        return StateUpdate(
            None,
            f"The ce-connectionState has {len(value)} characters, over the limit of {MAX_STATE_CHARACTERS}.",
        )
    if value is not None and not value.isascii():
        # Headers carry it back to the upstream, and only ASCII can go there (3.2, 3.6): kept, it would make
        # every later event of the connection fail.
        return StateUpdate(None, "The ce-connectionState is not ASCII text.")
    return StateUpdate(value)


# -- connect (4.2) ---------------------------------------------------------------------------------------


def accepted_without_handler(
    token: Identity, offered: Sequence[str], *, reliable: bool = False
) -> ConnectAccepted:
    """No `connect` handler: everything is as the token says."""
    negotiated = negotiate(offered, reliable=reliable)
    return ConnectAccepted(token.user_id or None, token.roles, token.groups, negotiated)


def read_connect_answer(
    answer: Answer, token: Identity, offered: Sequence[str], *, reliable: bool = False
) -> ConnectAccepted | ConnectRefused:
    """The whole table of 4.2. `offered` are the subprotocols that the client offers, in its order; `reliable`
    as for `negotiate`."""
    if not answer.success:
        return _refusal(answer)
    try:
        return _accepted(answer, token, offered, reliable)
    except _Fault as fault:
        return refused_for_fault(BadAnswer("bad_answer", str(fault)))


def refused_for_fault(fault: BadAnswer) -> ConnectRefused:
    """The handler could not be asked, or what it said makes no sense: 500, and nothing of why."""
    return ConnectRefused(
        500,
        "text/plain; charset=utf-8",
        b"The event handler for connect failed; see the service's log.",
        fault,
    )


class _Fault(Exception):
    """Why an answer cannot be accepted."""


def _refusal(answer: Answer) -> ConnectRefused:
    status = answer.status
    if 400 <= status <= 499:
        content_type = answer.value("content-type")
        if content_type is not None and not _MEDIA_TYPE.fullmatch(content_type):
            content_type = None  # it becomes a header of ours: nothing but a media type does
        return ConnectRefused(status, content_type, answer.body[:MAX_REFUSAL_BYTES], None)
    fault = BadAnswer("status", f"The event handler answered {status}.")
    if 500 <= status <= 599:
        return ConnectRefused(status, None, b"", fault)
    return refused_for_fault(fault)


def _accepted(answer: Answer, token: Identity, offered: Sequence[str], reliable: bool) -> ConnectAccepted:
    fields = _connect_fields(answer.body)
    user_id = token.user_id
    if fields.get("userId") is not None:
        user_id = _user_id(fields["userId"])
    roles, groups = token.roles, token.groups
    if fields.get("roles") is not None:
        roles = _strings("roles", fields["roles"])
    if fields.get("groups") is not None:
        chosen_groups = _strings("groups", fields["groups"])
        bad = next((group for group in chosen_groups if not is_valid_group(group)), None)
        if bad is not None:
            raise _Fault(
                f"groups has an illegal name: {bad[:64]!r}; 1 to 1024 characters, not all white space."
            )
        groups = tuple(dict.fromkeys(chosen_groups)) or groups  # an empty array changes nothing
    negotiated = negotiate(offered, reliable=reliable)
    chosen = fields.get("subprotocol")
    if chosen is not None:
        if not isinstance(chosen, str) or not chosen.strip():
            raise _Fault("subprotocol must be the name of a subprotocol.")
        answered = negotiate_chosen(offered, chosen, reliable=reliable)
        if answered is None:
            raise _Fault(f"subprotocol is {chosen[:64]!r}, which the client does not offer.")
        negotiated = answered
    return ConnectAccepted(user_id or None, roles, groups, negotiated, state_update(answer))


def _connect_fields(body: bytes) -> dict[str, Any]:
    """The known fields of the answer, by their name; names have any letter case there, and the content
    type does not matter."""
    text = body.removeprefix(_BOM)
    if not text.strip():
        return {}
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise _Fault("The answer to connect is not valid JSON.") from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _Fault("The answer to connect must be a JSON object, null, or nothing.")
    known = {name.lower(): name for name in _CONNECT_FIELDS}
    return {known[name.lower()]: inner for name, inner in value.items() if name.lower() in known}


def _user_id(value: object) -> str:
    if not isinstance(value, str):
        raise _Fault("userId must be a string.")
    if len(value) > MAX_USER_ID_CHARACTERS:
        raise _Fault(f"userId has {len(value)} characters, over the limit of {MAX_USER_ID_CHARACTERS}.")
    if any(ord(c) < 0x20 or ord(c) == 0x7F for c in value):
        # It stands in a header of every later event (3.2), so none of them could be sent.
        raise _Fault("userId has control characters.")
    return value


def _strings(name: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise _Fault(f"{name} must be an array of strings.")
    return tuple(value)


# -- user events (4.5, 4.6) ------------------------------------------------------------------------------


def read_event_answer(answer: Answer, *, simple: bool) -> EventAccepted | BadAnswer:
    """The table of 4.5. `simple` clients get frames without an envelope, and no metadata.

    The data type of the message is one that the client's codec has a frame for.
    """
    if not answer.success:
        return BadAnswer("status", f"The event handler answered {answer.status}.")
    try:
        return EventAccepted(_message(answer, simple), state_update(answer))
    except _Fault as fault:
        return BadAnswer("bad_answer", str(fault))


def _message(answer: Answer, simple: bool) -> Message | None:
    body = answer.body
    metadata = None if simple else _metadata(answer)
    if not body:
        return Message(DataType.TEXT, b"", metadata=metadata) if metadata else None
    content_type = (answer.value("content-type") or "").partition(";")[0].strip().lower()
    if content_type in ("", "application/octet-stream"):
        return Message(DataType.BINARY, body, metadata=metadata)
    if content_type == "text/plain":
        if not is_utf8(body):
            raise _Fault("The answer is text/plain but not UTF-8.")
        return Message(DataType.TEXT, body, metadata=metadata)
    if content_type == "application/json":
        body = body.removeprefix(_BOM)
        # A simple client gets it as a text frame, in which only UTF-8 goes; PubSub clients inside of JSON.
        if not (is_utf8(body) if simple else is_json(body)):
            raise _Fault("The answer is application/json but not valid JSON in UTF-8.")
        return Message(DataType.JSON, body, metadata=metadata)
    if content_type == "application/x-protobuf" and not simple:
        if not is_any(body):
            raise _Fault("The answer is application/x-protobuf but not a google.protobuf.Any.")
        return Message(DataType.PROTOBUF, body, metadata=metadata)
    raise _Fault(
        f"The content type {content_type[:64]!r} cannot be passed on: use text/plain, application/json or "
        "application/octet-stream."
    )


def _metadata(answer: Answer) -> dict[str, str] | None:
    """Of several lines the last, of a comma list the last item (4.5)."""
    metadata = {}
    for name, value in answer.headers:
        if name.startswith(METADATA_PREFIX) and len(name) > len(METADATA_PREFIX):
            metadata[name[len(METADATA_PREFIX) :]] = value.rpartition(",")[2].strip()
    fault = metadata_fault(metadata) if metadata else None
    if fault is not None:
        raise _Fault(f"{fault} (A header X-WebPubSub-Metadata-... of the answer.)")
    return metadata or None
