"""Whether JetStream stores, found out by storing: a server that cannot write any more answers all else."""

from __future__ import annotations

import asyncio

import structlog

from hubwire.bus.client import NO_RESPONDERS, BusClient
from hubwire.bus.subjects import store_check_subject
from hubwire.model.errors import NotFound, Unavailable
from hubwire.runtime.lease_bucket import open_leases
from hubwire.runtime.nats_probe import NOTHING_STORED, stored

log = structlog.get_logger(__name__)

EVERY_SECONDS = 2.0
TROUBLE_SECONDS = 10.0
"""How long storing may fail before that counts: an election in NATS takes so long, and callers wait."""


async def try_store(bus: BusClient, who: str, timeout: float) -> None:
    """Store a little in the bucket of the leases. Raises NotFound when there is no bucket, Unavailable with
    the reason when it is not stored within `timeout` seconds."""
    try:
        answer = await bus.ask(store_check_subject(who), b"?", timeout)
    except Unavailable as error:
        if str(error) == NO_RESPONDERS:
            raise NotFound("The bucket of the leases is not there.") from error
        raise Unavailable(f"{NOTHING_STORED} ({error})") from error
    if fault := stored(answer):
        raise Unavailable(fault)


class StoreCheck:
    """Tries again and again, for `/api/health`. The key that is written is shared by all that are the same
    `who`."""

    def __init__(self, bus: BusClient, who: str, *, memory: bool, replicas: int) -> None:
        self._bus = bus
        self._who = who
        self._memory = memory
        self._replicas = replicas
        self._loop = asyncio.get_running_loop()
        self._stored = self._loop.time()
        self._fault = ""
        self._soon = asyncio.Event()

    def trouble(self) -> str:
        """Why nothing has been stored for TROUBLE_SECONDS; "" when something has. Without a connection to
        NATS it is known at once."""
        if not self._bus.connected:
            return "NATS is not connected."
        if self._loop.time() - self._stored > TROUBLE_SECONDS:
            return f"NATS is connected, but {self._fault or NOTHING_STORED}. Is its disk full?"
        return ""

    async def run(self) -> None:
        """Try until cancelled."""
        self._bus.on_reconnect(self._soon.set)
        while True:
            self._soon.clear()
            try:
                await try_store(self._bus, self._who, EVERY_SECONDS)
                self._stored, self._fault = self._loop.time(), ""
            except NotFound:
                await self._open()
            except Unavailable as error:
                self._fault = str(error)
            try:
                async with asyncio.timeout(EVERY_SECONDS):
                    await self._soon.wait()
            except TimeoutError:
                pass

    async def _open(self) -> None:
        """There is no router or gateway yet, or the bucket was lost with the server's memory."""
        try:
            await open_leases(self._bus, memory=self._memory, replicas=self._replicas, timeout=EVERY_SECONDS)
            self._soon.set()
        except Unavailable as error:
            log.debug("bucket_not_opened", error=str(error))
            self._fault = str(error)
