"""The access keys of a cluster, read and replaced in its NATS."""

from __future__ import annotations

import asyncio

import nats.errors
import nats.js.errors

from hubwire.bus.client import BusClient
from hubwire.bus.settings import BUCKET, SettingsStore
from hubwire.model.errors import NotFound, Unavailable
from hubwire.model.settings import AccessKeys
from hubwire.runtime.nats_options import nats_options
from hubwire.runtime.process import ProcessConfig

_CONNECT_SECONDS = 5.0


async def keys_by_nats(config: ProcessConfig, regenerate: str | None) -> AccessKeys:
    """The keys in force, after one was replaced if `regenerate` names it. Nothing is made where there is
    nothing. Raises NotFound when this NATS has no keys, Unavailable when it does not answer."""
    where = ", ".join(config.nats_servers)
    options = {**nats_options(config, name="hubwire-keys"), "max_reconnect_attempts": 2}
    try:
        async with asyncio.timeout(_CONNECT_SECONDS):
            bus = await BusClient.connect(options)
    except TimeoutError as fault:
        raise Unavailable(f"NATS did not answer at {where}; check the address and the network.") from fault
    try:
        return await _keys(bus, where, regenerate)
    finally:
        await bus.close()


async def _keys(bus: BusClient, where: str, regenerate: str | None) -> AccessKeys:
    try:
        await bus.js.key_value(BUCKET)
    except nats.js.errors.NotFoundError as fault:
        raise NotFound(
            f"NATS at {where} has nothing of Hubwire's; start a gateway or control plane on it first, or "
            "check the account that you sign in to."
        ) from fault
    except (nats.errors.Error, TimeoutError) as fault:
        raise Unavailable(f"JetStream at {where} does not answer ({fault!r}); try hubwire doctor.") from fault
    store = await SettingsStore.open(bus.js)
    try:
        return store.keys if regenerate is None else await store.regenerate(regenerate)
    finally:
        await store.close()
