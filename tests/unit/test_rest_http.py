"""What is around the operations: health, CORS, request ids, throttling, faults, the OpenAPI documents."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from support.rest import VERSION, Answer, Rig, rest_rig

from controlplane import problems
from controlplane.operations import SUPPORTED_VERSIONS, VERSION_ALIASES
from controlplane.settings import ControlPlaneConfig
from hubwire.model import errors
from hubwire.model.cluster_settings import ClusterSettings, RestLimits
from hubwire.model.errors import HubwireError
from hubwire.model.settings import HubLimits, HubSettings

SEND = "/api/hubs/chat/:send"


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with rest_rig() as rig:
        yield rig


@pytest.mark.parametrize("method", ["HEAD", "GET"])
@pytest.mark.parametrize("query", ["", "?api-version=2024-12-01", "?api-version=x"])
async def test_health_needs_no_credentials_and_no_version(rig: Rig, method: str, query: str) -> None:
    answer = await rig.call(method, "/api/health" + query, token=None)
    assert (answer.status, answer.body) == (200, b"")
    assert "api-supported-versions" not in answer.headers
    assert (await rig.call("POST", "/api/health", token=None)).status == 405


async def test_health_says_when_the_bus_is_away(rig: Rig) -> None:
    rig.cluster.away = True
    assert (await rig.call("HEAD", "/api/health", token=None)).status == 503


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("POST", SEND, 202), ("HEAD", "/api/hubs/chat/users/u", 404), ("GET", "/api/nothing", 404)],
)
@pytest.mark.parametrize("token", ["", None])
async def test_the_request_id_is_echoed_whatever_the_answer(
    rig: Rig, method: str, path: str, status: int, token: str | None
) -> None:
    headers = {"x-ms-client-request-id": "id-1"}
    answer = await rig.call(method, path, token=token, headers=headers)
    assert answer.status == (401 if token is None and "hubs" in path else status)
    assert answer.headers["x-ms-client-request-id"] == "id-1"
    assert "x-ms-client-request-id" not in (await rig.call(method, path)).headers


async def test_a_browser_may_ask_and_read_from_any_origin_by_default(rig: Rig) -> None:
    headers = {
        "Origin": "https://page.example.com",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type,x-webpubsub-metadata-a",
    }
    answer = await rig.call("OPTIONS", SEND, token=None, headers=headers)
    assert (answer.status, answer.body) == (204, b"")
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert answer.headers["Access-Control-Allow-Methods"] == "OPTIONS, POST"
    assert answer.headers["Access-Control-Allow-Headers"] == headers["Access-Control-Request-Headers"]
    assert "Access-Control-Allow-Credentials" not in answer.headers
    answer = await rig.call("POST", SEND, "x", "text/plain", headers={"Origin": headers["Origin"]})
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert "x-ms-error-code" in answer.headers["Access-Control-Expose-Headers"]
    answer = await rig.call("POST", SEND, token=None, headers={"Origin": headers["Origin"]})
    assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (401, "*")


async def test_origins_can_be_named() -> None:
    config = ControlPlaneConfig(cors_origins=("https://good.example.com",))
    async with rest_rig(config) as rig:
        for origin, allowed in (("https://good.example.com", True), ("https://bad.example.com", False)):
            answer = await rig.call("POST", SEND, "x", "text/plain", headers={"Origin": origin})
            assert answer.headers.get("Access-Control-Allow-Origin") == (origin if allowed else None)
            assert answer.headers["Vary"] == "Origin"
            preflight = {"Origin": origin, "Access-Control-Request-Method": "POST"}
            answer = await rig.call("OPTIONS", SEND, token=None, headers=preflight)
            assert ("Access-Control-Allow-Methods" in answer.headers) is allowed


async def test_origins_and_limits_of_the_cluster_are_in_force_at_once(rig: Rig) -> None:
    origin = {"Origin": "https://bad.example.com"}

    async def send(body: str = "xx") -> Answer:
        return await rig.call("POST", SEND, body, "text/plain", headers=origin)

    assert (await send()).headers["Access-Control-Allow-Origin"] == "*"
    rig.settings.cluster = ClusterSettings(cors_origins=("https://good.example.com",))
    answer = await send()
    assert (answer.status, answer.headers.get("Access-Control-Allow-Origin")) == (202, None)
    rig.settings.cluster = ClusterSettings(limits=RestLimits(max_body_bytes=1))
    answer = await send()
    assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (413, "*")
    rig.settings.cluster = ClusterSettings()
    assert (await send()).status == 202


async def test_a_hubs_limit_of_message_bytes_holds_for_rest_too(rig: Rig) -> None:
    rig.settings.cluster = ClusterSettings(hub_limits=HubLimits(max_message_bytes=3))
    await rig.settings.put_hub("chat", HubSettings(limits=HubLimits(max_message_bytes=5)))
    for hub, length, status in (("chat", 5, 202), ("chat", 6, 413), ("other", 3, 202), ("other", 4, 413)):
        target = f"/api/hubs/{hub}/:send?{VERSION}"
        assert (await rig.call("POST", target, "x" * length, "text/plain")).status == status


async def test_a_hubs_sends_above_its_pace_are_429_and_reach_nobody(rig: Rig) -> None:
    limits = HubLimits(hub_messages_per_second_per_gateway=1)
    await rig.settings.put_hub("chat", HubSettings(limits=limits))
    assert (await rig.call("POST", SEND, "x", "text/plain")).status == 202
    published = rig.cluster.calls
    answers = await asyncio.gather(*(rig.call("POST", SEND, "x", "text/plain") for _ in range(40)))
    refused = [one for one in answers if one.status == 429]  # the first second's worth is used up
    assert refused
    assert {one.headers["Retry-After"] for one in refused} == {"1"}
    assert {one.json["code"] for one in refused} == {"Error.TooManyRequests"}
    assert rig.cluster.calls - published == len(answers) - len(refused)
    assert (await rig.call("POST", SEND.replace("chat", "other"), "x", "text/plain")).status == 202


async def test_options_names_the_methods_of_a_path(rig: Rig) -> None:
    answer = await rig.call("OPTIONS", "/api/hubs/chat/connections/x", token=None)
    assert (answer.status, answer.headers["Allow"]) == (204, "DELETE, HEAD, OPTIONS")
    assert (await rig.call("OPTIONS", "/api/hubs/chat/x", token=None)).status == 404


async def test_too_many_requests_at_once_are_429_and_health_still_answers() -> None:
    async with rest_rig(ControlPlaneConfig(max_concurrent_requests=1)) as rig:
        entered, release = asyncio.Event(), asyncio.Event()

        async def slow_exists(*_: object) -> bool:
            entered.set()
            await release.wait()
            return True

        rig.cluster.exists = slow_exists  # type: ignore[method-assign]
        first = asyncio.create_task(rig.call("HEAD", "/api/hubs/chat/users/u"))
        await entered.wait()
        answer = await rig.call("POST", SEND, "x", "text/plain")
        assert (answer.status, answer.headers["Retry-After"]) == (429, "1")
        assert answer.json["code"] == answer.headers["x-ms-error-code"] == "Error.TooManyRequests"
        assert (await rig.call("HEAD", "/api/health", token=None)).status == 200
        release.set()
        assert (await first).status == 200
        assert (await rig.call("POST", SEND, "x", "text/plain")).status == 202


async def test_a_cluster_that_hangs_is_answered_for_in_bounded_time() -> None:
    async with rest_rig(ControlPlaneConfig(request_seconds=0.1)) as rig:

        async def hang(*_: object) -> bool:
            await asyncio.Event().wait()
            return True

        rig.cluster.exists = hang  # type: ignore[method-assign]
        answer = await rig.call("HEAD", "/api/hubs/chat/users/u")
        assert (answer.status, answer.headers["Retry-After"]) == (503, "1")


async def test_a_bug_of_ours_shows_nothing_of_the_inside(rig: Rig) -> None:
    async def fail(*_: object) -> bool:
        raise ZeroDivisionError("secret")

    rig.cluster.exists = fail  # type: ignore[method-assign]
    answer = await rig.call("HEAD", "/api/hubs/chat/users/u", check=False)
    assert (answer.status, answer.headers["x-ms-error-code"]) == (500, "Error.InternalServerError")

    async def fail_on_purpose(*_: object) -> bool:
        raise errors.InternalError("secret")

    rig.cluster.add_connection_to_group = fail_on_purpose  # type: ignore[method-assign]
    answer = await rig.call("PUT", "/api/hubs/chat/groups/g/connections/c", check=False)
    assert answer.status == 500
    assert b"secret" not in answer.body


def _all_categories(cls: type[HubwireError] = HubwireError) -> list[type[HubwireError]]:
    found = [cls] if cls.__module__ == errors.__name__ else []
    return found + [each for sub in cls.__subclasses__() for each in _all_categories(sub)]


def test_every_category_of_error_has_a_row_of_its_own() -> None:
    assert set(problems.CATEGORIES) == set(_all_categories())


@pytest.mark.parametrize("version", [*SUPPORTED_VERSIONS, *VERSION_ALIASES])
async def test_there_is_one_openapi_document_for_each_version(rig: Rig, version: str) -> None:
    answer = await rig.call("GET", f"/api/openapi/{version}.json", token=None)
    assert answer.status == 200
    assert answer.json["info"]["version"] == version
    listed = await rig.call("GET", "/api/openapi", token=None)
    assert f"/api/openapi/{version}.json" in listed.json["documents"]
    head = await rig.call("HEAD", f"/api/openapi/{version}.json", token=None)
    assert (head.body, head.headers["Content-Length"]) == (b"", str(len(answer.body)))


async def test_other_documents_are_not_there(rig: Rig) -> None:
    assert (await rig.call("GET", "/api/openapi/1999-01-01.json", token=None)).status == 404
    assert (await rig.call("POST", "/api/openapi", token=None)).status == 405


async def test_answers_do_not_name_the_framework(rig: Rig) -> None:
    assert (await rig.call("POST", SEND, "x", "text/plain")).headers["Server"] == "Hubwire"


def test_a_configuration_out_of_range_is_refused() -> None:
    for bad in (
        {"public_endpoints": ("pubsub.example.com",)},
        {"max_body_bytes": 0},
        {"max_minutes_to_expire": 0},
        {"max_concurrent_requests": 0},
        {"request_seconds": 0.0},
    ):
        with pytest.raises(ValueError, match=r"."):
            ControlPlaneConfig(**bad)  # type: ignore[arg-type]
