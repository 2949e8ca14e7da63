"""The sub-commands: finds the one at hand and runs it; turns faults into sentences and exit codes.

Exit codes: 0 done; 1 it did not work; 2 it was asked in a way that can never work; 130 interrupted.
Only the module of the sub-command at hand is imported, so that `--help` and `token` answer at once.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, cast

from hubwire.cli.output import Output, drop_output, open_closed_streams
from hubwire.model.errors import HubwireError, InvalidRequest


class CommandModule(Protocol):
    """What a sub-command's module offers."""

    def configure(self, parser: ArgumentParser) -> None: ...

    def run(self, args: Namespace, out: Output) -> int: ...


class Command(NamedTuple):
    name: str
    module: str
    help: str


COMMANDS = (
    Command("up", "up", "run everything on this machine: NATS, a router, gateways, REST"),
    Command("gateway", "roles", "run one gateway against a NATS cluster"),
    Command("router", "roles", "run one router against a NATS cluster"),
    Command("controlplane", "roles", "run one control plane (REST) against a NATS cluster"),
    Command("token", "token", "make a client access URL"),
    Command("connect", "connect", "a client in the terminal: join, send, leave, see frames"),
    Command("publish", "publish", "send a message to a hub, group, user or connection"),
    Command("hubs", "hubs", "list, show, set or remove hub settings"),
    Command("settings", "settings", "show or change what all processes share: CORS, limits, management"),
    Command("events", "events", "watch events, see why they fail, test an event handler"),
    Command("keys", "keys", "show or regenerate the access keys"),
    Command("status", "status", "the cluster at a glance: processes, connections, rates, problems"),
    Command("nats-config", "nats_config", "users and permissions for a NATS server of your own"),
    Command("doctor", "doctor", "check NATS, JetStream, clock, leases and reachability"),
)

_EPILOG = """\
start here:
  hubwire up                         everything on this machine, on http://127.0.0.1:8080
  hubwire connect chat --join room   a client, in a second terminal
  hubwire publish chat 'Hello'       a message to it, from a third

The commands find a `hubwire up` that runs in this folder by themselves; for another service give
--connection-string or set HUBWIRE_CONNECTION_STRING.
"""


def prepare(arguments: Sequence[str]) -> Callable[[], int]:
    """Read the command line and import what its sub-command needs; what is returned runs it, and returns the
    exit code. Raises SystemExit as argparse does."""
    open_closed_streams()
    parser = build_parser(arguments)
    args = parser.parse_args(arguments)

    def run() -> int:
        try:
            try:
                if args.command is None:
                    parser.print_help()
                    return 2
                return _run(args)
            finally:
                sys.stdout.flush()  # here, where a reader that has gone (`| head -1`) is no surprise
        except BrokenPipeError:
            drop_output()
            return 1

    return run


def _run(args: Namespace) -> int:
    out = Output(as_json=getattr(args, "json", False))
    try:
        return _module(args.command).run(args, out)
    except HubwireError as fault:
        out.fail(getattr(fault, "faults", None) or [str(fault)])
        return 2 if isinstance(fault, InvalidRequest) else 1
    except BrokenPipeError:
        raise
    except OSError as fault:
        what = f"{fault.filename}: " if fault.filename else ""
        out.fail([f"{what}{fault.strerror or fault}; the system refused what `{args.command}` needs."])
        return 1


class _Parser(argparse.ArgumentParser):
    """Who mistypes an option of a sub-command is shown the usage of that, not of everything."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found, unknown


def build_parser(arguments: Sequence[str]) -> ArgumentParser:
    """The parser; only the sub-command that `arguments` name has its options filled in."""

    def form(prog: str) -> argparse.HelpFormatter:
        return argparse.RawDescriptionHelpFormatter(prog, max_help_position=26)

    parser = _Parser(
        prog="hubwire",
        description="Azure Web PubSub that anyone can run.",
        epilog=_EPILOG,
        formatter_class=form,
    )
    parser.add_argument("--version", action="version", version=_Version())
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    wanted = next((argument for argument in arguments if not argument.startswith("-")), None)
    for command in COMMANDS:
        one = commands.add_parser(
            command.name,
            help=command.help,
            description=command.help[0].upper() + command.help[1:] + ".",
            formatter_class=form,
        )
        if command.name == wanted:
            _module(command.name).configure(one)
    return parser


def _module(name: str) -> CommandModule:
    command = next(command for command in COMMANDS if command.name == name)
    return cast(CommandModule, importlib.import_module(f"hubwire.cli.{command.module}"))


class _Version(str):
    """Looked up only when asked for: the lookup costs more than all the rest."""

    def __mod__(self, values: object) -> str:
        from importlib.metadata import version

        return f"hubwire {version('hubwire')}"
