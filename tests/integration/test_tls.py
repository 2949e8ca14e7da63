"""TLS of `hubwire up`: what clients and REST see, and what those see who do not speak it."""

from __future__ import annotations

import asyncio
import json
import os
import queue
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from urllib.parse import urlsplit

import aiohttp
import pytest
from azure.messaging.webpubsubclient import WebPubSubClient
from azure.messaging.webpubsubclient.models import CallbackType
from support.certificate_authority import CertificateAuthority, Pair
from support.inventory import JS_FOLDER
from support.up import Up

from hubwire.model.tokens import sign_client_token

SECONDS = 30.0
JSON = "json.webpubsub.azure.v1"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    return CertificateAuthority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def pair(authority: CertificateAuthority) -> Pair:
    return authority.issue("localhost", "127.0.0.1")


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory, pair: Pair) -> Iterator[Up]:
    with Up(tmp_path_factory.mktemp("up"), "--memory", "--workers", "1", *pair.options) as running:
        yield running


def port_of(up: Up) -> int:
    port = urlsplit(up.endpoint).port
    assert port is not None
    return port


async def answer_to(up: Up, data: bytes) -> bytes:
    """All that the port says to these bytes, until it hangs up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(up))
    try:
        writer.write(data)
        async with asyncio.timeout(SECONDS):
            return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


def test_what_is_printed_says_https_and_wss(up: Up) -> None:
    assert up.endpoint.startswith("https://127.0.0.1:")
    assert up.facts["connectionString"].startswith(f"Endpoint={up.endpoint};")
    assert up.facts["clientUrl"].startswith(f"wss{up.endpoint.removeprefix('https')}/client/hubs/")


async def test_a_client_over_wss_joins_and_gets_a_message_of_many_records(
    up: Up, authority: CertificateAuthority
) -> None:
    text = "x" * 900_000
    async with (
        asyncio.timeout(SECONDS),
        aiohttp.ClientSession() as session,
        session.ws_connect(
            up.facts["clientUrl"], protocols=[JSON], ssl=authority.trusted, max_msg_size=0
        ) as client,
    ):
        assert (await client.receive_json())["event"] == "connected"
        await client.send_json({"type": "joinGroup", "group": "g", "ackId": 1})
        assert (await client.receive_json())["success"]
        await client.send_json({"type": "sendToGroup", "group": "g", "dataType": "text", "data": text})
        assert (await client.receive_json())["data"] == text
        await client.close(code=1000, message=b"done")
        assert client.close_code == 1000


async def test_who_speaks_plain_http_is_told_to_use_tls(up: Up) -> None:
    answer = await answer_to(up, b"GET /api/health HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"use https:// or wss://" in answer


@pytest.mark.parametrize("garbage", [b"\x00\x01\x02", b"\x16\x03\x01" + b"\xff" * 600])
async def test_garbage_gets_no_more_than_an_alert(up: Up, garbage: bytes) -> None:
    assert len(await answer_to(up, garbage)) <= 7


def url_of(up: Up, hub: str = "chat") -> str:
    key = up.facts["connectionString"].partition("AccessKey=")[2].partition(";")[0]
    roles = ("webpubsub.joinLeaveGroup", "webpubsub.sendToGroup")
    token = sign_client_token(key, endpoint=up.endpoint, hub=hub, roles=roles, now=time.time())
    return f"wss{up.endpoint.removeprefix('https')}/client/hubs/{hub}?access_token={token}"


def test_the_vendors_python_client_works_over_wss(
    up: Up, authority: CertificateAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    heard: queue.Queue[str] = queue.Queue()
    client = WebPubSubClient(url_of(up), ack_timeout=SECONDS)  # the reliable protocol, by its default
    with client:
        client.subscribe(CallbackType.GROUP_MESSAGE, lambda event: heard.put(event.data))
        client.join_group("python")
        for number in range(3):
            client.send_to_group("python", f"hello {number}", "text")
        assert [heard.get(timeout=SECONDS) for _ in range(3)] == ["hello 0", "hello 1", "hello 2"]


def test_the_vendors_javascript_client_works_over_wss(
    javascript_packages: None, up: Up, authority: CertificateAuthority
) -> None:
    asked = [{"join": "js"}, *({"publish": f"hello {n}", "group": "js"} for n in range(3))]
    done = subprocess.run(
        ["node", "recovers.mjs", url_of(up)],
        cwd=JS_FOLDER,
        env={**os.environ, "NODE_EXTRA_CA_CERTS": str(authority.file)},
        input="".join(json.dumps(one) + "\n" for one in asked),
        capture_output=True,
        text=True,
        timeout=60,
    )
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["done"] for one in told if "done" in one] == asked, done.stderr
    assert [one["message"] for one in told if "message" in one] == ["hello 0", "hello 1", "hello 2"]


async def test_a_renewed_certificate_is_taken_while_connections_stay_and_a_bad_one_is_not(
    up: Up, authority: CertificateAuthority, pair: Pair
) -> None:
    """Last, as it changes what the others use."""
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(url_of(up), protocols=[JSON], ssl=authority.trusted) as client,
    ):
        assert (await client.receive_json())["event"] == "connected"
        first = await serial_of(up, authority)

        stranger = authority.issue("localhost", "127.0.0.1")
        pair.replace_by(Pair(stranger.cert, pair.key))  # the key does not fit
        refused = await asyncio.to_thread(up.wait_event, "tls_certificate_refused")
        assert "cannot be used together" in refused["error"]
        assert await serial_of(up, authority) == first

        pair.replace_by(authority.issue("localhost", "127.0.0.1", days=5))
        await asyncio.to_thread(up.wait_event, "tls_certificate_replaced")
        warned = await asyncio.to_thread(up.wait_event, "tls_certificate_expires")
        assert warned["days"] == 5.0
        assert await serial_of(up, authority) != first

        async with asyncio.timeout(SECONDS):
            await client.send_json({"type": "joinGroup", "group": "g", "ackId": 1})
            assert (await client.receive_json())["success"]
    page = await asyncio.to_thread(lambda: urllib.request.urlopen(f"{admin_of(up)}/metrics").read().decode())
    numbers = dict(line.rsplit(" ", 1) for line in page.splitlines() if line.startswith("hubwire_tls"))
    assert 4.9 < float(numbers["hubwire_tls_certificate_remaining_seconds"]) / 86400 < 5.1
    assert float(numbers["hubwire_tls_certificate_refused_total"]) == 1
    assert float(numbers['hubwire_tls_handshakes_total{outcome="done"}']) > 3


def admin_of(up: Up) -> str:
    return str(up.facts["admin"]["gateway-0"])


async def serial_of(up: Up, authority: CertificateAuthority) -> str:
    """Of the certificate that a new connection is shown."""
    _, writer = await asyncio.open_connection("127.0.0.1", port_of(up), ssl=authority.trusted)
    serial = writer.get_extra_info("peercert")["serialNumber"]
    writer.close()
    return str(serial)
