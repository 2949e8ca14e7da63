"""One gateway worker of `hubwire up`: a gateway with the control plane's REST on the same port.

Only here do gateway and control plane meet in one process.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable
from pathlib import Path

from controlplane.http import RestServer
from controlplane.service import make_runner, store_check
from gateway.app import Http, Worker, run
from hubwire.cli.settings_follow import KeysFollower, apply_orders
from hubwire.runtime.leases import LeaseWatch
from hubwire.runtime.logs import get_logger
from hubwire.runtime.process import ProcessConfig
from hubwire.runtime.service import end_tasks

_log = get_logger("worker")


def run_worker(config: ProcessConfig) -> None:
    """Blocking: serves until SIGTERM, then drains."""
    run(config, _rest)


async def _rest(worker: Worker) -> Http:
    """REST for every connection that is no WebSocket of a client; and, in the first worker, what the
    operator ordered for the settings, and the keys' way back into the data folder."""
    config = worker.config
    watching: list[asyncio.Task[None]] = []
    if config.worker == 0 and config.keys_file:
        await apply_orders(worker.settings, config)
        keys = KeysFollower(worker.settings, Path(config.keys_file), keep=config.durability != "memory")
        watching.append(asyncio.create_task(_watched(keys.run(), "keys in the data folder")))
    gateways = LeaseWatch(worker.bus, "gateway", default_ttl=config.lease_seconds)
    store = store_check(worker.bus, config)
    insight = worker.insight
    runner = await make_runner(
        config, worker.bus, worker.dispatcher, worker.settings, gateways, store, insight
    )
    server = runner.server
    assert isinstance(server, RestServer)  # setup() has made it
    watching += [
        asyncio.create_task(_watched(gateways.run(), "gateway leases")),
        asyncio.create_task(_watched(store.run(), "store check")),
    ]

    async def close() -> None:
        await runner.cleanup()
        await end_tasks(watching)

    return Http(server, close)


async def _watched(work: Awaitable[None], task: str) -> None:
    """Should this fail, the worker would answer wrongly for ever: it stops, and another is started."""
    try:
        await work
    except Exception:
        _log.exception("background_failed", task=task)
        os.kill(os.getpid(), signal.SIGTERM)
