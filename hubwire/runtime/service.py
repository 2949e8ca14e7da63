"""What the three services do alike: connect, know the owners, stop when told, tell the supervisor.

A service is a coroutine that gets a `Stop` and returns when it has stopped in order. Its tasks live in
a task group; a task that fails takes the process down with its reason in the log, and the supervisor
or Kubernetes starts it again under a new name.
"""

from __future__ import annotations

import asyncio
import gc
import os
import secrets
import signal
import sys
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import structlog

from hubwire.bus.client import BusClient
from hubwire.bus.owners import OwnersStore, OwnersView
from hubwire.model.errors import Unavailable
from hubwire.runtime.child import BEAT
from hubwire.runtime.nats_options import nats_options
from hubwire.runtime.process import ProcessConfig

log = structlog.get_logger(__name__)

CONNECT_SECONDS = 60.0
BEAT_SECONDS = 1.0
COLLECT_EVERY = (10_000, 20, 50)
"""New objects before the youngest are looked through, and how many such times before the older ones are."""


def new_run_name() -> str:
    """A name for one run of a router, gateway or control plane: nine hexadecimal digits."""
    return f"{secrets.randbits(36):09x}"


class Stop:
    """Told once, by a signal or by the service itself, and why."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._runs: list[Stop] = []
        self.reason = ""

    def now(self, reason: str) -> None:
        if not self._event.is_set():
            self.reason = reason
            self._event.set()
            for run in self._runs:
                run.now(reason)

    def for_one_run(self) -> Stop:
        """A Stop that can be told by itself, and is told when this one is."""
        run = Stop()
        self._runs = [run]
        if self.told:
            run.now(self.reason)
        return run

    @property
    def told(self) -> bool:
        return self._event.is_set()

    async def wait(self) -> None:
        await self._event.wait()


def tell_ready(config: ProcessConfig) -> None:
    """Write the byte that the supervisor waits for. Harmless when nobody listens."""
    if config.ready_fd is not None:
        try:
            os.write(config.ready_fd, b"r")
        except OSError as error:
            log.warning("readiness_not_told", error=str(error))


async def _beat(fd: int) -> None:
    """Tell the supervisor again and again that the event loop turns. Until cancelled."""
    os.set_blocking(fd, False)
    while True:
        try:
            os.write(fd, BEAT)
        except BlockingIOError:
            pass  # the supervisor is paused; when it wakes it finds plenty
        await asyncio.sleep(BEAT_SECONDS)


def collect_rarely() -> None:
    """Look for garbage in cycles seldom, and not in what was imported.

    Hardly anything here is garbage in cycles, while thousands of connections or sessions that come at once
    make much that stays: Python's own pace cost a gateway a tenth of its CPU then.
    """
    gc.freeze()
    gc.set_threshold(*COLLECT_EVERY)


def run_service(main: Callable[[Stop], Awaitable[None]], beat_fd: int | None = None) -> None:
    """Run a service on uvloop until SIGTERM or SIGINT, then until it has stopped.

    A second signal ends it at once. An exception of the service is logged and ends the process with
    status 1. With `beat_fd` (a `ProcessConfig.ready_fd`) the supervisor sees that it does not hang.
    """
    import uvloop

    collect_rarely()

    async def body() -> None:
        stop = Stop()
        loop = asyncio.get_running_loop()

        def told(name: str) -> None:
            if stop.told:
                os._exit(1)
            stop.now(name)

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, told, signal.Signals(number).name)
        beating = [asyncio.create_task(_beat(beat_fd), name="beat")] if beat_fd is not None else []
        try:
            await main(stop)
        except* Unavailable as group:
            if not stop.told:
                raise
            log.info("service_stopped_at_its_start", error=str(group.exceptions[0]))
        finally:
            await end_tasks(beating)

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(body())
    except* Unavailable as group:
        for error in group.exceptions:
            log.error("service_cannot_go_on", error=str(error))
        sys.exit(1)
    except* Exception:
        log.exception("service_failed")
        sys.exit(1)


async def end_tasks(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks until they have ended.

    Once is not always enough: before Python 3.12 `asyncio.wait_for`, which nats-py awaits answers with,
    swallows a cancellation that comes in the same turn as the answer, and the task goes on for ever.
    """
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=0.5)


async def connect_bus(config: ProcessConfig, name: str, stop: Stop) -> BusClient:
    """Connect to NATS, trying for a minute: in a cluster everything starts at the same time.

    Raises Unavailable after that, or when told to stop meanwhile.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + CONNECT_SECONDS
    while True:
        options = nats_options(config, name=name)
        # The first attempt must fail visibly; only an established connection is kept up for ever.
        attempt = asyncio.create_task(_connect_once(options))
        stopped = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({attempt, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if attempt.done():
                return attempt.result()
            raise Unavailable("Told to stop before NATS could be reached.")
        except Unavailable as error:
            if stop.told or loop.time() > end:
                raise
            log.warning("nats_not_reached_yet", error=str(error))
            await asyncio.sleep(0.3)
        finally:
            attempt.cancel()
            stopped.cancel()


async def _connect_once(options: dict[str, object]) -> BusClient:
    try:
        async with asyncio.timeout(5):
            return await BusClient.connect({**options})
    except TimeoutError as error:
        raise Unavailable(f"NATS did not answer at {options.get('servers')}.") from error


async def wait_unless_told(stop: Stop, *conditions: Awaitable[None]) -> None:
    """Wait for all of these. Raises Unavailable when told to stop before."""

    async def all_of_them() -> None:
        await asyncio.gather(*conditions)

    told = asyncio.create_task(stop.wait())
    everything = asyncio.create_task(all_of_them())
    try:
        await asyncio.wait({told, everything}, return_when=asyncio.FIRST_COMPLETED)
        if not everything.done():
            raise Unavailable("Told to stop before the start was over.")
        everything.result()
    finally:
        told.cancel()
        everything.cancel()


def open_owners(bus: BusClient, config: ProcessConfig) -> tuple[OwnersStore, OwnersView]:
    store = OwnersStore(bus, memory=config.in_memory, replicas=config.replicas)
    return store, OwnersView(bus, store)
