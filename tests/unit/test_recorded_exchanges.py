"""What the real service answered, to the byte: bodies compared as JSON values, member order included."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.rest import rest_rig

FACTS = json.loads(Path(__file__).with_name("recorded_exchanges.json").read_text())


@pytest.mark.parametrize("fact", FACTS["exchanges"], ids=lambda f: f"{f['from']}: {f['name']}")
async def test_the_answer_is_the_recorded_one(fact: dict[str, Any]) -> None:
    async with rest_rig() as rig:
        answer = await rig.call(
            fact["method"],
            fact["url"],
            fact.get("send"),
            fact.get("type"),
            token="" if fact.get("auth", True) else None,
        )
    assert answer.status == fact["status"]
    for name, value in fact.get("headers", {}).items():
        assert answer.headers[name].partition(";")[0] == value
    if "body" in fact:
        assert answer.json == fact["body"]
        assert list(answer.json) == list(fact["body"])
        # Compact, as the service writes it.
        assert answer.body == json.dumps(fact["body"], separators=(",", ":"), ensure_ascii=False).encode()
    elif fact["method"] != "HEAD":
        assert answer.body == b""
    supported = answer.headers.get("api-supported-versions")
    if "supported" in fact:
        assert supported is not None
        assert set(fact["supported"]) <= set(supported.split(", "))
    else:
        # Neither the health check nor what fails while parameters are bound names the versions.
        assert supported is None
