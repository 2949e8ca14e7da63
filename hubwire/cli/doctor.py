"""`hubwire doctor`: looks at everything a working service needs, and says what is wrong and what to do."""

from __future__ import annotations

import asyncio
import logging
from argparse import ArgumentParser, Namespace
from typing import Any

from hubwire.cli.nats_target import add_nats, nats_config
from hubwire.cli.options import add_json
from hubwire.cli.output import Output
from hubwire.cli.target import ServiceTarget, add_target, find_target
from hubwire.model.errors import HubwireError

_MARKS = {
    "ok": ("ok  ", "green"),
    "warn": ("warn", "yellow"),
    "fail": ("FAIL", "red"),
    "skip": ("skip", "dim"),
}


def configure(parser: ArgumentParser) -> None:
    add_json(parser)
    add_target(parser)
    add_nats(parser)
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
    checks += asyncio.run(examine_nats(nats_config(args, target)))
    if target is not None:
        checks += asyncio.run(examine_service(target))
    _print(checks, out)
    return 1 if any(check.state == "fail" for check in checks) else 0


def _quiet() -> None:
    import structlog

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


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
