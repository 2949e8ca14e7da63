"""What one worker of `hubwire up` does for the settings: the operator's orders go in, the keys come out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import msgspec

from hubwire.bus.settings import SettingsStore
from hubwire.model.cluster_settings import overlaid
from hubwire.model.errors import Unavailable
from hubwire.model.settings import AccessKeys
from hubwire.runtime.data_folder import write_keys, write_private
from hubwire.runtime.logs import get_logger
from hubwire.runtime.process import ProcessConfig

RETRY_SECONDS = (0.2, 1.0, 5.0, 30.0)  # the last one for as long as it takes

_log = get_logger("settings")


async def apply_orders(store: SettingsStore, config: ProcessConfig) -> None:
    """--access-key, and what the file of --config says of hubs and of the cluster, take the place of what is
    stored. Raises Unavailable."""
    if config.access_key_is_order and config.seed_keys is not None and store.keys != config.seed_keys:
        await store.set_keys(config.seed_keys)
        _log.info("access_keys_set", reason="given at start")
    for hub, settings in config.hubs.items():
        entry = store.hub_entry(hub)
        if entry is None or entry.settings != settings:
            await store.put_hub(hub, settings)
            _log.info("hub_settings_set", hub=hub, reason="config file")
    if config.file is not None:
        given = config.file.cluster_settings()
        if await store.change_cluster(lambda present: overlaid(present, given)):
            _log.info("cluster_settings_set", reason="config file")


class KeysFollower:
    """Writes the keys in force into the data folder, whenever they change: the next start, and other
    commands, take them from there. Without `keep` (memory mode) only endpoint.json is rewritten.

    The first attempt is made when it is made. What could not be written (a disk that is full for a moment)
    is logged, and tried again after `retry_seconds`, one after the other, by `run`.
    """

    def __init__(
        self,
        store: SettingsStore,
        keys_file: Path,
        *,
        keep: bool,
        retry_seconds: Sequence[float] = RETRY_SECONDS,
    ) -> None:
        self._store = store
        self._file = keys_file
        self._keep = keep
        self._retry_seconds = retry_seconds
        self._written: AccessKeys | None = None
        self._changed = asyncio.Event()
        self.up_to_date = asyncio.Event()
        """Set while the folder has the keys in force."""
        store.add_listener(self._look)
        if not self._write():
            self._changed.set()

    async def run(self) -> None:
        """Write until cancelled."""
        failures = 0
        while True:
            await self._changed.wait()
            self._changed.clear()
            if self._write():
                failures = 0
                continue
            pause = self._retry_seconds[min(failures, len(self._retry_seconds) - 1)]
            failures += 1
            await asyncio.sleep(pause)
            self._changed.set()

    def _look(self) -> None:
        """Called at each change of any setting."""
        if self._keys() not in (None, self._written):
            self.up_to_date.clear()
            self._changed.set()

    def _keys(self) -> AccessKeys | None:
        try:
            return self._store.keys
        except Unavailable:
            return None  # somebody will make them, and we are told

    def _write(self) -> bool:
        """False: it has to be tried again."""
        keys = self._keys()
        if keys is None or keys == self._written:
            return True
        try:
            if self._keep:
                write_keys(self._file, keys)
            _rewrite_connection_string(self._file.with_name("endpoint.json"), keys)
        except OSError as fault:
            _log.error("access_keys_not_written", file=str(self._file), error=str(fault))
            return False
        if self._written is not None:
            _log.info("access_keys_changed")
        self._written = keys
        self.up_to_date.set()
        return True


def _rewrite_connection_string(path: Path, keys: AccessKeys) -> None:
    """In endpoint.json, once the supervisor has written it."""
    try:
        facts = json.loads(path.read_text())
    except (OSError, ValueError):
        return
    facts["connectionString"] = f"Endpoint={facts['endpoint']};AccessKey={keys.primary};Version=1.0;"
    write_private(path, msgspec.json.format(msgspec.json.encode(facts), indent=2).decode() + "\n")
