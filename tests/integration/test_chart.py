"""The Helm chart, rendered with several sets of values and checked without a cluster."""

from __future__ import annotations

import base64
import os
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from support.rendered_chart import CHART, VALUES, helm, needs_helm, one, pods_of, rendered

from gateway.meters import METERS
from hubwire.runtime.config_file import load_config
from hubwire.runtime.nats_roles import ROLES, password_variable, role_users, user_of
from hubwire.runtime.nats_server import find_nats_server
from hubwire.runtime.process import read_settings, settings_of

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
        ({"tls": {"enabled": True}}, "give tls.existingSecret or tls.issuerRef"),
        (
            {"tls": {"enabled": True, "existingSecret": "s", "issuerRef": {"name": "ca"}}},
            "tls.existingSecret and tls.issuerRef are both given",
        ),
        ({"tls": {"existingSecret": "s"}}, "set tls.enabled=true"),
        (
            {"tls": {"enabled": True, "existingSecret": "s", "dnsNames": ["a"]}},
            "tls.dnsNames is for cert-manager",
        ),
        ({"loadTest": {"enabled": True}}, "build it with `make loadtest-image`"),
        (
            {
                "loadTest": {"enabled": True, "image": "i"},
                "tls": {"enabled": True, "existingSecret": "s"},
            },
            "give loadTest.connectionStringSecret, with an endpoint",
        ),
        (
            {
                "loadTest": {"enabled": True, "image": "i", "scenario": "rest-user"},
                "gateway": {"rest": False},
            },
            "one endpoint must serve clients and REST",
        ),
        (
            {"loadTest": {"enabled": True, "image": "i", "scenario": "small-groups", "protocol": "simple"}},
            "take json or reliable",
        ),
        ({"loadTest": {"scenario": "big"}}, "/loadTest/scenario"),
        ({"oidc": {"owners": ["appid=1"]}}, "name the issuers"),
        ({"oidc": {"issuers": ["https://a"], "owners": ["appid"]}}, "/oidc/owners"),
        ({"oidc": {"issuers": ["login.example.com"]}}, "/oidc/issuers"),
        ({"ingress": {"enabled": True}}, "give a host name"),
        ({"ingress": {"idleSeconds": 30}}, "/ingress/idleSeconds"),
        ({"httpRoute": {"enabled": True, "hosts": ["a"]}}, "give httpRoute.hosts and httpRoute.parentRefs"),
        (
            {"nats": {"enabled": False, "external": {"servers": ["nats://x:1"], "auth": "token"}}},
            "nats.external.existingSecret is empty",
        ),
        (
            {"nats": {"enabled": False, "external": {"servers": ["tls://x:1"], "clientCertificate": True}}},
            "nats.external.tlsSecret is empty",
        ),
        (
            {"gateway": {"autoscaling": {"enabled": True, "minReplicas": 9, "maxReplicas": 3}}},
            "minReplicas is more than maxReplicas",
        ),
        (
            {"accessKeys": {"existingSecret": "s", "primaryKey": "k", "secondaryKey": "k"}},
            "are the same key of the Secret",
        ),
        ({"settings": {"publicEndpoints": ["https://a"]}}, "give publicEndpoints"),
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


def variables_of(container: dict[str, Any]) -> dict[str, Any]:
    return {variable["name"]: variable.get("value") for variable in container["env"]}


@pytest.mark.parametrize("name", VALUES)
def test_each_variable_is_a_setting_of_its_role(name: str) -> None:
    for component, pod in pods_of(rendered(VALUES[name])).items():
        if component in ROLES:
            known = {"HUBWIRE_CONFIG", *(s.env for s in settings_of(component))}  # type: ignore[arg-type]
            for container in pod["spec"]["containers"]:
                told = {v for v in variables_of(container) if v.startswith("HUBWIRE_")}
                assert told <= known, component


def test_with_tls_the_services_are_https_and_the_probes_as_before() -> None:
    objects = rendered(VALUES["TLS for clients"])
    for name in ("t-hubwire", "t-hubwire-rest"):
        (port,) = one(objects, "Service", name)["spec"]["ports"]
        assert port == {"name": "https", "port": 443, "targetPort": "https", "appProtocol": "https"}
    plain = pods_of(rendered({}))
    for role in ("gateway", "controlplane"):
        pod = pods_of(objects)[role]["spec"]
        (container,) = pod["containers"]
        assert {"name": "https", "containerPort": 8080} in container["ports"]
        variables = variables_of(container)
        (volume,) = (v for v in pod["volumes"] if v["name"] == "tls")
        (mount,) = (m for m in container["volumeMounts"] if m["name"] == "tls")
        files = {f"{mount['mountPath']}/{item['path']}" for item in volume["secret"]["items"]}
        assert files == {variables["HUBWIRE_TLS_CERT"], variables["HUBWIRE_TLS_KEY"]}
        assert "subPath" not in mount  # or another certificate would not be seen
        assert volume["secret"]["secretName"] == "pubsub-certificate"
        (before,) = plain[role]["spec"]["containers"]
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert container[probe] == before[probe]
    assert "HUBWIRE_TLS_CERT" not in variables_of(pods_of(objects)["router"]["spec"]["containers"][0])


