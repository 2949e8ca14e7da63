"""The OpenAPI documents, one for each api-version, made from the table of operations.

They are served at /api/openapi/{api-version}.json, and the tests hold every request that they make and
every answer that they get against them. A document names what its version had; all versions are served
alike (rest-api.md 1.3).
"""

from __future__ import annotations

from typing import Any

import msgspec

from controlplane.operations import (
    HEALTH,
    OPERATIONS,
    SUPPORTED_VERSIONS,
    SUPPORTED_VERSIONS_HEADER,
    VERSION_ALIASES,
    Operation,
    Query,
)
from controlplane.problems import ERROR_CODE_HEADER

_HUB_PATTERN = r"^[A-Za-z][A-Za-z0-9_`,.[\]]{0,127}$"
_PATH_PARAMETERS: dict[str, dict[str, Any]] = {
    "hub": {"type": "string", "pattern": _HUB_PATTERN},
    "group": {"type": "string", "minLength": 1, "maxLength": 1024, "pattern": r"^(?!\s+$).+$"},
    "userId": {"type": "string", "minLength": 1},
    "connectionId": {"type": "string", "minLength": 1},
    "permission": {
        "type": "string",
        # In any case, or as the number of the enum (rest-api.md section 11).
        "pattern": r"^([sS][eE][nN][dD][tT][oO][gG][rR][oO][uU][pP]"
        r"|[jJ][oO][iI][nN][lL][eE][aA][vV][eE][gG][rR][oO][uU][pP]|[12])$",
    },
}
_GROUP = {"$ref": "#/components/schemas/GroupName"}
_NULLABLE_STRING = {"type": "string", "nullable": True}
_ERROR_PROPERTIES: dict[str, Any] = {
    "code": {"type": "string"},
    "message": {"type": "string"},
    "target": _NULLABLE_STRING,
}
_SCHEMAS: dict[str, Any] = {
    "GroupName": _PATH_PARAMETERS["group"],
    "Groups": {
        "type": "object",
        "required": ["groups"],
        "properties": {
            "groups": {"type": "array", "minItems": 1, "items": _GROUP},
            "filter": _NULLABLE_STRING,
        },
    },
    "ClientToken": {
        "type": "object",
        "required": ["token"],
        "properties": {"token": {"type": "string"}},
    },
    "GroupMember": {
        "type": "object",
        "required": ["connectionId", "userId"],
        "properties": {"connectionId": {"type": "string"}, "userId": _NULLABLE_STRING},
    },
    "GroupMembers": {
        "type": "object",
        "required": ["value"],
        "properties": {
            "value": {"type": "array", "items": {"$ref": "#/components/schemas/GroupMember"}},
            "nextLink": {"type": "string", "format": "uri"},
        },
    },
    "ErrorDetail": {
        "type": "object",
        "required": ["code", "message", "target", "details", "innererror"],
        "properties": {
            **_ERROR_PROPERTIES,
            "details": {"type": "array", "nullable": True, "items": {"type": "object"}},
            "innererror": {"type": "object", "nullable": True},
        },
    },
    "ValidationError": {
        "type": "object",
        "required": ["code", "message", "target", "errors", "title", "status"],
        "properties": {
            **_ERROR_PROPERTIES,
            "errors": {
                "type": "object",
                "additionalProperties": {"type": "array", "items": {"type": "string"}},
            },
            "type": _NULLABLE_STRING,
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": _NULLABLE_STRING,
            "instance": _NULLABLE_STRING,
            "extensions": {"type": "object"},
        },
    },
}
_FAULTS = {
    "400": "A parameter or the body cannot be used.",
    "401": "No credentials, or they don't verify.",
    "403": "The token is good, but its bearer has no role that allows this.",
    "413": "The body is over the limit.",
    "415": "The content type or charset is not supported.",
    "429": "Too many requests; Retry-After says when to repeat.",
    "503": "The service is not able to answer now; nothing was accepted.",
}
_MESSAGE_CONTENT: dict[str, Any] = {
    "application/json": {"schema": {}},
    "text/plain": {"schema": {"type": "string"}},
    "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
}


