"""Read what an event listener stored in NATS JetStream, each event once, also after a break."""

import asyncio
import os
from urllib.parse import unquote

import nats
from nats.js.api import ConsumerConfig
from nats.js.errors import NotFoundError

STREAM = os.environ.get("STREAM", "AWPS")


async def main() -> None:
    connection = await nats.connect(
        os.environ["NATS_URL"],
        user=os.environ.get("NATS_USER"),
        password=os.environ.get("NATS_PASSWORD"),
    )
    # Durable: the server remembers how far this consumer has come. Workers with the same name share the work.
    config = ConsumerConfig(durable_name="example", ack_wait=30, max_deliver=5)
    stream = connection.jetstream()
    while True:
        try:
            events = await stream.pull_subscribe("", "example", stream=STREAM, config=config)
            break
        except NotFoundError:
            print(f"The stream {STREAM} is made with the first event; waiting for it.", flush=True)
            await asyncio.sleep(2)
    seconds = float(os.environ.get("SECONDS", "inf"))
    while True:
        try:
            batch = await events.fetch(100, timeout=min(seconds, 60))
        except TimeoutError:
            if seconds < 60:
                break  # nothing has come for so long
            continue
        for message in batch:
            attributes = {name: unquote(value) for name, value in message.headers.items()}
            who = attributes.get("ce-userid", "somebody")
            print(attributes["ce-hub"], attributes["ce-eventname"], who, message.data.decode(), flush=True)
            await message.ack()  # only now: what was not acknowledged is delivered again
    await connection.close()


asyncio.run(main())
