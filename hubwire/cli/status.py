"""`hubwire status`: the cluster at a glance, asked of every process over NATS."""

from __future__ import annotations

import asyncio
import time
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any

from hubwire.cli.nats_target import add_nats, nats_config, quiet_libraries
from hubwire.cli.options import add_json
from hubwire.cli.output import Output, table
from hubwire.cli.target import add_target, find_target
from hubwire.model.errors import HubwireError, NotFound, Unavailable

if TYPE_CHECKING:
    from hubwire.bus.client import BusClient
    from hubwire.cli.status_view import Glance
    from hubwire.runtime.process import ProcessConfig
    from hubwire.runtime.status import Status

ANSWER_SECONDS = 0.7
CONNECT_SECONDS = 5.0
WATCH_SECONDS = 2.0


def configure(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--watch",
        nargs="?",
        type=float,
        const=WATCH_SECONDS,
        metavar="SECONDS",
        help=f"again and again until Ctrl-C, every {WATCH_SECONDS:g} seconds unless told otherwise",
    )
    add_json(parser)
    add_target(parser)
    add_nats(parser)
    parser.epilog = (
        "Exit code 1 when there are problems. Rates are those of the last second; with --watch, of the time "
        "between two looks. HUBWIRE_* variables count as for the services."
    )


def run(args: Namespace, out: Output) -> int:
    quiet_libraries()
    config = _nats(args)
    return asyncio.run(_run(config, out, args.watch))


def _nats(args: Namespace) -> ProcessConfig:
    config = None
    try:
        config = nats_config(args, find_target(args))
    except HubwireError:
        config = nats_config(args, None)  # the service's endpoint is not needed
    if config is None:
        raise NotFound(
            "No cluster to look at: no `hubwire up` runs here, and --nats-servers is not given; start "
            "`hubwire up`, or give --nats-servers."
        )
    return config


async def _run(config: ProcessConfig, out: Output, watch: float | None) -> int:
    from hubwire.bus.client import BusClient
    from hubwire.runtime.nats_options import nats_options

    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            bus = await BusClient.connect({**nats_options(config, name="status"), "allow_reconnect": False})
    except TimeoutError as error:
        raise Unavailable(f"NATS does not answer at {', '.join(config.nats_servers)}.") from error
    try:
        before = await _ask(bus)
        while True:
            await asyncio.sleep(watch if watch is not None else 1.0)
            now = await _ask(bus)
            seen = await _look(bus, before, now)
            if watch is not None and not out.as_json:
                print("\x1b[H\x1b[2J" if out.style("", "bold") else "", end="")
            out.result(seen.facts(), _text(seen, out))
            if watch is None:
                return 1 if seen.problems else 0
            before = now
    finally:
        await bus.close()


async def _ask(bus: BusClient) -> list[Status]:
    from hubwire.runtime.status import ask_status

    return await ask_status(bus, ANSWER_SECONDS)


async def _look(bus: BusClient, before: list[Status], now: list[Status]) -> Glance:
    from hubwire.cli.status_view import glance
    from hubwire.runtime.leases import read_leases

    holders: dict[str, str] = {}
    for key, lease in (await read_leases(bus)).items():
        role, _, run = key.partition(".")
        if lease["age_seconds"] < lease["ttl_seconds"]:
            holders[run] = role
    return glance(before, now, holders)


def _text(seen: Glance, out: Output) -> str:
    rates = seen.rates
    count = {role: sum(one["role"] == role for one in seen.processes) for role in _ROLES}
    head = ", ".join(
        f"{number} {name}{'' if number == 1 else 's'}" for name, number in count.items() if number
    )
    well = out.style("all is well", "green") if not seen.problems else out.style("not well", "red", "bold")
    lines = [
        f"{out.style(head or 'nobody answers', 'bold')}: {well}",
        "",
        table(
            [_row(one, seen) for one in seen.processes],
            ("ROLE", "NAME", "RUN", "WHERE", "UP", "LOAD", "MEMORY", "HAS"),
        ),
        "",
        f"Partitions   {sum(seen.partitions.values())} of 256 are owned",
        f"Connections  {seen.connections}, {seen.sessions} reliable sessions; "
        f"{rates.opened:.1f} opened and {rates.closed:.1f} closed a second",
        f"Messages     {rates.messages:.1f} a second in and out, {_bytes(rates.bytes)} a second; "
        f"{rates.published:.1f} published; REST {rates.rest:.1f} requests a second",
        f"Delivery     {_delivery(rates.delivery_p50, rates.delivery_p99)}",
    ]
    if seen.problems:
        lines += ["", out.style("Problems", "bold"), *(f"  {problem}" for problem in seen.problems)]
    return "\n".join(lines)


_ROLES = {"router": 0, "gateway": 0, "controlplane": 0}


def _row(one: Any, seen: Glance) -> tuple[str, ...]:
    from hubwire.cli.status_view import CONNECTIONS, LOAD, MEMORY

    numbers = one["numbers"]
    has = ""
    if one["role"] == "router":
        has = f"{seen.partitions.get(one['run'], 0)} partitions"
    elif one["role"] == "gateway":
        has = f"{numbers.get(CONNECTIONS, 0):.0f} connections"
    return (
        one["role"],
        one["name"],
        one["run"],
        f"{one['host']}:{one['pid']}",
        _duration(time.time() - one["since"]),
        f"{numbers.get(LOAD, 0):.0%}",
        _bytes(numbers.get(MEMORY, 0)),
        has if not one["problems"] else f"{has}, not ready".removeprefix(", "),
    )


def _delivery(p50: float | None, p99: float | None) -> str:
    if p50 is None or p99 is None:
        return "nothing was measured"
    return f"half within {_milliseconds(p50)}, 99 % within {_milliseconds(p99)}"


def _milliseconds(seconds: float) -> str:
    return "more than 10 s" if seconds == float("inf") else f"{seconds * 1000:g} ms"


def _duration(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds // size:.0f}{unit}"
    return f"{max(0.0, seconds):.0f}s"


def _bytes(number: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024 or unit == "GiB":
            return f"{number:.0f} {unit}"
        number /= 1024
    return ""
