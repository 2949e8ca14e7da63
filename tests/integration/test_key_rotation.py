"""Both access keys are replaced while clients connect, as Azure says it is done: nobody is refused."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
from support.stack import until
from support.up import Up

from hubwire.model.tokens import sign_admin_token, sign_client_token, sign_rest_token

RESOURCE = "/subscriptions/s/resourceGroups/g/providers/Microsoft.SignalRService/webPubSub/w"
SECONDS = 60.0
JSON = "json.webpubsub.azure.v1"
WORKERS = 3  # the one that regenerates a key is seldom the one that a client comes to


async def keys(up: Up, operation: str, **content: str) -> dict[str, str]:
    """An operation of the management API on the keys, by the key that the service was started with or, when
    that has been replaced, by the one that took its place."""
    url = f"{up.endpoint}{RESOURCE}/{operation}?api-version=2024-03-01"
    signed = sign_admin_token(up.facts.setdefault("key", key_of(up)), time.time())
    async with (
        asyncio.timeout(SECONDS),
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {signed}"}) as session,
        session.post(url, json=content) as answer,
    ):
        found: dict[str, str] = await answer.json()
    up.facts["key"] = found["primaryKey"]
    return found


def key_of(up: Up) -> str:
    return str(up.facts["connectionString"].partition("AccessKey=")[2].partition(";")[0])


class Server:
    """An application's server and its clients: whoever comes is given a token that `key` signs now."""

    def __init__(self, up: Up, key: str) -> None:
        self.endpoint = up.endpoint
        self.key = key
        self.seen: Counter[Any] = Counter()
        self.rounds = 0

    async def connect(self) -> None:
        token = sign_client_token(self.key, endpoint=self.endpoint, hub="chat", now=time.time())
        url = f"{self.endpoint}/client/hubs/chat?access_token={token}"
        try:
            async with (
                asyncio.timeout(SECONDS),
                aiohttp.ClientSession() as session,
                session.ws_connect(url, protocols=[JSON]) as client,
            ):
                self.seen[(await client.receive_json())["event"]] += 1
        except aiohttp.WSServerHandshakeError as refusal:
            self.seen[refusal.status] += 1

    async def call(self) -> None:
        url = f"{self.endpoint}/api/hubs/chat/users/nobody"
        token = sign_rest_token(self.key, url, time.time())
        async with (
            asyncio.timeout(SECONDS),
            aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}) as session,
            session.head(url) as answer,
        ):
            self.seen[answer.status] += 1

    async def busy(self) -> None:
        """Clients and calls one after the other, until cancelled."""
        while True:
            await self.connect()
            await self.call()
            self.rounds += 1

    async def takes(self, key: str) -> None:
        """From now on it signs with this key; its clients come to all workers at once."""
        self.key = key
        await asyncio.gather(*(self.connect() for _ in range(4 * WORKERS)))
        await asyncio.gather(*(self.call() for _ in range(4 * WORKERS)))


async def test_both_keys_are_replaced_and_no_client_is_refused(tmp_path: Path) -> None:
    with Up(tmp_path, "--memory", "--workers", str(WORKERS)) as up:
        before = await keys(up, "listKeys")
        server = Server(up, before["primaryKey"])
        busy = asyncio.create_task(server.busy())

        async def switch_to(key: str) -> None:
            await server.takes(key)
            begun = server.rounds
            await until(lambda: server.rounds > begun + 1, SECONDS)  # nobody comes with an earlier one

        await switch_to(before["secondaryKey"])
        fresh = await keys(up, "regenerateKey", keyType="Primary")
        await switch_to(fresh["primaryKey"])
        last = await keys(up, "regenerateKey", keyType="Secondary")
        await switch_to(last["secondaryKey"])
        await switch_to(last["primaryKey"])
        busy.cancel()
        await asyncio.wait([busy])
        assert set(server.seen) == {"connected", 404}
        for old in (before["primaryKey"], before["secondaryKey"]):
            stranger = Server(up, old)
            await stranger.takes(old)
            assert set(stranger.seen) == {401}
