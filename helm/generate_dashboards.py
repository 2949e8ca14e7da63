"""Writes the Grafana dashboards of the chart, helm/hubwire/dashboards/*.json.

python helm/generate_dashboards.py           # rewrites them
python helm/generate_dashboards.py --check   # exit code 1 when they are not as they should be
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from dashboard_panels import DASHBOARDS, Panel

FOLDER = Path(__file__).with_name("hubwire") / "dashboards"
WIDTH, HEIGHT = 8, 7
"""A panel's, in units of Grafana's grid, which is 24 wide."""
SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def dashboard(name: str) -> dict[str, Any]:
    title, rows = DASHBOARDS[name]
    panels: list[dict[str, Any]] = []
    y = 0
    for row in rows:
        panels.append(
            {
                "id": len(panels) + 1,
                "type": "row",
                "title": row.title,
                "collapsed": False,
                "gridPos": {"x": 0, "y": y, "w": 24, "h": 1},
                "panels": [],
            }
        )
        y += 1
        for number, panel in enumerate(row.panels):
            x, down = WIDTH * (number % 3), HEIGHT * (number // 3)
            panels.append(_panel(panel, len(panels) + 1, x, y + down))
        y += HEIGHT * ((len(row.panels) + 2) // 3)
    return {
        "uid": f"hubwire-{name}",
        "title": title,
        "tags": ["hubwire"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "graphTooltip": 1,
        "links": [{"type": "dashboards", "title": "Hubwire", "tags": ["hubwire"], "asDropdown": True}],
        "templating": {"list": _variables()},
        "panels": panels,
    }


def _panel(panel: Panel, number: int, x: int, y: int) -> dict[str, Any]:
    return {
        "id": number,
        "type": "stat" if panel.stat else "timeseries",
        "title": panel.title,
        "description": panel.about,
        "datasource": SOURCE,
        "gridPos": {"x": x, "y": y, "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + at), "datasource": SOURCE, "expr": expression, "legendFormat": legend}
            for at, (expression, legend) in enumerate(panel.queries)
        ],
    }


def _variables() -> list[dict[str, Any]]:
    def query(name: str, label: str, text: str) -> dict[str, Any]:
        return {
            "name": name,
            "label": label,
            "type": "query",
            "datasource": SOURCE,
            "query": {"query": text, "refId": name},
            "refresh": 2,
            "sort": 1,
            "multi": True,
            "includeAll": True,
            "allValue": ".*",
            "current": {"text": "All", "value": "$__all"},
        }

    return [
        {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"},
        query("job", "Job", "label_values(hubwire_process_ready, job)"),
        query("hub", "Hub", "label_values(webpubsub_server_active_connections, hub)"),
    ]


def text_of(name: str) -> str:
    """What the file of a dashboard should be."""
    return json.dumps(dashboard(name), indent=2) + "\n"


def main() -> int:
    if "--check" in sys.argv[1:]:
        return int(any((FOLDER / f"{name}.json").read_text() != text_of(name) for name in DASHBOARDS))
    for name in DASHBOARDS:
        (FOLDER / f"{name}.json").write_text(text_of(name))
    return 0


if __name__ == "__main__":
    sys.exit(main())
