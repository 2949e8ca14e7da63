"""Hold one exchange against the service's own OpenAPI document: the request, and the answer to it."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import parse_qsl, unquote

import jsonschema

from controlplane.openapi import document
from controlplane.operations import LATEST_VERSION, SUPPORTED_VERSIONS, VERSION_ALIASES

_DOCUMENTS: dict[str, dict[str, Any]] = {}


def document_of(version: str) -> dict[str, Any]:
    if version not in _DOCUMENTS:
        _DOCUMENTS[version] = document(version)
    return _DOCUMENTS[version]


def find_operation(version: str, method: str, path: str) -> tuple[str, dict[str, Any], dict[str, str]] | None:
    """Path template, operation and raw path parameters; None when the document has no such thing."""
    segments = path.rstrip("/").split("/")
    for template, operations in document_of(version)["paths"].items():
        parts = template.split("/")
        if len(parts) != len(segments) or method.lower() not in operations:
            continue
        parameters = {}
        for part, segment in zip(parts, segments, strict=True):
            if part.startswith("{") and segment:
                parameters[part[1:-1]] = segment
            elif part.lower() != re.sub("^%3a", ":", segment.lower()):
                break
        else:
            return template, operations[method.lower()], parameters
    return None


def check_exchange(
    method: str,
    target: str,
    request_headers: dict[str, str],
    request_body: bytes,
    status: int,
    answer_headers: dict[str, str],
    answer_body: bytes,
) -> str | None:
    """Raises AssertionError when the document and the service contradict each other.

    Returns the id of the operation, or None where the document says nothing about the request.
    """
    path, _, query = target.partition("?")
    pairs = parse_qsl(query, keep_blank_values=True, errors="replace")
    versions = [value for name, value in pairs if name.lower() == "api-version"] or [LATEST_VERSION]
    if len(versions) > 1 or (versions[0] not in SUPPORTED_VERSIONS and versions[0] not in VERSION_ALIASES):
        return None
    found = find_operation(versions[0], method, path)
    if found is None:
        return None
    template, operation, raw = found
    faults = list(_request_faults(versions[0], operation, raw, pairs, request_headers, request_body))
    where = f"{method} {target} -> {status}"
    assert not (faults and status < 300), f"{where}: accepted, but the document refuses it: {faults}"
    declared = operation["responses"]
    assert str(status) in declared, f"{where}: {template} does not declare this status"
    assert not (status == 400 and not faults and not _may_be_semantic(operation, pairs)), (
        f"{where}: refused, but the document allows it: {answer_body!r}"
    )
    _check_answer(versions[0], where, declared[str(status)], method, answer_headers, answer_body)
    return str(operation["operationId"])


def _may_be_semantic(operation: dict[str, Any], pairs: list[tuple[str, str]]) -> bool:
    """What a schema cannot say: filters, sealed tokens, JSON syntax, repeated or aged parameters."""
    names = [name.lower() for name, _ in pairs]
    known = {p["name"].lower() for p in operation["parameters"]}
    return (
        "requestBody" in operation
        or bool({"filter", "continuationtoken"} & set(names))
        or len(names) != len(set(names))
        or not set(names) <= known
    )


def _request_faults(
    version: str,
    operation: dict[str, Any],
    raw: dict[str, str],
    pairs: list[tuple[str, str]],
    headers: dict[str, str],
    body: bytes,
) -> Any:
    for parameter in operation["parameters"]:
        name, schema = parameter["name"], parameter["schema"]
        if parameter["in"] == "path":
            values: list[Any] = [unquote(raw[name])]
        else:
            values = [value for key, value in pairs if key.lower() == name.lower()]
        if not values:
            if parameter["required"]:
                yield f"{name} is missing"
            continue
        value: Any = values if schema.get("type") == "array" else values[0]
        if schema.get("type") == "integer":
            try:
                value = int(value)
            except ValueError:
                pass
        yield from (f"{name}: {text}" for text in _schema_faults(version, schema, value))
    wanted = operation.get("requestBody")
    if wanted is None:
        return
    content_type = headers.get("Content-Type", "application/octet-stream").partition(";")[0].strip().lower()
    content = wanted["content"].get(content_type)
    if content is None:
        yield f"the content type {content_type} is not declared"
    elif content_type == "application/json":
        charset = re.search("charset=([^;]+)", headers.get("Content-Type", ""))
        try:
            value = json.loads(body.decode(charset[1] if charset else "utf-8-sig"))
        except ValueError:
            yield "the body is not JSON"
        else:
            yield from (f"body: {text}" for text in _schema_faults(version, content["schema"], value))


def _check_answer(
    version: str,
    where: str,
    declared: dict[str, Any],
    method: str,
    headers: dict[str, str],
    body: bytes,
) -> None:
    content = declared.get("content")
    if content is None or method == "HEAD":
        assert body == b"", f"{where}: the document declares no body, but {body!r} came"
        return
    content_type = headers["Content-Type"].partition(";")[0]
    assert content_type in content, f"{where}: {content_type} is not declared"
    faults = list(_schema_faults(version, content[content_type]["schema"], json.loads(body)))
    assert not faults, f"{where}: {faults}"


def _schema_faults(version: str, schema: dict[str, Any], value: Any) -> Any:
    plain = _plain(schema, document_of(version)["components"]["schemas"])
    for fault in jsonschema.Draft202012Validator(plain).iter_errors(value):
        yield fault.message


def _plain(schema: Any, components: dict[str, Any]) -> Any:
    """OpenAPI 3.0's `nullable` and references as JSON Schema says it."""
    if isinstance(schema, list):
        return [_plain(each, components) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _plain(components[schema["$ref"].rpartition("/")[2]], components)
    plain = {name: _plain(inner, components) for name, inner in schema.items() if name != "nullable"}
    if schema.get("nullable"):
        plain["type"] = [plain["type"], "null"]
    return plain
