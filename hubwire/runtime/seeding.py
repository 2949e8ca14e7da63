"""Opening the cluster's settings, and the first keys and hubs in them."""

from __future__ import annotations

import asyncio
import time

import nats.errors
import structlog
from nats.js.api import StorageType

from hubwire.bus.client import BusClient
from hubwire.bus.settings import BUCKET, SettingsStore
from hubwire.bus.settings_records import new_access_keys
from hubwire.model.cluster_settings import overlaid
from hubwire.model.errors import Unavailable
from hubwire.model.settings import AccessKeys
from hubwire.runtime.process import ProcessConfig
from hubwire.runtime.service import Stop

log = structlog.get_logger(__name__)

SETTINGS_SECONDS = 30.0


async def open_settings(bus: BusClient, config: ProcessConfig, stop: Stop) -> SettingsStore:
    """The watched settings; keeps trying while a cluster of NATS servers elects its leaders. Whoever is
    first puts keys and hubs there; the others find them. The caller closes the store.

    Raises Unavailable after SETTINGS_SECONDS, or when told to stop.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + SETTINGS_SECONDS
    while True:
        store: SettingsStore | None = None
        try:
            store = await SettingsStore.open(
                bus.js,
                replicas=config.replicas,
                storage="memory" if config.in_memory else "file",
            )
            await _seed_if_allowed(bus, store, config)
            await _compare_durability(bus, config)
            return store
        except Unavailable as error:
            if store is not None:
                await store.close()
            if stop.told or loop.time() > end:
                raise
            log.warning("settings_not_open_yet", error=str(error))
            await asyncio.sleep(0.2)


def _completed(seed: AccessKeys) -> AccessKeys:
    made = new_access_keys()
    return AccessKeys(seed.primary, seed.secondary or made.secondary, seed.salt or made.salt)


def _has_both(seed: AccessKeys | None) -> bool:
    return seed is not None and bool(seed.secondary)


def _compare_keys(store: SettingsStore, seed: AccessKeys | None) -> None:
    """Keys in NATS win. When neither of those that were given is among them, who uses these is refused: both
    were regenerated, or another installation is in this account."""
    if seed is None:
        return
    given = {one for one in (seed.primary, seed.secondary) if one}
    if not given & {store.keys.primary, store.keys.secondary}:
        log.warning("access_keys_differ", read_with="hubwire keys show --nats SERVERS")


async def _compare_durability(bus: BusClient, config: ProcessConfig) -> None:
    """Buckets stay as they were made. Told otherwise, a process runs all the same, or nobody could ever
    change a cluster; but its operator must not believe that more is kept than is."""
    try:
        kept = (await bus.js.stream_info(f"KV_{BUCKET}")).config
    except (nats.errors.Error, TimeoutError):
        return  # not told today; what needs the bucket says so
    in_memory = kept.storage == StorageType.MEMORY
    if (in_memory, kept.num_replicas or 1) != (config.in_memory, config.replicas):
        copies = f"{kept.num_replicas or 1} in {'memory' if in_memory else 'files'}"
        log.warning("durability_differs", told=config.durability, copies=copies, bucket=BUCKET)


async def _seed_if_allowed(bus: BusClient, store: SettingsStore, config: ProcessConfig) -> None:
    """`_seed`, by a process that NATS may not let write settings: then what is needed must be there already
    (a control plane has put it there), and what else it was given is the control plane's to say.

    Raises Unavailable as `_seed` does while keys are missing, or when it failed for another reason.
    """
    refused = bus.refusals.count
    try:
        await _seed(store, config)
    except Unavailable as error:
        if bus.refusals.count == refused or not _has_keys(store):
            raise
        log.warning("settings_not_seeded", error=str(error))


def _has_keys(store: SettingsStore) -> bool:
    try:
        return bool(store.keys and store.reconnection_keys)
    except Unavailable:
        return False


async def _seed(store: SettingsStore, config: ProcessConfig) -> None:
    seed = config.seed_keys
    # Two keys are in force at any time, or they could not be exchanged without refusing clients; what was
    # not given is made.
    fresh = new_access_keys() if seed is None else _completed(seed)
    try:
        had = store.keys is not None
    except Unavailable:
        had = False
    if not had and await store.ensure_keys(lambda: fresh) == fresh and not _has_both(seed):
        which = "both" if seed is None else "the secondary one"
        log.info("access_keys_made", which=which, read_with="hubwire keys show --nats SERVERS")
    _compare_keys(store, seed)
    await store.ensure_reconnection_keys(time.time())
    for hub, settings in config.hubs.items():
        if store.hub_entry(hub) is None:
            await store.put_hub(hub, settings)
    if config.file is not None:
        # What the cluster has not been told yet; the rest stays as it is.
        given = config.file.cluster_settings()
        await store.change_cluster(lambda present: overlaid(given, present))
