"""Writes docs/compatibility.md from docs/compatibility.json, the outcomes of the conformance tests.

    pytest tests/conformance tests/browser tests/upstream --compat-report docs/compatibility.json
    python docs/generate_compatibility.py

With --check it writes nothing and fails when the page is not what it would write.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS.parent / "tests"))

from support import inventory  # noqa: E402 - found by the line above

RESULTS = DOCS / "compatibility.json"
PAGE = DOCS / "compatibility.md"
TOPOLOGIES = {"up": "`hubwire up`", "cluster": "cluster"}
VERSION_OF = {
    inventory.SERVICE: "azure-messaging-webpubsubservice",
    inventory.SERVICE_AIO: "azure-messaging-webpubsubservice",
    inventory.CLIENT: "azure-messaging-webpubsubclient",
    inventory.CLIENT_AIO: "azure-messaging-webpubsubclient",
    inventory.PROTOBUF: "protobuf",
    inventory.JS_SERVICE: "@azure/web-pubsub",
    inventory.JS_CLIENT: "@azure/web-pubsub-client",
    inventory.EXPRESS: "@azure/web-pubsub-express",
}
INTRODUCTION = """\
# Compatibility

Generated from the outcomes of the conformance tests by `docs/generate_compatibility.py`; do not edit.

Hubwire is tested with the unmodified packages of Azure Web PubSub, with plain WebSocket clients, and with a
real browser. Every line below stands for at least one test that passed in both topologies: `hubwire up`
(everything on one machine), and a cluster of three gateways, two routers and two control planes over three
NATS servers. A dash means that this version does not have it; the reason stands beside it.

Client packages open the reliable subprotocol unless they are told otherwise. Both are tested; the plain is
`protocol_type=WebPubSubProtocolType.JSON` in Python, `protocol: WebPubSubJsonProtocol()` in JavaScript.

To run the tests: `pytest tests/conformance tests/browser tests/upstream`.

## Versions tested

| package | version |
| --- | --- |
"""
TABLE_HEAD = f"| | {' | '.join(TOPOLOGIES.values())} | notes |\n| --- | --- | --- | --- |\n"
MARKS = {"passed": "yes", "failed": "**failed**"}


def render(results: dict[str, Any]) -> str:
    """The page. An item of the inventory without any outcome says so."""
    versions: dict[str, str] = results["versions"]
    outcomes = {(row["area"], row["item"]): row for row in results["results"]}
    parts = [INTRODUCTION + "".join(f"| {name} | {version} |\n" for name, version in versions.items())]
    areas = inventory.inventory()
    for area, item in outcomes:
        if item not in areas.setdefault(area, []):
            areas[area].append(item)  # what was shown beyond the inventory
    for area, items in areas.items():
        version = versions.get(VERSION_OF.get(area, ""))
        heading = f"## {area}" + (f", {version}" if version else "")
        if area == inventory.PROTOBUF:
            heading = f"## {area} (by the protobuf library {version})"
        parts.append(
            f"\n{heading}\n\n| | {' | '.join(TOPOLOGIES.values())} | notes |\n| --- | --- | --- | --- |\n"
        )
        parts += [_row(area, item, outcomes.get((area, item), {})) for item in items]
    return "".join(parts)


def _row(area: str, item: str, outcome: dict[str, str]) -> str:
    missing = inventory.NOT_SERVED.get((area, item), "")
    note = missing or inventory.NOTES.get((area, item), "")
    untold = "–" if missing else "not tested"
    marks = [MARKS.get(outcome.get(topology, outcome.get("any", "")), untold) for topology in TOPOLOGIES]
    return f"| `{item}` | {' | '.join(marks)} | {note} |\n"


def main(arguments: list[str]) -> int:
    text = render(json.loads(RESULTS.read_text()))
    if arguments == ["--check"]:
        if not PAGE.exists() or PAGE.read_text() != text:
            print(f"{PAGE} is not what {RESULTS} gives; run: python docs/generate_compatibility.py")
            return 1
        return 0
    PAGE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
