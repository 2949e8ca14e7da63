"""Fixtures that several kinds of tests share."""

from __future__ import annotations

import re
import secrets
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from support.application import Application
from support.inventory import JS_FOLDER
from support.topology import HANDLED_HUB, HubwireCluster, HubwireUp, Topology
from support.world import World

pytest_plugins = ["support.compat"]

# How long an example may take says what else the machine has to do, and nothing of the code.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

Running = HubwireUp | HubwireCluster
HERE = Path(__file__).parent
TOPOLOGIES: dict[str, Callable[..., Running]] = {"up": HubwireUp, "cluster": HubwireCluster}


SHARING = re.compile("/(conformance|browser)/")
"""The folders whose tests share a topology."""

LONGEST_FIRST = ["conformance", "browser", "chaos", "examples", "integration", "upstream", "property", "unit"]
"""The order of the folders with several workers: what takes minutes begins, so that none waits at the end for
one long file of another."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: _place(item.path.relative_to(HERE).parts[0]))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With several workers the tests of a topology share it, those of a file stay together.

    `--dist loadgroup` of pytest-xdist 3.8 does nothing with pytest 9.2, whose node ids it cannot change.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByService(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::", 1)[0]
            shared = re.search(r"[\[-](up|cluster)[\]-]", nodeid) if SHARING.search(file) else None
            return shared[1] if shared else file

    return ByService(config, log)


def _place(folder: str) -> int:
    return LONGEST_FIRST.index(folder) if folder in LONGEST_FIRST else len(LONGEST_FIRST)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """A failed test shows what the service logged."""
    report = yield
    topology = getattr(item, "funcargs", {}).get("topology")
    if report.failed and topology is not None:
        report.sections.append(("logs of the service", topology.tail()))
    return report


@pytest.fixture(scope="session", params=list(TOPOLOGIES))
def topology(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The whole service: first as `hubwire up`, then as a cluster. One of each serves all tests, so a
    test uses names of its own and restarts nothing."""
    with TOPOLOGIES[request.param](tmp_path_factory.mktemp(request.param)) as running:
        yield running


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, Any, Any]:
    """A worker has all tests of a topology in a row; after the last one it would only take processor time."""
    done = yield
    used = "topology" in getattr(item, "fixturenames", ())
    if used and nextitem is not None and "topology" not in getattr(nextitem, "fixturenames", ()):
        item._fixtureinfo.name2fixturedefs["topology"][-1].finish(item._request)
    return done


@pytest.fixture(scope="session")
def javascript_packages() -> None:
    """The vendor's JavaScript packages of tests/conformance/js, installed by `npm ci` if they are not yet."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("Node.js and npm are not installed")
    if not (JS_FOLDER / "node_modules").is_dir():
        done = subprocess.run(
            ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"],
            cwd=JS_FOLDER,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, f"npm ci failed: {done.stderr}"


@pytest.fixture
async def world(topology: Topology) -> AsyncIterator[World]:
    """A hub of the test's own, and clients of it that are closed afterwards."""
    async with World(topology, f"hub_{secrets.token_hex(6)}") as one:
        yield one


@pytest.fixture(scope="session")
def application(topology: Topology) -> Iterator[Application]:
    """The application server that gets the events of the hub with an event handler."""
    with Application(topology.handler_port) as running:
        yield running


@pytest.fixture
async def handled(application: Application, topology: Topology) -> AsyncIterator[World]:
    """That hub, which all tests share, and clients of it that are closed afterwards."""
    async with World(topology, HANDLED_HUB) as one:
        yield one
