"""The vendors' clients in Python (sync and aio) and JavaScript, unmodified, whose gateway is killed.

They recover on another one, and their applications see nothing but the messages.

The JavaScript client does so over both reliable protocols. Its protobuf add-on is not on npm: it is given
the tests' own making and reading of messages (protobuf-reliable.mjs), and recovers and acknowledges by
itself. The Python client has no protobuf protocol, and sends nothing but text frames; our own client, which
publishes here and loses its gateway in the second round, speaks protobuf.reliable in Python.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from support.dialects import JSON_RELIABLE, PROTOBUF_RELIABLE
from support.history import OK, History, Request
from support.judge import judge
from support.nats import NatsServer
from support.processes import KEY, Fleet
from support.reliable_client import ROLES, ReliableClient
from support.vendor_clients import vendor_client
from support.wire import Wires

from hubwire.model.tokens import sign_client_token

HUB, GROUP = "vendors", "room"
BURST = 40
KINDS = ("python", "python-aio", "javascript", "javascript-protobuf")


@pytest.mark.parametrize("kind", KINDS)
async def test_it_recovers_on_another_gateway_after_kill_and_its_application_sees_only_messages(
    tmp_path: Path, request: pytest.FixtureRequest, kind: str
) -> None:
    if kind.startswith("javascript"):
        request.getfixturevalue("javascript_packages")
    history = History()
    dialect = PROTOBUF_RELIABLE if kind.endswith("protobuf") else JSON_RELIABLE
    with NatsServer(tmp_path) as nats, Fleet(tmp_path, [nats.url]) as fleet, Wires() as wires:
        services = await asyncio.to_thread(fleet.start_all, "router", "router", "gateway", "gateway")
        here, there = services[2:]
        way = wires.to(lambda: here.port)
        endpoint = f"http://127.0.0.1:{way.port}"
        token = sign_client_token(
            KEY, endpoint=endpoint, hub=HUB, user_id="vendor", roles=ROLES, now=time.time()
        )
        url = f"{endpoint.replace('http', 'ws')}/client/hubs/{HUB}?access_token={token}"
        sent: list[str] = []

        async def burst(publisher: ReliableClient) -> None:
            for _ in range(BURST):
                text = f"m{len(sent)}"
                assert await publisher.publish(GROUP, text) == OK
                sent.append(text)

        async with (
            vendor_client(kind, url) as client,
            await ReliableClient.connect(
                history, lambda: f"http://127.0.0.1:{there.port}", "peer", key=KEY, hub=HUB, dialect=dialect
            ) as peer,
        ):
            await client.join(GROUP)
            assert await peer.join(GROUP) == OK
            for _ in range(2):
                await burst(peer)
                gone = here
                # The others' clients stay where they are for now; new connections go to the other gateway.
                here = there
                await asyncio.to_thread(gone.kill)
                await burst(peer)
                await client.seen.until_it_has(sent[-1])
                await asyncio.to_thread(gone.start)
                there = gone
                text = f"m{len(sent)}"
                publish = Request("publish", GROUP, 0, text, sent=[time.monotonic()])
                history.rest.append(publish)
                await client.publish(GROUP, text)
                publish.answers.append((time.monotonic(), OK))
                sent.append(text)
                await peer.has(text)
                await client.seen.until_it_has(text)
            assert client.seen.messages == list(enumerate(sent, 1)), "each once, in order, numbered"
            assert len(client.seen.connected) == 1, "it is the same connection all the time"
            assert client.seen.disconnected == 0
            history.drained = True
            assert not judge(history).violations
