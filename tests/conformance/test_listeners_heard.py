"""What an event listener of a whole service leaves in a JetStream stream, as a consumer of it reads it."""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict
from urllib.parse import unquote

import nats
import pytest
from nats.js.errors import FetchTimeoutError
from support.examples import hubwire
from support.inventory import LISTENERS
from support.upstreams import app_server
from support.world import World

SECONDS = 30.0
_numbers = itertools.count()


class Consumer:
    """Reads a stream from its beginning, as an application of one's own would; acks what it has got."""

    def __init__(self):
        self.heard = defaultdict(list)
        self.ids = []

    async def read(self, options, stream, done):
        connection = await nats.connect(**options)
        try:
            events = await connection.jetstream().pull_subscribe("", "reader", stream=stream)
            async with asyncio.timeout(SECONDS):
                while not done(self.heard):
                    try:
                        batch = await events.fetch(50, timeout=1)
                    except (TimeoutError, FetchTimeoutError):
                        continue
                    for message in batch:
                        head = {name.lower(): unquote(value) for name, value in message.headers.items()}
                        self.ids.append(head["nats-msg-id"])
                        self.heard[head["ce-connectionid"]].append((message.subject, head, message.data))
                        await message.ack()
        finally:
            await connection.close()


async def until_it_is_listened_to(world):
    """Until every gateway knows the listener, and stores in the new stream: before, an event fails, and its
    ack says so."""
    for client in await world.several(12):
        async with asyncio.timeout(SECONDS):
            while not (await client.request("event", event="probe", data=1))["success"]:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        await client.close()


@pytest.mark.compat(
    LISTENERS,
    "connected and disconnected, once and in order",
    "user events, once and in order, with and without a handler",
    "CloudEvents headers, subjects and bodies",
)
@pytest.mark.parametrize("with_handler", [False, True])
async def test_a_consumer_of_the_stream_gets_each_event_of_a_connection_once(topology, with_handler):
    number = next(_numbers)
    hub, stream, prefix = f"heard{number}", f"HEARD{number}", f"heard{number}"
    service = f"Endpoint={topology.control_plane()};AccessKey={topology.key};Version=1.0;"
    async with app_server() as app, World(topology, hub) as world:
        # "required": what is acked is in the stream.
        words = ["events=*", "system=connected,disconnected", "delivery=required"]
        words += [f"stream={stream}", f"prefix={prefix}"]
        handler = ["--event-handler", f"url={app.base}/events", "events=e"] if with_handler else []
        await asyncio.to_thread(hubwire, service, "hubs", "set", hub, "--event-listener", *words, *handler)
        await until_it_is_listened_to(world)
        clients = {client.connection_id: client for client in await world.several(6, "ada")}
        for client in clients.values():
            for data in ("0", "grüße"):
                answer = await client.request("event", event="e", dataType="text", data=data)
                assert answer["success"], answer
            await client.close()

        def all_ended(heard):
            return all(
                heard[each] and heard[each][-1][1]["ce-eventname"] == "disconnected" for each in clients
            )

        consumer = Consumer()
        await consumer.read(topology.jetstream(), stream, all_ended)
        assert len(set(consumer.ids)) == len(consumer.ids)
        for connection in clients:
            judge(hub, prefix, connection, consumer.heard[connection])
        assert len(app.seen) == (12 if with_handler else 0)


def judge(hub, prefix, connection, found):
    """A user event need not wait for the copy of `connected` (server-events.md 3.17)."""
    names = [head["ce-eventname"] for _, head, _ in found]
    assert sorted(names) == ["connected", "disconnected", "e", "e"]
    assert names[-1] == "disconnected"
    assert [data.decode() for _, head, data in found if head["ce-eventname"] == "e"] == ["0", "grüße"]
    for subject, head, data in found:
        name = head["ce-eventname"]
        kind, body_type = ("user", "text/plain") if name == "e" else ("sys", "application/json")
        assert subject == f"{prefix}.{hub}.{kind}.{name}"
        assert head["content-type"].split(";")[0] == body_type
        assert head["ce-type"] == f"azure.webpubsub.{kind}.{name}"
        assert head["ce-source"] == f"/hubs/{hub}/client/{connection}"
        assert head["nats-msg-id"] == f"{connection}/{head['ce-id']}"
        assert (head["ce-hub"], head["ce-userid"], head["ce-specversion"]) == (hub, "ada", "1.0")
        assert (data == b"{}") is (name == "connected")
    assert sorted(int(head["ce-id"]) for _, head, _ in found) == [1, 2, 3, 4]
