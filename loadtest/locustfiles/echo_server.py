"""The application server of the echo scenario: `python -m loadtest.locustfiles.echo_server --port 9080`.

Ctrl-C or SIGTERM ends it.
"""

from __future__ import annotations

import argparse

from aiohttp import web


async def answer(request: web.Request) -> web.Response:
    """Agrees to be called, and says what it is told."""
    if request.method == "OPTIONS":
        return web.Response(headers={"WebHook-Allowed-Origin": "*"})
    return web.Response(body=await request.read(), content_type=request.content_type)


def main() -> None:
    parser = argparse.ArgumentParser(description="An upstream that echoes events.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9080)
    options = parser.parse_args()
    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", answer)
    web.run_app(app, host=options.host, port=options.port, access_log=None)


if __name__ == "__main__":
    main()
