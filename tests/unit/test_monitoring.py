"""Dashboards and alerts of the chart ask for what processes export, and each alert has its page.

That the documented metrics are what processes export is in tests/integration/test_metrics.py."""

from __future__ import annotations

import json
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.promql import Asked, asked

from hubwire.runtime.meters import Meter

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "hubwire"
RUNBOOKS = ROOT / "docs" / "runbooks"
ROOMS: dict[str, tuple[Meter, ...]] = runpy.run_path(str(ROOT / "docs" / "generate_metrics.py"))["ROOMS"]
GENERATOR: dict[str, Any] = runpy.run_path(str(ROOT / "helm" / "generate_dashboards.py"))
OF_SCRAPER = {"job", "instance", "le"}


def series() -> dict[str, set[str]]:
    """Every series that processes export, and its labels."""
    found: dict[str, set[str]] = {}
    for meter in (meter for meters in ROOMS.values() for meter in meters):
        labels = {label.replace(".", "_") for label in meter.labels}
        if meter.kind == "histogram":
            found |= {f"{meter.prometheus}_{suffix}": labels for suffix in ("sum", "count")}
            found[f"{meter.prometheus}_bucket"] = labels | {"le"}
        else:
            found[meter.prometheus] = labels
    return found


EXPORTED = series()


def dashboards() -> list[Path]:
    return sorted((CHART / "dashboards").glob("*.json"))


def alerts() -> list[dict[str, Any]]:
    groups = [
        group
        for path in (CHART / "alerts").glob("*.yaml")
        for group in yaml.safe_load(path.read_text())["groups"]
    ]
    return [rule for group in groups for rule in group["rules"]]


def faults(expression: str) -> Iterator[str]:
    found = asked(expression)
    yield from (f"no process exports {name}" for name in found.metrics - EXPORTED.keys())
    for metric, label in found.matched:
        if label not in EXPORTED.get(metric, set()) | OF_SCRAPER:
            yield f"{metric} has no label {label}"
    known = set().union(*(EXPORTED.get(name, set()) for name in found.metrics)) | OF_SCRAPER
    yield from (f"nothing in it has the label {label}" for label in found.grouped - known)


def test_there_is_something_to_look_at() -> None:
    assert [path.stem for path in dashboards()] == ["gateway", "hub", "overview", "router-and-bus"]
    assert len(alerts()) > 10


@pytest.mark.parametrize("path", dashboards(), ids=lambda path: path.stem)
def test_every_panel_asks_for_what_is_exported(path: Path) -> None:
    panels = [panel for panel in json.loads(path.read_text())["panels"] if panel["type"] != "row"]
    assert len(panels) > 9
    for panel in panels:
        assert panel["targets"], panel["title"]
        for target in panel["targets"]:
            assert list(faults(target["expr"])) == [], f"{panel['title']}: {target['expr']}"
            legend = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            assert legend <= asked(target["expr"]).grouped, f"{panel['title']}: {target['legendFormat']}"


@pytest.mark.parametrize("name", GENERATOR["DASHBOARDS"])
def test_the_dashboards_are_those_that_are_generated(name: str) -> None:
    found = (CHART / "dashboards" / f"{name}.json").read_text()
    assert GENERATOR["text_of"](name) == found, "run: python helm/generate_dashboards.py"


def test_no_two_panels_of_a_dashboard_lie_on_each_other() -> None:
    for path in dashboards():
        taken: set[tuple[int, int]] = set()
        for panel in json.loads(path.read_text())["panels"]:
            at = panel["gridPos"]
            cells = {
                (x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])
            }
            assert at["x"] + at["w"] <= 24
            assert not taken & cells, f"{path.stem}: {panel['title']}"
            taken |= cells


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
def test_every_alert_asks_for_what_is_exported_and_has_a_page(rule: dict[str, Any]) -> None:
    assert list(faults(rule["expr"])) == []
    assert rule["labels"]["severity"] in ("warning", "critical")
    page = RUNBOOKS / f"{rule['alert']}.md"
    assert rule["annotations"]["runbook_url"] == str(page.relative_to(ROOT))
    text = page.read_text()
    assert text.startswith(f"# {rule['alert']}\n")
    assert "## What to do" in text
    said = " ".join(rule["annotations"].values())
    labels = set(re.findall(r"\$labels\.(\w+)", said))
    of_result = asked(rule["expr"])
    every = set().union(*(EXPORTED[name] for name in of_result.metrics)) | {"job", "instance"}
    assert labels <= (of_result.grouped or every), "a label that the alert does not have"


def test_every_page_is_of_an_alert_and_names_metrics_that_are_there() -> None:
    names = {rule["alert"] for rule in alerts()}
    assert {path.stem for path in RUNBOOKS.glob("*.md")} == names
    for path in RUNBOOKS.glob("*.md"):
        told = set(re.findall(r"`((?:hubwire|webpubsub|http|process)_[a-z_]+)`", path.read_text()))
        families = EXPORTED.keys() | {name.removesuffix("_sum") for name in EXPORTED}
        assert told - families == set(), path.name


def test_expressions_are_read() -> None:
    expression = (
        'sum by (hub) (rate(a_total{hub=~"$hub", kind!="}x"}[5m])) / on (job) b{} > bool 0.5 or vector(0)'
    )
    assert asked(expression) == Asked(
        {"a_total", "b"}, {("a_total", "hub"), ("a_total", "kind")}, {"hub", "job"}
    )
    assert list(faults('sum by (user) (webpubsub_messages_total{hub="x", nothing="y"}) + nobody')) == [
        "no process exports nobody",
        "webpubsub_messages_total has no label nothing",
        "nothing in it has the label user",
    ]
    for wrong in ('a{b="c"', "sum by (a", "a ? b"):
        with pytest.raises(ValueError, match="not"):
            asked(wrong)