def document(version: str) -> dict[str, Any]:
    """The document of one api-version, old previews included. Raises KeyError for an unknown one."""
    like = version if version in SUPPORTED_VERSIONS else VERSION_ALIASES[version]
    paths: dict[str, dict[str, Any]] = {HEALTH.path: {"head": _operation(HEALTH, version, like, [])}}
    for operation in OPERATIONS:
        if operation.since <= like:
            path = "/api/hubs/{hub}" + operation.path
            names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
            described = _operation(operation, version, like, names)
            paths.setdefault(path, {})[operation.method.lower()] = described
    return {
        "openapi": "3.0.3",
        "info": {
            "title": "Hubwire data plane",
            "description": "The REST API of Azure Web PubSub, as served by Hubwire.",
            "version": version,
        },
        "security": [{"accessToken": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"accessToken": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
            "schemas": _SCHEMAS,
        },
    }


def documents() -> dict[str, bytes]:
    """All documents as JSON text by api-version, and under "" the list of them."""
    versions = sorted({*SUPPORTED_VERSIONS, *VERSION_ALIASES})
    texts = {version: msgspec.json.encode(document(version)) for version in versions}
    texts[""] = msgspec.json.encode({"documents": [f"/api/openapi/{version}.json" for version in versions]})
    return texts


def _operation(operation: Operation, version: str, like: str, path_names: list[str]) -> dict[str, Any]:
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": _PATH_PARAMETERS[name]}
        for name in path_names
    ]
    parameters += [_query(query) for query in operation.query if query.since <= like]
    parameters.append(
        {
            "name": "api-version",
            "in": "query",
            "required": False,  # the latest is meant without one
            "schema": {"type": "string", "enum": [version]},
        }
    )
    described: dict[str, Any] = {
        "operationId": f"WebPubSub_{operation.id}",
        "summary": operation.about,
        "parameters": parameters,
        "responses": _responses(operation),
    }
    if operation is HEALTH:
        described["security"] = []
    if operation.body == "message":
        described["requestBody"] = {"required": True, "content": _MESSAGE_CONTENT}
    elif operation.body == "groups":
        groups = {"schema": {"$ref": "#/components/schemas/Groups"}}
        described["requestBody"] = {"required": True, "content": {"application/json": groups}}
    return described


def _query(query: Query) -> dict[str, Any]:
    schema: dict[str, Any]
    if query.kind == "strings":
        schema = {"type": "array", "items": _GROUP if query.name == "group" else {"type": "string"}}
    elif query.kind == "int32":
        schema = {"type": "integer", "format": "int32"}
        if query.minimum is not None:
            schema["minimum"] = query.minimum
        if query.maximum is not None:
            schema["maximum"] = query.maximum
    elif query.kind == "clientType":
        schema = {"type": "string", "pattern": "^([dD][eE][fF][aA][uU][lL][tT]|[mM][qQ][tT][tT])$"}
    elif query.kind == "continuationToken":
        schema = {"type": "string", "minLength": 1, "maxLength": 2048}
    else:
        schema = _GROUP if query.name == "targetName" else {"type": "string"}
        if query.maximum is not None:
            schema = {**schema, "maxLength": query.maximum}
    described = {
        "name": query.name,
        "in": "query",
        "required": query.required,
        "description": query.about,
        "schema": schema,
    }
    if query.kind == "strings":
        described |= {"style": "form", "explode": True}
    return described


def _responses(operation: Operation) -> dict[str, Any]:
    versions = {SUPPORTED_VERSIONS_HEADER: {"schema": {"type": "string"}}}
    success: dict[str, Any] = {"description": "Done."}
    if operation is HEALTH:
        return {"200": success, "503": {"description": _FAULTS["503"]}}
    success["headers"] = versions
    if operation.answer != "none":
        name = {"token": "ClientToken", "members": "GroupMembers"}[operation.answer]
        schema = {"schema": {"$ref": f"#/components/schemas/{name}"}}
        success["content"] = {"application/json": schema}
    responses: dict[str, Any] = {str(operation.success): success}
    for status, text in _FAULTS.items():
        if status not in ("413", "415") or operation.body != "none":
            responses[status] = _fault(status, text)
    if operation.missing is not None:
        responses["404"] = _fault("404", f"Not there: {operation.missing}.")
    if operation.id in ("AddConnectionToGroup", "AddUserToGroup", "AddConnectionsToGroups"):
        text = "More groups than the hub's limits allow a connection, or no role that allows this."
        responses["403"] = _fault("403", text)
    if operation.id in ("GrantPermission", "RevokePermission"):
        responses["409"] = _fault("409", "Too many rules on the connection.")
    return responses


def _fault(status: str, text: str) -> dict[str, Any]:
    if status == "401":
        return {"description": text, "headers": {"WWW-Authenticate": {"schema": {"type": "string"}}}}
    flat: dict[str, Any] = {"schema": {"$ref": "#/components/schemas/ErrorDetail"}}
    bound: dict[str, Any] = {"schema": {"$ref": "#/components/schemas/ValidationError"}}
    content = {"application/json": flat}
    if status == "400":
        content = {
            "application/json": {"schema": {"anyOf": [flat["schema"], bound["schema"]]}},
            "application/problem+json": bound,
        }
    return {
        "description": text,
        "headers": {ERROR_CODE_HEADER: {"schema": {"type": "string"}}},
        "content": content,
    }
