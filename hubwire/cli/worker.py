"""One gateway worker of `hubwire up`: a gateway with the control plane's REST on the same port."""

from __future__ import annotations

from hubwire.runtime.listen import open_listener
from hubwire.runtime.process import ProcessConfig
from hubwire.runtime.service import Stop, run_service, tell_ready


def run_worker(config: ProcessConfig) -> None:
    """Blocking: serves until SIGTERM, then drains."""

    async def serve(stop: Stop) -> None:
        from aiohttp import web

        app = web.Application()

        async def health(request: web.Request) -> web.Response:
            return web.Response()

        app.router.add_get("/api/health", health)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.SockSite(runner, open_listener(config.host, config.port)).start()
        tell_ready(config)
        await stop.wait()
        await runner.cleanup()

    run_service(serve)
