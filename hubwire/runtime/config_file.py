"""The cluster's configuration as one YAML file: keys, endpoints, limits, and hub settings in Azure's form.

    accessKeys: {primary: ..., secondary: ...}
    publicEndpoints: [https://pubsub.example.com]
    hubs:
      chat:
        anonymousConnectPolicy: allow
        eventHandlers:
          - urlTemplate: https://app.example.com/eventhandler
            userEventPattern: "*"
            systemEvents: [connect, connected, disconnected]

The file is refused as a whole; every fault is named with its line, what is wrong and what to do. The JSON
schema for editors is `docs/config.schema.json` (written by `python -m hubwire.runtime.config_file`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
import yaml

from hubwire.model.cluster_settings import (
    MIN_ADMIN_TOKEN_CHARACTERS,
    ClusterSettings,
    ManagementSettings,
    RestLimits,
    hash_of_token,
)
from hubwire.model.errors import InvalidRequest
from hubwire.model.hub_rules import hub_faults, place_text
from hubwire.model.names import normalize_hub
from hubwire.model.settings import AccessKeys, HubLimits, HubSettings
from hubwire.runtime import parsers
from hubwire.runtime.config_tree import Fault, Tree, check


class KeysConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Keys to begin with; made on the first start when they are absent."""

    primary: str
    secondary: str | None = None


class ManagementFileConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """How the instance presents itself over Azure's management API, and a static token for it.

    `upstream_identity` tells a control plane of its own that the gateways have credentials for handlers with
    auth ManagedIdentity."""

    admin_token: Annotated[str, msgspec.Meta(min_length=MIN_ADMIN_TOKEN_CHARACTERS)] | None = None
    subscription_id: str | None = None
    resource_group: str | None = None
    resource_name: str | None = None
    location: str | None = None
    upstream_identity: bool | None = None


class ClusterConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """What one file says. Everything is optional."""

    access_keys: KeysConfig | None = None
    public_endpoints: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] | None = None
    limits: RestLimits = RestLimits()
    hub_limits: HubLimits = HubLimits()
    management: ManagementFileConfig = ManagementFileConfig()
    hubs: dict[str, HubSettings] = {}

    def seed_keys(self) -> AccessKeys | None:
        """The keys that the file gives, or None."""
        if self.access_keys is None:
            return None
        return AccessKeys(self.access_keys.primary, self.access_keys.secondary or "")

    def cluster_settings(self) -> ClusterSettings:
        """What the file says of the settings that all processes share; of the token only its hash."""
        names = msgspec.structs.asdict(self.management)
        token = names.pop("admin_token")
        hashed = None if token is None else hash_of_token(token)
        management = ManagementSettings(admin_token_sha256=hashed, **names)
        return ClusterSettings(self.cors_origins, self.limits, self.hub_limits, management)

    def __repr__(self) -> str:
        return f"ClusterConfig(public_endpoints={self.public_endpoints!r}, hubs={sorted(self.hubs)!r}, ...)"


class LineFault(NamedTuple):
    """One fault; `str()` is the line for a terminal. Line 0: of the file as a whole."""

    file: str
    line: int
    text: str

    def __str__(self) -> str:
        where = f":{self.line}" if self.line else ""
        return f"{self.file}{where}: {self.text}"


class InvalidConfigFile(InvalidRequest):
    """The file cannot be used. The message has one line for each of the `faults`, in the file's order."""

    code = "bad_config"

    def __init__(self, faults: list[LineFault]) -> None:
        ordered = sorted(set(faults), key=lambda fault: (fault.line, fault.text))
        super().__init__("\n".join(map(str, ordered)))
        self.faults = tuple(ordered)


def load_config(path: str | Path) -> ClusterConfig:
    """Read and check a file. Raises InvalidConfigFile with every fault that can be found in one go."""
    name = str(path)
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise InvalidConfigFile(
            [LineFault(name, 0, f"The file cannot be read ({reason}): check its path and rights.")]
        ) from error
    except UnicodeDecodeError as error:
        raise InvalidConfigFile(
            [LineFault(name, 0, "The file is not text in UTF-8: save it as that.")]
        ) from error
    return parse_config(text, name)


def parse_config(text: str, file_name: str = "config") -> ClusterConfig:
    """As `load_config`, for a text that was read already."""
    try:
        tree = Tree(text)
        plain, faults = check(tree, ClusterConfig)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        problem = getattr(error, "problem", None) or str(error)
        line = mark.line + 1 if mark is not None else 1
        raise InvalidConfigFile(
            [LineFault(file_name, line, f"This is not valid YAML, {problem}: correct it.")]
        ) from error
    faults += _rules(plain)
    if faults:
        raise InvalidConfigFile([LineFault(file_name, tree.line_of(f.place), f.text) for f in faults])
    return msgspec.convert(plain, ClusterConfig)


def _rules(plain: Any) -> list[Fault]:
    """What types cannot say. Looks only at values whose type is right."""
    faults: list[Fault] = []
    keys = plain.get("accessKeys")
    for name in ("primary", "secondary"):
        key = keys.get(name) if isinstance(keys, dict) else None
        if isinstance(key, str):
            # The value is not shown: it is a secret.
            faults += _parsed(parsers.access_key, key, ("accessKeys", name), f"accessKeys.{name}")
    endpoints = plain.get("publicEndpoints")
    for index, endpoint in enumerate(endpoints if isinstance(endpoints, list) else ()):
        if isinstance(endpoint, str):
            place = ("publicEndpoints", index)
            faults += _parsed(parsers.http_urls, endpoint, place, f"{place_text(place)} is {endpoint!r}: it")
    hubs = plain.get("hubs")
    seen: dict[str, str] = {}
    for name, settings in hubs.items() if isinstance(hubs, dict) else ():
        try:
            hub = normalize_hub(name)
        except InvalidRequest as error:
            faults.append(Fault(("hubs", name), str(error)))
            continue
        if hub in seen:
            text = f"Hubs have no case, and {seen[hub]!r} is above already: make one of the two."
            faults.append(Fault(("hubs", name), text))
        seen[hub] = name
        for fault in hub_faults(settings):
            place = ("hubs", name, *fault.place)
            faults.append(Fault(place, f"{place_text(place)}: {fault.text}"))
    return faults


def _parsed(parse: Any, text: str, place: tuple[str | int, ...], subject: str) -> list[Fault]:
    try:
        parse(text)
    except ValueError as error:
        return [Fault(place, f"{subject} {error}.")]
    return []


def config_schema() -> dict[str, Any]:
    """The JSON schema of the file, for editors; stricter than msgspec's own, as unknown keys are faults."""
    schema = msgspec.json.schema(ClusterConfig, schema_hook=_anything)
    for definition in schema["$defs"].values():
        if definition.get("type") == "object":
            definition["additionalProperties"] = False
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Hubwire", **schema}


def _anything(type_: type) -> dict[str, Any]:
    """Event listeners are kept as they are given: `object` in their type is any JSON value."""
    if type_ is object:
        return {"description": "Any value."}
    raise NotImplementedError


def config_schema_text() -> str:
    """As it stands in docs/config.schema.json."""
    return json.dumps(config_schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    Path("docs/config.schema.json").write_text(config_schema_text(), encoding="utf-8")
