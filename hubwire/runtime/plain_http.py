"""What the accept side and the HTTP server behind it know of each other: neither imports the other.

A socket begins at the accept side. A request that is not for a client endpoint goes to the HTTP server,
with the socket; should a later request on it be for a client endpoint, the socket comes back (reverse
proxies reuse their connections for whatever comes next).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

HEAD_SECONDS = 10.0
"""How long a client may take over the head of a request."""


class AcceptSide(Protocol):
    """Who had the socket first."""

    def wants(self, line: bytes) -> bool:
        """Whether a request belongs there, by its first line."""
        ...

    def take_back(self, transport: asyncio.Transport, data: bytes) -> None:
        """Go on with the socket. `data` begins with the head of a request that it wants."""
        ...


HttpFactory = Callable[[AcceptSide], asyncio.Protocol]
"""Makes the protocol that serves plain HTTP on a socket, until it gives it back."""
