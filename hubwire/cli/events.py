"""`hubwire events`: what application servers and brokers get of clients' events, and why they do not."""

from __future__ import annotations

import asyncio
from argparse import ArgumentParser, Namespace
from typing import Any

from hubwire.cli.nats_target import add_nats, quiet_libraries
from hubwire.cli.options import add_json
from hubwire.cli.output import Output, table
from hubwire.cli.rest import call_management, segment
from hubwire.cli.target import add_target, find_target
from hubwire.model.errors import InvalidRequest
from hubwire.model.names import normalize_hub

LETTERS = "/hubwire/events/deadLetters"
_AT_ONCE = 1000


def configure(parser: ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", title="actions", required=True)
    one = actions.add_parser("failures", help="the latest failed events, from all gateways")
    one.add_argument("hub", nargs="?", default="", help="only those of this hub")
    one.add_argument("--limit", metavar="N", type=int, default=20, help="how many at most (default: 20)")
    _common(one)
    one = actions.add_parser("test", help="play the events of one client against an event handler")
    _test_options(one)
    _common(one)
    one = actions.add_parser("tail", help="watch what event listeners publish to NATS")
    one.add_argument("hub", nargs="?", default="", help="only this hub")
    one.add_argument("--all", action="store_true", help="begin with everything that the streams still hold")
    one.add_argument("--count", metavar="N", type=int, help="end after so many events")
    _common(one)
    add_nats(one)
    one = actions.add_parser("dead-letters", help="events that were given up: list, retry or drop them")
    one.add_argument("what", choices=("list", "retry", "drop"))
    one.add_argument("ids", metavar="ID", nargs="*", help="which ones (retry, drop)")
    one.add_argument("--all", action="store_true", help="retry or drop all of them")
    one.add_argument("--hub", default="", help="only those of this hub")
    one.add_argument("--limit", metavar="N", type=int, default=100, help="how many to list (default: 100)")
    _common(one)


def _common(parser: ArgumentParser) -> None:
    add_json(parser)
    add_target(parser)


def _test_options(parser: ArgumentParser) -> None:
    parser.add_argument("hub", help="the hub whose client is played")
    parser.add_argument("url", help="the handler's URL, as in the settings: {hub} and {event} are replaced")
    parser.add_argument("--user", metavar="ID", default="test-user", help="the client's user id")
    parser.add_argument("--event", metavar="NAME", default="message", help="the user event that is played")
    parser.add_argument("--text", default="Hello from hubwire", help="its data")
    parser.add_argument(
        "--event-type", choices=("text", "json", "binary"), default="text", help="its data type"
    )
    parser.add_argument(
        "--seconds", metavar="N", type=float, default=10.0, help="time for each answer (default: 10)"
    )
    parser.add_argument(
        "--only-public", action="store_true", help="refuse private addresses, as a cluster does"
    )
    parser.epilog = (
        "It is this machine that calls the URL; a service elsewhere may see another network. The events are\n"
        "real for the handler. They are signed with the key of the service, if one is found."
    )


def run(args: Namespace, out: Output) -> int:
    if args.action == "failures":
        return _failures(args, out)
    if args.action == "dead-letters":
        return _dead_letters(args, out)
    quiet_libraries()
    if args.action == "test":
        from hubwire.cli.events_test import run_test

        return asyncio.run(run_test(args, out))
    from hubwire.cli.events_tail import run_tail

    return asyncio.run(run_tail(args, out))


# -- failures ------------------------------------------------------------------------------------------


def _failures(args: Namespace, out: Output) -> int:
    query = [("limit", str(_limit(args.limit)))]
    if args.hub:
        query.append(("hub", str(normalize_hub(args.hub))))
    answer = call_management(find_target(args), "GET", "/hubwire/events/failures", query=query).json()
    found = answer["value"]
    lines = [line for failure in reversed(found) for line in _failure_lines(failure, out)]
    out.result(answer, "\n".join(lines) if lines else None)
    if not found:
        out.hint("No event has failed lately, as far as the running gateways remember.")
    if answer["silentGateways"]:
        out.hint(f"{answer['silentGateways']} gateway(s) did not answer; what they know is missing here.")
    return 0


def _failure_lines(failure: dict[str, Any], out: Output) -> list[str]:
    """The latest one stands last, as in a log."""
    status = f" {failure['status']}" if failure.get("status") else ""
    tries = f"{failure['attempts']} attempt{'s' if failure['attempts'] != 1 else ''}, {failure['seconds']} s"
    return [
        f"{out.style(failure['time'], 'dim')}  {out.style(failure['category'] + status, 'red', 'bold')}  "
        f"{failure['hub']}  {failure['event']}  {failure['connectionId']}",
        *([f"    {failure['url']}  ({tries})"] if failure["url"] else []),
        f"    {failure['reason']}",
        f"    the client was told: {failure['told']}",
    ]


# -- dead letters --------------------------------------------------------------------------------------


def _dead_letters(args: Namespace, out: Output) -> int:
    if args.what == "list" and args.ids:
        raise InvalidRequest("`list` takes no ids; --hub says of which hub.")
    if args.what != "list" and bool(args.ids) == bool(args.all):
        raise InvalidRequest(f"Give the ids to {args.what}, or --all.")
    target = find_target(args)

    def page(after: int, limit: int) -> list[dict[str, Any]]:
        query = [("after", str(after)), ("limit", str(limit)), ("hub", args.hub)]
        return list(call_management(target, "GET", LETTERS, query=query).json()["value"])

    if args.what == "list":
        _list_letters(page(0, _limit(args.limit)), out)
        return 0
    ids = [str(each) for each in args.ids]
    after = 0
    while args.all and (found := page(after, _AT_ONCE)):
        after = found[-1]["id"]
        ids += [str(letter["id"]) for letter in found]
    for each in ids:
        if args.what == "retry":
            call_management(target, "POST", f"{LETTERS}/{segment(each)}/retry")
        else:
            call_management(target, "DELETE", f"{LETTERS}/{segment(each)}")
    done = "queued again" if args.what == "retry" else "dropped"
    out.result({"ids": [int(each) for each in ids], "done": done}, f"{len(ids)} {done}.")
    return 0


def _list_letters(letters: list[dict[str, Any]], out: Output) -> None:
    rows = [
        [
            str(letter["id"]),
            letter["time"],
            letter["hub"],
            letter["event"],
            letter["connectionId"],
            f"{letter['category']} {letter['status'] or ''}".strip(),
            letter["reason"],
        ]
        for letter in letters
    ]
    head = ("ID", "TIME", "HUB", "EVENT", "CONNECTION", "WHY", "REASON")
    out.result(letters, table(rows, head) if rows else None)
    if not rows:
        out.hint("There are no dead letters.")


def _limit(limit: int) -> int:
    if not 1 <= limit <= _AT_ONCE:
        raise InvalidRequest(f"--limit must be a number from 1 to {_AT_ONCE}.")
    return limit
