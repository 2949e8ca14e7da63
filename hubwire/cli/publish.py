"""`hubwire publish`: one message to a hub, a group, a user or a connection, over the REST data plane."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace

from hubwire.cli.options import add_json
from hubwire.cli.output import Output
from hubwire.cli.rest import call_data, segment
from hubwire.cli.target import add_target, find_target
from hubwire.cli.token import check_group
from hubwire.model.errors import InvalidRequest
from hubwire.model.names import normalize_hub

_CONTENT_TYPES = {
    "text": "text/plain; charset=utf-8",
    "json": "application/json",
    "binary": "application/octet-stream",
}


def configure(parser: ArgumentParser) -> None:
    parser.add_argument("hub", help="the hub")
    parser.add_argument("message", nargs="?", help="the message; - or none reads standard input")
    whom = parser.add_mutually_exclusive_group()
    whom.add_argument("--group", metavar="NAME", help="to the members of a group")
    whom.add_argument("--user", metavar="ID", help="to all connections of a user")
    whom.add_argument("--connection", metavar="ID", help="to one connection")
    parser.add_argument("--type", choices=list(_CONTENT_TYPES), default="text", help="default: text")
    parser.add_argument(
        "--exclude", metavar="ID", action="append", default=[], help="not to this connection; may be repeated"
    )
    parser.add_argument("--filter", metavar="ODATA", help="only to connections for which this holds")
    parser.add_argument(
        "--ttl", metavar="SECONDS", type=int, help="drop it for clients that do not take it within this time"
    )
    add_json(parser)
    add_target(parser)
    parser.epilog = "Without --group, --user or --connection the message goes to everybody in the hub."


def run(args: Namespace, out: Output) -> int:
    normalize_hub(args.hub)
    _check_whom(args)
    body = _body(args)
    whom, path = _whom(args)
    target = find_target(args)
    query = [("excluded", one) for one in args.exclude]
    if args.filter is not None:
        query.append(("filter", args.filter))
    if args.ttl is not None:
        query.append(("messageTtlSeconds", str(args.ttl)))
    call_data(
        target,
        "POST",
        f"/api/hubs/{segment(args.hub)}{path}/:send",
        query=query,
        body=body,
        content_type=_CONTENT_TYPES[args.type],
    )
    facts = {"hub": args.hub, "to": whom, "type": args.type, "bytes": len(body)}
    out.result(facts, f"Sent {len(body)} bytes to {whom}.")
    return 0


def _check_whom(args: Namespace) -> None:
    """What is no addressee; and what the service has no parameter for, as it would ignore that (rest-api.md
    section 5)."""
    if args.group is not None:
        check_group(args.group, "--group")
    for option, value in (("--user", args.user), ("--connection", args.connection)):
        if value == "":
            raise InvalidRequest(f"{option} is empty; give an id, or leave it out to send to everybody.")
    if args.ttl is not None and not 0 <= args.ttl <= 300:  # section 6
        raise InvalidRequest(f"--ttl is {args.ttl}; it must be from 0 to 300 seconds.")
    if args.exclude and (args.user is not None or args.connection is not None):
        raise InvalidRequest("--exclude goes with a whole hub or a group; leave it out, or address those.")
    if args.filter is not None and args.connection is not None:
        raise InvalidRequest("--filter chooses among connections; it cannot go with --connection.")


def _whom(args: Namespace) -> tuple[str, str]:
    if args.group is not None:
        return f"group {args.group}", f"/groups/{segment(args.group)}"
    if args.user is not None:
        return f"user {args.user}", f"/users/{segment(args.user)}"
    if args.connection is not None:
        return f"connection {args.connection}", f"/connections/{segment(args.connection)}"
    return f"everybody in {args.hub}", ""


def _body(args: Namespace) -> bytes:
    if args.message is None and sys.stdin.isatty():
        raise InvalidRequest("There is no message; give it as an argument, or on standard input.")
    body = sys.stdin.buffer.read() if args.message in (None, "-") else str(args.message).encode()
    if args.type == "json":
        try:
            json.loads(body)
        except ValueError as fault:
            raise InvalidRequest(
                f"The message is not JSON ({fault}); mind the quotes of the shell, or use --type text."
            ) from fault
    return body
