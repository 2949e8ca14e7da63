"""Notifications by topic. Which topics a client reads is kept by the service, as state of its connection."""

import asyncio
import base64
import hashlib
import hmac
import json
import os

from aiohttp import web
from azure.messaging.webpubsubservice.aio import WebPubSubServiceClient

HUB = "topics"
CONNECTION_STRING = os.environ["HUBWIRE_CONNECTION_STRING"]
PARTS = dict(part.split("=", 1) for part in CONNECTION_STRING.split(";") if part)
KEY = PARTS["AccessKey"].encode()
STATE = "ce-connectionState"

# There is nothing else in memory: any of several server processes can take the next event.
service = WebPubSubServiceClient.from_connection_string(CONNECTION_STRING, hub=HUB)


def verify(request: web.Request) -> None:
    connection = request.headers.get("ce-connectionId", "")
    wanted = "sha256=" + hmac.new(KEY, connection.encode(), hashlib.sha256).hexdigest()
    given = request.headers.get("ce-signature", "").split(",")
    if not any(hmac.compare_digest(wanted, one.strip()) for one in given):
        raise web.HTTPUnauthorized(text="This is not signed with our key.")


def topics_of(request: web.Request) -> set[str]:
    """The state comes with every event. It is a header, hence ASCII: base64 of JSON."""
    return set(json.loads(base64.b64decode(request.headers.get(STATE, "")) or b"[]"))


def answer(topics: set[str]) -> web.Response:
    """To the client its topics, to the service the same as the new state."""
    listed = sorted(topics)
    state = base64.b64encode(json.dumps(listed).encode()).decode()
    return web.json_response({"topics": listed}, headers={STATE: state})


async def allow(request: web.Request) -> web.Response:
    return web.Response(headers={"WebHook-Allowed-Origin": request.headers["WebHook-Request-Origin"]})


async def events(request: web.Request) -> web.Response:
    verify(request)
    kind, name = request.headers["ce-type"].split(".")[2], request.headers["ce-eventName"]
    connection, user = request.headers["ce-connectionId"], request.headers.get("ce-userId", "")
    topics = topics_of(request)
    if kind == "user":  # subscribe or unsubscribe, which the hub's settings name
        topic = await request.json()
        if not isinstance(topic, str) or not 0 < len(topic) <= 40:
            return web.Response(status=400)
        if name == "subscribe":
            await service.add_connection_to_group(topic, connection)
            return answer(topics | {topic})
        await service.remove_connection_from_group(topic, connection)
        return answer(topics - {topic})
    if name == "disconnected":  # the groups are gone by now, the state is still told
        for topic in topics:
            await service.send_to_group(
                topic, {"topic": topic, "text": f"{user} does not read this any more."}
            )
    return web.Response()


async def publish(request: web.Request) -> web.Response:
    """For the application behind: curl -d 'We close at six' http://127.0.0.1:3002/publish/news"""
    topic = request.match_info["topic"]
    await service.send_to_group(topic, {"topic": topic, "text": await request.text()})
    return web.Response(status=202)


async def main() -> None:
    app = web.Application()
    app.add_routes(
        [web.options("/events", allow), web.post("/events", events), web.post("/publish/{topic}", publish)]
    )
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", int(os.environ.get("PORT", "3002"))).start()
    port = runner.addresses[0][1]
    print(f"The notifier is on http://127.0.0.1:{port}/, its event handler on /events", flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()
        await service.close()


if __name__ == "__main__":
    asyncio.run(main())
