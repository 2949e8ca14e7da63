"""A way to the gateways that loses connections, for clients that have to notice and mend it by themselves.

    async with Detour(topology.gateways) as detour:
        ... a client of detour.endpoint ...
        detour.lose()        # every connection ends without a close frame
        detour.close_way()   # and new ones are not accepted
        detour.open_way()

Each connection goes to the next gateway, so who comes back does so elsewhere, where there is an elsewhere.
The Host header stays as the client wrote it, so tokens are made for `endpoint`.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from itertools import cycle
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

CHUNK_BYTES = 64 * 1024


class Detour:
    def __init__(self, gateways: list[str]) -> None:
        self.endpoint = ""
        self.taken = 0
        """How many connections there were."""
        self._gateways = cycle(gateways)
        self._open = True
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    def lose(self) -> None:
        """A reset for both sides of every connection."""
        for writer in self._writers:
            lingering = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, lingering)
            writer.transport.abort()

    def close_way(self) -> None:
        self._open = False
        self.lose()

    def open_way(self) -> None:
        self._open = True

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._open:
            writer.transport.abort()
            return
        self.taken += 1
        self._writers.add(writer)
        there: asyncio.StreamWriter | None = None
        try:
            address = urlsplit(next(self._gateways))
            back, there = await asyncio.open_connection(address.hostname, address.port)
            self._writers.add(there)
            await asyncio.gather(_pass_on(reader, there), _pass_on(back, writer))
        except OSError:
            pass
        finally:
            for one in (writer, there):
                if one is not None:
                    self._writers.discard(one)
                    one.transport.abort()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connection, "127.0.0.1", 0, limit=CHUNK_BYTES)
        self.endpoint = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.lose()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until one side is done, which ends the other side."""
    try:
        while data := await reader.read(CHUNK_BYTES):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()
