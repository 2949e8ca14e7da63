"""`hubwire hubs`: the settings of hubs, over the management API (management-api.md 5.3)."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

import msgspec

from hubwire.cli.options import add_json
from hubwire.cli.output import Output, table
from hubwire.cli.rest import call_management, resource_path, segment
from hubwire.cli.target import ServiceTarget, add_target, find_target
from hubwire.model.errors import InvalidRequest, NotFound, Unavailable
from hubwire.model.names import normalize_hub
from hubwire.model.settings import HubLimits

_HANDLER_KEYS = {
    "url": "urlTemplate",
    "url-template": "urlTemplate",
    "events": "userEventPattern",
    "user-event-pattern": "userEventPattern",
}
_SYSTEM_KEYS = ("system", "system-event", "system-events")
_SYSTEM_EVENTS = ("connect", "connected", "disconnected")
_LIMITS = [field.encode_name for field in msgspec.structs.fields(HubLimits)]
_LISTENER_FORM = "events=* system=connected,disconnected stream=AWPS prefix=awps delivery=bestEffort"
_HANDLER_FORM = "url=https://app/{event} events=* system=connect,connected"


def configure(parser: ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", title="actions", required=True)
    one = actions.add_parser("list", help="the hubs that have settings")
    _common(one)
    one = actions.add_parser("show", help="the settings of one hub")
    one.add_argument("hub")
    _common(one)
    one = actions.add_parser("set", help="change settings of a hub; what is not named stays")
    one.add_argument("hub")
    _set_options(one)
    _common(one)
    one = actions.add_parser("remove", help="remove the settings of a hub; connections stay")
    one.add_argument("hub")
    _common(one)


def _common(parser: ArgumentParser) -> None:
    add_json(parser)
    add_target(parser)


def _set_options(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--event-handler",
        metavar="KEY=VALUE",
        nargs="+",
        action="append",
        help="an event handler, tried in the order given; replaces the present ones; may be repeated: "
        + _HANDLER_FORM,
    )
    parser.add_argument("--no-event-handlers", action="store_true", help="remove all event handlers")
    parser.add_argument(
        "--event-listener",
        metavar="KEY=VALUE",
        nargs="+",
        action="append",
        help="an event listener to NATS JetStream; replaces the present ones; may be repeated: "
        + _LISTENER_FORM,
    )
    parser.add_argument("--no-event-listeners", action="store_true", help="remove all event listeners")
    parser.add_argument("--anonymous", choices=("allow", "deny"), help="whether clients need a token")
    parser.add_argument(
        "--limit",
        metavar="NAME=VALUE",
        action="append",
        help="a limit of this hub; without a VALUE that of the cluster again; may be repeated: "
        + ", ".join(_LIMITS),
    )
    parser.add_argument("--no-limits", action="store_true", help="remove all limits of this hub")
    parser.add_argument(
        "--on-event-failure",
        choices=("stay", "close"),
        help="a PubSub client whose event fails stays, with a failed ack, or is closed",
    )
    parser.add_argument("--keep-alive", metavar="SECONDS", type=int, help="WebSocket pings, 1 to 120")
    parser.add_argument(
        "--file",
        metavar="FILE",
        help="all settings as JSON (`properties` as shown); - reads stdin",
    )


def run(args: Namespace, out: Output) -> int:
    if args.action != "list":
        normalize_hub(args.hub)
    changes = _changes(args) if args.action == "set" else {}
    target = find_target(args)
    hubs = f"{resource_path(target)}/hubs"
    if args.action == "list":
        _list(target, hubs, out)
    elif args.action == "show":
        content = call_management(target, "GET", f"{hubs}/{segment(args.hub)}").json()
        content["validation"] = _verdicts(target, content)
        out.result(_facts(content), _shown(content, out))
    elif args.action == "set":
        content = _set(target, f"{hubs}/{segment(args.hub)}", changes, whole=bool(args.file))
        out.result(_facts(content), _shown(content, out))
    else:
        answer = call_management(target, "DELETE", f"{hubs}/{segment(args.hub)}")
        had = answer.status == 200
        out.result(
            {"name": args.hub, "removed": had},
            f"The settings of {args.hub} are removed." if had else f"{args.hub} has no settings any more.",
        )
    return 0


def _list(target: ServiceTarget, hubs: str, out: Output) -> None:
    found = call_management(target, "GET", hubs).json()["value"]
    rows = []
    for hub in found:
        properties = hub["properties"]
        handlers = [handler["urlTemplate"] for handler in properties.get("eventHandlers") or []]
        rows.append(
            [hub["name"], properties.get("anonymousConnectPolicy", "deny"), ", ".join(handlers) or "-"]
        )
    text = table(rows, ("HUB", "ANONYMOUS", "EVENT HANDLERS")) if rows else None
    out.result([_facts(hub) for hub in found], text)
    if not rows:
        out.hint("No hub has settings; each works with the defaults.")


def _facts(content: dict[str, Any]) -> dict[str, Any]:
    facts = {"name": content["name"], "properties": content["properties"]}
    return {**facts, "validation": content["validation"]} if "validation" in content else facts


def _shown(content: dict[str, Any], out: Output) -> str:
    shown = json.dumps(content["properties"], indent=2, ensure_ascii=False)
    lines = [out.style(content["name"], "bold"), shown]
    verdicts = content.get("validation")
    if verdicts is None and content["properties"].get("eventHandlers"):
        lines.append("No gateway could ask the event handlers whether they may be called.")
    for verdict in verdicts or ():
        if verdict["allowed"]:
            lines.append(f"{out.style('ok  ', 'green')}  {verdict['url']} agrees to be called.")
        else:
            lines.append(f"{out.style('FAIL', 'red')}  {verdict['url']}: {verdict['reason']}")
    return "\n".join(lines)


def _verdicts(target: ServiceTarget, content: dict[str, Any]) -> Any:
    """What the event handlers of the hub answer to the validation request now; None when nobody can ask."""
    if not content["properties"].get("eventHandlers"):
        return []
    try:
        path = f"/hubwire/hubs/{segment(content['name'])}/validate"
        return call_management(target, "POST", path).json()["value"]
    except (NotFound, Unavailable):
        return None  # no gateway, or a service of an older version


def _set(target: ServiceTarget, path: str, changes: dict[str, Any], *, whole: bool) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    if not whole:
        try:
            properties = call_management(target, "GET", path).json()["properties"]
        except NotFound:
            pass  # its first settings
        if changes.get("limits"):
            changes = {**changes, "limits": {**properties.get("limits", {}), **changes["limits"]}}
    answer = call_management(target, "PUT", path, {"properties": {**properties, **changes}})
    return dict(answer.json())


def _changes(args: Namespace) -> dict[str, Any]:
    """What `set` was asked to change, in Azure's names. Raises InvalidRequest."""
    changes: dict[str, Any] = {}
    if args.file:
        content = read_object(args.file)
        changes = dict(content.get("properties", content))
    if args.event_handler and args.no_event_handlers:
        raise InvalidRequest("--event-handler and --no-event-handlers exclude each other; give one.")
    if args.event_handler:
        changes["eventHandlers"] = [parse_handler(words) for words in args.event_handler]
    if args.no_event_handlers:
        changes["eventHandlers"] = []
    if args.event_listener and args.no_event_listeners:
        raise InvalidRequest("--event-listener and --no-event-listeners exclude each other; give one.")
    if args.event_listener:
        changes["eventListeners"] = [parse_listener(words) for words in args.event_listener]
    if args.no_event_listeners:
        changes["eventListeners"] = []
    if args.anonymous:
        changes["anonymousConnectPolicy"] = args.anonymous
    if args.on_event_failure:
        changes["closeOnEventFailure"] = args.on_event_failure == "close"
    if args.limit and args.no_limits:
        raise InvalidRequest("--limit and --no-limits exclude each other; give one.")
    if args.limit:
        changes["limits"] = dict(map(parse_limit, args.limit))
    if args.no_limits:
        changes["limits"] = None
    if args.keep_alive is not None and not 1 <= args.keep_alive <= 120:
        raise InvalidRequest(f"--keep-alive is {args.keep_alive}; it must be from 1 to 120 seconds.")
    if args.keep_alive is not None:
        changes["webSocketKeepAliveIntervalInSeconds"] = args.keep_alive
    if not changes and not args.file:
        raise InvalidRequest("There is nothing to set; `hubwire hubs set --help` lists what can be.")
    return changes


