"""REST calls of the command line: one request, one connection, signed like an SDK's."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from hubwire.cli.target import ServiceTarget
from hubwire.model.errors import (
    Conflict,
    HubwireError,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
)
from hubwire.model.tokens import sign_admin_token, sign_rest_token

DATA_API = "2024-12-01"
MANAGEMENT_API = "2024-03-01"
SECONDS = 15.0
_SHOWN_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body) if self.body else None


def segment(name: str) -> str:
    """A name as one path segment."""
    return quote(name, safe="")


def call_data(
    target: ServiceTarget,
    method: str,
    path: str,
    *,
    query: Sequence[tuple[str, str]] = (),
    body: bytes | None = None,
    content_type: str | None = None,
) -> Answer:
    """One call of the REST data plane. Raises the category of error that the answer's status means."""
    url = f"{target.endpoint}{path}?{urlencode([*query, ('api-version', DATA_API)])}"
    token = sign_rest_token(target.access_key, url, time.time())
    return _checked(call(method, url, token=token, body=body, content_type=content_type), target)


def call_management(
    target: ServiceTarget,
    method: str,
    path: str,
    content: object = None,
    *,
    query: Sequence[tuple[str, str]] = (),
) -> Answer:
    """One call of the management API; `path` from the root. Raises as `call_data`."""
    url = f"{target.endpoint}{path}?{urlencode([*query, ('api-version', MANAGEMENT_API)])}"
    token = sign_admin_token(target.access_key, time.time())
    body = None if content is None else json.dumps(content).encode()
    answer = call(method, url, token=token, body=body, content_type="application/json" if body else None)
    return _checked(answer, target)


def resource_path(target: ServiceTarget) -> str:
    """The path of the one resource that this service is (management-api.md section 1), by asking."""
    subscriptions = call_management(target, "GET", "/subscriptions").json()["value"]
    subscription = subscriptions[0]["subscriptionId"]
    path = f"/subscriptions/{segment(subscription)}/providers/Microsoft.SignalRService/webPubSub"
    return str(call_management(target, "GET", path).json()["value"][0]["id"])


def call(
    method: str,
    url: str,
    *,
    token: str | None = None,
    body: bytes | None = None,
    content_type: str | None = None,
    seconds: float = SECONDS,
) -> Answer:
    """One HTTP request, whatever its status. Raises Unavailable when no answer comes.

    Proxies of the environment are not used: a service on this machine would be looked for elsewhere.
    """
    parts = urlsplit(url)
    host, headers = parts.hostname or "", {"User-Agent": "hubwire-cli"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    if content_type:
        headers["Content-Type"] = content_type
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(host, parts.port, timeout=seconds)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        connection.request(method, path, body=body, headers=headers)
        response = connection.getresponse()
        return Answer(response.status, dict(response.getheaders()), response.read())
    except ssl.SSLCertVerificationError as fault:
        raise Unavailable(
            f"The certificate of {parts.netloc} is not trusted ({fault.verify_message}); "
            "set SSL_CERT_FILE to the CA that signed it."
        ) from fault
    except (OSError, http.client.HTTPException) as fault:
        raise Unavailable(unreachable(parts.netloc, fault)) from fault
    finally:
        connection.close()


def unreachable(where: str, fault: Exception) -> str:
    """The sentence for a service that does not answer."""
    if isinstance(fault, ConnectionRefusedError):
        return f"Nothing listens at {where}; is the service running?"
    if isinstance(fault, socket.gaierror):
        return f"The host of {where} cannot be found; check the endpoint."
    if isinstance(fault, TimeoutError):
        return f"{where} did not answer in time; check the network and the service's log."
    why = getattr(fault, "strerror", None) or str(fault) or type(fault).__name__
    return f"{where} cannot be reached: {why}."


def _checked(answer: Answer, target: ServiceTarget) -> Answer:
    if answer.status < 400:
        return answer
    why = said(answer)
    if answer.status == 401:
        raise Unauthenticated(
            f"{target.endpoint} does not accept the access key from {target.source}; "
            f"it may have been regenerated, or belong to another service.{why}"
        )
    category: type[HubwireError] = {
        403: PermissionDenied,
        404: NotFound,
        409: Conflict,
    }.get(answer.status, Unavailable if answer.status >= 500 or answer.status == 429 else InvalidRequest)
    raise category(f"{target.endpoint} answered {answer.status}.{why}")


def said(answer: Answer) -> str:
    """What the body says went wrong, in Azure's two forms (rest-api.md 3.1, management-api.md 4)."""
    text = answer.headers.get("WWW-Authenticate", "").partition('error_description="')[2].partition('"')[0]
    try:
        content = json.loads(answer.body)
        content = content.get("error", content)
        text = content.get("message") or content.get("code") or text
    except (ValueError, AttributeError):
        text = text or answer.body.decode(errors="replace")
    text = " ".join(str(text).split())[:_SHOWN_CHARACTERS]
    return f" {text}" if text else ""
