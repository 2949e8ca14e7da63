"""Where deliveries go: pinned addresses, TLS, and credentials for upstreams (server-events.md 1.5, 4.10)."""

from __future__ import annotations

import asyncio
import json
import ssl
import subprocess
from base64 import b64decode, urlsafe_b64encode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from aiohttp import web
from support.clock import FakeClock
from support.upstreams import LOCAL, AppServer, app_server, event, everything, hub, service_for

from gateway.upstream.auth import TokenFileSource, TokenUnavailable
from gateway.upstream.config import ClientCredentials, TokenFile, UpstreamConfig
from gateway.upstream.contexts import EventAnswered, EventFailed
from gateway.upstream.outcome import DeliveryFailure
from hubwire.model.settings import ManagedIdentity, UpstreamAuth

NO_RETRY = LOCAL._replace(retry_seconds=())
IDENTITY = UpstreamAuth("ManagedIdentity", ManagedIdentity("api://orders/"))


@pytest.fixture
async def app() -> AsyncIterator[AppServer]:
    async with app_server() as one:
        yield one


def failure_of(result: Any) -> DeliveryFailure:
    assert isinstance(result, EventFailed), result
    return result.failure


def port_of(app: AppServer) -> str:
    return app.base.rpartition(":")[2]


# -- addresses ---------------------------------------------------------------------------------------------


async def test_by_default_nothing_inside_is_called(app: AppServer) -> None:
    for host in ("127.0.0.1", "localhost", "[::ffff:127.0.0.1]"):
        handler = everything(f"http://{host}:{port_of(app)}")
        async with service_for(hub(handler), UpstreamConfig(retry_seconds=())) as service:
            failure = failure_of(await service.user_event(event()))
            assert failure.category == "validation"
            assert "private" in failure.reason
    assert not app.validations


async def test_odd_spellings_of_an_address_do_not_get_around_the_policy(app: AppServer) -> None:
    for host in ("2130706433", "0x7f000001", "127.1", "0177.0.0.1"):
        handler = everything(f"http://{host}:{port_of(app)}")
        async with service_for(hub(handler), UpstreamConfig(retry_seconds=())) as service:
            assert failure_of(await service.user_event(event())).category == "validation"
    assert not app.validations


async def test_the_connection_goes_to_the_address_that_was_judged_whatever_the_name_says_next(
    app: AppServer,
) -> None:
    answers = [["127.0.0.1"], ["169.254.169.254"], ["127.0.0.1"]]
    asked: list[str] = []

    def names(host: str) -> list[str]:
        asked.append(host)
        return answers.pop(0)

    clock = FakeClock()
    handler = everything(f"http://app.example:{port_of(app)}")
    async with service_for(hub(handler), NO_RETRY, clock=clock, lookup=names) as service:
        assert await service.user_event(event()) == EventAnswered(None)
        assert app.seen[0].value("Host") == f"app.example:{port_of(app)}".encode()
        # The same connection is used on while it lives; what the name says meanwhile does not matter.
        clock.advance(31)
        assert await service.user_event(event()) == EventAnswered(None)
        assert asked == ["app.example"]
    # A new connection asks again, and the answer is judged again.
    async with service_for(hub(handler), NO_RETRY, clock=clock, lookup=names) as service:
        failure = failure_of(await service.user_event(event()))
        assert "link-local" in failure.reason
    assert len(app.seen) == 2


async def test_a_name_that_cannot_be_resolved_is_a_network_error() -> None:
    def names(_: str) -> list[str]:
        raise OSError("no such name")

    async with service_for(hub(everything("http://app.example")), NO_RETRY, lookup=names) as service:
        failure = failure_of(await service.user_event(event()))
    assert "cannot be resolved" in failure.reason


# -- TLS ---------------------------------------------------------------------------------------------------


