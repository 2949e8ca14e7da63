"""Options that several commands share, and the reading of settings from flags, environment and file."""

from __future__ import annotations

import os
import textwrap
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence

from hubwire.runtime.process import BadConfig, ProcessConfig, Role, Setting, read_settings


def add_json(parser: ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


def add_settings(parser: ArgumentParser, settings: Sequence[Setting]) -> None:
    """A flag for each setting, and --config."""
    group = parser.add_argument_group("settings")
    for setting in settings:
        names = [setting.flag, *(["--nats"] if setting.name == "nats_servers" else [])]
        help = setting.help + _default(setting)
        if isinstance(setting.default, bool):
            group.add_argument(*names, dest=setting.name, action="store_const", const="true", help=help)
        else:
            metavar = setting.name.rpartition("_")[2].upper()
            group.add_argument(*names, dest=setting.name, metavar=metavar, help=help)
    group.add_argument(
        "--config",
        metavar="FILE",
        help="YAML file with the cluster's keys, endpoints, limits and hubs",
    )
    parser.epilog = textwrap.fill(
        "Each setting can also come from the environment, as HUBWIRE_ and its name in capitals "
        "(HUBWIRE_LOG_LEVEL). A flag wins over the environment, that over the file of --config.",
        78,
    )


def _default(setting: Setting) -> str:
    default = setting.default
    if default in ("", None, (), False) or "default:" in setting.help:
        return ""
    shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
    return f" (default: {shown})"


def settings_from(
    args: Namespace, role: Role, settings: Sequence[Setting]
) -> tuple[ProcessConfig, dict[str, object]]:
    """Raises BadConfig with every fault, those of the file included."""
    faults: list[str] = []
    file = None
    path = args.config or os.environ.get("HUBWIRE_CONFIG")
    if path:
        from hubwire.runtime.config_file import InvalidConfigFile, load_config

        try:
            file = load_config(path)
        except InvalidConfigFile as fault:
            faults += map(str, fault.faults)
    flags = {setting.name: getattr(args, setting.name) for setting in settings}
    try:
        found = read_settings(role, settings, flags, os.environ, file)
    except BadConfig as fault:
        raise BadConfig((*faults, *fault.faults)) from fault
    if faults:
        raise BadConfig(tuple(faults))
    return found
