"""One gateway worker of `hubwire up`: a gateway with the control plane's REST on the same port."""

from __future__ import annotations

import asyncio
from pathlib import Path

from hubwire.cli.settings_follow import apply_orders, follow_keys
from hubwire.runtime.process import ProcessConfig


def run_worker(config: ProcessConfig) -> None:
    """Blocking: serves until SIGTERM, then drains."""
    from controlplane.service import make_runner
    from gateway.app import Http, Worker, run
    from hubwire.runtime.leases import LeaseWatch

    async def rest(worker: Worker) -> Http:
        if config.worker == 0:
            await apply_orders(worker.settings, config)
            if config.keys_file:
                follow_keys(worker.settings, Path(config.keys_file), keep=config.durability != "memory")
        gateways = LeaseWatch(worker.bus, "gateway", default_ttl=config.lease_seconds)
        watching = asyncio.create_task(gateways.run(), name="gateway leases")
        runner = await make_runner(config, worker.bus, worker.dispatcher, worker.settings, gateways)
        server = runner.server
        assert server is not None

        async def close() -> None:
            await runner.cleanup()
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

        return Http(server, close)

    run(config, rest)
