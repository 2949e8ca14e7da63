"""How the command line reaches NATS: told by options, or announced by the local `hubwire up`."""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from typing import Any

from hubwire.cli.target import ServiceTarget
from hubwire.runtime.process import ProcessConfig, Setting, read_settings, settings_of


def _settings() -> list[Setting]:
    """How NATS is reached; the rest of a process's settings does not matter here."""
    names = ("nats_", "durability", "lease_seconds")
    return [setting for setting in settings_of("gateway") if setting.name.startswith(names)]


def add_nats(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("NATS, when it is not that of a `hubwire up` here")
    for setting in _settings():
        names = [setting.flag, *(["--nats"] if setting.name == "nats_servers" else [])]
        metavar = setting.name.rpartition("_")[2].upper()
        group.add_argument(*names, dest=setting.name, metavar=metavar, help=setting.help)


def nats_config(args: Namespace, target: ServiceTarget | None) -> ProcessConfig | None:
    """How to reach NATS: told explicitly, or announced by the local `hubwire up`; None when unknown.

    Raises BadConfig.
    """
    settings = _settings()
    flags = {setting.name: getattr(args, setting.name) for setting in settings}
    local: dict[str, Any] | None = target.local if target else None
    told = flags["nats_servers"] or os.environ.get("HUBWIRE_NATS_SERVERS")
    if local is not None and not flags["nats_servers"]:
        nats = local["nats"]
        return ProcessConfig(
            nats_servers=(nats["url"],),
            nats_user=nats["user"],
            nats_password=nats["password"],
            durability=local["durability"],
        )
    if not told:
        return None
    return read_settings("gateway", settings, flags, os.environ)[0]
