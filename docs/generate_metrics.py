"""Writes the tables of docs/metrics.md from the metrics themselves.

python docs/generate_metrics.py           # rewrites the tables
python docs/generate_metrics.py --check   # exit code 1 when they are not as they should be
"""

from __future__ import annotations

import sys
from pathlib import Path

import controlplane.meters
import controlplane.oidc.tokens
import gateway.meters
import hubwire.runtime.bus_meters
import hubwire.runtime.certificates
import hubwire.runtime.process_meters
import router.meters
from hubwire.runtime.meters import Meter

PAGE = Path(__file__).with_name("metrics.md")
ROOMS: dict[str, tuple[Meter, ...]] = {
    "gateway": gateway.meters.METERS,
    "rest": controlplane.meters.METERS,
    "router": router.meters.METERS,
    "bus": hubwire.runtime.bus_meters.METERS,
    "oidc": controlplane.oidc.tokens.METERS,
    "tls": hubwire.runtime.certificates.METERS,
    "process": hubwire.runtime.process_meters.METERS,
}
_TYPES = {"counter": "counter", "gauge": "gauge", "updown": "gauge", "histogram": "histogram"}


def table(meters: tuple[Meter, ...]) -> str:
    rows = ["| metric | type | labels | what it is |", "|---|---|---|---|"]
    return "\n".join(rows + [_row(meter) for meter in meters])


def azure() -> str:
    """Azure Monitor's metrics, and ours that say the same."""
    rows = ["| Azure Monitor | here |", "|---|---|"]
    for meters in ROOMS.values():
        rows += [f"| {name} | `{m.prometheus}` |" for m in meters if m.azure for name in m.azure.split(", ")]
    return "\n".join(rows)


def _row(meter: Meter) -> str:
    labels = ", ".join(f"`{label.replace('.', '_')}`" for label in meter.labels)
    return f"| `{meter.prometheus}` | {_TYPES[meter.kind]} | {labels} | {meter.help} |"


def page() -> str:
    """What docs/metrics.md should be."""
    text = PAGE.read_text()
    parts = {name: table(meters) for name, meters in ROOMS.items()} | {"azure": azure()}
    for name, content in parts.items():
        begin, end = f"<!-- {name}: written by docs/generate_metrics.py -->", f"<!-- end of {name} -->"
        before, _, rest = text.partition(begin)
        _, _, after = rest.partition(end)
        text = f"{before}{begin}\n\n{content}\n\n{end}{after}"
    return text


def main() -> int:
    wanted = page()
    if "--check" in sys.argv[1:]:
        return int(PAGE.read_text() != wanted)
    PAGE.write_text(wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main())
