"""A pytest plugin that writes down what was shown to work: area, item, topology, outcome.

    @pytest.mark.compat("REST", "SendToAll")             # known beforehand
    def test_...(compat):
        compat.used("Roles", "webpubsub.sendToGroup")    # found out on the way
        client = compat.watch(client, "the SDK")         # every method that is called counts

With `--compat-report FILE` the outcomes are written as JSON; docs/generate_compatibility.py makes
docs/compatibility.md of them. An item that any test saw fail is failed, whatever other tests say; tests
that were skipped say nothing.
"""

from __future__ import annotations

import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from support.inventory import versions

_USED = pytest.StashKey[list[tuple[str, str]]]()
_NO_TOPOLOGY = "any"
Results = dict[tuple[str, str], dict[str, str]]


class Compat:
    """What one test makes use of."""

    def __init__(self, used: list[tuple[str, str]]) -> None:
        self._used = used

    def used(self, area: str, *items: str) -> None:
        self._used += [(area, item) for item in items]

    def watch(self, client: Any, area: str) -> Any:
        """The same client, but each public method called on it counts for `area` under its name."""
        return _Watched(client, area, self)


class _Watched:
    def __init__(self, client: Any, area: str, compat: Compat) -> None:
        self._client, self._area, self._compat = client, area, compat

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        if callable(found) and not name.startswith("_"):
            self._compat.used(self._area, name)
        return found


class CompatPlugin:
    """Collects the outcomes of one run."""

    def __init__(self) -> None:
        self.results: Results = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, Any, Any]:
        report = yield
        if report.when == "call" or (report.when == "setup" and report.failed):
            items = [*item.stash.setdefault(_USED, [])]
            for mark in item.iter_markers("compat"):
                area, *names = mark.args
                items += [(area, name) for name in names]
            if items and not report.skipped:
                callspec = getattr(item, "callspec", None)
                topology = callspec.params.get("topology", _NO_TOPOLOGY) if callspec else _NO_TOPOLOGY
                self.record(items, topology, report.passed)
        return report

    def record(self, items: list[tuple[str, str]], topology: str, passed: bool) -> None:
        for key in items:
            outcomes = self.results.setdefault(key, {})
            if not passed or outcomes.get(topology) != "failed":
                outcomes[topology] = "passed" if passed else "failed"

    def report(self) -> dict[str, Any]:
        rows = [
            {"area": area, "item": item, **dict(sorted(outcomes.items()))}
            for (area, item), outcomes in sorted(self.results.items())
        ]
        return {"versions": versions(), "results": rows}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--compat-report", metavar="FILE", help="write what was shown to work, as JSON")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "compat(area, *items): what the test shows to work, for the docs")
    config.pluginmanager.register(CompatPlugin(), "compat-results")


def pytest_sessionfinish(session: pytest.Session) -> None:
    path = session.config.getoption("--compat-report")
    if path:
        plugin: Any = session.config.pluginmanager.get_plugin("compat-results")
        Path(path).write_text(json.dumps(plugin.report(), indent=1, ensure_ascii=False) + "\n")


@pytest.fixture
def compat(request: pytest.FixtureRequest) -> Compat:
    return Compat(request.node.stash.setdefault(_USED, []))
