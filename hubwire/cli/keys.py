"""`hubwire keys`: the access keys, over the management API (management-api.md 2.3).

That takes a key. Who has none yet, as the cluster made them itself, gets them from NATS with `--nats`:
whoever may sign in there as the roles do may read everything that Hubwire keeps, the keys too.
"""

from __future__ import annotations

import asyncio
import time
from argparse import ArgumentParser, Namespace

from hubwire.cli.nats_target import add_nats, nats_config, quiet_libraries
from hubwire.cli.options import add_json
from hubwire.cli.output import Output, facts_table
from hubwire.cli.rest import call_management, resource_path
from hubwire.cli.target import ServiceTarget, add_target, find_target
from hubwire.model.errors import HubwireError, InvalidRequest
from hubwire.runtime.data_folder import running_instance

_FOLLOW_SECONDS = 3.0


def configure(parser: ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", title="actions", required=True)
    one = actions.add_parser("show", help="both keys and their connection strings")
    _common(one)
    one = actions.add_parser("regenerate", help="replace one key; what it signed stops to work at once")
    one.add_argument("key", choices=("primary", "secondary", "salt"), help="which")
    _common(one)
    _rotation(actions.add_parser("rotate-reconnection", help="let a new key sign reconnection tokens"))
    one.epilog = (
        "To rotate without a gap: move clients to the secondary connection string, regenerate primary, move "
        "them back, regenerate secondary."
    )


def _rotation(parser: ArgumentParser) -> None:
    parser.add_argument("--force", action="store_true", help="even if clients then cannot recover")
    parser.epilog = (
        "Tokens of the key before hold until they expire, a week at most; so this can be done once a week. "
        "With --force, twice in a row: then no token that was issued before is good any more."
    )
    _common(parser)


def _common(parser: ArgumentParser) -> None:
    add_json(parser)
    add_target(parser)
    add_nats(parser, more=False)


def run(args: Namespace, out: Output) -> int:
    if args.action == "rotate-reconnection":
        return _rotate_reconnection(args, out)
    target = _service(args)
    if target is None:
        return _run_by_nats(args, out)
    resource = resource_path(target)
    if args.action == "show":
        keys = call_management(target, "POST", f"{resource}/listKeys").json()
    else:
        body = {"keyType": args.key.capitalize()}
        keys = call_management(target, "POST", f"{resource}/regenerateKey", body).json()
        if args.key == "primary":
            _follow(target, keys["primaryKey"])
    if not keys.get("primaryKey"):
        raise InvalidRequest("Access keys are switched off for this service (disableLocalAuth).")
    text = facts_table(
        {
            "Primary key": keys["primaryKey"],
            "Primary connection string": keys["primaryConnectionString"],
            "Secondary key": keys["secondaryKey"],
            "Secondary connection string": keys["secondaryConnectionString"],
        }
    )
    out.result(keys, text)
    return 0


def _service(args: Namespace) -> ServiceTarget | None:
    """The service to ask; None when NATS is to be asked: told so by an option, or by the environment (as in
    the pods of a cluster) when there is no service to find."""
    if args.nats_servers:
        return None
    try:
        return find_target(args)
    except HubwireError:
        if nats_config(args, None) is None:
            raise
        return None


def _rotate_reconnection(args: Namespace, out: Output) -> int:
    from hubwire.cli.keys_nats import rotate_reconnection_key

    config = nats_config(args, None if args.nats_servers else _local(args))
    if config is None:
        raise InvalidRequest("These keys are reached over NATS alone: give --nats.")
    quiet_libraries()
    asyncio.run(rotate_reconnection_key(config, force=args.force))
    out.result({"rotated": True}, "A new key signs reconnection tokens. Those of the key before still hold.")
    return 0


def _local(args: Namespace) -> ServiceTarget | None:
    """The service of a `hubwire up` here, if there is one."""
    try:
        return find_target(args)
    except HubwireError:
        return None


def _run_by_nats(args: Namespace, out: Output) -> int:
    from hubwire.cli.keys_nats import keys_by_nats

    config = nats_config(args, None)
    assert config is not None  # or there would be a service
    quiet_libraries()
    keys = asyncio.run(keys_by_nats(config, args.key if args.action == "regenerate" else None))
    facts = {"primaryKey": keys.primary, "secondaryKey": keys.secondary}
    shown = {"Primary key": keys.primary, "Secondary key": keys.secondary}
    if args.endpoint:
        for which, key in (("primary", keys.primary), ("secondary", keys.secondary)):
            text = f"Endpoint={args.endpoint.rstrip('/')};AccessKey={key};Version=1.0;"
            facts[f"{which}ConnectionString"] = text
            shown[f"{which.capitalize()} connection string"] = text
    else:
        out.hint("Give --endpoint too to have the connection strings.")
    out.result(facts, facts_table(shown))
    return 0


def _follow(target: ServiceTarget, primary: str) -> None:
    """Wait until the service that runs on our folder has written the new key down for other commands, so
    that the next one does not fail with the old key."""
    if target.data is None:
        return
    deadline = time.monotonic() + _FOLLOW_SECONDS
    while time.monotonic() < deadline:
        facts = running_instance(target.data)
        if facts is None or f"AccessKey={primary};" in str(facts["connectionString"]):
            return
        time.sleep(0.02)
