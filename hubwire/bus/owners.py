"""The ownership table: which router speaks for which partition (DESIGN.md section 4, "Ownership").

The table is one value in the bucket `hw_owners`, changed by compare-and-set, so that a rebalance of any
size is one write and every reader sees it whole. Who has written it also says so on a core subject, with
the table; `OwnersView` hears that, and reads the bucket when it connects, when asked to, and now and
then, so that a lost announcement costs time and nothing else. (docs/decisions/0002)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import NamedTuple

import structlog
from nats.js import JetStreamContext
from nats.js.api import KeyValueConfig, StorageType
from nats.js.errors import BucketNotFoundError, KeyNotFoundError, KeyWrongLastSequenceError, NotFoundError
from nats.js.kv import KeyValue

from hubwire.bus.client import BusClient
from hubwire.bus.envelopes import VERSION, pack, unpack
from hubwire.bus.keys import PARTITIONS
from hubwire.bus.subjects import OWNERS_BUCKET, OWNERS_CHANGED, OWNERS_KEY
from hubwire.model.errors import HubwireError, InvalidRequest, Unavailable

log = structlog.get_logger(__name__)


class Owner(NamedTuple):
    router: str
    epoch: int


class OwnersTable(NamedTuple):
    """`version` grows with every change and is never below the Unix time in milliseconds of the change,
    so it grows even when the bucket was lost. `owners[p]` is None where no router has claimed yet."""

    version: int
    owners: tuple[Owner | None, ...]

    def with_changes(self, changes: Mapping[int, str], now_ms: int) -> OwnersTable:
        """The next table: each partition named goes to its router under a new, higher epoch."""
        version = max(self.version + 1, now_ms)
        owners = list(self.owners)
        for partition, router in changes.items():
            owners[partition] = Owner(router, version)
        return OwnersTable(version, tuple(owners))


EMPTY_TABLE = OwnersTable(0, (None,) * PARTITIONS)


def pack_table(table: OwnersTable) -> bytes:
    return pack([VERSION, table.version, [list(o) if o else None for o in table.owners]])


def unpack_table(data: bytes) -> OwnersTable:
    """Raises InvalidRequest for anything that is not a table of this cluster's size."""
    try:
        _, version, owners = unpack(data)
        table = OwnersTable(int(version), tuple(Owner(str(o[0]), int(o[1])) if o else None for o in owners))
    except (ValueError, TypeError, LookupError, OverflowError) as error:
        raise InvalidRequest(f"Not an ownership table: {error}") from error
    if len(table.owners) != PARTITIONS:
        raise InvalidRequest(f"The ownership table has {len(table.owners)} partitions, not {PARTITIONS}.")
    return table


async def open_bucket(
    js: JetStreamContext, bucket: str, *, memory: bool, replicas: int, ttl_seconds: float = 0
) -> KeyValue:
    """The bucket, created if it is not there (again: a memory-mode server that restarted has lost it).

    Read through its leader: a direct read may be given to a replica that lags, or hangs.
    """
    try:
        return await js.key_value(bucket)
    except (BucketNotFoundError, NotFoundError):
        config = KeyValueConfig(
            bucket=bucket,
            history=1,
            ttl=ttl_seconds or None,
            storage=StorageType.MEMORY if memory else StorageType.FILE,
            replicas=replicas,
            direct=False,
        )
        return await js.create_key_value(config)


LOOK_SECONDS = 5.0
"""How often a view reads the table although nobody has announced or missed anything."""

READ_SECONDS = 2.0
WRITE_SECONDS = 5.0


