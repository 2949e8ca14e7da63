"""docs/operations.md says what the code says: settings, and events of the log."""

from __future__ import annotations

import ast
import json
import re
import runpy
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "operations.md").read_text()
_PACKAGES = ("hubwire", "gateway", "router", "controlplane")
_LEVELS = ("info", "warning", "error")
# Logged by name and level that are chosen at run time.
_INDIRECT = {"child_ready", "nats_server_log"}


def test_the_table_of_settings_is_the_one_that_is_generated() -> None:
    generator = runpy.run_path(str(ROOT / "docs" / "generate_settings.py"))
    assert generator["page"]() == PAGE, "run: python docs/generate_settings.py"


def test_every_key_of_the_config_file_is_shown() -> None:
    schema = json.loads((ROOT / "docs" / "config.schema.json").read_text())
    own = [name for name in schema["$defs"] if name.endswith(("Config", "Limits"))]
    keys = {key for name in own for key in schema["$defs"][name]["properties"]}
    assert len(keys) > 10
    assert {key for key in keys if not re.search(rf"^ +{key}:", PAGE, re.MULTILINE)} == set()


def events_in(path: Path) -> Iterator[str]:
    """The events that a module logs at info, warning or error (not tracebacks: those are bugs)."""
    for node in ast.walk(ast.parse(path.read_text())):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in _LEVELS
            and ast.unparse(node.func.value).lstrip("_").endswith("log")
            and node.args
            and isinstance(node.args[0], ast.Constant)
        ):
            yield str(node.args[0].value)


def logged() -> set[str]:
    paths = [path for package in _PACKAGES for path in (ROOT / package).rglob("*.py")]
    return {event for path in paths for event in events_in(path)} | _INDIRECT


def documented() -> set[str]:
    rows = PAGE[PAGE.index("| event | level |") :].splitlines()[2:]
    table = [row for row in rows if row.startswith("|")]
    return {word.strip(" `") for row in table for word in row.split("|")[1].split(",")}


def test_every_event_of_the_log_is_explained() -> None:
    said, explained = logged(), documented()
    assert len(explained) > 40
    assert said - explained == set(), "add a row to the table under Logs in docs/operations.md"
    assert explained - said == set(), "nobody logs these any more"


PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("examples/*.md"),
        *ROOT.glob("examples/*/*.md"),
    ]
)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_the_pages_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text())
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert missing == []
