"""What `hubwire doctor` looks at from outside: the endpoint, its clock, the key, a client's whole round."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import time
from datetime import UTC
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from hubwire.cli.doctor_checks import Check, skew
from hubwire.cli.rest import call, call_data, said
from hubwire.cli.target import ServiceTarget
from hubwire.model.errors import HubwireError, NotFound, Unauthenticated, Unavailable
from hubwire.model.tokens import sign_client_token

_CLIENT_SECONDS = 10.0
_CERTIFICATE_DAYS = 14
_HUB = "hubwire_doctor"


async def examine_service(target: ServiceTarget) -> list[Check]:
    """All that can be seen with an endpoint and its key."""
    loop = asyncio.get_running_loop()
    checks = await loop.run_in_executor(None, _http, target)
    if checks[0].state == "fail":
        return checks
    checks.append(await _client(target))
    return checks


def _http(target: ServiceTarget) -> list[Check]:
    name = f"endpoint {target.endpoint}"
    try:
        before = time.time()
        answer = call("GET", f"{target.endpoint}/api/health", seconds=_CLIENT_SECONDS)
    except Unavailable as fault:
        return [Check(name, "fail", str(fault), "start the service, or check endpoint, proxy and firewall")]
    if answer.status == 503:
        return [Check(name, "fail", f"answers 503.{said(answer)}", "see the NATS checks above")]
    if answer.status != 200:
        return [
            Check(name, "fail", f"/api/health answers {answer.status}", "is this Hubwire? check the endpoint")
        ]
    checks = [Check(name, "ok", "healthy")]
    if target.endpoint.startswith("https:"):
        checks.append(_certificate(target))
    date = answer.headers.get("Date")
    if date:
        # The header has whole seconds.
        theirs = parsedate_to_datetime(date).astimezone(UTC).timestamp() + 0.5
        checks.append(skew("clock of the service", theirs - (before + time.time()) / 2))
    checks.append(_access_key(target))
    return checks


def _certificate(target: ServiceTarget) -> Check:
    """Of the service, or of what stands before it. That it is trusted was seen before."""
    parts = urlsplit(target.endpoint)
    try:
        with (
            socket.create_connection((parts.hostname or "", parts.port or 443), _CLIENT_SECONDS) as plain,
            ssl.create_default_context().wrap_socket(plain, server_hostname=parts.hostname) as secured,
        ):
            told = secured.getpeercert() or {}
    except OSError as fault:
        return Check("certificate", "fail", str(fault), "check the endpoint")
    days = (ssl.cert_time_to_seconds(str(told["notAfter"])) - time.time()) / 86400
    if days < _CERTIFICATE_DAYS:
        return Check(
            "certificate", "warn", f"over in {days:.1f} days", "renew it, or see why that was not done"
        )
    return Check("certificate", "ok", f"good for {days:.0f} days")


def _access_key(target: ServiceTarget) -> Check:
    try:
        call_data(target, "HEAD", f"/api/hubs/{_HUB}/connections/none")
    except NotFound:
        return Check("access key", "ok", f"accepted ({target.source})")
    except Unauthenticated as fault:
        return Check("access key", "fail", str(fault), "take the connection string from `hubwire keys show`")
    except HubwireError as fault:
        return Check("access key", "fail", str(fault), "see the service's log")
    return Check("access key", "ok", f"accepted ({target.source})")


async def _client(target: ServiceTarget) -> Check:
    """A whole round: connect, join a group, send to it, get it back."""
    from hubwire.cli.client import Client, Closed

    token = sign_client_token(
        target.access_key,
        endpoint=target.endpoint,
        hub=_HUB,
        roles=("webpubsub.joinLeaveGroup", "webpubsub.sendToGroup"),
        minutes=1,
        now=time.time(),
    )
    url = f"{target.client_endpoint}/client/hubs/{_HUB}?access_token={token}"
    client = Client(url, "json", lambda text: None)
    where = "WebSocket client"
    try:
        async with asyncio.timeout(_CLIENT_SECONDS):
            await client.open()
            await client.request({"type": "joinGroup", "group": "doctor"}, "join")
            began = 0.0
            async for frame in client.frames():
                content = json.loads(frame)
                if content.get("type") == "ack" and not content.get("success"):
                    return Check(where, "fail", f"refused: {content.get('error')}", "see the service's log")
                if content.get("type") == "ack" and not began:
                    began = time.monotonic()
                    message = {"type": "sendToGroup", "group": "doctor", "dataType": "text", "data": "?"}
                    await client.request(message, "send")
                if content.get("type") == "message":
                    took = (time.monotonic() - began) * 1000
                    return Check(where, "ok", f"joined, sent and received in {took:.1f} ms")
    except TimeoutError:
        return Check(where, "fail", "no message came back in time", "see the routers' logs")
    except Closed as fault:
        return Check(where, "fail", str(fault), "see the gateways' logs")
    except HubwireError as fault:
        return Check(
            where,
            "fail",
            str(fault),
            "does a proxy let WebSockets pass? is public_endpoints what clients use?",
        )
    finally:
        await client.close()
    return Check(where, "fail", "the connection ended", "see the gateways' logs")
