"""`hubwire doctor`: looks at everything a working service needs, and says what is wrong and what to do."""

from __future__ import annotations

import asyncio
import logging
import os
from argparse import ArgumentParser, Namespace
from typing import Any

from hubwire.cli.options import add_json
from hubwire.cli.output import Output
from hubwire.cli.target import ServiceTarget, add_target, find_target
from hubwire.model.errors import HubwireError
from hubwire.runtime.process import ProcessConfig, Setting, read_settings, settings_of

_MARKS = {
    "ok": ("ok  ", "green"),
    "warn": ("warn", "yellow"),
    "fail": ("FAIL", "red"),
    "skip": ("skip", "dim"),
}


def _settings() -> list[Setting]:
    """How NATS is reached; the rest of a process's settings does not matter here."""
    names = ("nats_", "durability", "lease_seconds")
    return [setting for setting in settings_of("gateway") if setting.name.startswith(names)]


def configure(parser: ArgumentParser) -> None:
    add_json(parser)
    add_target(parser)
    group = parser.add_argument_group("NATS, when it is not that of a `hubwire up` here")
    for setting in _settings():
        names = [setting.flag, *(["--nats"] if setting.name == "nats_servers" else [])]
        metavar = setting.name.rpartition("_")[2].upper()
        group.add_argument(*names, dest=setting.name, metavar=metavar, help=setting.help)
    parser.epilog = "Exit code 1 when a check fails. HUBWIRE_* variables count as for the services."


def run(args: Namespace, out: Output) -> int:
    from hubwire.cli.doctor_checks import Check, open_files
    from hubwire.cli.doctor_nats import examine_nats
    from hubwire.cli.doctor_service import examine_service

    logging.disable(logging.CRITICAL)  # the libraries' complaints are told as findings
    _quiet()
    # In an order in which the first failure is the likeliest cause of the later ones.
    checks: list[Check] = [open_files()]
    target: ServiceTarget | None = None
    try:
        target = find_target(args)
    except HubwireError as fault:
        checks.append(Check("service", "fail", str(fault)))
    checks += asyncio.run(examine_nats(_nats_config(args, target)))
    if target is not None:
        checks += asyncio.run(examine_service(target))
    _print(checks, out)
    return 1 if any(check.state == "fail" for check in checks) else 0


def _quiet() -> None:
    import structlog

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


def _nats_config(args: Namespace, target: ServiceTarget | None) -> ProcessConfig | None:
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


def _print(checks: list[Any], out: Output) -> None:
    if out.as_json:
        out.result(
            {
                "ok": all(check.state != "fail" for check in checks),
                "checks": [
                    {"name": check.name, "state": check.state, "found": check.found, "advice": check.advice}
                    for check in checks
                ],
            }
        )
        return
    width = max(len(check.name) for check in checks)
    for check in checks:
        mark, style = _MARKS[check.state]
        print(f"{out.style(mark, style)}  {check.name.ljust(width)}  {check.found}")
        if check.advice:
            print(f"{' ' * (width + 8)}{out.style('→ ' + check.advice, 'bold')}")
    failed = sum(check.state == "fail" for check in checks)
    warned = sum(check.state == "warn" for check in checks)
    said = f"{failed} wrong" if failed else "nothing wrong"
    print(f"\n{said}{f', {warned} to look at' if warned else ''}.")
