"""The Helm chart, rendered with several sets of values and checked without a cluster."""

from __future__ import annotations

import base64
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support.rendered_chart import CHART, VALUES, helm, needs_helm, one, pods_of, rendered

from hubwire.runtime.config_file import load_config
from hubwire.runtime.nats_roles import ROLES, password_variable, role_users, user_of
from hubwire.runtime.nats_server import find_nats_server

# Not in Kubernetes' own schemas.
OPERATOR = {"monitoring.coreos.com/v1", "gateway.networking.k8s.io/v1", "cert-manager.io/v1"}

pytestmark = needs_helm


@pytest.mark.parametrize("name", VALUES)
def test_what_is_rendered_is_what_kubernetes_takes(name: str) -> None:
    validator = pytest.importorskip("kubernetes_validate")
    objects = rendered(VALUES[name])
    keys = [(o["kind"], o["metadata"]["name"]) for o in objects]
    assert len(keys) == len(set(keys))
    for manifest in objects:
        if manifest["apiVersion"] not in OPERATOR:
            validator.validate(manifest, "1.30", strict=True)


@pytest.mark.parametrize("name", VALUES)
def test_lint_finds_nothing(name: str) -> None:
    done = helm("lint", "--strict", str(CHART), values=VALUES[name])
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"gateway": {"replica": 3}}, "additional properties 'replica' not allowed"),
        ({"gateway": {"drainSeconds": "30s"}}, "/gateway/drainSeconds"),
        ({"durability": "replicated", "nats": {"replicas": 1}}, "make it 3 or 5"),
        ({"nats": {"replicas": 2}}, "/nats/replicas"),
        ({"nats": {"enabled": False}}, "give the servers' URLs"),
        ({"nats": {"external": {"servers": ["nats://x:4222"]}}}, "set nats.enabled=false"),
        ({"gateway": {"rest": False}, "controlplane": {"replicas": 0}}, "nobody would serve REST"),
        ({"nats": {"roleUsers": True}}, "set gateway.rest=false"),
        (
            {"nats": {"roleUsers": True, "enabled": False, "external": {"servers": ["nats://x:4222"]}}},
            "make the users there with `hubwire nats-config`",
        ),
        ({"nats": {"listenerPrefix": "a.>"}}, "/nats/listenerPrefix"),
        ({"nats": {"tls": {"enabled": True}}}, "give nats.tls.existingSecret or nats.tls.issuerRef"),
        (
            {"nats": {"tls": {"enabled": True, "existingSecret": "s", "issuerRef": {"name": "ca"}}}},
            "one of them makes the certificate",
        ),
        ({"nats": {"tls": {"existingSecret": "s"}}}, "set nats.tls.enabled=true"),
        (
            {
                "nats": {
                    "enabled": False,
                    "external": {"servers": ["tls://x:4222"]},
                    "tls": {"enabled": True, "existingSecret": "s"},
                }
            },
            "use nats.external.tlsSecret",
        ),
        ({"ingress": {"enabled": True}}, "give a host name"),
        ({"settings": {"accessKeys": {"primary": "x"}}}, "use accessKeys.existingSecret"),
        (
            {"gateway": {"autoscaling": {"enabled": True, "cpuPercent": 0}}},
            "give cpuPercent, connections or both",
        ),
    ],
)
def test_values_that_cannot_work_are_refused_with_a_sentence(values: dict[str, Any], sentence: str) -> None:
    done = helm("template", "t", str(CHART), values=values)
    assert done.returncode != 0
    assert sentence in done.stderr


def test_all_contradictions_are_told_at_once() -> None:
    values = {"ingress": {"enabled": True}, "gateway": {"rest": False}, "controlplane": {"replicas": 0}}
    told = helm("template", "t", str(CHART), values=values).stderr
    assert "give a host name" in told
    assert "nobody would serve REST" in told


def test_pods_pass_the_restricted_standard() -> None:
    objects = rendered(VALUES["everything"])
    pods = [o["spec"]["template"]["spec"] for o in objects if o["kind"] in ("Deployment", "StatefulSet")]
    pods += [o["spec"] for o in objects if o["kind"] == "Pod"]
    assert len(pods) == 5
    for pod in pods:
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"] == {"drop": ["ALL"]}


