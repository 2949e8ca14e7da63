"""The settings as one process knows them: reads are local and never wait."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from hubwire.bus.settings_records import (
    CLUSTER_KEY,
    HUB_PREFIX,
    KEYS_KEY,
    RECONNECTION_KEY,
    HubEntry,
    Record,
    Stored,
    decode_stored,
    value_key,
)
from hubwire.bus.settings_watch import Entry
from hubwire.model.cluster_settings import ClusterSettings, overlaid
from hubwire.model.errors import InternalError, Unavailable
from hubwire.model.settings import (
    DEFAULT_HUB_SETTINGS,
    AccessKeys,
    HubLimits,
    HubSettings,
    ReconnectionKeys,
)

_NOTHING = ClusterSettings()

_log = structlog.get_logger(__name__)


class KnownSettings:
    """What is known of the bucket `hw_settings`, and who wants to know when that changes. Whoever fills it
    (`hubwire.bus.settings.SettingsStore`) takes a record in by `_take`, or replaces all and calls `_changed`.
    """

    def __init__(self) -> None:
        self._records: dict[str, Record] = {}
        self._hubs: dict[str, HubEntry] = {}
        self._listeners: list[Callable[[], None]] = []

    def hub(self, name: str) -> HubSettings:
        """The settings of a hub, in any case; the defaults when it has none."""
        entry = self._hubs.get(name.lower())
        return entry.settings if entry is not None else DEFAULT_HUB_SETTINGS

    def hub_entry(self, name: str) -> HubEntry | None:
        """The settings of a hub with its name as it was given, or None when it has none of its own."""
        return self._hubs.get(name.lower())

    def hubs(self) -> dict[str, HubSettings]:
        """All hubs that have settings, by their name in the case it was given, sorted without case."""
        return {entry.name: entry.settings for _, entry in sorted(self._hubs.items())}

    @property
    def keys(self) -> AccessKeys:
        """The access keys. Raises Unavailable before anybody has set them (`ensure_keys` at start)."""
        record = self._records.get(KEYS_KEY)
        if record is None or not isinstance(record.value, AccessKeys):
            raise Unavailable("The cluster has no access keys yet.")
        return record.value

    @property
    def reconnection_keys(self) -> ReconnectionKeys:
        """What signs reconnection tokens. Raises Unavailable before anybody has made them
        (`ensure_reconnection_keys` at start)."""
        record = self._records.get(RECONNECTION_KEY)
        if record is None or not isinstance(record.value, ReconnectionKeys):
            raise Unavailable("The cluster has no keys for reconnection tokens yet.")
        return record.value

    @property
    def cluster(self) -> ClusterSettings:
        """What all processes share beside hubs and keys; empty when nobody has set anything."""
        record = self._records.get(CLUSTER_KEY)
        return record.value if record is not None and isinstance(record.value, ClusterSettings) else _NOTHING

    def limits(self, hub: str) -> HubLimits:
        """The limits of a hub, in any case: its own, and those of the cluster where it has none."""
        entry = self._hubs.get(hub.lower())
        common = self.cluster.hub_limits
        return common if entry is None else overlaid(common, entry.settings.limits)

    def get(self, name: str) -> object | None:
        """A free-form value of the cluster (JSON), or None."""
        record = self._records.get(value_key(name))
        return record.value if record is not None else None

    @property
    def cluster_id(self) -> str | None:
        """The cluster's identity, once somebody has called `ensure("cluster_id", ...)`."""
        value = self.get("cluster_id")
        return value if isinstance(value, str) else None

    def add_listener(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Have `callback` called after each change, in the event loop, without arguments. It must not block.

        Returns the function that takes the callback away again (more than once does no harm).
        """
        self._listeners.append(callback)

        def remove() -> None:
            if callback in self._listeners:
                self._listeners.remove(callback)

        return remove

    # --- what is known ---

    def _read(self, entry: Entry) -> Record | None:
        if entry.data is None:
            return Record(entry.revision, Stored(0), None)
        try:
            return decode_stored(entry.key, entry.revision, entry.data)
        except InternalError as error:
            _log.error("setting_unreadable", key=entry.key, revision=entry.revision, error=str(error))
            old = self._records.get(entry.key)
            return old._replace(revision=entry.revision) if old is not None else None

    def _take(self, key: str, record: Record | None) -> None:
        """Make a newer record the known one, and tell the listeners if that changed anything."""
        known = self._records.get(key)
        if record is None or (known is not None and record.revision <= known.revision):
            return
        before = self._records
        self._records = {**before, key: record}
        self._changed(before)

    def _changed(self, before: dict[str, Record]) -> None:
        records = self._records
        if before.keys() == records.keys() and all(
            before[key].value == record.value for key, record in records.items()
        ):
            return
        self._hubs = {
            record.value.name.lower(): record.value
            for key, record in records.items()
            if key.startswith(HUB_PREFIX) and isinstance(record.value, HubEntry)
        }
        for listener in tuple(self._listeners):
            try:
                listener()
            except Exception:
                _log.exception("settings_listener_failed")