def test_what_is_said_of_issuers_is_what_a_process_understands(tmp_path: Path) -> None:
    """The variables of a pod, read as `hubwire controlplane` reads them."""
    pods = pods_of(rendered(VALUES["tokens of an issuer"]))
    for role in ("gateway", "controlplane"):
        (container,) = pods[role]["spec"]["containers"]
        told = {k: v for k, v in variables_of(container).items() if k.startswith("HUBWIRE_OIDC_")}
        assert told["HUBWIRE_OIDC_CA_FILE"] == "/etc/hubwire/oidc/ca.crt"
        (volume,) = (v for v in pods[role]["spec"]["volumes"] if v["name"] == "oidc")
        assert volume["secret"]["items"] == [{"key": "ca.crt", "path": "ca.crt"}]
        (tmp_path / "ca.crt").touch()
        told["HUBWIRE_OIDC_CA_FILE"] = str(tmp_path / "ca.crt")
        config, _ = read_settings(role, settings_of(role), {}, told)  # type: ignore[arg-type]
        values = VALUES["tokens of an issuer"]["oidc"]
        assert list(config.oidc_issuers) == values["issuers"]
        assert list(config.oidc_audiences) == values["audiences"]
        for name in ("owners", "readers", "admins"):
            assert list(getattr(config, f"oidc_{name}")) == values[name], name
    assert not [v for v in variables_of(pods["router"]["spec"]["containers"][0]) if "OIDC" in v]


def test_the_certificate_has_the_names_that_helm_test_calls() -> None:
    objects = rendered(VALUES["TLS for clients by cert-manager, and again by an Ingress"])
    certificate = one(objects, "Certificate", "t-hubwire")["spec"]
    called = pods_of(objects)["test"]["spec"]["containers"][0]["command"][2:]
    assert {urlsplit(url).hostname for url in called} <= set(certificate["dnsNames"])
    assert all(url.startswith("https://") for url in called)
    (volume,) = (v for v in pods_of(objects)["gateway"]["spec"]["volumes"] if v["name"] == "tls")
    assert volume["secret"]["secretName"] == certificate["secretName"]


def test_ways_in_let_a_silent_websocket_live() -> None:
    """Gateways ping every twenty seconds."""
    objects = rendered(VALUES["everything"])
    annotations = one(objects, "Ingress", "t-hubwire")["metadata"]["annotations"]
    assert annotations["cert-manager.io/cluster-issuer"] == "letsencrypt"
    for name in ("proxy-read-timeout", "proxy-send-timeout"):
        assert int(annotations[f"nginx.ingress.kubernetes.io/{name}"]) >= 60
    assert int(annotations["haproxy.org/timeout-tunnel"].removesuffix("s")) >= 60
    clients, rest = one(objects, "HTTPRoute", "t-hubwire")["spec"]["rules"]
    assert clients["matches"] == [{"path": {"type": "PathPrefix", "value": "/client"}}]
    assert clients["timeouts"] == {"request": "0s"}  # no end
    assert "timeouts" not in rest
    for rule, service in ((clients, "t-hubwire"), (rest, "t-hubwire-rest")):
        (backend,) = rule["backendRefs"]
        (port,) = one(objects, "Service", service)["spec"]["ports"]
        assert backend == {"name": service, "port": port["port"]}


def test_an_ingress_speaks_to_gateways_as_they_listen_and_says_what_one_has_said_oneself() -> None:
    objects = rendered(VALUES["TLS for clients by cert-manager, and again by an Ingress"])
    ingress = one(objects, "Ingress", "t-hubwire")
    annotations = ingress["metadata"]["annotations"]
    assert annotations["nginx.ingress.kubernetes.io/backend-protocol"] == "HTTPS"
    assert annotations["nginx.ingress.kubernetes.io/proxy-read-timeout"] == "120"
    for path in ingress["spec"]["rules"][0]["http"]["paths"]:
        service = path["backend"]["service"]
        ports = one(objects, "Service", service["name"])["spec"]["ports"]
        assert service["port"]["name"] in {port["name"] for port in ports}


def test_the_autoscaler_goes_by_a_metric_that_gateways_export() -> None:
    """Metric names are those of docs/metrics.md, which is made from the meters."""
    scaler = one(rendered(VALUES["everything"]), "HorizontalPodAutoscaler", "t-hubwire-gateway")["spec"]
    (wanted,) = (m["pods"]["metric"]["name"] for m in scaler["metrics"] if m["type"] == "Pods")
    exported = {meter.prometheus for meter in METERS}
    assert wanted in exported


def test_the_file_of_settings_is_one_that_a_process_takes(tmp_path: Path) -> None:
    data = one(rendered(VALUES["everything"]), "ConfigMap", "t-hubwire-settings")["data"]
    path = tmp_path / "settings.yaml"
    path.write_text(data["settings.yaml"])
    config = load_config(path)
    assert list(config.hubs) == ["chat"]
    assert config.cors_origins == ("*",)