def parse_handler(words: list[str]) -> dict[str, Any]:
    """One event handler from KEY=VALUE words; also the keys of `az webpubsub hub`. Raises InvalidRequest."""
    handler: dict[str, Any] = {}
    system: list[str] = []
    for word in words:
        key, equals, value = word.partition("=")
        if equals and key in _HANDLER_KEYS:
            handler[_HANDLER_KEYS[key]] = value
        elif equals and key in _SYSTEM_KEYS:
            system += [event for event in value.split(",") if event]
        elif equals and key == "auth-type":
            handler.setdefault("auth", {})["type"] = value
        elif equals and key == "auth-resource":
            handler.setdefault("auth", {})["managedIdentity"] = {"resource": value}
        else:
            raise InvalidRequest(f"--event-handler: {word!r} is not understood; write {_HANDLER_FORM}.")
    unknown = [event for event in system if event not in _SYSTEM_EVENTS]
    if unknown:
        raise InvalidRequest(
            f"--event-handler: there is no system event {unknown[0]!r}; use {', '.join(_SYSTEM_EVENTS)}."
        )
    if not handler.get("urlTemplate", "").startswith(("http://", "https://")):
        raise InvalidRequest(f"--event-handler needs url=http(s)://...; write {_HANDLER_FORM}.")
    if system:
        handler["systemEvents"] = system
    return handler