@pytest.fixture
async def tls(tmp_path: Path) -> AsyncIterator[tuple[str, str]]:
    """The address of an https server, and the certificate that it is to be trusted by."""
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        (
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 "
            f"-subj /CN=localhost -addext subjectAltName=DNS:localhost -keyout {key} -out {certificate}"
        ).split(),
        check=True,
        capture_output=True,
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    app = AppServer()
    runner = web.ServerRunner(web.Server(app.handle), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    try:
        yield f"https://localhost:{runner.addresses[0][1]}", str(certificate)
    finally:
        await runner.cleanup()


def loopback(_: str) -> list[str]:
    return ["127.0.0.1"]


async def test_https_is_verified(tls: tuple[str, str]) -> None:
    base, certificate = tls
    async with service_for(hub(everything(base)), NO_RETRY, lookup=loopback) as service:
        failure = failure_of(await service.user_event(event()))
        assert "TLS" in failure.reason
        assert "self-signed" in failure.reason
    trusting = NO_RETRY._replace(ca_file=certificate)
    async with service_for(hub(everything(base)), trusting, lookup=loopback) as service:
        assert await service.user_event(event()) == EventAnswered(None)
    other = everything(base.replace("localhost", "other.example"))
    async with service_for(hub(other), trusting, lookup=loopback) as service:
        assert "TLS" in failure_of(await service.user_event(event())).reason


# -- credentials (1.5) -------------------------------------------------------------------------------------


class TokenServer:
    """An OIDC server's token endpoint."""

    def __init__(self) -> None:
        self.requests: list[dict[str, list[str]]] = []
        self.authorizations: list[str | None] = []
        self.lifetime: Any = 3600
        self.status = 200
        self.gate = asyncio.Event()
        self.gate.set()
        self.url = ""

    async def handle(self, request: web.BaseRequest) -> web.Response:
        self.requests.append(parse_qs(await request.text()))
        self.authorizations.append(request.headers.get("Authorization"))
        await self.gate.wait()
        if self.status != 200:
            return web.json_response({"error": "invalid_client"}, status=self.status)
        token = f"token-{len(self.requests)}"
        return web.json_response({"access_token": token, "expires_in": self.lifetime, "token_type": "Bearer"})


@pytest.fixture
async def tokens() -> AsyncIterator[TokenServer]:
    server = TokenServer()
    runner = web.ServerRunner(web.Server(server.handle), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/token"
    try:
        yield server
    finally:
        await runner.cleanup()


def with_identity(identity: Any) -> UpstreamConfig:
    return NO_RETRY._replace(identity=identity)


def credentials(tokens: TokenServer, **more: Any) -> ClientCredentials:
    return ClientCredentials(tokens.url, "hubwire id", "s3cr3t&", **more)


async def test_events_carry_a_token_for_the_resource_and_the_validation_does_not(
    app: AppServer, tokens: TokenServer
) -> None:
    config = with_identity(credentials(tokens))
    async with service_for(hub(everything(app.base, auth=IDENTITY)), config) as service:
        results = await asyncio.gather(*(service.user_event(event()) for _ in range(5)))
    assert set(results) == {EventAnswered(None)}
    assert [seen.value("Authorization") for seen in app.seen] == [b"Bearer token-1"] * 5
    assert app.validations[0].value("Authorization") is None
    assert tokens.requests == [{"grant_type": ["client_credentials"], "scope": ["api://orders/"]}]
    scheme, _, pair = (tokens.authorizations[0] or "").partition(" ")
    assert (scheme, b64decode(pair)) == ("Basic", b"hubwire+id:s3cr3t%26")
    assert "s3cr3t" not in repr(config)


async def test_entra_wants_a_default_scope_and_the_secret_can_go_in_the_body(
    app: AppServer, tokens: TokenServer
) -> None:
    config = with_identity(credentials(tokens, scope_suffix="/.default", in_body=True))
    async with service_for(hub(everything(app.base, auth=IDENTITY)), config) as service:
        await service.user_event(event())
    (request,) = tokens.requests
    assert request["scope"] == ["api://orders/.default"]
    assert (request["client_id"], request["client_secret"]) == (["hubwire id"], ["s3cr3t&"])
    assert tokens.authorizations == [None]


async def test_a_token_is_renewed_five_minutes_before_it_expires_and_used_on_meanwhile(
    app: AppServer, tokens: TokenServer
) -> None:
    clock = FakeClock()
    config = with_identity(credentials(tokens))
    async with service_for(hub(everything(app.base, auth=IDENTITY)), config, clock=clock) as service:

        async def sent() -> bytes | None:
            assert await service.user_event(event()) == EventAnswered(None)
            return app.seen[-1].value("Authorization")

        assert await sent() == b"Bearer token-1"
        clock.advance(3299)
        assert await sent() == b"Bearer token-1"
        assert len(tokens.requests) == 1
        clock.advance(2)
        tokens.gate.clear()
        assert await sent() == b"Bearer token-1", "the old one is good still"
        tokens.gate.set()
        await service._tokens._flight.run("api://orders/", None)  # type: ignore[attr-defined]
        assert await sent() == b"Bearer token-2"
        # A server that fails while the token is good costs nothing; after that, events fail.
        tokens.status = 401
        clock.advance(3599)
        assert await sent() == b"Bearer token-2"
        clock.advance(2)
        failure = failure_of(await service.user_event(event()))
        assert failure.category == "token"
        assert "401 invalid_client" in failure.reason
        asked = len(tokens.requests)
        assert failure_of(await service.user_event(event())).category == "token"
        assert len(tokens.requests) == asked, "it is left alone for a moment"
        clock.advance(60)
        tokens.status = 200
        assert (await sent() or b"").startswith(b"Bearer token-")


async def test_a_handler_that_wants_an_identity_gets_nothing_without_one(app: AppServer) -> None:
    async with service_for(hub(everything(app.base, auth=IDENTITY)), NO_RETRY) as service:
        failure = failure_of(await service.user_event(event()))
        assert (failure.category, failure.attempts) == ("token", 0)
    assert not app.seen


async def test_a_token_server_that_is_not_there_is_a_failed_delivery(app: AppServer) -> None:
    async with app_server() as gone:
        url = gone.base
    config = with_identity(ClientCredentials(url, "id", "s3cr3t"))
    async with service_for(hub(everything(app.base, auth=IDENTITY)), config) as service:
        failure = failure_of(await service.user_event(event()))
    assert failure.category == "token"
    assert "gave no token" in failure.reason


def jwt(expires: float) -> str:
    claims = urlsafe_b64encode(json.dumps({"exp": expires}).encode()).decode().rstrip("=")
    return f"e30.{claims}.sig"


async def test_a_token_file_is_read_again_when_it_was_renewed(app: AppServer, tmp_path: Path) -> None:
    clock = FakeClock()
    path = tmp_path / "api%3A%2F%2Forders%2F"
    path.write_text(jwt(clock.time() + 600) + "\n")
    first = path.read_bytes().strip()
    config = with_identity(TokenFile(str(tmp_path / "{resource}")))
    async with service_for(hub(everything(app.base, auth=IDENTITY)), config, clock=clock) as service:
        await service.user_event(event())
        path.write_text(jwt(clock.time() + 1200))
        await service.user_event(event())
        clock.advance(30)
        await service.user_event(event())
        assert [seen.value("Authorization") for seen in app.seen] == [
            b"Bearer " + first,
            b"Bearer " + first,
            b"Bearer " + path.read_bytes(),
        ]
        clock.advance(3600)
        assert "expired" in failure_of(await service.user_event(event())).reason


@pytest.mark.parametrize("content", [b"", b"two words", b"\xff\xff", b"a\nb"])
async def test_a_file_without_a_token_is_never_sent(content: bytes) -> None:
    source = TokenFileSource(TokenFile("/x"), FakeClock(), lambda _: content)
    with pytest.raises(TokenUnavailable, match="no token"):
        await source.token("r")
    missing = TokenFileSource(TokenFile("/does/not/exist"), FakeClock())
    with pytest.raises(TokenUnavailable, match="cannot be read"):
        await missing.token("r")
