"""One address in front of a whole cluster, as a load balancer or an ingress is: clients to the gateways, REST
to the control planes, each connection to the next of them.

It looks at the path of the first request of a connection and then passes bytes on, both ways, so the Host
header stays as the caller wrote it and tokens for this address fit.
"""

from __future__ import annotations

import asyncio
import threading
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit

from support.topology import Topology

CLIENT_PATHS: Final = (b"/client",)
HEAD_BYTES: Final = 64 * 1024
START_SECONDS: Final = 10.0


class Balancer:
    """Runs in a thread of its own, on a free port of 127.0.0.1. `endpoint` is its URL."""

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.endpoint = ""
        self.reached: set[str] = set()
        """The endpoints behind that got a connection."""

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0, limit=HEAD_BYTES)
        self.endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._ready.set()
        await self._stop.wait()
        server.close()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            path = head.split(b" ", 2)[1]
            to_client = path.startswith(CLIENT_PATHS)
            behind = self._topology.gateway() if to_client else self._topology.control_plane()
            self.reached.add(behind)
            address = urlsplit(behind)
            there_reader, there_writer = await asyncio.open_connection(address.hostname, address.port)
            there_writer.write(head)
            await asyncio.gather(_pass_on(reader, there_writer), _pass_on(there_reader, writer))
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(START_SECONDS), "the balancer did not start"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(START_SECONDS)


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until one side is done, which ends the other side."""
    try:
        while data := await reader.read(64 * 1024):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()
