"""Which service a command talks to, and with which key.

In this order: --connection-string, --endpoint with --access-key, the environment
(HUBWIRE_CONNECTION_STRING, HUBWIRE_ENDPOINT with HUBWIRE_ACCESS_KEY), and a `hubwire up` that runs on the
data folder (--data, HUBWIRE_DATA, ./.hubwire).
"""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from hubwire.model.errors import InvalidRequest, NotFound, PermissionDenied
from hubwire.runtime.data_folder import DEFAULT_FOLDER, is_closed_to_us, running_instance
from hubwire.runtime.parsers import MINIMUM_KEY_BYTES


@dataclass(frozen=True, slots=True)
class ServiceTarget:
    """A service to talk to. `local` is what a running `hubwire up` announced, if it was found that way."""

    endpoint: str
    access_key: str
    source: str
    local: dict[str, Any] | None = None
    data: Path | None = None

    @property
    def connection_string(self) -> str:
        return f"Endpoint={self.endpoint};AccessKey={self.access_key};Version=1.0;"

    @property
    def client_endpoint(self) -> str:
        """The endpoint with ws or wss."""
        return "ws" + self.endpoint.removeprefix("http")


def add_target(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("which service")
    group.add_argument(
        "--connection-string",
        metavar="STRING",
        help="Endpoint=...;AccessKey=...; (HUBWIRE_CONNECTION_STRING)",
    )
    group.add_argument("--endpoint", metavar="URL", help="http(s)://host[:port], with --access-key")
    group.add_argument("--access-key", metavar="KEY", help="the key for --endpoint (HUBWIRE_ACCESS_KEY)")
    group.add_argument(
        "--data", metavar="DIR", help=f"data folder of a running `hubwire up` (default: {DEFAULT_FOLDER})"
    )


def find_target(args: Namespace) -> ServiceTarget:
    """The service that the options, the environment or this folder name.

    Raises InvalidRequest for what cannot be used, NotFound when there is nothing to talk to, PermissionDenied
    when it would be in a folder of another user."""
    target = _found(args)
    if len(target.access_key.encode()) < MINIMUM_KEY_BYTES:
        raise InvalidRequest(
            f"The access key from {target.source} is too short: a key has at least {MINIMUM_KEY_BYTES} "
            "bytes; copy the whole of it."
        )
    return target


def _found(args: Namespace) -> ServiceTarget:
    environ = os.environ
    if args.connection_string:
        return _with_endpoint(parse_connection_string(args.connection_string, "--connection-string"), args)
    given = environ.get("HUBWIRE_CONNECTION_STRING")
    if given and not args.data and not (args.endpoint and args.access_key):
        return _with_endpoint(parse_connection_string(given, "HUBWIRE_CONNECTION_STRING"), args)
    endpoint = args.endpoint or environ.get("HUBWIRE_ENDPOINT")
    key = args.access_key or environ.get("HUBWIRE_ACCESS_KEY")
    if endpoint and key:
        return ServiceTarget(_endpoint(endpoint, "--endpoint"), key, "--endpoint")
    folder = Path(args.data or environ.get("HUBWIRE_DATA") or DEFAULT_FOLDER)
    local = running_instance(folder)
    if local is not None:
        found = parse_connection_string(str(local["connectionString"]), str(folder / "endpoint.json"))
        source = f"hubwire up in {folder}"
        if key:
            source = "--access-key" if args.access_key else "HUBWIRE_ACCESS_KEY"
        found = ServiceTarget(found.endpoint, key or found.access_key, source, local, folder)
        return _with_endpoint(found, args)
    if is_closed_to_us(folder):
        raise PermissionDenied(
            f"The data folder {folder} belongs to another user, who alone may read its keys; run the command "
            "as that user, or give --connection-string."
        )
    if endpoint:
        raise InvalidRequest(
            "--endpoint needs the access key too; give --access-key, or a connection string."
        )
    raise NotFound(
        f"No service to talk to: no `hubwire up` runs on {folder}, and no connection string is given; "
        "start `hubwire up`, or give --connection-string."
    )


def _with_endpoint(target: ServiceTarget, args: Namespace) -> ServiceTarget:
    """--endpoint beside a connection string: the same key, another way in."""
    if not args.endpoint:
        return target
    endpoint = _endpoint(args.endpoint, "--endpoint")
    return ServiceTarget(endpoint, target.access_key, target.source, target.local, target.data)


def parse_connection_string(text: str, source: str) -> ServiceTarget:
    """rest-api.md section 13: keys without regard to case, any order, `Port` appended to the endpoint."""
    parts: dict[str, str] = {}
    for segment in text.strip().strip("'\"").split(";"):
        name, equals, value = segment.strip().partition("=")
        if segment.strip() and not equals:
            raise InvalidRequest(
                f"{source}: {name[:20]!r} is not of the form Name=value; copy the whole connection string, "
                "and quote it in the shell."
            )
        if name:
            parts[name.lower()] = value.strip()
    missing = [name for name in ("Endpoint", "AccessKey") if not parts.get(name.lower())]
    if missing:
        raise InvalidRequest(
            f"{source} has no {' and no '.join(missing)}; it must look like "
            "Endpoint=http://host:8080;AccessKey=...;Version=1.0;"
        )
    endpoint = _endpoint(parts["endpoint"], source)
    if parts.get("port"):
        if not parts["port"].isdigit() or not 0 < int(parts["port"]) < 65536:
            raise InvalidRequest(f"{source}: Port must be a number between 1 and 65535.")
        endpoint = f"{endpoint}:{parts['port']}"
    return ServiceTarget(endpoint, parts["accesskey"], source)


def _endpoint(text: str, source: str) -> str:
    endpoint = (text if "://" in text else f"https://{text}").rstrip("/")
    url = urlsplit(endpoint)
    try:
        good = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:
        good = False
    if not good:
        raise InvalidRequest(f"{source}: the endpoint {text!r} is not a URL like http://127.0.0.1:8080.")
    return endpoint
