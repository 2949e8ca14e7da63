"""`hubwire gateway | router | controlplane`: one role in this process, against a NATS cluster.

What the Helm chart runs: configured by flags or HUBWIRE_* variables, until SIGTERM.
"""

from __future__ import annotations

import importlib
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from typing import cast

from hubwire.cli.options import add_settings, settings_from
from hubwire.cli.output import Output
from hubwire.runtime.limits import raise_open_files
from hubwire.runtime.logs import configure_logs
from hubwire.runtime.process import ProcessConfig, Role, settings_of


def configure(parser: ArgumentParser) -> None:
    add_settings(parser, settings_of(_role(parser.prog.split()[-1])))


def run(args: Namespace, out: Output) -> int:
    """Blocks until told to stop. A lost NATS is waited for, a lost lease starts anew under another name."""
    role = _role(args.command)
    config, _ = settings_from(args, role, settings_of(role))
    config = config.replace(name=config.name or role)
    configure_logs(config.log_level, config.log_format, process=config.name)
    raise_open_files()
    _entry_point(config)(config)
    return 0


def _entry_point(config: ProcessConfig) -> Callable[[ProcessConfig], None]:
    if config.rest:
        from hubwire.cli.worker import run_worker

        return run_worker
    module = "controlplane.service" if config.role == "controlplane" else f"{config.role}.app"
    return cast(Callable[[ProcessConfig], None], importlib.import_module(module).run)


def _role(name: str) -> Role:
    return cast(Role, name)
