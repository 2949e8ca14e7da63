"""`hubwire token`: a client access URL, signed here with the access key; the service is not asked."""

from __future__ import annotations

import re
import textwrap
import time
from argparse import ArgumentParser, Namespace

from hubwire.cli.options import add_json
from hubwire.cli.output import Output
from hubwire.cli.target import add_target, find_target
from hubwire.model.errors import InvalidRequest
from hubwire.model.names import is_valid_group, normalize_hub
from hubwire.model.tokens import sign_client_token

_UNITS = {"s": 1 / 60, "m": 1.0, "h": 60.0, "d": 24 * 60.0}
_PREFIX = "webpubsub."


def configure(parser: ArgumentParser) -> None:
    parser.add_argument("hub", help="the hub to connect to")
    add_claims(parser)
    parser.add_argument("--token-only", action="store_true", help="print the token alone, not the URL")
    add_json(parser)
    add_target(parser)
    parser.epilog = textwrap.fill(
        "roles: joinLeaveGroup, sendToGroup (all groups), joinLeaveGroup.NAME, sendToGroup.NAME (one), "
        "joinLeaveGroups.PATTERN, sendToGroups.PATTERN; `all` stands for the first two. The prefix "
        "`webpubsub.` is added where it is missing.",
        78,
    )


def add_claims(parser: ArgumentParser) -> None:
    """What a client token says: shared with `hubwire connect`."""
    parser.add_argument("--user", metavar="ID", help="user id")
    parser.add_argument(
        "--role", metavar="ROLE", action="append", default=[], help="a permission; may be repeated"
    )
    parser.add_argument(
        "--group",
        metavar="NAME",
        action="append",
        default=[],
        help="a group to begin in; may be repeated",
    )
    parser.add_argument(
        "--expires", metavar="TIME", default="60m", help="life of the token: 90s, 60m, 12h, 7d (default: 60m)"
    )


def run(args: Namespace, out: Output) -> int:
    normalize_hub(args.hub)
    target = find_target(args)
    minutes = minutes_of(args.expires)
    roles = roles_of(args.role)
    token = make_token(args, target.endpoint, target.access_key, roles)
    url = f"{target.client_endpoint}/client/hubs/{args.hub}?access_token={token}"
    facts = {
        "baseUrl": f"{target.client_endpoint}/client/hubs/{args.hub}",
        "token": token,
        "url": url,
        "userId": args.user,
        "roles": roles,
        "groups": args.group,
        "expiresInSeconds": int(minutes * 60),
    }
    out.result(facts, token if args.token_only else url)
    return 0


def make_token(args: Namespace, endpoint: str, access_key: str, roles: list[str]) -> str:
    """The client token that `add_claims` options describe. Raises InvalidRequest for illegal ones."""
    for group in args.group:
        check_group(group, "--group")
    return sign_client_token(
        access_key,
        endpoint=endpoint,
        hub=args.hub,
        user_id=args.user,
        roles=roles,
        groups=args.group,
        minutes=minutes_of(args.expires),
        now=time.time(),
    )


def check_group(group: str, option: str) -> None:
    """Raises InvalidRequest, which names the option, for what is no name of a group."""
    if not is_valid_group(group):
        raise InvalidRequest(
            f"{option}: {group[:40]!r} is no group name; it takes 1 to 1024 characters, not all white space."
        )


def minutes_of(text: str) -> float:
    """90s, 60m, 12h, 7d; a bare number is minutes, as in the SDKs."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text.strip().lower())
    if not match or not float(match[1]):
        raise InvalidRequest(f"--expires is {text!r}; give a time like 90s, 60m, 12h or 7d.")
    return float(match[1]) * _UNITS[match[2] or "m"]


def roles_of(given: list[str]) -> list[str]:
    """Roles as they stand in tokens (client-protocols.md 2.4); unknown ones are refused, since the service
    would ignore them without a word."""
    roles: list[str] = []
    for role in given:
        if role == "all":
            roles += [f"{_PREFIX}joinLeaveGroup", f"{_PREFIX}sendToGroup"]
            continue
        full = role if role.startswith(_PREFIX) else _PREFIX + role
        if not re.fullmatch(
            r"webpubsub\.(joinLeaveGroup|sendToGroup|getGroupState|setGroupState)(\..+)?"
            r"|webpubsub\.(joinLeaveGroups|sendToGroups)\..+",
            full,
            re.DOTALL,
        ):
            raise InvalidRequest(f"There is no role {role!r}; `hubwire token --help` lists them.")
        roles.append(full)
    return list(dict.fromkeys(roles))
