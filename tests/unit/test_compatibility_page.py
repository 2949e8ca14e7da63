"""docs/compatibility.md is what the recorded outcomes give, and has a line for everything."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
from support import inventory

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "compatibility.md").read_text()


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "generate_compatibility", DOCS / "generate_compatibility.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def section(area: str) -> dict[str, list[str]]:
    """The rows of one area: by item, its other cells."""
    text = next(part for part in PAGE.split("\n## ") if part.startswith(area) and part[len(area)] in "\n, (")
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    return {cells[0].strip("`"): cells[1:] for cells in rows}


def test_the_page_is_what_the_outcomes_give(generator):
    assert generator.render(json.loads((DOCS / "compatibility.json").read_text())) == PAGE


@pytest.mark.parametrize("area", inventory.inventory())
def test_everything_of_an_area_was_shown_in_both_topologies_or_says_why_not(area):
    rows = section(area)
    assert set(inventory.inventory()[area]) <= set(rows)
    for item, cells in rows.items():
        expected = "–" if (area, item) in inventory.NOT_SERVED else "yes"
        assert cells[:2] == [expected, expected], item


def test_all_25_rest_operations_are_there():
    assert len(inventory.REST_OPERATIONS) == len(set(inventory.REST_OPERATIONS)) == 25
    assert set(section(inventory.REST)) == set(inventory.REST_OPERATIONS)


@pytest.mark.parametrize("area", list(inventory.python_classes()))
def test_all_methods_of_the_python_packages_are_there(area):
    assert set(section(area)) == set(inventory.public_methods(inventory.python_classes()[area]))


@pytest.mark.parametrize("area", list(inventory.JS_METHODS))
def test_all_methods_of_the_javascript_packages_are_there(area):
    assert set(section(area)) == set(inventory.JS_METHODS[area])


def test_the_page_names_the_versions_of_the_vendors_packages_that_are_installed():
    for name, version in inventory.versions().items():
        if name != "protobuf":  # not pinned
            assert f"| {name} | {version} |" in PAGE


def test_an_item_that_any_test_saw_fail_is_failed(generator):
    from support.compat import CompatPlugin

    plugin = CompatPlugin()
    item = (inventory.REST, "SendToAll")
    for passed in (True, False, True):
        plugin.record([item], "up", passed)
    plugin.record([item], "cluster", True)
    page = generator.render(plugin.report())
    assert "| `SendToAll` | **failed** | yes |  |" in page
    assert "| `SendToUser` | not tested | not tested |  |" in page
