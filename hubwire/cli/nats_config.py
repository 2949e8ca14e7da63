"""`hubwire nats-config`: the users of a NATS server of your own, each with what its role needs."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from hubwire.cli.output import Output
from hubwire.runtime.nats_roles import OPERATOR, ROLES, nats_users, password_variable, rights_of, user_of


def configure(parser: ArgumentParser) -> None:
    parser.add_argument("--account", default="HUBWIRE", help="the account's name (default: HUBWIRE)")
    parser.add_argument(
        "--listener-prefix",
        default="awps",
        metavar="PREFIX",
        help="where event listeners send to (default: awps)",
    )
    parser.add_argument("--json", action="store_true", help="print the rights as JSON")


def run(args: Namespace, out: Output) -> int:
    text = nats_users(args.account, args.listener_prefix)
    facts = {user_of(role): rights_of(role, args.listener_prefix)._asdict() for role in ROLES}
    out.result(facts, text)
    variables = ", ".join(password_variable(role) for role in (*ROLES, OPERATOR))
    out.hint(f"The passwords are read from nats-server's environment: {variables}.")
    return 0
