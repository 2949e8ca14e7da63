"""One socket of a client: how it is opened, and what waits to be written to it."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from support.dialects import AnyFrame, Connected, Dialect
from support.history import Request
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage
from websockets.typing import Subprotocol

DIAL_SECONDS: Final = 6.0
NOT_THERE: Final = (OSError, TimeoutError, EOFError, ConnectionClosed, InvalidHandshake, InvalidMessage)
"""What `dial` raises when the service, or what is in front of it, does not serve just now."""


class Attachment:
    """One socket, and what waits to be written to it."""

    def __init__(self, socket: ClientConnection, number: int) -> None:
        self.socket = socket
        self.number = number
        self.heard_at = time.monotonic()
        self.outgoing: asyncio.Queue[Request | AnyFrame] = asyncio.Queue()  # bounded by MAX_UNANSWERED
        self.tasks: list[asyncio.Task[None]] = []
        self.replaced: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the session has another socket."""

    def abort(self) -> None:
        """The network's way of ending it: no close frame."""
        self.socket.transport.abort()

    async def end(self) -> None:
        self.abort()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


async def dial(endpoint: str, hub: str, query: str, dialect: Dialect) -> tuple[ClientConnection, Connected]:
    """A socket behind its first message, which must be `connected`. ConnectionClosed when the service closes
    instead; anything else of `NOT_THERE` when it is not there."""
    socket = await connect(
        f"{endpoint.replace('http', 'ws', 1)}/client/hubs/{hub}?{query}",
        subprotocols=[Subprotocol(dialect.name)],
        open_timeout=DIAL_SECONDS,
        close_timeout=1,
        ping_interval=None,
        compression=None,
        max_queue=None,
        max_size=None,
        proxy=None,
    )
    try:
        assert socket.subprotocol == dialect.name, f"{dialect.name} was asked for, not {socket.subprotocol}"
        async with asyncio.timeout(DIAL_SECONDS):
            greeting = dialect.read(await socket.recv())
        assert isinstance(greeting, Connected), f"first came {greeting}"
    except BaseException:
        socket.transport.abort()
        raise
    return socket, greeting
