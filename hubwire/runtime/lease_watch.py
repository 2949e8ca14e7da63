"""The readers' side of the leases: who is alive, and who has certainly ended. See hubwire.runtime.leases."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

import structlog

from hubwire.bus.client import BusClient
from hubwire.bus.subjects import LEASES_CENSUS, lease_subject, presence_subject
from hubwire.model.errors import HubwireError, InvalidRequest
from hubwire.runtime.lease_bucket import (
    LeaseEntry,
    LeaseMessage,
    list_entries,
    margin_of,
    read_entry,
    store_if,
    unpack_lease,
)

log = structlog.get_logger(__name__)

CENSUS_SECONDS = 0.2
YOUNG_BUCKET_SECONDS = 60.0
"""A living holder has renewed into a bucket that is older than this, whatever was down in between."""


class _Seen:
    __slots__ = ("busy", "count", "ended", "heard", "ttl")

    def __init__(self, heard: float, count: int, ttl: float, ended: bool = False) -> None:
        self.heard = heard
        self.count = count
        self.ttl = ttl
        self.ended = ended
        self.busy = False


class LeaseWatch:
    """The reader's side: the names of one role that are alive, as far as this process knows.

    `alive` is a set that changes in place; listeners are called after each change. With `judges` this
    process ends the leases of those that have fallen silent, and then everybody knows it for certain;
    without, it only believes what it hears, or does not hear.

    `own` is the name of this process's own lease, which it leaves to the others to judge: a process that
    stood still has heard nothing of itself, and if nobody else ended its lease meanwhile it goes on.
    """

    def __init__(
        self, bus: BusClient, role: str, *, default_ttl: float, judges: bool = False, own: str = ""
    ) -> None:
        self._bus = bus
        self._role = role
        self._own = own
        self._loop = asyncio.get_running_loop()
        self._default_ttl = default_ttl
        self._judges = judges
        self._seen: dict[str, _Seen] = {}
        self._listeners: list[Callable[[str, bool], None]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._listing = False
        self._bucket_made = 0.0
        self._complete = asyncio.Event()
        self.alive: set[str] = set()
        self.leaving: set[str] = set()
        """Those of `alive`, and perhaps others that have gone, that said that they give their work away."""

    @property
    def complete(self) -> bool:
        """Whether every name that was alive when we connected is known. Until then somebody may be alive
        of whom we have not heard."""
        return self._complete.is_set()

    async def ready(self) -> None:
        """Wait until `complete`."""
        await self._complete.wait()

    def on_change(self, listener: Callable[[str, bool], None]) -> None:
        """`listener(name, alive)` for every name that appears or ends."""
        self._listeners.append(listener)

    def certainly_ended(self, name: str) -> bool:
        """Whether nobody acts under this name any more. For a judge that is a fact of the bucket: a name
        that somebody mentions (the ownership table) is put on trial by asking for it here."""
        if name in self.alive:
            return False
        seen = self._seen.get(name)
        if seen is not None and seen.ended:
            return True
        if not self._judges:
            return self.complete
        if seen is None:
            self._seen[name] = _Seen(self._loop.time(), 0, self._default_ttl)
        return False

    # -- hearing -----------------------------------------------------------------------------------

    def _heard(self, subject: str, _reply: str, data: bytes) -> None:
        name = subject.rpartition(".")[2]
        try:
            lease = unpack_lease(data)
        except InvalidRequest:
            return  # a delete marker of the bucket, or not ours
        if lease.ending:
            seen = self._seen.get(name)
            if seen is not None and not seen.ended:
                self._start(self._check(name, seen))
        elif lease.ttl <= 0:
            self._ended(name)
        else:
            if lease.leaving:
                self.leaving.add(name)
            self._renewed(name, lease.renewal, lease.ttl)

    def _present(self, subject: str, _reply: str, data: bytes) -> None:
        """Somebody answers the census: a sign of life, whatever is stored."""
        name = subject.rpartition(".")[2]
        try:
            lease = unpack_lease(data)
        except InvalidRequest:
            return
        seen = self._seen.get(name)
        if lease.leaving:
            self.leaving.add(name)
        if seen is not None and name in self.alive:
            seen.heard = self._loop.time()
        elif seen is None or not seen.ended:
            self._seen.pop(name, None)
            self._renewed(name, lease.renewal, lease.ttl)

    def _renewed(self, name: str, count: int, ttl: float) -> None:
        seen = self._seen.get(name)
        if seen is None:
            self._seen[name] = _Seen(self._loop.time(), count, ttl)
        elif seen.ended or count <= seen.count:
            return
        else:
            seen.heard, seen.count, seen.ttl = self._loop.time(), count, ttl
        if name not in self.alive:
            self.alive.add(name)
            self._tell(name, True)

    def _ended(self, name: str) -> None:
        seen = self._seen.setdefault(name, _Seen(self._loop.time(), 0, 0.0))
        seen.ended = True
        self._gone(name)

    def _gone(self, name: str) -> None:
        if name in self.alive:
            self.alive.discard(name)
            self.leaving.discard(name)
            log.info("lease_ended", role=self._role, name=name)
            self._tell(name, False)
        elif self._judges and self._seen[name].ended:
            self._tell(name, False)  # a name on trial: who asked wants to know

    def _tell(self, name: str, alive: bool) -> None:
        for listener in self._listeners:
            try:
                listener(name, alive)
            except Exception:
                log.exception("lease_listener_failed")

    def _connected_again(self) -> None:
        # What happened while we heard nothing says nothing about the others.
        now = self._loop.time()
        for seen in self._seen.values():
            seen.heard = now

    def _disconnected(self) -> None:
        self._complete.clear()

    # -- judging -----------------------------------------------------------------------------------

    def _overdue(self, seen: _Seen) -> bool:
        return self._loop.time() - seen.heard > seen.ttl + margin_of(seen.ttl)

    async def _check(self, name: str, seen: _Seen) -> None:
        """The bucket has the last word; and a judge writes it."""
        if seen.busy:
            return
        seen.busy = True
        try:
            entry = await read_entry(self._bus, self._role, name)
            if entry.ended:
                self._ended(name)
            elif entry.renewal > seen.count:
                seen.count, seen.heard = entry.renewal, self._loop.time()  # renewals that we did not hear
                seen.ttl = entry.ttl
            elif name != self._own and self._overdue(seen) and not seen.ended:
                if not self._judges:
                    self._gone(name)
                elif await self._end(name, seen, entry):
                    self._ended(name)
        except HubwireError as error:
            log.debug("lease_check_failed", role=self._role, name=name, error=str(error))
        finally:
            seen.busy = False

    async def _end(self, name: str, seen: _Seen, entry: LeaseEntry) -> bool:
        """Replace the renewal that we have waited on. False: there is a newer one."""
        subject = lease_subject(self._role, name)
        data = LeaseMessage(seen.count, 0.0, ending=True).pack()
        return await store_if(self._bus, subject, data, entry.revision, 1.0) is not None

    # -- knowing everybody -------------------------------------------------------------------------

    async def _list(self) -> None:
        """Read all entries of the role, after the subscription: whoever appears later is heard."""
        try:
            self._bus.publish(LEASES_CENSUS, b"")
            listing = await list_entries(self._bus, self._role)
            if listing.bucket_age < YOUNG_BUCKET_SECONDS:
                # Perhaps the bucket was lost with the server's memory, and not all have renewed since. They
                # answer the census.
                await asyncio.sleep(CENSUS_SECONDS)
            now = self._loop.time()
            if listing.made != self._bucket_made:
                self._bucket_made = listing.made
                self._forget_endings(now)
            for name, (entry, age) in listing.entries.items():
                if entry.ended:
                    self._ended(name)
                elif age < 2 * (entry.ttl + margin_of(entry.ttl)):
                    self._renewed(name, entry.renewal, entry.ttl)
                elif name not in self._seen:
                    self._seen[name] = _Seen(
                        now, entry.renewal, entry.ttl
                    )  # from before everything went down
            if self._bus.connected:
                self._complete.set()
        except HubwireError as error:
            log.debug("leases_not_listed", role=self._role, error=str(error))
            await asyncio.sleep(0.1)
        finally:
            self._listing = False

    def _forget_endings(self, now: float) -> None:
        """The bucket is another one: its endings are lost, and a holder that comes back finds none."""
        for seen in self._seen.values():
            if seen.ended:
                seen.ended, seen.heard = False, now
                seen.ttl = seen.ttl or self._default_ttl

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def run(self) -> None:
        """Listen and judge until cancelled."""
        self._bus.on_reconnect(self._connected_again)
        self._bus.on_disconnect(self._disconnected)
        unsubscribe = [
            await self._bus.subscribe(lease_subject(self._role, "*"), self._heard),
            await self._bus.subscribe(presence_subject(self._role, "*"), self._present),
        ]
        try:
            while True:
                if self._bus.connected:
                    if not self.complete and not self._listing:
                        self._listing = True
                        self._start(self._list())
                    for name, seen in [*self._seen.items()]:
                        waits = name in self.alive or (self._judges and not seen.ended)
                        if waits and name != self._own and not seen.busy and self._overdue(seen):
                            self._start(self._check(name, seen))
                    if len(self._seen) > 4096:
                        self._forget_old()
                await asyncio.sleep(0.05)
        finally:
            for task in [*self._tasks]:
                task.cancel()
            for end in unsubscribe:
                await end()

    def _forget_old(self) -> None:
        limit = self._loop.time() - 600
        self._seen = {n: s for n, s in self._seen.items() if n in self.alive or s.heard > limit}
