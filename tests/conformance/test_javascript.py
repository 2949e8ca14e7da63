"""The vendor's JavaScript packages, unmodified: the tests in js/, each reported as one of ours.

They are run once a topology by Node's own test runner, and told where the service is.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support.application import Application
from support.inventory import JS_CLIENT, JS_FOLDER, JS_METHODS, JS_SERVICE, NOT_SERVED, RELIABLE
from support.topology import HANDLED_HUB, Topology

RUN_SECONDS = 90
_NAME = re.compile(r'^(?:scenario|method|covers)\("([^"]+)"', re.MULTILINE)
AREAS = {
    "client.test.mjs": JS_CLIENT,
    "reliable.test.mjs": JS_CLIENT,
    "group.test.mjs": JS_SERVICE,
    "service.test.mjs": JS_SERVICE,
}


class JsTest(NamedTuple):
    file: str
    name: str


def _tests() -> list[JsTest]:
    return [JsTest(path, name) for path in AREAS for name in _NAME.findall((JS_FOLDER / path).read_text())]


class Run(NamedTuple):
    """What one run of all files said: by name, whether it passed and why not."""

    results: dict[str, tuple[bool, str]]
    output: str


@pytest.fixture(scope="session")
def javascript(javascript_packages: None, topology: Topology, application: Application) -> Run:
    """All JavaScript tests, run against the topology."""
    told = {
        "gateways": topology.gateways,
        "controlPlanes": topology.control_planes,
        "key": topology.key,
        "secondaryKey": topology.secondary_key,
        "handledHub": HANDLED_HUB,
    }
    # --test-force-exit: the client's timers of 20 s go on for a while after it was stopped.
    command = ["node", "--test", "--test-force-exit", "--test-reporter=./reporter.mjs", *AREAS]
    environment = {**os.environ, "HUBWIRE_TEST": json.dumps(told)}
    done = subprocess.run(
        command,
        cwd=JS_FOLDER,
        env=environment,
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        check=False,
    )
    results = {}
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            told_by_node: dict[str, Any] = json.loads(line)
            results[told_by_node["name"]] = (told_by_node["passed"], told_by_node["why"])
    return Run(results, done.stdout + done.stderr)


@pytest.mark.parametrize("js", [pytest.param(test, id=test.name) for test in _tests()])
def test_js(javascript, compat, js):
    passed, why = javascript.results.get(js.name, (False, f"It was not run. {javascript.output[-3000:]}"))
    if js.name in JS_METHODS[AREAS[js.file]]:
        compat.used(AREAS[js.file], js.name)
    if js.file == "reliable.test.mjs":
        compat.used(RELIABLE, f"{JS_CLIENT} recovers by itself")
    assert passed, why


def test_every_js_test_is_reported(javascript):
    assert javascript.results.keys() - set(AREAS) == {test.name for test in _tests()}


def test_the_inventory_has_the_methods_that_are_exercised():
    """What the packages' classes have is compared in js/, by `covers`."""
    exercised = {test.name for test in _tests() if re.fullmatch(r"\w+\.\w+", test.name)}
    listed = {(area, name) for area, names in JS_METHODS.items() for name in names}
    assert exercised == {name for area, name in listed if (area, name) not in NOT_SERVED}


def test_the_lock_file_names_no_registry():
    text = Path(JS_FOLDER / "package-lock.json").read_text()
    assert '"resolved"' not in text
