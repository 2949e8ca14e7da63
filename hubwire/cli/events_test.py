"""`hubwire events test`: plays one client's events against an event handler, and explains each answer.

It uses what the gateway uses: the same requests, the same rules for answers, the same abuse protection.
"""

from __future__ import annotations

import os
import secrets
from argparse import Namespace
from typing import NamedTuple
from urllib.parse import urlsplit

from gateway.upstream.answers import ConnectAccepted, ConnectRefused, Identity
from gateway.upstream.config import UpstreamConfig
from gateway.upstream.contexts import (
    ConnectContext,
    ConnectResult,
    EventAnswered,
    EventContext,
    EventFailed,
    NotificationDelivered,
    NotificationResult,
    UserEventResult,
)
from gateway.upstream.outcome import DeliveryFailure
from gateway.upstream.service import UpstreamService
from gateway.upstream.source import EventSource
from gateway.upstream.validation import FAILED, INVALID_STATUS, MISSING_ORIGIN, Verdict
from hubwire.cli.output import Output
from hubwire.cli.target import ServiceTarget, find_target
from hubwire.model.errors import InvalidRequest, NotFound
from hubwire.model.event_handlers import CONNECTED, DISCONNECTED, shown_url, template_fault
from hubwire.model.message import DataType
from hubwire.model.names import is_valid_event, new_connection_id, normalize_hub
from hubwire.model.payload import is_json
from hubwire.model.settings import AccessKeys, EventHandler, HubSettings

_TYPES = {"text": DataType.TEXT, "json": DataType.JSON, "binary": DataType.BINARY}
_SHOWN_CHARACTERS = 200


class Step(NamedTuple):
    """One request and what its answer means. `advice` is there when something should be changed."""

    name: str
    ok: bool
    text: str
    advice: str = ""


async def run_test(args: Namespace, out: Output) -> int:
    hub = str(normalize_hub(args.hub))
    fault = template_fault(args.url)
    if fault is not None:
        raise InvalidRequest(f"{fault} (the URL)")
    if not is_valid_event(args.event):
        raise InvalidRequest(f"--event: {args.event!r} is not a legal name of an event.")
    data = args.text.encode()
    if args.event_type == "json" and not is_json(data):
        raise InvalidRequest("--text must be JSON with --event-type json.")
    if not 0.1 <= args.seconds <= 110:
        raise InvalidRequest("--seconds must be from 0.1 to 110.")
    target = _target(args)
    host = urlsplit(target.endpoint).netloc if target else "localhost"
    key = target.access_key if target else secrets.token_urlsafe(32)
    steps = await _play(args, hub, host, key, data)
    failed = sum(not step.ok for step in steps)
    out.result(
        {
            "ok": not failed,
            "url": shown_url(args.url),
            "origin": host,
            "signed": target is not None,
            "steps": [step._asdict() for step in steps],
        },
        "\n".join(line for step in steps for line in _lines(step, out)),
    )
    if target is None:
        out.hint(
            "No service was found, so the signature is made with a random key: a handler that verifies it "
            "refuses these events. Give --connection-string."
        )
    return 1 if failed else 0


def _target(args: Namespace) -> ServiceTarget | None:
    try:
        return find_target(args)
    except NotFound:
        return None


def _lines(step: Step, out: Output) -> list[str]:
    mark = out.style("ok  ", "green") if step.ok else out.style("FAIL", "red")
    lines = [f"{mark}  {step.name.ljust(12)}  {step.text}"]
    if step.advice:
        lines.append(" " * 20 + out.style("→ " + step.advice, "bold"))
    return lines


async def _play(args: Namespace, hub: str, host: str, key: str, data: bytes) -> list[Step]:
    handler = EventHandler(args.url, "*", ("connect", "connected", "disconnected"))
    settings = HubSettings(event_handlers=(handler,))
    config = UpstreamConfig(
        event_seconds=args.seconds,
        connect_seconds=min(10.0, args.seconds),
        validation_seconds=min(10.0, args.seconds),
        retry_seconds=(),  # the first answer is what the author of the handler wants to see
        allow_private=not args.only_public,
    )
    service = UpstreamService(lambda _: settings, lambda: AccessKeys(key, ""), config)
    try:
        verdict = await service.validate(hub, handler, host)
        steps = [explain_validation(verdict, urlsplit(f"//{host}").hostname or host)]
        if not verdict.allowed:
            return steps  # no event would be sent
        connection = new_connection_id(os.urandom(16), f"{secrets.randbits(36):09x}")
        source = EventSource(hub, connection, args.user, host)
        context = ConnectContext(source, Identity(args.user), {"sub": args.user}, "", [("host", host)], ())
        connect = await service.connect(context)
        failed = service.failures.latest()
        steps.append(explain_connect(connect, failed[0].status if failed else None))
        if isinstance(connect, ConnectRefused):
            return steps  # nobody is connected, so nothing else would come
        announced = service.notification(source, CONNECTED, source.next_id())
        steps.append(explain_notification("connected", await service.notify(announced)))
        event = EventContext(
            source,
            source.next_id(),
            args.event,
            _TYPES[args.event_type],
            data,
            None,
            simple=False,
            wants_ack=True,
            closes=False,
        )
        steps.append(explain_user_event(args.event, await service.user_event(event)))
        over = service.notification(source, DISCONNECTED, source.next_id(), "hubwire events test is over")
        steps.append(explain_notification("disconnected", await service.notify(over)))
        return steps
    finally:
        await service.close()


