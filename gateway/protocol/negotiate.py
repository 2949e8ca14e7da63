"""Which subprotocol a connection speaks (client-protocols.md 1.6)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from gateway.protocol.codec import Codec
from gateway.protocol.json_v1 import JSON_V1
from gateway.protocol.protobuf_v1 import PROTOBUF_V1
from gateway.protocol.simple import SIMPLE

# By lower-case name. The reliable protocols are not here yet, so they count as unknown names.
_PREDEFINED: Final[dict[str, Codec]] = {codec.name: codec for codec in (JSON_V1, PROTOBUF_V1)}


class Negotiated(NamedTuple):
    """`echo` is what goes into Sec-WebSocket-Protocol, in the client's spelling; None: no such header."""

    codec: Codec
    echo: str | None


def negotiate(offered: Sequence[str]) -> Negotiated:
    """Without a word from a connect handler: the first predefined name in the client's order.

    Nothing known offered: a simple client, without the header. The connection is accepted all the same.
    """
    for name in offered:
        codec = _PREDEFINED.get(name.lower())
        if codec is not None:
            return Negotiated(codec, name)
    return Negotiated(SIMPLE, None)


def negotiate_chosen(offered: Sequence[str], chosen: str) -> Negotiated | None:
    """The subprotocol that a connect handler returned: a predefined one, or a simple client that echoes it.

    A client that offered nothing must not be answered with one (RFC 6455), so then the choice is ignored.
    None when the client offered others but not this: a fault of the handler, answered with 500.
    """
    if not offered:
        return Negotiated(SIMPLE, None)
    codec = _PREDEFINED.get(chosen.lower())
    for name in offered:
        if name == chosen or (codec is not None and name.lower() == chosen.lower()):
            return Negotiated(codec if codec is not None else SIMPLE, name)
    return None
