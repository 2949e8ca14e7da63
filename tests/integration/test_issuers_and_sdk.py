"""The vendor's SDKs with a token credential, over TLS, against `hubwire up` that trusts an issuer."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from azure.core.credentials import AccessToken
from azure.core.exceptions import HttpResponseError
from azure.messaging.webpubsubservice import WebPubSubServiceClient
from support.certificate_authority import CertificateAuthority
from support.local_issuer import LocalIssuer
from support.stack import until
from support.up import Up

HUB = "chat"
JSON = "json.webpubsub.azure.v1"
SECONDS = 60.0
SCOPE = "https://webpubsub.azure.com/.default"


class Credential:
    """Azure's TokenCredential, with one kind of token."""

    def __init__(self, issuer: LocalIssuer, **claims: object) -> None:
        self._issuer = issuer
        self._claims = claims
        self.scopes: list[str] = []

    def get_token(self, *scopes: str, **_more: object) -> AccessToken:
        self.scopes += scopes
        return AccessToken(self._issuer.token(**self._claims), int(time.time()) + 300)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    return CertificateAuthority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
async def issuer() -> AsyncIterator[LocalIssuer]:
    """One that is away at first."""
    async with LocalIssuer() as issuer:
        issuer.away = True
        yield issuer


@pytest.fixture
async def up(tmp_path: Path, authority: CertificateAuthority, issuer: LocalIssuer) -> AsyncIterator[Up]:
    pair = authority.issue("localhost", "127.0.0.1", days=10)
    running = Up(tmp_path, "--memory", "--workers", "1", *pair.options, "--oidc-issuers", issuer.url)
    await asyncio.to_thread(running.__enter__)
    try:
        yield running
    finally:
        await asyncio.to_thread(running.stop)


def examined(up: Up, authority: CertificateAuthority) -> dict[str, tuple[str, str]]:
    """State and finding of each check of `hubwire doctor`."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HUBWIRE_")}
    done = subprocess.run(
        [sys.executable, "-m", "hubwire.cli.main", "doctor", "--json", "--data", str(up.data)],
        env={**environment, "SSL_CERT_FILE": str(authority.file)},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    return {one["name"]: (one["state"], one["found"]) for one in json.loads(done.stdout)["checks"]}


async def test_the_service_sdk_signs_in_with_an_issuers_token(
    up: Up, authority: CertificateAuthority, issuer: LocalIssuer
) -> None:
    await until(lambda: any(told["event"] == "issuer_keys_not_fetched" for told in up.log), SECONDS)
    found = await asyncio.to_thread(examined, up, authority)
    assert found["issuers"] == ("warn", "1 of 1 processes could not fetch the keys of an issuer")
    assert found["certificate"] == ("warn", "over in 10.0 days")
    assert found["access key"][0] == found["WebSocket client"][0] == "ok"
    issuer.away = False
    owner = Credential(issuer, roles=["Web PubSub Service Owner"])
    reader = Credential(issuer, roles=["Web PubSub Service Reader"])

    def client(credential: Credential) -> WebPubSubServiceClient:
        return WebPubSubServiceClient(up.endpoint, HUB, credential, connection_verify=str(authority.file))

    with client(owner) as sdk, client(reader) as looker:
        access = await asyncio.to_thread(
            sdk.get_client_access_token, user_id="ann", roles=["webpubsub.joinLeaveGroup.g"], groups=["g"]
        )
        assert owner.scopes == [SCOPE]
        assert access["baseUrl"] == f"wss{up.endpoint.removeprefix('https')}/client/hubs/{HUB}"
        async with (
            asyncio.timeout(SECONDS),
            aiohttp.ClientSession() as session,
            session.ws_connect(access["url"], protocols=[JSON], ssl=authority.trusted) as socket,
        ):
            assert (await socket.receive_json())["userId"] == "ann"
            assert await asyncio.to_thread(looker.user_exists, "ann")
            await asyncio.to_thread(sdk.send_to_group, "g", "hello", content_type="text/plain")
            assert (await socket.receive_json())["data"] == "hello"
            with pytest.raises(HttpResponseError) as refused:
                await asyncio.to_thread(looker.send_to_all, "no", content_type="text/plain")
            assert refused.value.status_code == 403
    issuer.away = True  # again: its keys are known, and access keys need none
    with client(owner) as sdk:
        assert not await asyncio.to_thread(sdk.user_exists, "nobody")
    with WebPubSubServiceClient.from_connection_string(
        up.facts["connectionString"], HUB, connection_verify=str(authority.file)
    ) as sdk:
        assert not await asyncio.to_thread(sdk.user_exists, "nobody")
