"""TLS of `hubwire up`: what clients and REST see, and what those see who do not speak it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from urllib.parse import urlsplit

import aiohttp
import pytest
from support.certificate_authority import CertificateAuthority
from support.up import Up

SECONDS = 30.0
JSON = "json.webpubsub.azure.v1"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    return CertificateAuthority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory, authority: CertificateAuthority) -> Iterator[Up]:
    pair = authority.issue("localhost", "127.0.0.1")
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
