"""The report of a run as one HTML page without anything from elsewhere, and the table beside Azure's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from loadtest.locustfiles.scenarios import SCENARIOS

WIDTH, HEIGHT, LEFT = 720, 190, 64
COLOURS = ("#2f6fde", "#d9822b", "#0f9960")


def lines(title: str, unit: str, points: Sequence[Mapping[str, float]], names: Mapping[str, str]) -> str:
    """A plot of some members of the points over `at` (seconds), as SVG."""
    top = max([point[name] for point in points for name in names] or [0.0]) or 1.0
    last = max([point["at"] for point in points] or [0.0]) or 1.0
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT + 50}" width="{WIDTH}" '
        f'role="img" font-family="sans-serif" font-size="12"><title>{escape(title)}</title>',
        f'<text x="{LEFT}" y="14">{escape(title)} ({escape(unit)})</text>',
    ]
    for share in (0.0, 0.5, 1.0):
        y = 24 + HEIGHT * (1 - share)
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - 8}" y1="{y:.0f}" y2="{y:.0f}" stroke="#d8dee4"/>'
            f'<text x="{LEFT - 6}" y="{y + 4:.0f}" text-anchor="end">{top * share:,.4g}</text>'
        )
    for position, (name, label) in enumerate(names.items()):
        colour = COLOURS[position % len(COLOURS)]
        across = [LEFT + (WIDTH - LEFT - 8) * point["at"] / last for point in points]
        up = [24 + HEIGHT * (1 - point[name] / top) for point in points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(across, up, strict=True))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(
            f'<text x="{LEFT + 130 * position}" y="{HEIGHT + 44}" fill="{colour}">{escape(label)}</text>'
        )
    parts.append(f'<text x="{WIDTH - 8}" y="{HEIGHT + 44}" text-anchor="end">{last:,.0f} s</text></svg>')
    return "".join(parts)


def page(result: Mapping[str, Any]) -> str:
    """The whole report."""
    account, scenario = result["account"], SCENARIOS[result["scenario"]]
    steps = account["steps"]
    counted = [(name, account[name]) for name in account if isinstance(account[name], int)]
    times = [(name, account[f"{name}_ms"]) for name in ("latency", "answers", "behind")]
    head = ("p50", "p90", "p99", "p999", "max")
    body = [
        f"<h1>{escape(scenario.title)}</h1>",
        f"<p><strong>{escape(result['verdict'])}</strong></p>",
        _table(("counted", "messages"), counted),
        _table(("milliseconds", *head), [(name, *(one[each] for each in head)) for name, one in times]),
        lines("Messages", "a second", steps, {"sent": "sent", "delivered": "delivered"}),
        lines(
            "Latency, from before it was sent until it was read",
            "ms",
            steps,
            {"p50_ms": "p50", "p99_ms": "p99"},
        ),
        lines("The busiest load generator: CPU", "cores", steps, {"cpu": "cpu"}),
        lines("The busiest load generator: lag of its loop", "ms", steps, {"lag_ms": "worst"}),
        "<h2>Beside Azure</h2>",
        _table(AZURE_HEAD, [_beside(result)]),
        "<h2>Conditions</h2>",
        _table(("what", "value"), [(name, str(value)) for name, value in result["conditions"].items()]),
    ]
    style = (
        "body{font-family:sans-serif;max-width:760px;margin:2em auto;color:#24292f}"
        "td,th{padding:2px 12px 2px 0;text-align:left}"
    )
    title = f"Load test: {scenario.title}"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{style}</style>{''.join(body)}</html>\n"
    )


AZURE_HEAD = (
    "scenario",
    "connections",
    "in /s",
    "out /s",
    "MB/s out",
    "p99 ms",
    "lost",
    "twice",
    "Azure, 1 unit",
)


def _beside(result: Mapping[str, Any]) -> tuple[str, ...]:
    account, told = result["account"], result["conditions"]
    scenario = SCENARIOS[result["scenario"]]
    out = account["delivered"] / told["seconds"]
    return (
        scenario.title,
        f"{told['connections']:,}",
        f"{account['sent'] / told['seconds']:,.0f}",
        f"{out:,.0f}",
        f"{out * told['bytes'] / 1e6:.2f}",
        f"{account['latency_ms']['p99']:,.0f}",
        f"{account['lost']:,}",
        f"{account['twice']:,}",
        f"{scenario.connections:,} connections, {scenario.rate:,.0f} in, {scenario.azure_out:,.0f} out",
    )


def markdown(results: Iterable[Mapping[str, Any]]) -> str:
    """The table of several runs, for a page of documentation."""
    rows = [AZURE_HEAD, tuple("---" for _ in AZURE_HEAD), *map(_beside, results)]
    return "".join("| " + " | ".join(row) + " |\n" for row in rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    def row(tag: str, cells: Iterable[object]) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(_shown(cell))}</{tag}>" for cell in cells) + "</tr>"

    return "<table>" + row("th", head) + "".join(row("td", one) for one in rows) + "</table>"


def _shown(value: object) -> str:
    return f"{value:,}" if isinstance(value, int | float) else str(value)
