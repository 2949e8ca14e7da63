"""Leases: who is alive (DESIGN.md section 4 and "Further rules" of section 5; docs/decisions/0012).

A process holds a lease under a name that is its own for one run. Its entry in the bucket `hw_leases` is
changed by compare-and-set only: the holder renews it, and a reader that must be certain that the holder
has gone ends it. So of a renewal and an ending exactly one succeeds, and everybody sees the same one.

- The holder may act on its lease until `ttl - margin` after it *sent* the last renewal that was stored.
- A reader that knows of a renewal, and `ttl + margin` later has not heard of another, may end the lease
  by replacing that very renewal. (Both by clocks of their own that never go back.)

So a holder has stopped acting before anybody can end its lease, whatever is paused, slow or cut off in
between; and a holder whose lease ran out while nobody could write, as in a restart of NATS, finds that
nobody has ended it, renews it and goes on.

Readers hear renewals as core messages on the bucket's subject, without a JetStream consumer, so hearing
goes on by itself after any reconnection. Attempts that are not stored are heard too: they do show that
the holder is alive. An attempt to *end* a lease shows nothing, so whoever hears one reads the bucket.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog

from hubwire.bus.client import TIMEOUT, BusClient
from hubwire.bus.subjects import LEASES_CENSUS, lease_subject, presence_subject
from hubwire.model.errors import HubwireError, Unavailable
from hubwire.runtime.lease_bucket import (
    NOTHING,
    LeaseMessage,
    margin_of,
    open_leases,
    read_entry,
    read_leases,
    store_if,
)
from hubwire.runtime.lease_watch import LeaseWatch

__all__ = ["Lease", "LeaseWatch", "margin_of", "read_leases"]

log = structlog.get_logger(__name__)

ACQUIRE_SECONDS = 30.0
OPEN_SECONDS = 0.5
ATTEMPT_SECONDS = 0.5
"""For the answer to a renewal, at most. What was sent while a leader was being elected is lost, so it is
better to send again; what was stored all the same is found then."""

SUSPECT_SECONDS = 1.0
"""How long a server may not answer at all before it is left for another: with the attempt before it well
within the shortest lease that others may end."""

LOOK_EVERY = 3
"""Of failures in a row, one in so many is looked into, the first too; in between, only send again."""


def suspended_clock() -> float:
    """Seconds on a clock that never goes back and, where the system has one, goes on while the machine
    is suspended: a holder that slept must not believe that its lease is still good."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


class _Over(Exception):
    """The lease was ended by another."""


