"""`hubwire keys`: the access keys, over the management API (management-api.md 2.3)."""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace

from hubwire.cli.options import add_json
from hubwire.cli.output import Output, facts_table
from hubwire.cli.rest import call_management, resource_path
from hubwire.cli.target import ServiceTarget, add_target, find_target
from hubwire.model.errors import InvalidRequest
from hubwire.runtime.data_folder import running_instance

_FOLLOW_SECONDS = 3.0


def configure(parser: ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", title="actions", required=True)
    one = actions.add_parser("show", help="both keys and their connection strings")
    add_json(one)
    add_target(one)
    one = actions.add_parser("regenerate", help="replace one key; what it signed stops to work at once")
    one.add_argument("key", choices=("primary", "secondary", "salt"), help="which")
    add_json(one)
    add_target(one)
    one.epilog = (
        "To rotate without a gap: move clients to the secondary connection string, regenerate primary, move "
        "them back, regenerate secondary."
    )


def run(args: Namespace, out: Output) -> int:
    target = find_target(args)
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
