"""Writes the table of settings in docs/operations.md from the settings themselves.

    python docs/generate_settings.py           # rewrites the table
    python docs/generate_settings.py --check   # exit code 1 when it is not as it should be

tests/unit/test_docs_in_step.py runs the check.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from hubwire.cli.up import up_settings
from hubwire.runtime.process import EVERY_ROLE, ProcessConfig, Setting, settings_of

PAGE = Path(__file__).with_name("operations.md")
BEGIN = "<!-- settings: written by docs/generate_settings.py -->"
END = "<!-- end of settings -->"
# Where the cluster's file (hubwire.runtime.config_file) has what is also a setting of a process.
_IN_FILE = {
    "access_key": "accessKeys.primary",
    "secondary_access_key": "accessKeys.secondary",
    "public_endpoints": "publicEndpoints",
}


def table() -> str:
    """The settings as a Markdown table, in the order in which they are declared."""
    up = {setting.name: setting for setting in up_settings()}
    found: dict[str, Setting] = {}
    for role in sorted(EVERY_ROLE):
        found |= {setting.name: setting for setting in settings_of(role)}
    order = [one.name for one in dataclasses.fields(ProcessConfig)]
    names = [name for name in up if name not in found] + sorted(found, key=order.index)
    rows = ["| flag | environment | file | for | default | what it is |", "|---|---|---|---|---|---|"]
    return "\n".join(rows + [_row(found.get(name) or up[name], up.get(name)) for name in names])


def _row(setting: Setting, in_up: Setting | None) -> str:
    """`in_up` is the same setting as `hubwire up` has it, when it does."""
    roles = "every role" if setting.roles == EVERY_ROLE else ", ".join(sorted(setting.roles))
    users = [*([roles] if roles else []), *(["`up`"] if in_up else [])]
    default = _default(setting)
    if in_up and _default(in_up) != default:
        default = f"{default}; `up`: {_default(in_up)}"
    flags = [setting.flag, *(["--nats"] if setting.name == "nats_servers" else [])]
    in_file = _IN_FILE.get(setting.name)
    cells = [
        ", ".join(f"`{flag}`" for flag in flags),
        f"`{setting.env}`",
        f"`{in_file}`" if in_file else "",
        ", ".join(users),
        default,
        setting.help + (" (secret)" if setting.secret else ""),
    ]
    return f"| {' | '.join(cells)} |"


def _default(setting: Setting) -> str:
    value = setting.default
    if "default:" in setting.help or value in ("", None, ()):
        return ""  # or it depends on the machine
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def page() -> str:
    """What docs/operations.md should be."""
    text = PAGE.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}"


def main() -> int:
    wanted = page()
    if "--check" in sys.argv[1:]:
        return int(PAGE.read_text() != wanted)
    PAGE.write_text(wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main())
