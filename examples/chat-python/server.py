"""A chat that the server rules: it lets people in, passes on what they say, tells who came and who left."""

import asyncio
import hashlib
import hmac
import os
from collections import Counter
from pathlib import Path

from aiohttp import web
from azure.messaging.webpubsubservice.aio import WebPubSubServiceClient

HUB = "chat_python"
PAGE = Path(__file__).with_name("index.html")
CONNECTION_STRING = os.environ["HUBWIRE_CONNECTION_STRING"]
PARTS = dict(part.split("=", 1) for part in CONNECTION_STRING.split(";") if part)
KEY = PARTS["AccessKey"].encode()

service = WebPubSubServiceClient.from_connection_string(CONNECTION_STRING, hub=HUB)
present: Counter[str] = Counter()  # connections of each user; several server processes would share a store


def verify(request: web.Request) -> None:
    """Anybody can post here. The service proves who it is: a signature for each access key."""
    connection = request.headers.get("ce-connectionId", "")
    wanted = "sha256=" + hmac.new(KEY, connection.encode(), hashlib.sha256).hexdigest()
    given = request.headers.get("ce-signature", "").split(",")
    if not any(hmac.compare_digest(wanted, one.strip()) for one in given):
        raise web.HTTPUnauthorized(text="This is not signed with our key.")


async def tell(**message: object) -> None:
    await service.send_to_group("lobby", {**message, "present": sorted(present)})


async def allow(request: web.Request) -> web.Response:
    """Abuse protection: the service asks whether it may call."""
    return web.Response(headers={"WebHook-Allowed-Origin": request.headers["WebHook-Request-Origin"]})


async def events(request: web.Request) -> web.Response:
    verify(request)
    kind, user = request.headers["ce-type"], request.headers.get("ce-userId", "")
    if kind == "azure.webpubsub.sys.connect":
        if not user:
            return web.Response(status=401, text="Sign in first.")
        if user.lower() == "admin":
            return web.Response(status=403, text="That name is taken.")
        return web.json_response({"groups": ["lobby"]})
    if kind == "azure.webpubsub.sys.connected":
        present[user] += 1
        await tell(kind="joined" if present[user] == 1 else "present", who=user)
    elif kind == "azure.webpubsub.sys.disconnected":
        present[user] -= 1
        if present[user] <= 0:
            del present[user]
            await tell(kind="left", who=user)
    elif kind == "azure.webpubsub.user.say":
        try:
            text = str((await request.json())["text"]).strip()
        except (ValueError, LookupError, TypeError):
            return web.Response(status=400, text='Say it like this: {"text": "Hello"}')
        if not 0 < len(text) <= 500:
            return web.Response(status=400, text="There is nothing to say.")
        await service.send_to_group("lobby", {"kind": "said", "who": user, "text": text})
    return web.Response()


async def sign_in(request: web.Request) -> web.Response:
    """A real server knows its user from a session. This one believes the page."""
    user = request.query.get("user", "").strip()
    if not 0 < len(user) <= 40:
        return web.Response(status=400, text="A name has 1 to 40 characters.")
    token = await service.get_client_access_token(user_id=user, minutes_to_expire=5)
    return web.Response(text=token["url"])


async def page(_: web.Request) -> web.FileResponse:
    return web.FileResponse(PAGE)


async def main() -> None:
    app = web.Application()
    app.add_routes(
        [
            web.get("/", page),
            web.post("/sign-in", sign_in),
            web.options("/events", allow),
            web.post("/events", events),
        ]
    )
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", int(os.environ.get("PORT", "3001")))
    await site.start()
    port = runner.addresses[0][1]
    print(f"The chat is on http://127.0.0.1:{port}/, its event handler on /events", flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()
        await service.close()


if __name__ == "__main__":
    asyncio.run(main())
