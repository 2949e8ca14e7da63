"""The settings that every process watches: hub settings, access keys, the cluster's own.

They live in the JetStream key-value bucket `hw_settings` (DESIGN.md section 4). Every process holds all of
them in memory: reads never wait and go on while the bus is away. Writes are compare-and-set.

Guarantee: after a write has returned, every connected process sees it within milliseconds; one that was
disconnected sees it when it is back, and one whose watch fell silent within `check_seconds`.

A nats-server in memory mode loses the bucket when it restarts. Then each process puts back what it knows, by
compare-and-set, and the highest version of each setting wins (`settings_records`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, Literal, TypeVar

import nats.errors
import nats.js.errors
import structlog
from nats.js import JetStreamContext
from nats.js.kv import KeyValue

from hubwire.bus.settings_known import KnownSettings
from hubwire.bus.settings_records import (
    CLUSTER_KEY,
    KEYS_KEY,
    RECONNECTION_KEY,
    HubEntry,
    Record,
    Stored,
    decode_stored,
    encode_stored,
    hub_key,
    new_access_key,
    new_access_keys,
    next_reconnection_keys,
    rotated_reconnection_keys,
    value_key,
)
from hubwire.bus.settings_watch import Watch, bind_bucket
from hubwire.model.cluster_settings import ClusterSettings
from hubwire.model.errors import HubwireError, InvalidRequest, Unavailable
from hubwire.model.settings import AccessKeys, HubSettings, ReconnectionKeys

__all__ = ["BUCKET", "HubEntry", "SettingsStore", "new_access_key", "new_access_keys"]

BUCKET = "hw_settings"

_T = TypeVar("_T")

_log = structlog.get_logger(__name__)


class SettingsStore(KnownSettings):
    """All settings of the cluster, in memory, kept up to date by one task. Made by `open`, ended by `close`.

    Every method that is awaited ends within `deadline_seconds` or raises Unavailable. A write that raised
    Unavailable may still happen. When cancelled, no task is left behind.
    """

    def __init__(
        self,
        js: JetStreamContext,
        *,
        replicas: int,
        storage: Literal["file", "memory"],
        deadline_seconds: float,
        check_seconds: float,
    ) -> None:
        super().__init__()
        self._js = js
        self._nc = js._nc  # the context is all that callers hand over; it has no public way to its connection
        self._replicas = replicas
        self._storage = storage
        self._deadline_seconds = deadline_seconds
        self._check_seconds = check_seconds
        # Writes and resynchronisation exclude each other: a revision is compared only inside one incarnation.
        self._lock = asyncio.Lock()
        self._kv: KeyValue | None = None
        self._incarnation: datetime | None = None
        self._watch: Watch | None = None
        self._last_error: Exception | None = None
        self._task: asyncio.Task[None] | None = None

    # --- life ---

    @classmethod
    async def open(
        cls,
        js: JetStreamContext,
        *,
        replicas: int = 1,
        storage: Literal["file", "memory"] = "file",
        deadline_seconds: float = 5.0,
        check_seconds: float = 10.0,
    ) -> SettingsStore:
        """Create the bucket if it is missing, load everything, and go on watching.

        Raises Unavailable when that does not succeed within `deadline_seconds` (also while a cluster of
        servers is still electing its leader: try again).
        """
        store = cls(
            js,
            replicas=replicas,
            storage=storage,
            deadline_seconds=deadline_seconds,
            check_seconds=check_seconds,
        )
        try:
            await store._bounded(store._resync_until_done())
        except BaseException:
            await store._drop_watch()
            raise
        store._task = asyncio.create_task(store._run(), name="settings-watch")
        return store

    async def close(self) -> None:
        """Stop watching. Reads still answer with what was known last. A second call does nothing."""
        task, self._task = self._task, None
        if task is not None:
            # Once is not always enough: before Python 3.12 `asyncio.wait_for`, which nats-py awaits answers
            # with, swallows a cancellation that comes in the same turn as the answer.
            while not task.done():
                task.cancel()
                await asyncio.wait({task}, timeout=0.5)
            await asyncio.gather(task, return_exceptions=True)
        await self._drop_watch()

    # --- writes: compare-and-set, bounded ---

    async def put_hub(self, name: str, settings: HubSettings) -> None:
        """Set a hub's settings; `name` keeps its case for answers. Of two at once the later one stays."""
        await self.change_hub(name, lambda _: settings)

    async def change_hub(self, name: str, change: Callable[[HubSettings | None], HubSettings]) -> HubSettings:
        """Make a hub's settings of those that it has, if any. `change` is called again when somebody else was
        quicker, and what it raises is passed on. Returns what was stored."""
        made: HubSettings | None = None

        def decide(present: HubSettings | None) -> HubSettings:
            nonlocal made
            made = change(present)
            return made

        await self._write(hub_key(name), name, decide)
        assert made is not None
        return made

    async def delete_hub(self, name: str) -> bool:
        """Take a hub's settings away. False when there were none."""
        had: bool = False

        def decide(present: Any) -> Any:
            nonlocal had
            had = present is not None
            return None if had else _KEEP

        await self._write(hub_key(name), name, decide)
        return had

    async def set_keys(self, keys: AccessKeys) -> None:
        """Replace both keys and the salt."""
        await self._write(KEYS_KEY, "", lambda _: keys)

    async def ensure_keys(self, factory: Callable[[], AccessKeys] = new_access_keys) -> AccessKeys:
        """Create the keys if nobody has: of several processes that start at once, one wins and all agree."""
        await self._write(KEYS_KEY, "", lambda present: _KEEP if present is not None else factory())
        return self.keys

    async def regenerate(self, key_type: str) -> AccessKeys:
        """Replace one key ("Primary", "Secondary" or "Salt", in any case) and return all.

        Raises InvalidRequest for another type. What the old key signed stops to verify everywhere at once.
        """
        field = key_type.lower()
        if field not in ("primary", "secondary", "salt"):
            raise InvalidRequest(f"The value '{key_type}' is not valid.", target="keyType")
        fresh = new_access_key()

        def decide(present: Any) -> AccessKeys:
            if not isinstance(present, AccessKeys):
                raise Unavailable("The cluster has no access keys yet.")
            return AccessKeys(
                primary=fresh if field == "primary" else present.primary,
                secondary=fresh if field == "secondary" else present.secondary,
                salt=fresh if field == "salt" else present.salt,
            )

        await self._write(KEYS_KEY, "", decide)
        return self.keys

    async def ensure_reconnection_keys(self, now: float) -> ReconnectionKeys:
        """Make the keys of reconnection tokens if nobody has, and a new one when the one that signs is a
        month old; that goes on verifying. `now` is in Unix seconds. As `ensure_keys`, all agree.

        They are no access keys: regenerating those leaves these as they are.
        """

        def decide(present: Any) -> Any:
            known = present if isinstance(present, ReconnectionKeys) else None
            after = next_reconnection_keys(known, now)
            return _KEEP if after is known else after

        await self._write(RECONNECTION_KEY, "", decide)
        return self.reconnection_keys

    async def rotate_reconnection_key(self, now: float, *, force: bool = False) -> ReconnectionKeys:
        """A new key signs from now on; the one that did goes on verifying. Raises Conflict, see
        `rotated_reconnection_keys`."""

        def decide(present: Any) -> ReconnectionKeys:
            known = present if isinstance(present, ReconnectionKeys) else None
            return rotated_reconnection_keys(known, now, force)

        await self._write(RECONNECTION_KEY, "", decide)
        return self.reconnection_keys

    async def change_cluster(self, change: Callable[[ClusterSettings], ClusterSettings]) -> bool:
        """Make the cluster's settings of those that there are; as `change_hub`. Nothing is written when that
        changes nothing; returns whether it did."""
        wrote = False

        def decide(present: ClusterSettings | None) -> Any:
            nonlocal wrote
            before = present or ClusterSettings()
            after = change(before)
            wrote = after != before
            return after if wrote else _KEEP

        await self._write(CLUSTER_KEY, "", decide)
        return wrote

    async def put(self, name: str, value: object) -> None:
        """Set a free-form value (anything that JSON can say); None takes it away."""
        await self._write(value_key(name), name, lambda _: value)

    async def ensure(self, name: str, factory: Callable[[], object]) -> object:
        """Set a free-form value unless there is one; returns the one that all processes agree on."""
        await self._write(value_key(name), name, lambda present: _KEEP if present is not None else factory())
        return self.get(name)

    async def _write(self, key: str, name: str, decide: Callable[[Any], Any]) -> None:
        await self._bounded(self._write_unbounded(key, name, decide))

    async def _write_unbounded(self, key: str, name: str, decide: Callable[[Any], Any]) -> None:
        if not self._nc.is_connected:
            # A publish would wait in the client's buffer and happen some time after we said that it failed.
            raise Unavailable("The bus is not connected.")
        while self._watch is None or self._watch.interrupted():  # noqa: ASYNC110
            # The watching task is about to load everything again: revisions may be others. What it waits for
            # is a counter of the NATS client, which has no event.
            await asyncio.sleep(0.02)
        async with self._lock:
            while True:
                record = self._records.get(key)
                present = record.value if record is not None else None
                decided = decide(present.settings if isinstance(present, HubEntry) else present)
                if decided is _KEEP:
                    return
                version = record.stored.version + 1 if record is not None else 1
                data = encode_stored(version, name, decided)
                if await self._put_if(key, data, record.revision if record is not None else 0):
                    return
                await self._refresh(key)

    async def _put_if(self, key: str, data: bytes, revision: int) -> bool:
        """Store if the key still stands at `revision` (0: not there). Counts as known at once."""
        kv = self._kv
        if kv is None:
            raise Unavailable("The settings are not loaded yet.")
        try:
            stored_at = await kv.update(key, data, last=revision)
        except nats.js.errors.KeyWrongLastSequenceError:
            return False
        self._take(key, decode_stored(key, stored_at, data))
        return True

    async def _refresh(self, key: str) -> None:
        """Read one key from the bus, after a lost race that the watch has not reported yet."""
        if self._kv is None:
            return
        try:
            entry = await self._kv.get(key)
        except nats.js.errors.KeyNotFoundError as gone:
            old = self._records.get(key)
            if gone.entry is not None and gone.entry.revision:
                self._take(key, Record(gone.entry.revision, Stored(0), None))
            elif old is not None:
                self._records = {**self._records, key: old._replace(revision=0)}  # the bucket was lost
        else:
            self._take(key, decode_stored(key, entry.revision or 0, entry.value or b""))

    async def _bounded(self, work: Awaitable[_T]) -> _T:
        try:
            async with asyncio.timeout(self._deadline_seconds):
                return await work
        except HubwireError:
            raise
        except (TimeoutError, nats.errors.Error, OSError) as error:
            # A timeout says nothing; what kept failing until then does.
            cause = self._last_error if isinstance(error, TimeoutError) and self._last_error else error
            text = str(cause) or type(cause).__name__
            raise Unavailable(f"The settings store did not answer in time: {text}.") from error

    # --- keeping up ---

    async def _run(self) -> None:
        """Follow the watch; start it anew after a reconnection, a gap, or when it fell silent."""
        pause_seconds = 0.1
        while not self._nc.is_closed:
            try:
                if self._watch is None:
                    await self._bounded(self._resync())
                await self._follow()
                pause_seconds = 0.1
            except asyncio.CancelledError:
                raise
            except Exception as error:
                _log.warning("settings_watch_lost", error=str(error) or type(error).__name__)
                await asyncio.sleep(pause_seconds)
                pause_seconds = min(pause_seconds * 2, 2.0)
            await self._drop_watch()

    async def _follow(self) -> None:
        """Apply what the watch brings; returns when everything has to be loaded again."""
        loop = asyncio.get_running_loop()
        check_at = loop.time() + self._check_seconds
        suspicious = False
        while (watch := self._watch) is not None and not watch.interrupted():
            entry = await watch.next(timeout=0.5)
            if entry is not None:
                self._take(entry.key, self._read(entry))
                continue
            if not self._nc.is_connected or (loop.time() < check_at and not suspicious):
                continue  # while disconnected, reads go on with what is known
            behind = await watch.behind()
            if behind and suspicious:
                _log.warning("settings_watch_silent", bucket=BUCKET)
                return
            # What was stored a moment ago may still be on its way: look once more before starting anew.
            suspicious = behind
            check_at = loop.time() + self._check_seconds

    async def _resync_until_done(self) -> None:
        """For the start: the servers may still be electing. The caller bounds it."""
        while True:
            try:
                return await self._resync()
            except (nats.errors.Error, OSError) as error:
                self._last_error = error
                await asyncio.sleep(0.1)

    async def _resync(self) -> None:
        async with self._lock:
            await self._drop_watch()
            self._kv = await bind_bucket(self._js, BUCKET, self._replicas, self._storage)
            watch, entries = await Watch.start(self._js, self._nc, BUCKET)
            self._watch = watch
            known = self._records
            found = {entry.key: self._read(entry) for entry in entries}
            another = watch.incarnation != self._incarnation
            missing: dict[str, Record] = {}
            for key, old in known.items():
                new = found.get(key)
                if new is None or (another and new.stored.version < old.stored.version):
                    # Known here and lost there. It stays in force while it is being put back.
                    missing[key] = found[key] = old._replace(revision=new.revision if new else 0)
            self._records = {key: record for key, record in found.items() if record is not None}
            self._changed(known)
            for key, record in missing.items():
                await self._put_back(key, record)
            # Last, so that a failure above leaves this incarnation one to compare with again.
            self._incarnation = watch.incarnation

    async def _put_back(self, key: str, record: Record) -> None:
        """The bucket was lost and we know more than it: restore, unless somebody else is quicker."""
        stored = record.stored
        data = encode_stored(stored.version, stored.name, stored.value)
        if await self._put_if(key, data, record.revision):
            _log.info("setting_restored", key=key, version=stored.version)
        else:
            await self._refresh(key)

    async def _drop_watch(self) -> None:
        watch, self._watch = self._watch, None
        if watch is not None:
            await watch.stop()


_KEEP = object()  # what a decision returns to leave the setting as it is