def test_kubernetes_waits_longer_than_a_pod_takes_to_stop() -> None:
    objects = rendered({"gateway": {"drainSeconds": 120, "preStopSeconds": 10}})
    pod = one(objects, "Deployment", "t-hubwire-gateway")["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > 10 + 120 + 9
    (container,) = pod["containers"]
    assert container["lifecycle"]["preStop"] == {"sleep": {"seconds": 10}}
    assert {"name": "HUBWIRE_DRAIN_SECONDS", "value": "120"} in container["env"]


def test_workers_of_a_pod_share_the_port_and_have_probes_of_their_own() -> None:
    objects = rendered(VALUES["everything"])
    pod = one(objects, "Deployment", "t-hubwire-gateway")["spec"]["template"]["spec"]
    assert [c["name"] for c in pod["containers"]] == ["gateway", "gateway-1", "gateway-2"]
    assert [c["livenessProbe"]["httpGet"]["port"] for c in pod["containers"]] == [9464, 9465, 9466]
    for container in pod["containers"]:
        assert {"name": "HUBWIRE_PORT", "value": "8080"} in container["env"]


def test_the_endpoint_of_the_ingress_is_what_tokens_name() -> None:
    objects = rendered(VALUES["everything"])
    pod = one(objects, "Deployment", "t-hubwire-controlplane")["spec"]["template"]["spec"]
    env = {variable["name"]: variable.get("value") for variable in pod["containers"][0]["env"]}
    assert set(env["HUBWIRE_PUBLIC_ENDPOINTS"].split(",")) == {"https://pubsub.example.com"}


def test_the_nats_server_takes_its_configuration(tmp_path: Path) -> None:
    """Its own parser reads it, with the variables that the pod has."""
    for name in ("defaults", "small", "a NATS user for each role"):
        config = one(rendered(VALUES[name]), "ConfigMap", "t-hubwire-nats")["data"]["nats.conf"]
        path = tmp_path / "nats.conf"
        path.write_text(config)
        env = {**os.environ, "POD_NAME": "n0", "NATS_USER": "hubwire", "NATS_PASSWORD": "p1e9secret"}
        env |= {password_variable(role): f"p{role}" for role in ROLES}
        done = subprocess.run(
            [find_nats_server(), "-t", "--config", str(path)],
            env=env,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr


def test_each_role_has_its_own_user_and_only_its_own_password() -> None:
    """The users are those of `hubwire nats-config`, with which test_nats_roles.py runs all."""
    objects = rendered(VALUES["a NATS user for each role"])
    config = one(objects, "ConfigMap", "t-hubwire-nats")["data"]["nats.conf"]
    for user in role_users("shop.events"):
        assert " ".join(user.split()) in " ".join(config.split())
    secret = one(objects, "Secret", "t-hubwire-nats")["data"]
    assert set(secret) == {"user", "password", *(f"{role}-password" for role in ROLES)}
    assert len(set(secret.values())) == len(secret)
    assert all(base64.b64decode(password).decode().isalnum() for password in secret.values())
    for component, pod in pods_of(objects).items():
        env = {variable["name"]: variable for variable in pod["spec"]["containers"][0]["env"]}
        held = {
            variable["valueFrom"]["secretKeyRef"]["key"]
            for variable in env.values()
            if variable.get("valueFrom", {}).get("secretKeyRef", {}).get("name") == "t-hubwire-nats"
        }
        if component == "nats":
            assert held == set(secret)
        else:
            role = "gateway" if component == "test" else component
            assert held == {f"{role}-password"}
            assert env["HUBWIRE_NATS_USER"]["value"] == user_of(role)


def test_without_role_users_a_secret_of_ones_own_needs_what_it_needed() -> None:
    """Values of before: user and password, for all."""
    for component, pod in pods_of(rendered({"nats": {"existingSecret": "mine"}})).items():
        variables = [v for c in pod["spec"]["containers"] for v in c["env"] if "valueFrom" in v]
        keys = [v["valueFrom"].get("secretKeyRef", {}) for v in variables]
        assert {k["key"] for k in keys if k.get("name") == "mine"} == {"user", "password"}, component


def test_the_file_of_settings_is_one_that_a_process_takes(tmp_path: Path) -> None:
    data = one(rendered(VALUES["everything"]), "ConfigMap", "t-hubwire-settings")["data"]
    path = tmp_path / "settings.yaml"
    path.write_text(data["settings.yaml"])
    config = load_config(path)
    assert list(config.hubs) == ["chat"]
    assert config.cors_origins == ("*",)
