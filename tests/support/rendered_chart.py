"""The Helm chart as manifests, rendered with the values that tests are interested in."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

CHART = Path(__file__).parents[2] / "helm" / "hubwire"
_PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
HELM = os.environ.get("HELM") or shutil.which("helm", path=_PATH)

needs_helm = pytest.mark.skipif(
    HELM is None, reason="There is no helm; `make helm` gets it on Linux, x86-64."
)

VALUES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "small": {
        "gateway": {"replicas": 1},
        "router": {"replicas": 1},
        "controlplane": {"replicas": 0},
        "nats": {"replicas": 1},
        "networkPolicy": {"enabled": False},
    },
    "everything": {
        "settings": {"hubs": {"chat": {"anonymousConnectPolicy": "allow"}}, "corsOrigins": ["*"]},
        "image": {"digest": "sha256:" + "0" * 64},
        "imagePullSecrets": [{"name": "registry"}],
        "gateway": {
            "workers": 3,
            "rest": False,
            "autoscaling": {"enabled": True, "connections": 5000},
            "upstreamAllow": ["10.1.0.0/16"],
            "extraEnv": [{"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": "http://otel:4318"}],
            "podAnnotations": {"a": "b"},
            "podLabels": {"team": "chat"},
            "tolerations": [{"key": "spot", "operator": "Exists"}],
            "nodeSelector": {"pool": "edge"},
            "priorityClassName": "high",
        },
        "ingress": {
            "enabled": True,
            "className": "nginx",
            "hosts": ["pubsub.example.com"],
            "tlsSecret": "pubsub-tls",
            "annotations": {"cert-manager.io/cluster-issuer": "letsencrypt"},
        },
        "httpRoute": {"enabled": True, "hosts": ["pubsub.example.com"], "parentRefs": [{"name": "edge"}]},
        "networkPolicy": {
            "clients": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "edge"}}}],
            "monitoring": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "mon"}}}],
            "upstreams": [{"to": [{"ipBlock": {"cidr": "10.1.0.0/16"}}]}],
        },
        "monitoring": {
            "podMonitor": {"enabled": True},
            "rules": {"enabled": True},
            "dashboards": {"enabled": True},
        },
        "extraObjects": [
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{{ .Release.Name }}-x"}}
        ],
    },
    "a NATS user for each role": {
        "gateway": {"rest": False},
        "nats": {"roleUsers": True, "listenerPrefix": "shop.events"},
    },
    "TLS on NATS": {
        "gateway": {"rest": False},
        "nats": {"roleUsers": True, "tls": {"enabled": True, "existingSecret": "nats-certificate"}},
    },
    "TLS on NATS by cert-manager": {
        "nats": {
            "replicas": 1,
            "tls": {"enabled": True, "issuerRef": {"name": "ca", "kind": "ClusterIssuer"}},
        },
    },
    "TLS for clients": {
        "tls": {"enabled": True, "existingSecret": "pubsub-certificate"},
        "service": {"type": "LoadBalancer"},
        "publicEndpoints": ["https://pubsub.example.com"],
    },
    "TLS for clients by cert-manager, and again by an Ingress": {
        "tls": {"enabled": True, "issuerRef": {"name": "ca"}},
        "ingress": {
            "enabled": True,
            "hosts": ["pubsub.example.com"],
            "annotations": {"nginx.ingress.kubernetes.io/proxy-read-timeout": "120"},
        },
    },
    "tokens of an issuer": {
        "oidc": {
            "issuers": ["https://login.example.com/tenant/v2.0", "https://id.example.com/"],
            "audiences": ["api://pubsub"],
            "owners": ["roles=Web PubSub Service Owner", "appid=1-2"],
            "readers": ["groups=look"],
            "admins": ["sub=root"],
            "caSecret": "issuer-ca",
        },
        "networkPolicy": {
            "upstreams": [],
            "issuers": [{"ports": [{"port": 443}], "to": [{"ipBlock": {"cidr": "198.51.100.0/24"}}]}],
        },
    },
    "a load test": {
        "loadTest": {
            "enabled": True,
            "image": "r.example.com/hubwire-loadtest:0.1.0",
            "scenario": "small-groups",
            "protocol": "reliable",
            "connections": 20,
            "rate": 12.5,
            "seconds": 2,
            "reportClaim": "reports",
        },
        "networkPolicy": {"clients": [{"podSelector": {"matchLabels": {"app": "nobody"}}}]},
    },
    "nats outside": {
        "nats": {
            "enabled": False,
            "external": {
                "servers": ["tls://nats.example.com:4223"],
                "auth": "creds",
                "existingSecret": "creds",
                "tlsSecret": "ca",
                "clientCertificate": True,
                "tlsHostname": "nats",
            },
        },
        "accessKeys": {"existingSecret": "keys"},
    },
}


def helm(*arguments: str, values: dict[str, Any] | None = None) -> subprocess.CompletedProcess[str]:
    assert HELM is not None
    command = [HELM, *arguments]
    if values is not None:
        command += ["--values", "-"]
    return subprocess.run(
        command, input=json.dumps(values or {}), capture_output=True, text=True, timeout=120, check=False
    )


def rendered(values: dict[str, Any]) -> list[dict[str, Any]]:
    done = helm("template", "t", str(CHART), "--namespace", "ns", values=values)
    assert done.returncode == 0, done.stderr
    return [one for one in yaml.safe_load_all(done.stdout) if one]


def one(objects: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    (found,) = (o for o in objects if o["kind"] == kind and o["metadata"]["name"] == name)
    return found


def pods_of(objects: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The templates of all pods, by component."""
    found = {}
    for manifest in objects:
        if manifest["kind"] in ("Deployment", "StatefulSet", "Job"):
            manifest = manifest["spec"]["template"]
        elif manifest["kind"] != "Pod":
            continue
        found[manifest["metadata"]["labels"]["app.kubernetes.io/component"]] = manifest
    return found
