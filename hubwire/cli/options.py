"""Options that several commands share, and the reading of settings from flags, environment and file."""

from __future__ import annotations

import os
import textwrap
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from hubwire.model.errors import InvalidRequest
from hubwire.runtime.process import ProcessConfig, Role, Setting, read_settings


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
        "--config", metavar="FILE", help="YAML file with these settings (drain_seconds: 10) and `hubs:`"
    )
    parser.epilog = textwrap.fill(
        "Each setting can also come from the environment, as HUBWIRE_ and its name in capitals "
        "(HUBWIRE_LOG_LEVEL), or from the file that --config names. A flag wins over the environment, that "
        "over the file.",
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
    """Raises BadConfig with every fault, or InvalidRequest when the file cannot be read at all."""
    path = args.config or os.environ.get("HUBWIRE_CONFIG")
    content = read_config_file(Path(path)) if path else None
    flags = {setting.name: getattr(args, setting.name) for setting in settings}
    return read_settings(role, settings, flags, os.environ, content, file_name=path or "")


def read_config_file(path: Path) -> dict[str, object]:
    """Raises InvalidRequest with one sentence that says where the file is broken."""
    try:
        text = path.read_text()
    except OSError as fault:
        raise InvalidRequest(
            f"The config file {path} cannot be read ({fault.strerror}); check the path given to --config."
        ) from fault
    except UnicodeDecodeError as fault:
        raise InvalidRequest(f"The config file {path} is not text in UTF-8; save it as that.") from fault
    import yaml

    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as fault:
        mark = getattr(fault, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(fault, "problem", None) or "it cannot be parsed"
        raise InvalidRequest(
            f"The config file {path}{where} is not valid YAML: {problem}; correct it."
        ) from fault
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise InvalidRequest(f"The config file {path} must hold settings like `port: 8080`, one a line.")
    return {str(key): value for key, value in content.items()}