class Lease:
    """The holder's side. Run `run()` in the service's task group; read `valid` before acting.

    `strict` is for roles whose acting must exclude everybody else's (routers): when the lease has run out
    and its entry is gone with the bucket, nobody can tell whether somebody had ended it, so it counts as
    lost. A gateway goes on: at worst it was forgotten for a while, and is asked for its members again.
    """

    def __init__(
        self,
        bus: BusClient,
        role: str,
        name: str,
        ttl: float,
        *,
        memory: bool,
        replicas: int,
        strict: bool = False,
        clock: Callable[[], float] = suspended_clock,
    ) -> None:
        self._bus = bus
        self._loop = asyncio.get_running_loop()
        self._clock = clock
        self.role = role
        self.name = name
        self.ttl = ttl
        self._memory = memory
        self._replicas = replicas
        self._strict = strict
        self._subject = lease_subject(role, name)
        self._count = 0
        self._revision = 0
        self._valid_until = 0.0
        self._held = False
        self._failing = False
        self._failures = 0  # attempts in a row that were not answered
        self.renewals = 0
        """Attempts that were stored."""
        self.failed_renewals = 0
        """Attempts that are not known to be."""
        self._asked = asyncio.Event()
        self._released = False
        self._leaving = False
        self._renewed = asyncio.Event()
        self._look_for_bucket = False
        self.on_lost: Callable[[], None] | None = None
        """Called once when the lease, once held, was found ended: this run's name is used up."""

    @property
    def valid(self) -> bool:
        return self._clock() < self._valid_until

    @property
    def seconds_left(self) -> float:
        """How long it is still good if it is not renewed; 0 when it is not."""
        return max(0.0, self._valid_until - self._clock())

    async def prepare(self, give_up: Callable[[], bool] = lambda: False) -> None:
        """Open the bucket, as `acquire` does first: whoever wants to know of the others before its own
        lease is seen needs it. Raises Unavailable like `acquire`."""
        await self._persist(self._prepare, give_up)

    async def acquire(self, give_up: Callable[[], bool] = lambda: False) -> None:
        """Open the bucket and store the first renewal.

        Keeps trying while a cluster of NATS servers elects its leaders: a bucket that was just made there
        has no leader yet, and answers nothing. Raises Unavailable after ACQUIRE_SECONDS, or at the next
        failure once `give_up` says so.
        """
        await self._persist(self._prepare, give_up)
        await self._persist(self._renew, give_up)

    async def _persist(self, step: Callable[[], Awaitable[None]], give_up: Callable[[], bool]) -> None:
        end = self._loop.time() + ACQUIRE_SECONDS
        while True:
            try:
                return await step()
            except Unavailable as error:
                if give_up() or self._loop.time() > end:
                    raise
                log.warning("lease_not_acquired_yet", role=self.role, name=self.name, error=str(error))
                await asyncio.sleep(0.1)

    async def _prepare(self) -> None:
        await self._open(5.0)

    async def _open(self, timeout: float) -> None:
        await open_leases(self._bus, memory=self._memory, replicas=self._replicas, timeout=timeout)

    async def _renew(self) -> None:
        """One attempt. Raises Unavailable when it is not known to be stored, _Over when it never will be."""
        sent = self._clock()
        self._count += 1
        data = LeaseMessage(self._count, self.ttl, leaving=self._leaving).pack()
        try:
            timeout = min(self.ttl / 4, ATTEMPT_SECONDS)
            stored = await store_if(self._bus, self._subject, data, self._revision, timeout)
        except Unavailable as error:
            self._failures += 1
            self.failed_renewals += 1
            if self._failures % LOOK_EVERY == 1 and self._bus.connected:
                await self._look_around(str(error) == TIMEOUT)
            raise
        self._failures = 0
        if stored is None:
            await self._look()
            raise Unavailable("The lease's entry had changed.")
        self._revision = stored
        self._held = True
        self.renewals += 1
        self._renewed.set()
        self._valid_until = max(self._valid_until, sent + self.ttl - margin_of(self.ttl))

    async def _look_around(self, unanswered: bool) -> None:
        """Why was it not stored? The server may hang, or the bucket be lost with the server's memory. Nobody
        else need tell us of that: readers subscribe to the same subject, so there are always "responders"."""
        suspicion = self._bus.suspect(SUSPECT_SECONDS) if unanswered else asyncio.sleep(0)
        _, opened = await asyncio.gather(suspicion, self._open(OPEN_SECONDS), return_exceptions=True)
        if isinstance(opened, BaseException):
            raise opened

    async def _look(self) -> None:
        """The entry is not as we left it: an earlier attempt of ours was stored without our hearing of
        it, the bucket is a new one, or we were ended."""
        entry = await read_entry(self._bus, self.role, self.name)
        if entry.ended or (entry is NOTHING and self._held and self._strict and not self.valid):
            raise _Over
        self._revision = entry.revision

    async def run(self) -> None:
        """Renew until cancelled, released or ended. Failures are retried for as long as it takes."""
        unsubscribe = await self._bus.subscribe(LEASES_CENSUS, self._counted)
        self._bus.on_reconnect(self._reconnected)
        try:
            while not self._released:
                pause = self.ttl / 4
                self._asked.clear()
                try:
                    if self._look_for_bucket:
                        self._look_for_bucket = False
                        await self._open(OPEN_SECONDS)
                    await self._renew()
                    if self._failing:
                        log.info("lease_renewed_again", role=self.role, name=self.name)
                    self._failing = False
                except _Over:
                    self._valid_until = 0.0
                    log.error("lease_lost", role=self.role, name=self.name)
                    if self.on_lost is not None and not self._released:
                        self.on_lost()
                    return
                except HubwireError as error:
                    if not self._failing:
                        log.warning("lease_not_renewed", role=self.role, name=self.name, error=str(error))
                    self._failing = True
                    pause = min(pause, 0.05)
                try:
                    async with asyncio.timeout(pause):
                        await self._asked.wait()
                except TimeoutError:
                    pass
        finally:
            await unsubscribe()

    def _counted(self, _subject: str, _reply: str, _data: bytes) -> None:
        if not self._released:
            present = LeaseMessage(self._count, self.ttl, leaving=self._leaving)
            try:
                self._bus.publish(presence_subject(self.role, self.name), present.pack())
            except Unavailable as error:
                log.debug("census_not_answered", error=str(error))
        self._asked.set()

    def _reconnected(self) -> None:
        self._look_for_bucket = True
        self._asked.set()

    async def leave(self, timeout: float = 1.0) -> None:
        """Say, from now on, that this holder gives its work away; wait until that was stored. Best effort:
        `run` must be running, and goes on renewing."""
        self._leaving = True
        self._renewed.clear()
        self._asked.set()
        try:
            async with asyncio.timeout(timeout):
                await self._renewed.wait()
        except TimeoutError:
            log.warning("lease_leaving_not_told", role=self.role, name=self.name)

    async def release(self) -> None:
        """Say that this run is over, so that nobody waits for the TTL. Best effort."""
        self._released = True
        self._valid_until = 0.0
        try:
            await self._bus.ask(self._subject, LeaseMessage(self._count + 1, 0.0).pack(), 1.0)
        except Unavailable as error:
            log.debug("lease_not_released", error=str(error))
