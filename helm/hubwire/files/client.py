"""`helm test`: a client connects to the gateways, a server publishes by REST, and the client gets it.

    python client.py GATEWAYS REST

The keys are those in force, read from NATS as `hubwire keys show` does.
"""

import asyncio
import json
import subprocess
import sys
import time
import uuid

import aiohttp

from hubwire.model.tokens import sign_client_token, sign_rest_token

SECONDS = 60.0
HUB = "helm_test"


def access_key() -> str:
    shown = subprocess.run(
        ["hubwire", "keys", "show", "--json"], check=True, stdout=subprocess.PIPE, timeout=SECONDS
    )
    return str(json.loads(shown.stdout)["primaryKey"])


async def main(gateways: str, rest: str) -> None:
    key, text = await asyncio.to_thread(access_key), uuid.uuid4().hex
    token = sign_client_token(key, endpoint=gateways, hub=HUB, user_id="test", roles=(), now=time.time())
    url = f"{rest}/api/hubs/{HUB}/users/test/:send?api-version=2024-12-01"
    async with (
        asyncio.timeout(SECONDS),
        # The certificate may be for the public names alone, and here the Services are called.
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=False)) as session,
        session.ws_connect(
            f"{gateways}/client/hubs/{HUB}?access_token={token}", protocols=["json.webpubsub.azure.v1"]
        ) as client,
    ):
        greeting = await client.receive_json()
        assert greeting["event"] == "connected", greeting
        signed = sign_rest_token(key, url, now=time.time())
        headers = {"Authorization": f"Bearer {signed}", "Content-Type": "text/plain"}
        async with session.post(url, data=text, headers=headers) as answer:
            assert answer.status == 202, (answer.status, await answer.text())
        message = await client.receive_json()
        assert message["data"] == text, message
    print(f"A client of {gateways} got what was published at {rest}.")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