class OwnersStore:
    """Reads and compare-and-sets the table in its bucket. All waits end with Unavailable."""

    def __init__(self, bus: BusClient, *, memory: bool, replicas: int) -> None:
        self._bus = bus
        self._memory = memory
        self._replicas = replicas
        self._bucket: KeyValue | None = None

    async def read(self) -> tuple[OwnersTable, int]:
        """The table and its revision; EMPTY_TABLE and 0 when there is none. Raises InvalidRequest for a
        table that is not one of this cluster's."""
        if not self._bus.connected:
            raise Unavailable("NATS is not connected.")
        try:
            async with asyncio.timeout(READ_SECONDS):
                if self._bucket is None:
                    self._bucket = await open_bucket(
                        self._bus.js, OWNERS_BUCKET, memory=self._memory, replicas=self._replicas
                    )
                entry = await self._bucket.get(OWNERS_KEY)
        except KeyNotFoundError:
            self._bucket = None  # perhaps it is not only the key: nats-py says the same of a lost bucket
            return EMPTY_TABLE, 0
        except Exception as error:
            self._bucket = None
            raise Unavailable(f"The ownership table cannot be read: {error!r}") from error
        return unpack_table(entry.value or b""), int(entry.revision or 0)

    async def write(self, table: OwnersTable, revision: int) -> bool:
        """Store the table if it is still at `revision` (0: if there is none), and announce it. False:
        somebody else was first; read again. Raises Unavailable when it is not known whether it was
        stored; read again before anything else then, too."""
        if not self._bus.connected:
            raise Unavailable("NATS is not connected.")
        data = pack_table(table)
        try:
            async with asyncio.timeout(WRITE_SECONDS):
                if self._bucket is None:
                    self._bucket = await open_bucket(
                        self._bus.js, OWNERS_BUCKET, memory=self._memory, replicas=self._replicas
                    )
                if revision:
                    await self._bucket.update(OWNERS_KEY, data, last=revision)
                else:
                    await self._bucket.create(OWNERS_KEY, data)
        except KeyWrongLastSequenceError:
            return False
        except Exception as error:
            self._bucket = None
            raise Unavailable(f"The ownership table cannot be written: {error!r}") from error
        try:
            self._bus.publish(OWNERS_CHANGED, data)
        except HubwireError as error:  # it is stored; the others will read it
            log.debug("owners_not_announced", error=str(error))
        return True


class OwnersView:
    """The latest table that this process knows, and who wants to hear of a newer one."""

    def __init__(self, bus: BusClient, store: OwnersStore) -> None:
        self._bus = bus
        self._store = store
        self._listeners: list[Callable[[OwnersTable], None]] = []
        self._refresh_wanted = asyncio.Event()
        self.table = EMPTY_TABLE

    def on_change(self, listener: Callable[[OwnersTable], None]) -> None:
        self._listeners.append(listener)

    def owner(self, partition: int) -> Owner | None:
        return self.table.owners[partition]

    def refresh(self) -> None:
        """Ask for a reading of the bucket soon; many calls are one reading."""
        self._refresh_wanted.set()

    def offer(self, table: OwnersTable) -> None:
        """Take a table if it is newer than ours, and tell the listeners."""
        if table.version > self.table.version:
            self.table = table
            for listener in self._listeners:
                listener(table)

    def _announced(self, _subject: str, _reply: str, data: bytes) -> None:
        try:
            self.offer(unpack_table(data))
        except InvalidRequest as error:
            log.warning("owners_announcement_refused", error=str(error))

    async def run(self) -> None:
        """Keep the view fresh until cancelled. Owned by the service's task group."""
        unsubscribe = await self._bus.subscribe(OWNERS_CHANGED, self._announced)
        self._bus.on_reconnect(self.refresh)
        try:
            while True:
                self._refresh_wanted.clear()
                try:
                    if self._bus.connected:  # _refresh_wanted comes with the reconnection
                        self.offer((await self._store.read())[0])
                except (Unavailable, InvalidRequest) as error:
                    log.warning("owners_read_failed", error=str(error))
                    await asyncio.sleep(0.2)
                try:
                    async with asyncio.timeout(LOOK_SECONDS):
                        await self._refresh_wanted.wait()
                    await asyncio.sleep(0.05)  # at most twenty readings a second, whoever asks
                except TimeoutError:
                    pass
        finally:
            await unsubscribe()
