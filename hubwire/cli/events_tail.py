"""`hubwire events tail`: what event listeners publish to the cluster's NATS, as it comes."""

from __future__ import annotations

import asyncio
import signal
from argparse import Namespace
from typing import Any
from urllib.parse import unquote

import nats.errors
from nats.js.api import ConsumerConfig, DeliverPolicy

from hubwire.bus.client import BusClient
from hubwire.cli.nats_target import nats_config
from hubwire.cli.output import Output
from hubwire.cli.rest import call_management, resource_path
from hubwire.cli.target import ServiceTarget, find_target
from hubwire.model.errors import InvalidRequest, NotFound, Unavailable
from hubwire.model.event_listeners import METADATA_PREFIX, subject_token
from hubwire.model.names import normalize_hub
from hubwire.runtime.nats_options import nats_options

_SHOWN_CHARACTERS = 200


async def run_tail(args: Namespace, out: Output) -> int:
    hub = str(normalize_hub(args.hub)) if args.hub else ""
    target = find_target(args)
    config = nats_config(args, target)
    if config is None:
        raise InvalidRequest("Which NATS? Name the servers of the cluster with --nats.")
    places = _places(target, hub)
    if not places:
        raise NotFound(
            f"{hub or 'No hub'} has {'no' if hub else 'any'} event listeners; make one with: "
            f"hubwire hubs set {hub or 'HUB'} --event-listener 'events=*' system=connected,disconnected"
        )
    bus = await BusClient.connect({**nats_options(config, name="hubwire-tail"), "max_reconnect_attempts": 2})
    try:
        await _Tail(args, out, hub).run(bus, places)
    finally:
        await bus.close()
    return 0


def _places(target: ServiceTarget, hub: str) -> list[tuple[str, str]]:
    """Stream and subject prefix of the listeners, of one hub or of all."""
    found: set[tuple[str, str]] = set()
    for each in call_management(target, "GET", f"{resource_path(target)}/hubs").json()["value"]:
        if hub and each["name"].lower() != hub:
            continue
        for listener in each["properties"].get("eventListeners") or []:
            endpoint = listener["endpoint"]
            if endpoint["type"] == "Nats":
                found.add((endpoint["stream"], endpoint["subjectPrefix"]))
    return sorted(found)


class _Tail:
    def __init__(self, args: Namespace, out: Output, hub: str) -> None:
        self._out = out
        self._hub = hub
        self._from_start = bool(args.all)
        self._left: int | None = args.count
        self._enough = asyncio.Event()

    async def run(self, bus: BusClient, places: list[tuple[str, str]]) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._enough.set)
        for stream, prefix in places:
            subject = f"{prefix}.{subject_token(self._hub)}.>" if self._hub else f"{prefix}.>"
            try:
                if self._from_start:
                    config = ConsumerConfig(deliver_policy=DeliverPolicy.ALL)
                    await bus.js.subscribe(
                        subject, stream=stream, ordered_consumer=True, config=config, cb=self._print
                    )
                else:
                    # Also while the stream is missing: it is made with the first event.
                    await bus.nats.subscribe(subject, cb=self._print)
            except (nats.errors.Error, TimeoutError) as error:
                raise Unavailable(f"The stream {stream} cannot be read: {error!r}.") from error
        await bus.nats.flush()
        self._out.hint(f"Watching {', '.join(f'{prefix}.> ({stream})' for stream, prefix in places)}.")
        await self._enough.wait()

    async def _print(self, message: Any) -> None:
        if self._enough.is_set():
            return
        event = event_of(message.subject, message.headers or {}, message.data or b"")
        self._out.result(event, _line(event, self._out))
        if self._left is not None:
            self._left -= 1
            if self._left <= 0:
                self._enough.set()


def event_of(subject: str, headers: dict[str, str], data: bytes) -> dict[str, Any]:
    """The message as a person reads it: attributes decoded, text as text."""
    event: dict[str, Any] = {"subject": subject}
    metadata: dict[str, str] = {}
    for name, value in headers.items():
        lower = name.lower()
        if lower.startswith("ce-"):
            event[lower.removeprefix("ce-")] = unquote(value)
        elif lower == "content-type":
            event["contenttype"] = value
        elif lower.startswith(METADATA_PREFIX):
            metadata[lower.removeprefix(METADATA_PREFIX)] = unquote(value)
    if metadata:
        event["metadata"] = metadata
    try:
        event["data"] = data.decode()
    except UnicodeDecodeError:
        event["data_hex"] = data.hex()
    return event


def _line(event: dict[str, Any], out: Output) -> str:
    kind = str(event.get("type", "")).removeprefix("azure.webpubsub.")
    data = str(event.get("data", event.get("data_hex", "")))
    shown = data if len(data) <= _SHOWN_CHARACTERS else data[:_SHOWN_CHARACTERS] + "..."
    user = f" {event['userid']}" if event.get("userid") else ""
    return (
        f"{out.style(str(event.get('time', '')), 'dim')}  {event.get('hub', '')}  "
        f"{out.style(kind, 'bold')}  {event.get('connectionid', '')}#{event.get('id', '')}{user}  {shown}"
    )
