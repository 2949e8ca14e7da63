"""The chart's schema and table of values say what its values.yaml says."""

from __future__ import annotations

import json
import re
import runpy
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "hubwire"


@pytest.fixture(scope="module")
def generator() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "docs" / "generate_chart.py"))


def test_schema_and_table_are_those_that_are_generated(generator: dict[str, Any]) -> None:
    for path, text in generator["files"]().items():
        assert path.read_text() == text, "run: python docs/generate_chart.py"


def test_every_rule_is_of_a_value_that_exists(generator: dict[str, Any]) -> None:
    paths = [value.path for value in generator["values"]()]
    names = {path.rpartition(".")[2] for path in paths}
    assert {rule for rule in generator["RULES"] if rule not in paths and rule not in names} == set()


def test_the_defaults_pass_the_schema() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    jsonschema.Draft7Validator.check_schema(schema)
    jsonschema.validate(yaml.safe_load((CHART / "values.yaml").read_text()), schema)


def test_every_value_is_used_by_a_template(generator: dict[str, Any]) -> None:
    text = "\n".join(path.read_text() for path in (CHART / "templates").rglob("*.*"))
    for value in generator["values"]():
        name = value.path.rpartition(".")[2]
        assert re.search(rf"\.{name}\b", text), f"{value.path} does nothing"


def test_chart_and_package_have_one_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == version


def test_the_image_has_every_package() -> None:
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    copied = (ROOT / "Dockerfile").read_text().splitlines()
    sent = (ROOT / ".dockerignore").read_text().splitlines()
    for package in wheel["packages"]:
        assert f"COPY {package} {package}" in copied
        assert f"!{package}" in sent
