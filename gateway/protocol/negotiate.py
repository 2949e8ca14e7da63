"""Which subprotocol a connection speaks (client-protocols.md 1.6, 4.5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from gateway.protocol.codec import Codec, ReliableCodec
from gateway.protocol.json_reliable_v1 import JSON_RELIABLE_V1
from gateway.protocol.json_v1 import JSON_V1
from gateway.protocol.protobuf_reliable_v1 import PROTOBUF_RELIABLE_V1
from gateway.protocol.protobuf_v1 import PROTOBUF_V1
from gateway.protocol.simple import SIMPLE

RELIABLE: Final[dict[str, ReliableCodec]] = {
    codec.name: codec for codec in (JSON_RELIABLE_V1, PROTOBUF_RELIABLE_V1)
}
"""By lower-case name."""
_PLAIN: Final[dict[str, Codec]] = {codec.name: codec for codec in (JSON_V1, PROTOBUF_V1)}
_ALL: Final[dict[str, Codec]] = {**_PLAIN, **RELIABLE}


class Negotiated(NamedTuple):
    """`echo` is what goes into Sec-WebSocket-Protocol, in the client's spelling; None: no such header."""

    codec: Codec
    echo: str | None


def negotiate(offered: Sequence[str], *, reliable: bool = False) -> Negotiated:
    """Without a word from a connect handler: the first predefined name in the client's order.

    Nothing known offered: a simple client, without the header. The connection is accepted all the same.
    `reliable`: whether sessions can be recovered here; where they cannot, those names are unknown ones.
    """
    predefined = _ALL if reliable else _PLAIN
    for name in offered:
        codec = predefined.get(name.lower())
        if codec is not None:
            return Negotiated(codec, name)
    return Negotiated(SIMPLE, None)


def negotiate_chosen(offered: Sequence[str], chosen: str, *, reliable: bool = False) -> Negotiated | None:
    """The subprotocol that a connect handler returned: a predefined one, or a simple client that echoes it.

    A client that offered nothing must not be answered with one (RFC 6455), so then the choice is ignored.
    None when the client offered others but not this: a fault of the handler, answered with 500.
    """
    if not offered:
        return Negotiated(SIMPLE, None)
    codec = (_ALL if reliable else _PLAIN).get(chosen.lower())
    for name in offered:
        if name == chosen or (codec is not None and name.lower() == chosen.lower()):
            return Negotiated(codec if codec is not None else SIMPLE, name)
    return None


def echo_of_recovery(offered: Sequence[str], original: str = "") -> str | None:
    """What a recovery's 101 confirms (4.5). The recovered session goes on in its `original` subprotocol
    whatever is offered, so that name if it is offered, else the first predefined one.

    Else the first of all: a refusal must be seen too, and clients whose offer is not answered fail before
    they see its close code. None when nothing is offered.
    """
    for name in offered:
        if name.lower() == original:
            return name
    return negotiate(offered, reliable=True).echo or (offered[0] if offered else None)