def parse_limit(word: str) -> tuple[str, int | None]:
    """A limit from a NAME=VALUE word, None for one that is taken away. Raises InvalidRequest."""
    name, equals, value = word.partition("=")
    if not equals or name not in _LIMITS:
        raise InvalidRequest(f"--limit: {word!r} is not understood; the limits are {', '.join(_LIMITS)}.")
    if not value:
        return name, None
    if not (value.isascii() and value.isdigit() and int(value) > 0):
        raise InvalidRequest(f"--limit: {name} must be a whole number above 0, or nothing.")
    return name, int(value)


def parse_listener(words: list[str]) -> dict[str, Any]:
    """One event listener from KEY=VALUE words. What the words say is judged by the service. Raises
    InvalidRequest for a word that is not understood."""
    chosen: dict[str, Any] = {"type": "EventName"}
    endpoint: dict[str, Any] = {"type": "Nats"}
    listener: dict[str, Any] = {"filter": chosen, "endpoint": endpoint}
    for word in words:
        key, equals, value = word.partition("=")
        if equals and key in ("events", "user-event-pattern"):
            chosen["userEventPattern"] = value
        elif equals and key in _SYSTEM_KEYS:
            chosen.setdefault("systemEvents", []).extend(event for event in value.split(",") if event)
        elif equals and key == "stream":
            endpoint["stream"] = value
        elif equals and key in ("prefix", "subject-prefix"):
            endpoint["subjectPrefix"] = value
        elif equals and key == "delivery":
            listener["delivery"] = value
        else:
            raise InvalidRequest(f"--event-listener: {word!r} is not understood; write {_LISTENER_FORM}.")
    return listener


def read_object(name: str) -> dict[str, Any]:
    """The JSON object in a file, or on stdin when it is named "-". Raises InvalidRequest."""
    try:
        content = json.loads(sys.stdin.read() if name == "-" else Path(name).read_text())
    except OSError as fault:
        raise InvalidRequest(f"--file {name} cannot be read ({fault.strerror}).") from fault
    except ValueError as fault:
        raise InvalidRequest(f"--file {name} is not JSON: {fault}.") from fault
    if not isinstance(content, dict):
        raise InvalidRequest(f"--file {name} must hold one JSON object.")
    return content
