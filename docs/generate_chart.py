"""Writes the schema and the table of values of the Helm chart from helm/hubwire/values.yaml, and the users
of its NATS (files/nats-users.conf) from hubwire/runtime/nats_roles.py.

    python docs/generate_chart.py           # rewrites values.schema.json, the table in README.md, the users
    python docs/generate_chart.py --check   # exit code 1 when they are not as they should be

The comment above a value is its description; types are those of the defaults; what else must hold is RULES.
tests/unit/test_chart_in_step.py runs the check.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from textwrap import dedent
from typing import Any, NamedTuple

import yaml

from hubwire.runtime.nats_roles import role_users

CHART = Path(__file__).parents[1] / "helm" / "hubwire"
BEGIN = "<!-- values: written by docs/generate_chart.py -->"
END = "<!-- end of values -->"
WRITTEN = "Written by docs/generate_chart.py from what `hubwire nats-config` prints."
PREFIX = "LISTENER_PREFIX"

_ROLES = ("gateway", "router", "controlplane", "nats")
_TEXT = {"type": "string"}
_NO_COMMA = {"type": "string", "pattern": "^[^,]+$"}
_CLAIM = {"type": "string", "pattern": "^[^=,]+=[^,]+$"}
_OBJECT = {"type": "object"}
_ENDPOINT = {"type": "string", "pattern": "^https?://[^/]+[^\\s]*$"}
_BUDGET = {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": "^[0-9]{1,3}%$"}]}

# Maps in which every key is allowed: they are Kubernetes' own.
FREE = frozenset({"podSecurityContext", "containerSecurityContext", "resources", "labels"})

# By path, or by the last part of it.
RULES: dict[str, dict[str, Any]] = {
    "image.pullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]},
    "image.digest": {"pattern": "^(sha256:[0-9a-f]{64})?$"},
    "publicEndpoints": {"items": _ENDPOINT},
    "logLevel": {"enum": ["debug", "info", "warning", "error"]},
    "logFormat": {"enum": ["json", "text"]},
    "leaseSeconds": {"type": "number", "minimum": 1, "maximum": 120},
    "durability": {"enum": ["", "memory", "local", "replicated"]},
    "gateway.replicas": {"minimum": 1},
    "gateway.workers": {"minimum": 1, "maximum": 32},
    "drainSeconds": {"maximum": 3600},
    "preStopSeconds": {"maximum": 600},
    "gateway.upstreamAddresses": {"enum": ["public", "any"]},
    "gateway.upstreamAllow": {"items": _TEXT},
    "minReplicas": {"minimum": 1},
    "maxReplicas": {"minimum": 1},
    "cpuPercent": {"maximum": 100},
    "maxUnavailable": _BUDGET,
    "router.replicas": {"minimum": 1},
    "nats.replicas": {"enum": [1, 3, 5]},
    "nats.listenerPrefix": {"pattern": "^[A-Za-z0-9_-]+([.][A-Za-z0-9_-]+)*$"},
    "nats.image.command": {"items": _TEXT, "minItems": 1},
    "nats.storage.whenDeleted": {"enum": ["Delete", "Retain"]},
    "maxFileStore": {"pattern": "^[0-9]+(KB|MB|GB|TB)$"},
    "maxMemoryStore": {"pattern": "^[0-9]+(KB|MB|GB|TB)$"},
    "syncInterval": {"pattern": "^(always|[1-9][0-9]{0,5}(ms|s|m))$"},
    "reloadSeconds": {"minimum": 1, "maximum": 3600},
    "lameDuckSeconds": {"minimum": 30, "maximum": 600},
    "nats.external.servers": {"items": {"type": "string", "pattern": "^(nats|tls)://[^/]+$"}},
    "nats.external.auth": {"enum": ["none", "password", "token", "creds"]},
    "service.type": {"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
    "service.port": {"minimum": 0, "maximum": 65535},
    "oidc.issuers": {"items": {"type": "string", "pattern": "^https://[^\\s,?]+$"}},
    "audiences": {"items": _NO_COMMA},
    "owners": {"items": _CLAIM},
    "readers": {"items": _CLAIM},
    "admins": {"items": _CLAIM},
    "loadTest.scenario": {"enum": ["big-group", "small-groups", "echo", "rest-user", "rest-broadcast"]},
    "loadTest.protocol": {"enum": ["json", "reliable", "simple"]},
    "loadTest.rate": {"type": "number"},
    "loadTest.seconds": {"minimum": 1, "maximum": 86400},
    "loadTest.bytes": {"minimum": 64, "maximum": 1048576},
    "loadTest.processes": {"minimum": 1, "maximum": 64},
    "loadTest.hub": {"pattern": "^[A-Za-z][A-Za-z0-9_]{0,127}$"},
    "tls.dnsNames": {"items": _TEXT},
    "idleSeconds": {"minimum": 60, "maximum": 86400},
    "hosts": {"items": _TEXT},
}


class Value(NamedTuple):
    path: str
    default: object
    about: str


def values() -> list[Value]:
    """Every value that has a default of its own, in the order of the file."""
    text = (CHART / "values.yaml").read_text()
    abouts = _comments(text)
    found: list[Value] = []

    def walk(node: dict[str, Any], path: str) -> None:
        for key, value in node.items():
            here = f"{path}{key}"
            if isinstance(value, dict) and value and key not in FREE:
                walk(value, here + ".")
            else:
                found.append(Value(here, value, abouts.get(here) or _of_the_first_role(here, abouts)))

    walk(yaml.safe_load(text), "")
    return found


def _comments(text: str) -> dict[str, str]:
    """The comment directly above each key, by the key's path."""
    found: dict[str, str] = {}
    path: list[str] = []
    said: list[str] = []
    for line in text.splitlines():
        bare = line.strip()
        if bare.startswith("# "):
            said.append(bare[2:])
        elif match := re.match(r"^( *)([A-Za-z]+):", line):
            path = [*path[: len(match[1]) // 2], match[2]]
            found[".".join(path)] = " ".join(said)
            said = []
        else:
            said = []
    return found


def _of_the_first_role(path: str, abouts: dict[str, str]) -> str:
    """What all roles have is described once."""
    role, _, rest = path.partition(".")
    if role in _ROLES and rest:
        return abouts.get(f"gateway.{rest}", "")
    return ""


def schema() -> dict[str, Any]:
    """The JSON schema of the values: nothing is allowed that is not in the file."""
    root: dict[str, Any] = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Values of the Hubwire chart",
        **_strict(),
    }
    root["properties"]["global"] = {"type": "object", "description": "Helm's, for charts around this one."}
    for value in values():
        *parents, name = value.path.split(".")
        node = root
        for parent in parents:
            node = node["properties"].setdefault(parent, _strict())
        node["properties"][name] = _one(value)
    return root


def _strict() -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "properties": {}}


