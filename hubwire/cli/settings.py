"""`hubwire settings`: what all processes of a cluster share beside hubs and keys, over /hubwire/settings."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from typing import Any

from hubwire.cli.options import add_json
from hubwire.cli.output import Output
from hubwire.cli.rest import call_management
from hubwire.cli.target import add_target, find_target
from hubwire.model.cluster_settings import ClusterSettings, changed
from hubwire.model.errors import InvalidRequest

_PATH = "/hubwire/settings"
_EXAMPLES = """\
examples:
  hubwire settings set corsOrigins=https://app.example.com,https://www.example.com
  hubwire settings set limits.maxConcurrentRequests=500 hubLimits.messagesPerSecond=50
  hubwire settings set limits.maxConcurrentRequests=     back to the default
  hubwire settings set --file - < settings.json          also for secrets

The settings are those of the config file: corsOrigins, limits, hubLimits, management."""


def configure(parser: ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", title="actions", required=True)
    one = actions.add_parser("show", help="what has been set; all else has its default")
    add_json(one)
    add_target(one)
    one = actions.add_parser(
        "set",
        help="change some, in force at once in all processes",
        epilog=_EXAMPLES,
        formatter_class=RawDescriptionHelpFormatter,
    )
    one.add_argument("settings", metavar="NAME=VALUE", nargs="*", help="without a VALUE: the default again")
    one.add_argument("--file", metavar="FILE", help="changes as JSON, null for the default; - reads stdin")
    add_json(one)
    add_target(one)


def run(args: Namespace, out: Output) -> int:
    if args.action == "show":
        content = call_management(find_target(args), "GET", _PATH).json()
    else:
        change = _change(args)
        changed(ClusterSettings(), change)  # faults are told before anything is asked of the service
        content = call_management(find_target(args), "PATCH", _PATH, change).json()
    out.result(content, json.dumps(content, indent=2, ensure_ascii=False) if content else None)
    if not content:
        out.hint("Nothing has been set; everything has its default.")
    return 0


def _change(args: Namespace) -> dict[str, Any]:
    from hubwire.cli.hubs import read_object

    change: dict[str, Any] = read_object(args.file) if args.file else {}
    for word in args.settings:
        name, equals, text = word.partition("=")
        if not equals:
            raise InvalidRequest(f"{word!r} is not understood; write NAME=VALUE.")
        *sections, last = name.split(".")
        inside = change
        for section in sections:
            inside = inside.setdefault(section, {})
            if not isinstance(inside, dict):
                raise InvalidRequest(f"{section} is given twice.")
        inside[last] = _value(name, text)
    if not change:
        raise InvalidRequest("There is nothing to set; `hubwire settings set --help` has examples.")
    return change


def _value(name: str, text: str) -> Any:
    """As JSON where it is some, else as the text that it is; origins are separated by commas."""
    if not text:
        return None
    if name == "corsOrigins" and not text.startswith("["):
        return [origin.strip() for origin in text.split(",") if origin.strip()]
    try:
        return json.loads(text)
    except ValueError:
        return text
