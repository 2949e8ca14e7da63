"""Leases: who is alive (DESIGN.md section 4 and "Further rules" of section 5).

A process holds a lease under a name that is its own for one run. It renews by writing its entry in the
bucket `hw_leases`; a reader hears the same write as a core message, without a JetStream consumer, so
hearing goes on by itself after any reconnection.

Two clocks, both monotonic, decide:
- the holder may act on its lease until `ttl - margin` after it *sent* the last renewal that was stored;
- a reader takes a lease for ended when it heard no renewal for `ttl + margin` while it was connected,
  and the bucket holds none that it has not heard of.
So a holder stops acting before any reader believes it gone, whatever is paused or slow in between.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import structlog
from nats.js.errors import KeyNotFoundError
from nats.js.kv import KeyValue

from hubwire.bus.client import BusClient
from hubwire.bus.envelopes import VERSION, pack, unpack
from hubwire.bus.owners import open_bucket
from hubwire.bus.subjects import LEASES_BUCKET, LEASES_CENSUS, lease_key, lease_subject
from hubwire.model.errors import HubwireError, InvalidRequest, Unavailable

log = structlog.get_logger(__name__)

BUCKET_TTL_SECONDS = 60.0
"""How long the bucket keeps an entry that nobody renews: for people who look, not for decisions."""

ACQUIRE_SECONDS = 30.0


def margin_of(ttl: float) -> float:
    """The allowance for timers that fire late and messages on their way."""
    return ttl / 6


class Lease:
    """The holder's side. Run `run()` in the service's task group; read `valid` before acting."""

    def __init__(
        self, bus: BusClient, role: str, name: str, ttl: float, *, memory: bool, replicas: int
    ) -> None:
        self._bus = bus
        self._loop = asyncio.get_running_loop()
        self.role = role
        self.name = name
        self.ttl = ttl
        self._memory = memory
        self._replicas = replicas
        self._subject = lease_subject(role, name)
        self._count = 0
        self._valid_until = 0.0
        self._asked = asyncio.Event()
        self._released = False
        self._lost_reported = False
        self.on_lost: Callable[[], None] | None = None
        """Called once when the lease, once held, has ended unrenewed: this run's name is used up."""

    @property
    def valid(self) -> bool:
        return self._loop.time() < self._valid_until

    async def acquire(self, give_up: Callable[[], bool] = lambda: False) -> None:
        """Open the bucket and store the first renewal.

        Keeps trying while a cluster of NATS servers elects its leaders: a bucket that was just made there
        has no leader yet, and answers nothing. Raises Unavailable after ACQUIRE_SECONDS, or at the next
        failure once `give_up` says so.
        """
        end = self._loop.time() + ACQUIRE_SECONDS
        while True:
            try:
                await self._open()
                await self._renew()
                return
            except Unavailable as error:
                if give_up() or self._loop.time() > end:
                    raise
                log.warning("lease_not_acquired_yet", role=self.role, name=self.name, error=str(error))
                await asyncio.sleep(0.2)

    async def _open(self) -> None:
        try:
            async with asyncio.timeout(5):
                await open_bucket(
                    self._bus.js,
                    LEASES_BUCKET,
                    memory=self._memory,
                    replicas=self._replicas,
                    ttl_seconds=BUCKET_TTL_SECONDS,
                )
        except Exception as error:
            raise Unavailable(f"The bucket of the leases cannot be opened: {error!r}") from error

    async def _renew(self) -> None:
        sent = self._loop.time()
        self._count += 1
        payload = pack([VERSION, self._count, int(self.ttl * 1000)])
        try:
            answer = await self._bus.ask(self._subject, payload, min(self.ttl / 2, 2.0))
        except Unavailable as error:
            if str(error) == "no responders":
                await self._open()  # no stream listens: the bucket was lost with the server's memory
            raise
        if b'"error"' in answer:
            raise Unavailable(f"The lease was not stored: {answer[:200]!r}")
        self._valid_until = max(self._valid_until, sent + self.ttl - margin_of(self.ttl))

    async def run(self) -> None:
        """Renew until cancelled or released. Failures are retried at once, for as long as it takes."""
        unsubscribe = await self._bus.subscribe(LEASES_CENSUS, lambda *_: self._asked.set())
        try:
            while not self._released:
                pause = self.ttl / 4
                try:
                    await self._renew()
                except HubwireError as error:
                    log.warning("lease_not_renewed", role=self.role, name=self.name, error=str(error))
                    pause = min(pause, 0.1)
                if not self.valid and self._valid_until and not self._lost_reported and not self._released:
                    self._lost_reported = True
                    log.error("lease_lost", role=self.role, name=self.name)
                    if self.on_lost is not None:
                        self.on_lost()
                        return
                self._asked.clear()
                try:
                    async with asyncio.timeout(pause):
                        await self._asked.wait()
                except TimeoutError:
                    pass
        finally:
            await unsubscribe()

    async def release(self) -> None:
        """Say that this run is over, so that nobody waits for the TTL. Best effort."""
        self._released = True
        self._valid_until = 0.0
        try:
            await self._bus.ask(self._subject, pack([VERSION, self._count + 1, 0]), 1.0)
        except Unavailable as error:
            log.debug("lease_not_released", error=str(error))


class _Seen:
    __slots__ = ("checking", "count", "heard", "ttl")

    def __init__(self, heard: float, count: int, ttl: float) -> None:
        self.heard = heard
        self.count = count
        self.ttl = ttl
        self.checking = False


