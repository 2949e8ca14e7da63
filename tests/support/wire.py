"""Network links that can be cut: TCP proxies on loopback, all in one thread.

with Wires() as wires:
    wire = wires.to(lambda: port)    # connect to wire.port instead
    wire.cut()                       # nothing passes, nothing is told; what was on its way waits, as in TCP
    wire.heal()
    wire.reset()                     # every connection through it is aborted

What a NATS server says about other servers of its cluster is made unreadable on the way, so that who was
given a wire to it does not find a way around.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

CHUNK_BYTES: Final = 256 * 1024
START_SECONDS: Final = 10.0
_OTHER_SERVERS: Final = b'"connect_urls"'
_UNREADABLE: Final = b'"connect_ways"'


class Wire:
    """One link, to whatever port `target` names when somebody connects. Methods may be called from any
    thread and return at once."""

    def __init__(self, loop: asyncio.AbstractEventLoop, target: Callable[[], int]) -> None:
        self.port = 0
        self._loop = loop
        self._target = target
        self._whole = asyncio.Event()
        self._whole.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    def cut(self) -> None:
        self._loop.call_soon_threadsafe(self._whole.clear)

    def heal(self) -> None:
        self._loop.call_soon_threadsafe(self._whole.set)

    def reset(self) -> None:
        def abort() -> None:
            for writer in self._writers:
                # Nothing lingers: the other side sees a reset, not an orderly end.
                socket_ = writer.get_extra_info("socket")
                socket_.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()

        self._loop.call_soon_threadsafe(abort)

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._connection, "127.0.0.1", 0, limit=CHUNK_BYTES)
        self.port = self._server.sockets[0].getsockname()[1]

    def close(self) -> None:
        """In the loop's own thread: nobody can connect any more."""
        if self._server is not None:
            self._server.close()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        there: asyncio.StreamWriter | None = None
        try:
            await self._whole.wait()
            back, there = await asyncio.open_connection("127.0.0.1", self._target(), limit=CHUNK_BYTES)
            self._writers.add(there)
            await asyncio.gather(self._pass_on(reader, there), self._pass_on(back, writer))
        except OSError:
            pass
        finally:
            for one in (writer, there):
                if one is not None:
                    self._writers.discard(one)
                    one.transport.abort()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Until one side is done, which is told to the other when the link is whole."""
        try:
            while data := await reader.read(CHUNK_BYTES):
                await self._whole.wait()
                writer.write(data.replace(_OTHER_SERVERS, _UNREADABLE))
                await writer.drain()
        except OSError:
            pass
        await self._whole.wait()
        writer.close()


class Wires:
    """Runs while the context lasts; all wires end with it."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="wires", daemon=True)
        self._wires: list[Wire] = []

    def to(self, target: Callable[[], int]) -> Wire:
        """A new link. Blocks until it can be used."""
        wire = Wire(self._loop, target)
        asyncio.run_coroutine_threadsafe(wire.open(), self._loop).result(START_SECONDS)
        self._wires.append(wire)
        return wire

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(START_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(START_SECONDS)
        self._loop.close()

    async def _end(self) -> None:
        for wire in self._wires:
            wire.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
