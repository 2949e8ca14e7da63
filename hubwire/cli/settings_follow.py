"""What one worker of `hubwire up` does for the settings: the operator's orders go in, the keys come out."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec

from hubwire.bus.settings import SettingsStore
from hubwire.model.cluster_settings import overlaid
from hubwire.model.errors import Unavailable
from hubwire.model.settings import AccessKeys
from hubwire.runtime.data_folder import write_keys, write_private
from hubwire.runtime.logs import get_logger
from hubwire.runtime.process import ProcessConfig

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


def follow_keys(store: SettingsStore, keys_file: Path, *, keep: bool) -> None:
    """Write the keys in force into the data folder, now and whenever they change: the next start, and
    other commands, take them from there. Without `keep` (memory mode) only endpoint.json is rewritten."""
    written: AccessKeys | None = None

    def follow() -> None:
        nonlocal written
        try:
            keys = store.keys
        except Unavailable:
            return
        if keys == written:
            return
        try:
            if keep:
                write_keys(keys_file, keys)
            _rewrite_connection_string(keys_file.with_name("endpoint.json"), keys)
        except OSError as fault:
            _log.error("access_keys_not_written", file=str(keys_file), error=str(fault))
            return
        if written is not None:
            _log.info("access_keys_changed")
        written = keys

    follow()
    store.add_listener(follow)


def _rewrite_connection_string(path: Path, keys: AccessKeys) -> None:
    """In endpoint.json, once the supervisor has written it."""
    try:
        facts = json.loads(path.read_text())
    except (OSError, ValueError):
        return
    facts["connectionString"] = f"Endpoint={facts['endpoint']};AccessKey={keys.primary};Version=1.0;"
    write_private(path, msgspec.json.format(msgspec.json.encode(facts), indent=2).decode() + "\n")
