"""The OpenAPI documents themselves, and that the check of every exchange against them can fail.

The tests of REST (`test_rest_*`, `test_recorded_exchanges`) hold each of their exchanges against the
document of its api-version; here every operation is called once more, so that none is left out.
"""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import jsonschema
import pytest
from support.openapi_check import check_exchange, document_of
from support.rest import rest_rig

from controlplane.openapi import documents
from controlplane.operations import HEALTH, OPERATIONS, SUPPORTED_VERSIONS, Operation

VERSIONS = [version for version in documents() if version]
NAMES = {
    "{hub}": "chat",
    "{group}": "g",
    "{userId}": "u",
    "{connectionId}": "c1",
    "{permission}": "sendToGroup",
}


def filled(operation: Operation) -> str:
    path = "/api/hubs/{hub}" + operation.path if operation is not HEALTH else HEALTH.path
    for name, value in NAMES.items():
        path = path.replace(name, value)
    return path


@pytest.mark.parametrize("version", SUPPORTED_VERSIONS)
@pytest.mark.parametrize("operation", [HEALTH, *OPERATIONS], ids=lambda o: o.id)
async def test_every_operation_keeps_to_the_document_of_every_version(
    operation: Operation, version: str
) -> None:
    async with rest_rig() as rig:
        rig.cluster.connect("chat", "c1", "u", "g").granted["sendToGroup"].add("g")
        body, content_type = {
            "none": (None, None),
            "message": ('{"a":1}', "application/json"),
            "groups": ('{"groups":["g2"],"filter":null}', "application/json"),
        }[operation.body]
        query = f"api-version={version}"
        if any(parameter.required for parameter in operation.query):
            query += "&targetName=g"
        answer = await rig.call(operation.method, f"{filled(operation)}?{query}", body, content_type)
        assert answer.status == operation.success
        described = f"WebPubSub_{operation.id}" in rig.seen
        assert described == (operation.since <= version)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_document_is_sound(version: str) -> None:
    document = json.loads(documents()[version])
    assert document["openapi"].startswith("3.0.")
    ids = [o["operationId"] for path in document["paths"].values() for o in path.values()]
    assert len(ids) == len(set(ids))
    for path, operations in document["paths"].items():
        for operation in operations.values():
            in_path = {p["name"] for p in operation["parameters"] if p["in"] == "path"}
            assert in_path == {part[1:-1] for part in path.split("/") if part.startswith("{")}
            assert all(p["required"] for p in operation["parameters"] if p["in"] == "path")
            assert all(response["description"] for response in operation["responses"].values())
    for reference in _references(document):
        where: Any = document
        for part in reference.removeprefix("#/").split("/"):
            where = where[part]
    for schema in document["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(
            json.loads(json.dumps(schema).replace('"nullable": true', '"x": 1'))
        )


def _references(value: Any) -> Any:
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"]
        for inner in value.values():
            yield from _references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _references(inner)


def test_versions_differ_by_what_each_of_them_added() -> None:
    def names(version: str) -> set[str]:
        paths = document_of(version)["paths"]
        return {
            f"{o['operationId']} {p['name']}"
            for path in paths.values()
            for o in path.values()
            for p in [*o["parameters"], {"name": ""}]
        }

    added = [names(new) - names(old) for old, new in pairwise(SUPPORTED_VERSIONS)]
    assert "WebPubSub_SendToAll filter" in added[0]
    assert "WebPubSub_RemoveConnectionFromAllGroups " in added[0]
    assert {"WebPubSub_AddConnectionsToGroups ", "WebPubSub_SendToUser messageTtlSeconds"} <= added[1]
    assert added[2] == {"WebPubSub_GenerateClientToken clientType"}
    assert "WebPubSub_ListConnectionsInGroup maxpagesize" in added[3]


JSON = {"Content-Type": "application/json"}
ERROR = b'{"code":"x","message":"x","target":null,"details":null,"innererror":null}'


@pytest.mark.parametrize(
    ("method", "target", "headers", "body", "status", "answer_headers", "answer"),
    [
        ("POST", "/api/hubs/9/:send", {}, b"", 202, {}, b""),
        ("POST", "/api/hubs/h/:send?messageTtlSeconds=301", {}, b"", 202, {}, b""),
        ("POST", "/api/hubs/h/:send?messageTtlSeconds=x", {}, b"", 202, {}, b""),
        ("POST", "/api/hubs/h/:send", {"Content-Type": "text/html"}, b"", 202, {}, b""),
        ("POST", "/api/hubs/h/:send", JSON, b"{", 202, {}, b""),
        ("POST", "/api/hubs/h/:send", JSON, b"{}", 200, {}, b""),
        ("POST", "/api/hubs/h/:addToGroups", JSON, b'{"groups":[]}', 200, {}, b""),
        ("PUT", "/api/hubs/h/permissions/x/connections/c?targetName=g", {}, b"", 200, {}, b""),
        ("PUT", "/api/hubs/h/permissions/1/connections/c", {}, b"", 200, {}, b""),
        ("PUT", "/api/hubs/h/groups/g/connections/c", {}, b"", 400, JSON, ERROR),
        ("PUT", "/api/hubs/h/groups/g/connections/c", {}, b"", 404, JSON, b'{"code":"x"}'),
        ("GET", "/api/hubs/h/groups/g/connections", {}, b"", 200, JSON, b'{"value":[{}]}'),
        ("GET", "/api/hubs/h/groups/g/connections", {}, b"", 200, JSON, b'{"value":[],"nextLink":null}'),
        ("HEAD", "/api/hubs/h/groups/g", {}, b"", 404, JSON, b"{}"),
    ],
)
def test_the_check_notices_what_contradicts_the_document(
    method: str,
    target: str,
    headers: dict[str, str],
    body: bytes,
    status: int,
    answer_headers: dict[str, str],
    answer: bytes,
) -> None:
    with pytest.raises(AssertionError):
        check_exchange(method, target, headers, body, status, answer_headers, answer)