# -- what answers mean -----------------------------------------------------------------------------------


def explain_validation(verdict: Verdict, origin: str) -> Step:
    if verdict.allowed:
        return Step("validation", True, "The handler agrees to be called (abuse protection).")
    if verdict.code == MISSING_ORIGIN:
        advice = (
            f"answer OPTIONS with the header WebHook-Allowed-Origin: {origin} (or *); with "
            "@azure/web-pubsub-express, allowedEndpoints must name this service, or be left out"
        )
    elif verdict.code == INVALID_STATUS and verdict.status == 404:
        advice = (
            "nothing answers OPTIONS at this path; compare the path with the handler's, and for "
            "@azure/web-pubsub-express the hub's name, too (/api/webpubsub/hubs/HUB/ by default)"
        )
    elif verdict.code == INVALID_STATUS and verdict.status in (401, 403):
        advice = "something in front of the handler wants credentials; let OPTIONS and POST pass there"
    elif verdict.code == INVALID_STATUS and verdict.status == 405:
        advice = "the path is there, but not for OPTIONS; answer OPTIONS with 200 and WebHook-Allowed-Origin"
    elif verdict.code == INVALID_STATUS:
        advice = "the answer to OPTIONS must have a status of 2xx"
    elif verdict.code == FAILED:
        advice = "is the application running, and is this its address, port and scheme (http, https)?"
    else:
        advice = "correct the URL"
    return Step("validation", False, f"{verdict.reason} No event would be sent.", advice)


def explain_connect(result: ConnectResult, status: int | None = None) -> Step:
    """`status` is what the handler answered with when it was no success."""
    if isinstance(result, ConnectAccepted):
        said = [f"user id {result.user_id!r}" if result.user_id else "anonymous"]
        if result.groups:
            said.append(f"groups {', '.join(result.groups)}")
        if result.roles:
            said.append(f"roles {', '.join(result.roles)}")
        if result.negotiated.echo:
            said.append(f"subprotocol {result.negotiated.echo}")
        text = f"The client is let in: {'; '.join(said)}{_state(result.state.value, result.state.ignored)}."
        return Step("connect", True, text)
    refused = result.status in (401, 403)
    if result.fault is None:
        shown = result.body.decode(errors="replace")[:_SHOWN_CHARACTERS]
        said_no = f" with {shown!r}" if shown else ""
        text = f"The handler turns the client away: it gets HTTP {result.status}{said_no}."
        return Step("connect", refused, text, "" if refused else _advice("status", result.status))
    text = f"{result.fault.reason} The client gets HTTP {result.status}."
    return Step("connect", False, text, _advice(result.fault.category, status))


def explain_notification(name: str, result: NotificationResult) -> Step:
    if isinstance(result, DeliveryFailure):
        later = "It would be tried again." if result.may_work_later else "It would not be tried again."
        return Step(name, False, f"{result.reason} {later}", _advice(result.category, result.status))
    if isinstance(result, NotificationDelivered):
        return Step(name, True, "The handler has taken it; what it answers does not matter.")
    return Step(name, True, "No handler wants it.")


def explain_user_event(event: str, result: UserEventResult) -> Step:
    name = event if len(event) <= 12 else event[:9] + "..."
    if isinstance(result, EventAnswered):
        message = result.message
        if message is None:
            return Step(name, True, "The event is handled; the client gets its ack and no message.")
        data = message.data.decode(errors="replace")
        shown = data if len(data) <= _SHOWN_CHARACTERS else data[:_SHOWN_CHARACTERS] + "..."
        kind = message.data_type.name.lower()
        return Step(name, True, f"The client gets a message ({kind}), then its ack: {shown!r}.")
    if isinstance(result, EventFailed):
        failure = result.failure
        text = f"{failure.reason} The client gets an ack with success false."
        return Step(name, False, text, _advice(failure.category, failure.status))
    return Step(name, False, "No handler wants the event.")


def _state(value: str | None, ignored: str) -> str:
    if ignored:
        return f"; its state is ignored: {ignored.rstrip('.')}"
    return f"; a connection state of {len(value)} characters is kept" if value else ""


def _advice(category: str, status: int | None) -> str:
    if category == "status" and status is not None:
        if status == 404:
            return "nothing is at this path for POST; the URL may need {event}, or must not have it"
        if status == 401:
            return "the handler does not accept the signature, or something in front wants credentials"
        if 300 <= status <= 399:
            return "redirects are not followed; put where it leads into the settings"
        return "the answer must have a status of 2xx; look into the log of the application"
    return {
        "network": "look whether the application crashed, and what is between here and there",
        "timeout": "the handler must answer in time; with express, no body parser may come before the "
        "middleware",
        "bad_answer": "correct what the handler answers",
        "too_large": "answer less",
        "address_refused": "the service would not call this address; see the upstream settings",
        "circuit_open": "the handler failed several times in a row",
        "token": "see the credentials of event handlers in the settings of the service",
    }.get(category, "")
