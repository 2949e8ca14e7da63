"""The keys of a cluster, read and replaced in its NATS."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import nats.errors
import nats.js.errors

from hubwire.bus.client import BusClient
from hubwire.bus.settings import BUCKET, SettingsStore
from hubwire.model.errors import NotFound, Unavailable
from hubwire.model.settings import AccessKeys
from hubwire.runtime.nats_options import nats_options
from hubwire.runtime.process import ProcessConfig

T = TypeVar("T")

_CONNECT_SECONDS = 5.0


async def keys_by_nats(config: ProcessConfig, regenerate: str | None) -> AccessKeys:
    """The keys in force, after one was replaced if `regenerate` names it. Nothing is made where there is
    nothing. Raises NotFound when this NATS has no keys, Unavailable when it does not answer."""

    async def keys(store: SettingsStore) -> AccessKeys:
        return store.keys if regenerate is None else await store.regenerate(regenerate)

    return await _with_store(config, keys)


async def rotate_reconnection_key(config: ProcessConfig, *, force: bool) -> None:
    """Let a new key sign the reconnection tokens. Raises as `keys_by_nats`, and Conflict when clients may
    hold tokens of a key that would be forgotten."""

    async def rotate(store: SettingsStore) -> None:
        await store.rotate_reconnection_key(time.time(), force=force)

    await _with_store(config, rotate)


async def _with_store(config: ProcessConfig, use: Callable[[SettingsStore], Awaitable[T]]) -> T:
    where = ", ".join(config.nats_servers)
    options = {**nats_options(config, name="hubwire-keys"), "max_reconnect_attempts": 2}
    try:
        async with asyncio.timeout(_CONNECT_SECONDS):
            bus = await BusClient.connect(options)
    except TimeoutError as fault:
        raise Unavailable(f"NATS did not answer at {where}; check the address and the network.") from fault
    try:
        return await _use(bus, where, use)
    finally:
        await bus.close()


async def _use(bus: BusClient, where: str, use: Callable[[SettingsStore], Awaitable[T]]) -> T:
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
        return await use(store)
    finally:
        await store.close()
