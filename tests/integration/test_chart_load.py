"""The load test that the chart runs as a Job: its arguments do what they say, against `hubwire up`."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.rendered_chart import VALUES, needs_helm, one, pods_of, rendered
from support.up import Up

from loadtest.locustfiles.scenarios import PROTOCOLS, SCENARIOS

ROOT = Path(__file__).parents[2]
SCHEMA = ROOT / "helm" / "hubwire" / "values.schema.json"

pytestmark = [needs_helm, pytest.mark.timeout(300)]


def job() -> dict[str, Any]:
    """The container of the Job."""
    (container,) = pods_of(rendered(VALUES["a load test"]))["loadtest"]["spec"]["containers"]
    assert isinstance(container, dict)
    return container


@pytest.mark.skipif(
    importlib.util.find_spec("locust") is None,
    reason="locust is not installed: pip install 'hubwire[loadtest]'",
)
def test_locust_takes_the_arguments_loses_nothing_and_says_so_in_the_log(tmp_path: Path) -> None:
    places = {"/opt/hubwire": str(ROOT), "--out=/report": f"--out={tmp_path / 'report'}"}
    arguments = job()["args"]
    for inside, here in places.items():
        arguments = [argument.replace(inside, here) for argument in arguments]
    with Up(tmp_path, "--memory", "--workers", "1") as up:
        environment = {**os.environ, "HUBWIRE_CONNECTION_STRING": up.facts["connectionString"]}
        done = subprocess.run(
            [sys.executable, "-m", "locust", *arguments],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=250,
            check=False,
        )
    assert done.returncode == 0, done.stdout[-3000:]
    report = json.loads((tmp_path / "report" / "small-groups.json").read_text())
    told = VALUES["a load test"]["loadTest"]
    conditions = report["conditions"]
    assert {name: conditions[name] for name in ("protocol", "connections", "rate", "seconds")} == {
        name: told[name] for name in ("protocol", "connections", "rate", "seconds")
    }
    assert report["account"]["expected"] > 0
    assert report["account"]["lost"] == 0
    account = report["account"]
    counts = f"sent {account['sent']}, expected {account['expected']}, lost 0, twice 0, strange 0"
    assert f"small-groups: {counts}. {report['verdict']}" in done.stdout


def test_the_job_knows_the_service_and_its_key_and_keeps_the_report() -> None:
    objects = rendered(VALUES["a load test"])
    variables = {variable["name"]: variable for variable in job()["env"]}
    parts = dict(
        p.split("=", 1) for p in variables["HUBWIRE_CONNECTION_STRING"]["value"].strip(";").split(";")
    )
    assert parts["Endpoint"] == f"http://{one(objects, 'Service', 't-hubwire')['metadata']['name']}:80"
    # Kubernetes puts in the variable that stands before.
    assert parts["AccessKey"] == "$(ACCESS_KEY)"
    assert list(variables).index("ACCESS_KEY") < list(variables).index("HUBWIRE_CONNECTION_STRING")
    key = variables["ACCESS_KEY"]["valueFrom"]["secretKeyRef"]
    assert key["key"] in one(objects, "Secret", key["name"])["data"]
    (volume,) = (v for v in pods_of(objects)["loadtest"]["spec"]["volumes"] if v["name"] == "report")
    assert volume["persistentVolumeClaim"] == {"claimName": "reports"}


def test_the_scenarios_are_those_that_there_are_and_so_are_their_files() -> None:
    values = json.loads(SCHEMA.read_text())["properties"]["loadTest"]["properties"]
    assert set(values["scenario"]["enum"]) == set(SCENARIOS)
    assert set(values["protocol"]["enum"]) == set(PROTOCOLS)
    for scenario in SCENARIOS:
        place = f"loadtest/locustfiles/{scenario.replace('-', '_')}.py"
        assert (ROOT / place).exists()
        # A protocol that goes with all of them.
        arguments = {"enabled": True, "image": "i", "scenario": scenario, "protocol": "json"}
        pod = pods_of(rendered({"loadTest": arguments}))["loadtest"]["spec"]
        assert f"/opt/hubwire/{place}" in pod["containers"][0]["args"]
