"""An application server in plain aiohttp that believes only what is signed with its access key.

It lets in whoever has a name other than `mallory`, answers `echo` with what was said and a count that it
keeps as the connection's state, and fails `crash`. GET /told lists the notifications it got.
"""

import asyncio
import hashlib
import hmac
import json
import os

from aiohttp import web

KEY = os.environ["HUBWIRE_CONNECTION_STRING"].partition("AccessKey=")[2].partition(";")[0].encode()
told: list[str] = []


async def allow(request: web.Request) -> web.Response:
    return web.Response(headers={"WebHook-Allowed-Origin": request.headers["WebHook-Request-Origin"]})


async def event(request: web.Request) -> web.Response:
    connection = request.headers.get("ce-connectionId", "").encode()
    wanted = "sha256=" + hmac.new(KEY, connection, hashlib.sha256).hexdigest()
    if wanted not in request.headers.get("ce-signature", "").split(","):
        return web.Response(status=401, text="not signed")
    kind, user = request.headers["ce-type"], request.headers.get("ce-userId", "")
    if kind == "azure.webpubsub.sys.connect":
        if user == "mallory":
            return web.Response(status=403, text="not you")
        return web.json_response({"userId": user.upper(), "groups": ["lobby"]})
    if kind.startswith("azure.webpubsub.sys."):
        told.append(f"{request.headers['ce-eventName']} {user}")
        return web.Response()
    if kind == "azure.webpubsub.user.crash":
        raise RuntimeError("This is a fault of the application.")
    count = str(int(request.headers.get("ce-connectionState", "0")) + 1)
    said = {"said": await request.json(), "by": user, "count": int(count)}
    return web.json_response(said, headers={"ce-connectionState": count})


async def list_told(_: web.Request) -> web.Response:
    return web.json_response(told)


async def main() -> None:
    app = web.Application()
    app.add_routes([web.options("/events", allow), web.post("/events", event), web.get("/told", list_told)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(json.dumps({"port": runner.addresses[0][1]}), flush=True)
    await asyncio.Event().wait()


asyncio.run(main())