def _one(value: Value) -> dict[str, Any]:
    name = value.path.rpartition(".")[2]
    rule = RULES.get(value.path) or RULES.get(name) or {}
    found: dict[str, Any] = {"description": value.about} if value.about else {}
    if "anyOf" in rule:
        return found | rule
    match value.default:
        case bool():
            found["type"] = "boolean"
        case int():
            found |= {"type": "integer", "minimum": 0}
        case str():
            found["type"] = "string"
        case list():
            found |= {"type": "array", "items": _OBJECT}
        case _:
            found["type"] = "object"
    return found | rule


def table() -> str:
    rows = ["| value | default | what it is |", "|---|---|---|"]
    for value in values():
        default = json.dumps(value.default, ensure_ascii=False) if value.default not in ("", None) else ""
        shown = f"`{default}`" if default else ""
        rows.append(f"| `{value.path}` | {shown} | {value.about.replace('|', '/')} |")
    return "\n".join(rows)


def nats_users() -> str:
    """The users of the roles, with a word where the chart puts nats.listenerPrefix."""
    return dedent("\n".join([f"      # {WRITTEN}", *role_users(PREFIX)])) + "\n"


def files() -> dict[Path, str]:
    """What each file should be."""
    readme = CHART / "README.md"
    before, _, rest = readme.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    return {
        CHART / "values.schema.json": json.dumps(schema(), indent=2, ensure_ascii=False) + "\n",
        readme: f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}",
        CHART / "files" / "nats-users.conf": nats_users(),
    }


def main() -> int:
    wanted = files()
    if "--check" in sys.argv[1:]:
        return int(any(not path.exists() or path.read_text() != text for path, text in wanted.items()))
    for path, text in wanted.items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