class LeaseWatch:
    """The reader's side: the names of one role that are alive, as far as this process can be certain.

    `alive` is a set that changes in place; `on_change` is called after each change with what joined and
    what ended. A name that was never heard of is not known to be alive; see `never_seen_ended`.
    """

    def __init__(self, bus: BusClient, role: str, *, default_ttl: float) -> None:
        self._bus = bus
        self._role = role
        self._loop = asyncio.get_running_loop()
        self._default_ttl = default_ttl
        self._seen: dict[str, _Seen] = {}
        self._started = self._loop.time()
        self._listeners: list[Callable[[str, bool], None]] = []
        self._checks: set[asyncio.Task[None]] = set()
        self._bucket: KeyValue | None = None
        self.alive: set[str] = set()

    def on_change(self, listener: Callable[[str, bool], None]) -> None:
        """`listener(name, alive)` for every name that appears or ends."""
        self._listeners.append(listener)

    def certainly_ended(self, name: str) -> bool:
        """Whether a name that somebody else mentions (the ownership table) belongs to a lease that has
        ended: not alive now, and we have listened for long enough to have heard it."""
        if name in self.alive:
            return False
        listened = self._loop.time() - self._started
        return name in self._seen or listened > self._default_ttl + margin_of(self._default_ttl)

    def _heard(self, subject: str, _reply: str, data: bytes) -> None:
        name = subject.rpartition(".")[2]
        try:
            _, count, ttl_ms = unpack(data)
        except (InvalidRequest, ValueError):
            return  # a delete marker of the bucket, or not ours
        self._note(name, count, ttl_ms / 1000)

    def _note(self, name: str, count: int, ttl: float) -> None:
        seen = self._seen.get(name)
        if ttl <= 0:
            if seen is None:
                self._seen[name] = _Seen(self._loop.time(), count, 0)
            elif name in self.alive:
                seen.ttl = 0
                self._end(name)
            return
        if seen is None:
            self._seen[name] = _Seen(self._loop.time(), count, ttl)
        elif count <= seen.count:
            return
        elif seen.ttl <= 0:
            return  # it has said that it is over
        else:
            seen.heard, seen.count, seen.ttl = self._loop.time(), count, ttl
        if name not in self.alive:
            self.alive.add(name)
            self._tell(name, True)

    def _end(self, name: str) -> None:
        self.alive.discard(name)
        log.info("lease_ended", role=self._role, name=name)
        self._tell(name, False)

    def _tell(self, name: str, alive: bool) -> None:
        for listener in self._listeners:
            try:
                listener(name, alive)
            except Exception:
                log.exception("lease_listener_failed")

    def _reset_clocks(self) -> None:
        # What happened while we heard nothing says nothing about the others.
        now = self._loop.time()
        self._started = now
        for seen in self._seen.values():
            seen.heard = now

    async def _check(self, name: str, seen: _Seen) -> None:
        """No renewal was heard for too long: the bucket has the last word."""
        try:
            async with asyncio.timeout(2):
                if self._bucket is None:
                    self._bucket = await self._bus.js.key_value(LEASES_BUCKET)
                entry = await self._bucket.get(lease_key(self._role, name))
            _, count, ttl_ms = unpack(entry.value or b"")
        except KeyNotFoundError:
            count, ttl_ms = 0, 0
        except Exception as error:
            self._bucket = None
            if self._bus.connected and "NotFound" in repr(error):
                count, ttl_ms = 0, 0  # the bucket itself is gone, and nobody renewed into a new one
            else:
                log.warning("lease_check_failed", error=repr(error))
                return
        finally:
            seen.checking = False
        if count > seen.count and ttl_ms > 0:
            self._note(name, count, ttl_ms / 1000)
        elif name in self.alive and self._overdue(seen):
            self._end(name)

    def _overdue(self, seen: _Seen) -> bool:
        return self._loop.time() - seen.heard > seen.ttl + margin_of(seen.ttl)

    async def run(self) -> None:
        """Listen and judge until cancelled."""
        unsubscribe = await self._bus.subscribe(lease_subject(self._role, "*"), self._heard)
        self._bus.on_reconnect(self._reset_clocks)
        self._reset_clocks()
        try:
            try:
                self._bus.publish(LEASES_CENSUS, b"")
            except Unavailable:
                pass
            last = self._loop.time()
            while True:
                await asyncio.sleep(0.05)
                now = self._loop.time()
                if now - last > 0.5:
                    # We were paused or starved: messages wait unread in our socket. Give them time.
                    await asyncio.sleep(0.05)
                last = self._loop.time()
                if not self._bus.connected:
                    continue
                for name in [n for n in self.alive if self._overdue(self._seen[n])]:
                    seen = self._seen[name]
                    if not seen.checking:
                        seen.checking = True
                        task = asyncio.create_task(self._check(name, seen))
                        self._checks.add(task)
                        task.add_done_callback(self._checks.discard)
                if len(self._seen) > 4096:
                    self._forget_old()
        finally:
            for task in [*self._checks]:
                task.cancel()
            await unsubscribe()

    def _forget_old(self) -> None:
        limit = self._loop.time() - 600
        self._seen = {n: s for n, s in self._seen.items() if n in self.alive or s.heard > limit}


async def read_leases(bus: BusClient) -> dict[str, dict[str, Any]]:
    """What the bucket holds, for people (`hubwire doctor`): key to {"count", "ttl_seconds"}."""
    bucket = await bus.js.key_value(LEASES_BUCKET)
    found: dict[str, dict[str, Any]] = {}
    try:
        keys = await bucket.keys()
    except Exception as error:
        if "NoKeys" in type(error).__name__:
            return found
        raise
    for key in keys:
        try:
            entry = await bucket.get(key)
            _, count, ttl_ms = unpack(entry.value or b"")
        except (KeyNotFoundError, InvalidRequest, ValueError):
            continue
        found[key] = {"count": count, "ttl_seconds": ttl_ms / 1000}
    return found
