"""python -m loadtest.bench ROW...: measure rows of the table of performance; without a row, list them.

Each row runs Hubwire, the peers that are installed and a bare send() loop one after the other, several times
over, and says medians. With `--keep` the result is kept in loadtest/results, from which docs/performance.md
is made; with `--compare` it is compared with what is kept there, and the exit code is 1 when a row became
worse. `peers` says which peers are here. Linux only; loopback only.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

from loadtest.bench import machine, peers, results
from loadtest.bench.measured_processes import end_in_order
from loadtest.bench.profile import shares
from loadtest.bench.rows import Options, Run
from loadtest.bench.table import ROWS, Row
from loadtest.bench.targets import Missing


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("rows", nargs="*", help="names of rows, or all, or peers")
    parser.add_argument("--runs", type=int, help="default: 5; 3 when short")
    parser.add_argument("--short", action="store_true", help="less of everything, for a first look")
    parser.add_argument(
        "--keep", action="store_true", help="keep results in loadtest/results; with --profile only that"
    )
    parser.add_argument("--compare", action="store_true", help="with the results that are kept")
    parser.add_argument("--profile", action="store_true", help="where CPU goes, by function (py-spy)")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--peers", help="only these, comma separated; none for none")
    for name, kind in (("members", int), ("rounds", int), ("clients", int), ("calls", int)):
        parser.add_argument(f"--{name}", type=kind)
    parser.add_argument("--seconds", type=float, help="of publishing at a rate")
    parser.add_argument("--idle-seconds", type=float)
    return parser


def _options(args: argparse.Namespace) -> Options:
    options = Options(profile=args.profile)
    if args.short:
        options.rounds, options.clients, options.calls = 100, 2000, 500
        options.seconds, options.idle_seconds = 2.0, 25.0
    for name in ("members", "rounds", "clients", "calls", "seconds", "idle_seconds"):
        if (value := getattr(args, name)) is not None:
            setattr(options, name, value)
    if args.peers is not None:
        options.peers = tuple(one.strip() for one in args.peers.split(",") if one.strip() != "none")
    return options


def versions() -> dict[str, str]:
    """Of the peers: a version, or why there is none."""
    found = {}
    for peer in peers.ALL:
        try:
            found[peer.name] = peer.version()
        except Missing as why:
            found[peer.name] = f"missing: {why}"
    return found


def run_rows(rows: Sequence[Row], runs: int, options: Options, command: str) -> list[dict[str, Any]]:
    """Interleaved: every row once, then again, so that a busy minute of the machine falls on all of them."""
    gathered: dict[str, list[Run]] = {row.name: [] for row in rows}
    loads: dict[str, list[float]] = {row.name: [] for row in rows}
    failed: dict[str, list[str]] = {row.name: [] for row in rows}
    samples: dict[str, dict[str, Counter[str]]] = {row.name: {} for row in rows}
    for number in range(runs):
        for row in rows:
            print(f"run {number + 1} of {runs}: {row.name}", file=sys.stderr)
            loads[row.name].append(machine.load())
            options.samples = samples[row.name]
            try:
                gathered[row.name].append(row.measure(options))
            except (OSError, RuntimeError) as fault:
                # The other runs are worth something; but none at all is no result.
                failed[row.name].append(f"run {number + 1}: {fault}")
                print(f"{row.name} failed: {fault}", file=sys.stderr)
                if len(failed[row.name]) == runs:
                    raise
    facts, known = machine.facts(), versions()
    return [
        results.result(
            row,
            gathered[row.name],
            {
                "command": f"python -m loadtest.bench {row.name}{command}",
                "load_before": loads[row.name],
                "machine": facts,
                "peers": known,
                "not_measured": dict(options.missing),
                "failed": failed[row.name],
                **_profile(samples[row.name], f"{row.name}{command}" if options.profile else ""),
            },
        )
        for row in rows
    ]


def _profile(samples: dict[str, Counter[str]], command: str) -> dict[str, Any]:
    """Of a row that was run with --profile, else nothing."""
    said = f"python -m loadtest.bench {command} --profile"
    return {"profile": shares(samples), "profile_command": said} if command else {}


def say(found: dict[str, Any]) -> None:
    print(f"\n{found['row']}. {found['title']} (medians of {len(found['runs'])} runs)")
    for target, figures in found["median"].items():
        print(f"  {target:18} " + "  ".join(f"{name} {value:g}" for name, value in figures.items()))
    for head in found["heads"]:
        value = f"{head['median']:.2f}" if "median" in head else "not measured"
        print(f"  => {head['title']}: {value} {head['unit']} (to reach: {head['reach']:g})")
    for process, functions in found.get("profile", {}).items():
        print(f"  {process}:")
        for name, part in functions:
            print(f"    {part:6.1%}  {name}")


def _command(args: argparse.Namespace) -> str:
    """The flags that a result depends on, for whoever wants to measure again."""
    known = [
        f" --{name.replace('_', '-')} {getattr(args, name)}"
        for name in ("runs", "members", "rounds", "clients", "calls", "seconds", "idle_seconds", "peers")
        if getattr(args, name) is not None
    ]
    return (" --short" if args.short else "") + "".join(known)


def _profile_of(found: dict[str, Any] | None) -> dict[str, Any]:
    return {key: found[key] for key in ("profile", "profile_command") if key in found} if found else {}


def main(argv: Sequence[str] | None = None) -> int:
    """0 when all was measured, 1 when a row became worse, 2 when there is no such row."""
    args = _parser().parse_args(argv)
    end_in_order()
    by_name = {row.name: row for row in ROWS}
    if args.rows == ["peers"]:
        for name, version in versions().items():
            print(f"{name:16} {version}")
        return 0
    names = list(by_name) if args.rows == ["all"] else args.rows
    if not names or any(name not in by_name for name in names):
        for row in ROWS:
            print(f"{row.number}  {row.name:10} {row.title}", file=sys.stderr)
        return 2 if names else 0
    found = run_rows(
        [by_name[name] for name in names],
        args.runs or (3 if args.short else 5),
        _options(args),
        _command(args),
    )
    if args.json:
        print(json.dumps(found))
    else:
        for one in found:
            say(one)
    complaints: list[str] = []
    for one in found:
        before = results.read(one["name"])
        if args.compare and before is not None:
            complaints += results.worse(one, before)
        if args.keep and not args.profile:
            results.write({**one, **_profile_of(before)})
        elif args.keep and before is not None:  # figures beside a profiler are no result, the profile is
            results.write({**before, **_profile_of(one)})
    for complaint in complaints:
        print(complaint, file=sys.stderr)
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
