"""How the command line reaches NATS: told by options, or announced by the local `hubwire up`."""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from typing import Any

from hubwire.cli.target import ServiceTarget
from hubwire.runtime.process import ProcessConfig, Setting, read_settings, settings_of


def quiet_libraries() -> None:
    """What the libraries log is told as a result by the command line."""
    import logging

    import structlog

    logging.disable(logging.CRITICAL)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


def _settings(*, more: bool = True) -> list[Setting]:
    """How NATS is reached; and with `more` what there is to be expected. The rest of a process's settings
    does not matter here."""
    names = ("nats_", *(("durability", "lease_seconds") * more))
    return [setting for setting in settings_of("gateway") if setting.name.startswith(names)]


def add_nats(parser: ArgumentParser, *, more: bool = True) -> None:
    group = parser.add_argument_group("NATS, when it is not that of a `hubwire up` here")
    for setting in _settings(more=more):
        names = [setting.flag, *(["--nats"] if setting.name == "nats_servers" else [])]
        metavar = setting.name.rpartition("_")[2].upper()
        group.add_argument(*names, dest=setting.name, metavar=metavar, help=setting.help)


def nats_config(args: Namespace, target: ServiceTarget | None) -> ProcessConfig | None:
    """How to reach NATS: told explicitly, or announced by the local `hubwire up`; None when unknown.

    Raises BadConfig.
    """
    settings = _settings()
    flags = {setting.name: getattr(args, setting.name, None) for setting in settings}
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
