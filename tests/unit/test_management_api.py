"""Azure's own management SDK, unmodified, against ours; and the edges that it does not reach."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

import pytest
from azure.core.credentials import AccessToken
from azure.core.exceptions import (
    ClientAuthenticationError,
    HttpResponseError,
    ResourceNotFoundError,
)
from azure.mgmt.webpubsub import WebPubSubManagementClient
from azure.mgmt.webpubsub.models import (
    EventHandler,
    ManagedIdentitySettings,
    RegenerateKeyParameters,
    UpstreamAuthSettings,
    WebPubSubHub,
    WebPubSubHubProperties,
)
from support.rest import Rig, rest_rig

from controlplane.settings import ControlPlaneConfig, ManagementConfig
from hubwire.model.cluster_settings import hash_of_token
from hubwire.model.settings import HubLimits, HubSettings
from hubwire.model.tokens import sign_admin_token, sign_rest_token

SUBSCRIPTION = "11111111-2222-3333-4444-555555555555"
RESOURCE = (
    f"/subscriptions/{SUBSCRIPTION}/resourceGroups/rg/providers/Microsoft.SignalRService/webPubSub/mine"
)
V = "?api-version=2024-03-01"
T = TypeVar("T")


class Credential:
    def __init__(self, token: str) -> None:
        self.token = token

    def get_token(self, *scopes: str, **_: Any) -> AccessToken:
        assert scopes == ("https://management.azure.com/.default",)
        return AccessToken(self.token, int(time.time()) + 3600)


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with rest_rig() as rig:
        yield rig


def admin_token(rig: Rig) -> str:
    return sign_admin_token(rig.settings.keys.primary, time.time())


async def with_sdk(rig: Rig, use: Callable[[WebPubSubManagementClient], T], token: str | None = None) -> T:
    """Run blocking SDK calls in a thread."""

    def run() -> T:
        credential = Credential(token if token is not None else admin_token(rig))
        with WebPubSubManagementClient(
            credential,  # type: ignore[arg-type]
            SUBSCRIPTION,
            base_url=rig.base,
            retry_total=0,
        ) as client:
            return use(client)

    return await asyncio.to_thread(run)


async def call(rig: Rig, method: str, target: str, body: Any = None, **more: Any) -> Any:
    data = json.dumps(body) if body is not None else None
    content_type = "application/json" if body is not None else None
    more.setdefault("token", admin_token(rig))
    return await rig.call(method, target, data, content_type, **more)


HUB = WebPubSubHub(
    properties=WebPubSubHubProperties(
        event_handlers=[
            EventHandler(
                url_template="http://127.0.0.1:8080/{hub}/{event}",
                user_event_pattern="*",
                system_events=["connect", "disconnected"],
                auth=UpstreamAuthSettings(type="None"),
            ),
            EventHandler(url_template="https://example.com/eventhandler"),
        ],
        anonymous_connect_policy="allow",
        web_socket_keep_alive_interval_in_seconds=30,
    )
)


async def test_hubs_are_put_read_listed_and_deleted(rig: Rig) -> None:
    def use(client: WebPubSubManagementClient) -> None:
        hubs, names = client.web_pub_sub_hubs, ("rg", "mine")
        assert list(hubs.list(*names, enforce_https=False)) == []
        made = hubs.begin_create_or_update("myHub", *names, HUB, enforce_https=False).result()
        assert made.name == "myHub"
        assert made.id == f"{RESOURCE.replace('webPubSub/', 'WebPubSub/')}/hubs/myHub"
        assert made.type == "Microsoft.SignalRService/WebPubSub/hubs"
        found = hubs.get("MYHUB", *names, enforce_https=False)
        assert found.name == "myHub"
        assert found.properties.as_dict() == {
            "event_handlers": [
                {
                    "url_template": "http://127.0.0.1:8080/{hub}/{event}",
                    "user_event_pattern": "*",
                    "system_events": ["connect", "disconnected"],
                    "auth": {"type": "None"},
                },
                {"url_template": "https://example.com/eventhandler", "system_events": []},
            ],
            "event_listeners": [],
            "anonymous_connect_policy": "allow",
            "web_socket_keep_alive_interval_in_seconds": 30,
        }
        assert [hub.name for hub in hubs.list(*names, enforce_https=False)] == ["myHub"]
        changed = WebPubSubHub(properties=WebPubSubHubProperties(anonymous_connect_policy="deny"))
        made = hubs.begin_create_or_update("myHub", *names, changed, enforce_https=False).result()
        assert made.properties.event_handlers == []
        assert made.properties.web_socket_keep_alive_interval_in_seconds == 20
        hubs.begin_delete("myhub", *names, enforce_https=False).result()
        hubs.begin_delete("myhub", *names, enforce_https=False).result()
        with pytest.raises(ResourceNotFoundError) as caught:
            hubs.get("myHub", *names, enforce_https=False)
        assert caught.value.error.code == "ResourceNotFound"

    await with_sdk(rig, use)


async def test_limits_which_azure_has_none_of_survive_a_round_trip_of_the_sdk(rig: Rig) -> None:
    """The vendor's SDK drops what it does not know: a change by it would have lifted the limits."""
    limits = {"maxMessageBytes": 1000, "messagesPerSecond": 5}
    answer = await call(rig, "PUT", f"{RESOURCE}/hubs/myHub{V}", {"properties": {"limits": limits}})
    assert answer.json["properties"]["limits"] == limits

    def use(client: WebPubSubManagementClient) -> None:
        hubs, names = client.web_pub_sub_hubs, ("rg", "mine")
        found = hubs.get("myHub", *names, enforce_https=False)
        found.properties.anonymous_connect_policy = "allow"
        made = hubs.begin_create_or_update("myHub", *names, found, enforce_https=False).result()
        assert made.properties.anonymous_connect_policy == "allow"

    await with_sdk(rig, use)
    kept = HubLimits(max_message_bytes=1000, messages_per_second=5)
    assert rig.settings.limits("myhub") == kept
    body: dict[str, Any] = {"properties": {"limits": {"messagesPerSecond": 7, "maxMessageBytes": None}}}
    answer = await call(rig, "PUT", f"{RESOURCE}/hubs/myHub{V}", body)
    assert answer.json["properties"]["limits"] == {"messagesPerSecond": 7}
    answer = await call(rig, "PUT", f"{RESOURCE}/hubs/myHub{V}", {"properties": {"limits": None}})
    assert "limits" not in answer.json["properties"]
    assert rig.settings.limits("myhub") == HubLimits()


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        (
            {"maxMessageBytes": 0},
            "maxMessageBytes: It is 0, and must be a whole number from 1 to 1048576.",
        ),
        (
            {"messagesPerSecond": "5"},
            "messagesPerSecond: It is '5', and must be a whole number from 1.",
        ),
        ({"maxConnections": 1}, "limits.maxConnections: This is not a setting; known here: bytesPerSecond"),
        (5, "limits: It is 5, and must be an object."),
    ],
)
async def test_limits_that_cannot_be_are_refused_and_named(rig: Rig, limits: object, said: str) -> None:
    answer = await call(rig, "PUT", f"{RESOURCE}/hubs/myHub{V}", {"properties": {"limits": limits}})
    assert answer.status == 400
    assert said in answer.json["error"]["message"]
    assert rig.settings.hub_entry("myhub") is None


async def test_the_clusters_settings_are_read_and_changed_in_force_at_once(rig: Rig) -> None:
    path, token = "/hubwire/settings", "a-static-token-of-an-operator"
    assert (await call(rig, "GET", path)).json == {}
    assert (await rig.call("GET", path, token=None)).status == 401
    assert (await call(rig, "GET", path, token=token)).status == 401
    change: dict[str, Any] = {
        "corsOrigins": ["https://a.example.com"],
        "hubLimits": {"messagesPerSecond": 5},
        "management": {"adminToken": token, "resourceName": "mine"},
    }
    answer = await call(rig, "PATCH", path, change)
    assert answer.status == 200
    assert answer.json == {**change, "management": {"adminToken": "***", "resourceName": "mine"}}
    assert (await call(rig, "GET", path, token=token)).json == answer.json
    elsewhere = RESOURCE.replace("/mine", "/other")
    assert (await call(rig, "GET", f"{elsewhere}{V}")).status == 404
    answer = await call(rig, "PATCH", path, {"management": None}, token=token)
    assert "management" not in answer.json
    assert (await call(rig, "GET", path, token=token)).status == 401
    assert (await call(rig, "GET", f"{elsewhere}{V}")).status == 200


async def test_a_change_of_the_clusters_settings_that_cannot_be_is_refused_as_a_whole(rig: Rig) -> None:
    change = {"corsOrigins": ["https://a.example.com"], "limits": {"maxBodyBytes": 0}}
    answer = await call(rig, "PATCH", "/hubwire/settings", change)
    assert (answer.status, answer.json["error"]["target"]) == (400, "limits.maxBodyBytes")
    assert (await call(rig, "GET", "/hubwire/settings")).json == {}
    assert (await call(rig, "DELETE", "/hubwire/settings")).status == 404


async def test_what_the_sdk_puts_is_what_the_service_works_with(rig: Rig) -> None:
    await with_sdk(
        rig,
        lambda client: client.web_pub_sub_hubs.begin_create_or_update(
            "myHub", "rg", "mine", HUB, enforce_https=False
        ).result(),
    )
    entry = rig.settings.hub_entry("myhub")
    assert entry is not None
    settings = entry[1]
    assert settings.anonymous_connect_policy == "allow"
    assert settings.event_handlers[0].system_events == ("connect", "disconnected")
    assert settings.event_handlers[0].url_template == "http://127.0.0.1:8080/{hub}/{event}"
    assert settings.event_handlers[1].user_event_pattern is None


async def test_keys_are_listed_and_regenerated_one_by_one(rig: Rig) -> None:
    before = rig.settings.keys

    def use(client: WebPubSubManagementClient) -> None:
        keys = client.web_pub_sub.list_keys("rg", "mine", enforce_https=False)
        assert (keys.primary_key, keys.secondary_key) == (before.primary, before.secondary)
        assert keys.primary_connection_string == (
            f"Endpoint={rig.base};AccessKey={before.primary};Version=1.0;"
        )
        parameters = RegenerateKeyParameters(key_type="Primary")
        fresh = client.web_pub_sub.begin_regenerate_key(
            "rg", "mine", parameters, enforce_https=False
        ).result()
        assert fresh.primary_key not in (before.primary, None)
        assert fresh.secondary_key == before.secondary
        assert f"AccessKey={fresh.primary_key};" in fresh.primary_connection_string

    await with_sdk(rig, use, sign_admin_token(before.secondary, time.time()))
    assert rig.settings.keys.primary != before.primary
    # The token of before was signed with the key that is gone.
    with pytest.raises(ClientAuthenticationError):
        await with_sdk(
            rig,
            lambda client: client.web_pub_sub.list_keys("rg", "mine", enforce_https=False),
            sign_admin_token(before.primary, time.time()),
        )


@pytest.mark.parametrize("key_type", ["secondary", "Salt", "PRIMARY"])
async def test_the_kind_of_key_has_no_case(rig: Rig, key_type: str) -> None:
    before = rig.settings.keys
    answer = await call(rig, "POST", f"{RESOURCE}/regenerateKey{V}", {"keyType": key_type})
    assert answer.status == 200
    changed = [
        f for f in ("primary", "secondary", "salt") if getattr(before, f) != getattr(rig.settings.keys, f)
    ]
    assert changed == [key_type.lower()]


@pytest.mark.parametrize("body", [{"keyType": "tertiary"}, {"keyType": None}, {}, [], "x"])
async def test_another_kind_of_key_is_refused(rig: Rig, body: Any) -> None:
    before = rig.settings.keys
    answer = await call(rig, "POST", f"{RESOURCE}/regenerateKey{V}", body)
    assert (answer.status, answer.json["error"]["code"]) == (400, "InvalidRequestContent")
    assert rig.settings.keys == before


async def test_the_resource_is_there_however_it_is_called(rig: Rig) -> None:
    def use(client: WebPubSubManagementClient) -> None:
        found = client.web_pub_sub.get("rg", "mine", enforce_https=False)
        assert (found.name, found.provisioning_state, found.kind) == ("mine", "Succeeded", "WebPubSub")
        assert f"http://{found.host_name}:{found.public_port}" == rig.base
        by_group = list(client.web_pub_sub.list_by_resource_group("rg", enforce_https=False))
        by_subscription = list(client.web_pub_sub.list_by_subscription(enforce_https=False))
        assert [r.name for r in by_group] == [r.name for r in by_subscription] == ["hubwire"]
        assert list(client.operations.list(enforce_https=False))
        assert list(client.web_pub_sub_replicas.list("rg", "mine", enforce_https=False)) == []

    await with_sdk(rig, use)


async def test_configured_names_are_the_only_ones() -> None:
    names = ManagementConfig(subscription_id=SUBSCRIPTION, resource_group="RG", resource_name="Mine")
    async with rest_rig(ControlPlaneConfig(management=names)) as rig:
        assert (await call(rig, "GET", RESOURCE + V)).status == 200
        for other, code in (
            (RESOURCE.replace("1111", "9999"), "SubscriptionNotFound"),
            (RESOURCE.replace("/rg/", "/other/"), "ResourceGroupNotFound"),
            (RESOURCE.replace("/mine", "/other"), "ResourceNotFound"),
        ):
            answer = await call(rig, "POST", f"{other}/listKeys{V}")
            assert (answer.status, answer.json["error"]["code"]) == (404, code)


async def test_paths_have_no_case_and_any_later_version_is_good(rig: Rig) -> None:
    for version in ("2021-10-01", "2023-08-01-preview", "2026-03-01-preview", "2031-01-01"):
        target = f"{RESOURCE.upper()}/LISTKEYS?API-VERSION={version}"
        assert (await call(rig, "POST", target)).status == 200
    answer = await call(rig, "POST", f"{RESOURCE}/listKeys")
    assert (answer.status, answer.json["error"]["code"]) == (400, "MissingApiVersionParameter")
    for version in ("1999-01-01", "latest", "2024-03-01-beta"):
        answer = await call(rig, "POST", f"{RESOURCE}/listKeys?api-version={version}")
        assert (answer.status, answer.json["error"]["code"]) == (400, "InvalidApiVersionParameter")


@pytest.mark.parametrize("target", [f"{RESOURCE}/listKeys{V}", f"{RESOURCE}/nothing", "/providers/x"])
async def test_only_an_administrator_is_let_in(rig: Rig, target: str) -> None:
    rest = sign_rest_token(rig.settings.keys.primary, rig.base + target, time.time())
    expired = sign_admin_token(rig.settings.keys.primary, time.time() - 1000)
    for token in (None, rest, expired, "x", sign_admin_token("k" * 40, time.time())):
        answer = await call(rig, "POST", target, token=token)
        assert answer.status == 401
        assert answer.json["error"]["code"] == "InvalidAuthenticationToken"
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        assert "claims" not in answer.headers["WWW-Authenticate"]


async def test_an_administrators_token_does_not_open_the_data_plane(rig: Rig) -> None:
    answer = await rig.call("HEAD", "/api/hubs/chat/users/u", token=admin_token(rig))
    assert answer.status == 401


async def test_a_static_token_can_be_configured_and_is_off_by_default(rig: Rig) -> None:
    static = "a-static-token-of-an-operator"
    assert (await call(rig, "POST", f"{RESOURCE}/listKeys{V}", token=static)).status == 401
    async with rest_rig(ControlPlaneConfig(admin_token_sha256=hash_of_token(static))) as open_rig:
        for token, status in ((static, 200), (static + "x", 401), (admin_token(open_rig), 200)):
            answer = await call(open_rig, "POST", f"{RESOURCE}/listKeys{V}", token=token)
            assert answer.status == status
        answer = await open_rig.call("HEAD", "/api/hubs/chat/users/u", token=static)
        assert answer.status == 401


async def test_closing_on_failed_events_survives_what_does_not_name_it(rig: Rig) -> None:
    body: dict[str, Any] = {"properties": {"closeOnEventFailure": True}}
    answer = await call(rig, "PUT", f"{RESOURCE}/hubs/myHub{V}", body)
    assert answer.json["properties"]["closeOnEventFailure"] is True
    body = {"properties": {"anonymousConnectPolicy": "allow", "limits": {"messagesPerSecond": 7}}}
    answer = await call(rig, "PUT", f"{RESOURCE}/hubs/myHub{V}", body)
    assert answer.json["properties"]["closeOnEventFailure"] is True
    entry = rig.settings.hub_entry("myhub")
    assert entry is not None
    assert (entry[1].close_on_event_failure, entry[1].limits) == (True, HubLimits(messages_per_second=7))
    for off in (False, None):
        body = {"properties": {"closeOnEventFailure": off}}
        answer = await call(rig, "PUT", f"{RESOURCE}/hubs/myHub{V}", body)
        assert "closeOnEventFailure" not in answer.json["properties"]
        assert answer.json["properties"]["limits"] == {"messagesPerSecond": 7}
    body = {"properties": {"closeOnEventFailure": "yes"}}
    answer = await call(rig, "PUT", f"{RESOURCE}/hubs/myHub{V}", body)
    assert (answer.status, answer.json["error"]["target"]) == (400, "closeOnEventFailure")


async def test_an_empty_hub_has_the_defaults_and_nulls_count_as_absent(rig: Rig) -> None:
    body: dict[str, Any] = {"properties": {}}
    answer = await call(rig, "PUT", f"{RESOURCE}/hubs/a{V}", body)
    assert answer.status == 201
    assert answer.json["properties"] == {
        "eventHandlers": [],
        "eventListeners": [],
        "anonymousConnectPolicy": "deny",
        "webSocketKeepAliveIntervalInSeconds": 20,
    }
    nulls = {"eventHandlers": None, "eventListeners": None, "anonymousConnectPolicy": None}
    body = {"properties": nulls, "id": "x", "name": "y", "systemData": {}}
    assert (await call(rig, "PUT", f"{RESOURCE}/hubs/a{V}", body)).status == 200
    assert rig.settings.hub_entry("a") == ("a", HubSettings())


@pytest.mark.parametrize(
    ("properties", "place"),
    [
        ({"eventHandlers": [{}]}, "eventHandlers[0]"),
        ({"eventHandlers": [{"urlTemplate": "ftp://x"}]}, "eventHandlers[0].urlTemplate"),
        ({"eventHandlers": [{"urlTemplate": "http://{hub}.x/"}]}, "eventHandlers[0].urlTemplate"),
        ({"eventHandlers": [{"urlTemplate": "http://x", "systemEvents": ["x"]}]}, "systemEvents[0]"),
        ({"eventHandlers": [{"urlTemplate": "http://x", "systemEvent": []}]}, "eventHandlers[0].systemEvent"),
        ({"eventHandlers": [{"urlTemplate": "http://x", "auth": {"kind": 1}}]}, "auth.kind"),
        ({"anonymousConnectPolicy": "maybe"}, "anonymousConnectPolicy"),
        ({"webSocketKeepAliveIntervalInSeconds": 0}, "webSocketKeepAliveIntervalInSeconds"),
        ({"webSocketKeepAliveIntervalInSeconds": 121}, "webSocketKeepAliveIntervalInSeconds"),
        ({"chats": {"mode": "Enabled"}}, "chats"),
        ({"anonymousConnectPolicy": "perhaps"}, "anonymousConnectPolicy"),
        ({"eventListeners": [{}]}, "eventListeners[0]"),
        ({"eventListeners": [{"endpoint": {"type": "Kafka"}}]}, "eventListeners[0].endpoint"),
        ({"eventListeners": [{"endpoint": {"type": "Nats", "servers": []}}]}, "endpoint.servers"),
        ({"eventListeners": [{"endpoint": {"type": "Nats", "stream": "KV_x"}}]}, "endpoint.stream"),
        ({"eventListeners": [{"endpoint": {"type": "Nats", "subjectPrefix": "$KV"}}]}, "subjectPrefix"),
        ({"eventListeners": [{"endpoint": {"type": "Nats", "subjectPrefix": "hw.gw"}}]}, "subjectPrefix"),
        (
            {"eventListeners": [{"endpoint": {"type": "Nats"}, "filter": {"userEventPattern": "a*"}}]},
            "filter.userEventPattern",
        ),
        ([], "properties"),
        (None, "properties"),
    ],
)
async def test_settings_that_cannot_be_are_refused_with_their_place(
    rig: Rig, properties: Any, place: str
) -> None:
    answer = await call(rig, "PUT", f"{RESOURCE}/hubs/a{V}", {"properties": properties})
    assert (answer.status, answer.json["error"]["code"]) == (400, "InvalidRequestContent")
    assert place in answer.json["error"]["target"]
    assert rig.settings.hubs() == {}


@pytest.mark.parametrize(
    "properties",
    [
        {"eventListeners": [{"filter": {"type": "EventName"}, "endpoint": {"type": "EventHub"}}]},
        {"chat": {"mode": "Enabled"}},
        {"eventHandlers": [{"urlTemplate": "{@Microsoft.KeyVault(SecretUri=https://x)}"}]},
        {"eventHandlers": [{"urlTemplate": "http://x", "auth": {"type": "ManagedIdentity"}}]},
    ],
)
async def test_what_cannot_be_honoured_is_501_and_not_stored(rig: Rig, properties: Any) -> None:
    answer = await call(rig, "PUT", f"{RESOURCE}/hubs/a{V}", {"properties": properties})
    assert (answer.status, answer.json["error"]["code"]) == (501, "FeatureNotSupported")
    assert rig.settings.hubs() == {}


async def test_with_an_identity_configured_it_is_taken() -> None:
    config = ManagementConfig(upstream_identity=True)
    async with rest_rig(ControlPlaneConfig(management=config)) as rig:

        def use(client: WebPubSubManagementClient) -> None:
            hub = WebPubSubHub(
                properties=WebPubSubHubProperties(
                    event_handlers=[
                        EventHandler(
                            url_template="https://x/",
                            auth=UpstreamAuthSettings(
                                type="ManagedIdentity",
                                managed_identity=ManagedIdentitySettings(resource="api://x"),
                            ),
                        )
                    ]
                )
            )
            made = client.web_pub_sub_hubs.begin_create_or_update(
                "a", "rg", "mine", hub, enforce_https=False
            ).result()
            assert made.properties.event_handlers[0].auth.managed_identity.resource == "api://x"

        await with_sdk(rig, use)


async def test_a_listener_to_the_stream_of_the_cluster_is_taken_and_the_sdk_cannot_lose_it(rig: Rig) -> None:
    """Azure's SDK does not know the endpoint and leaves its type out when it writes back what it read:
    that is refused, never stored as something else."""
    listener = {
        "filter": {"type": "EventName", "systemEvents": ["Connected"], "userEventPattern": "*"},
        "endpoint": {"type": "Nats", "stream": "ORDERS", "subjectPrefix": "orders"},
    }
    answer = await call(rig, "PUT", f"{RESOURCE}/hubs/a{V}", {"properties": {"eventListeners": [listener]}})
    assert answer.status == 201, answer.json
    listener["filter"] = {"type": "EventName", "systemEvents": ["connected"], "userEventPattern": "*"}
    assert answer.json["properties"]["eventListeners"] == [{**listener, "delivery": "bestEffort"}]

    def use(client: WebPubSubManagementClient) -> None:
        hub = client.web_pub_sub_hubs.get("a", "rg", "mine", enforce_https=False)
        assert hub.properties.event_listeners[0].filter.user_event_pattern == "*"
        with pytest.raises(HttpResponseError, match="type"):
            client.web_pub_sub_hubs.begin_create_or_update("a", "rg", "mine", hub, enforce_https=False)

    await with_sdk(rig, use)
    entry = rig.settings.hub_entry("a")
    assert entry is not None
    assert len(entry[1].event_listeners) == 1


@pytest.mark.parametrize("name", ["1a", "a-b", "a%2Fb", "a%20", "a" * 129])
async def test_a_hub_needs_a_legal_name(rig: Rig, name: str) -> None:
    answer = await call(rig, "PUT", f"{RESOURCE}/hubs/{name}{V}", {"properties": {}})
    assert answer.status == 400
    assert rig.settings.hubs() == {}


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("DELETE", "", 403, "OperationNotAllowed"),
        ("PUT", "", 501, "FeatureNotSupported"),
        ("PATCH", "", 501, "FeatureNotSupported"),
        ("POST", "/restart", 501, "FeatureNotSupported"),
        ("PUT", "/customDomains/x", 501, "FeatureNotSupported"),
        ("GET", "/customDomains/x", 404, "ResourceNotFound"),
        ("GET", "/hubs/none", 404, "ResourceNotFound"),
        ("GET", "/whatever", 404, "InvalidResourceType"),
        ("GET", "/listKeys", 404, "InvalidResourceType"),
    ],
)
async def test_what_is_not_managed_here_is_refused_clearly(
    rig: Rig, method: str, path: str, status: int, code: str
) -> None:
    answer = await call(rig, method, RESOURCE + path + V)
    assert (answer.status, answer.json["error"]["code"]) == (status, code)
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"


async def test_what_the_command_line_looks_for_around_the_resource(rig: Rig) -> None:
    assert (await call(rig, "DELETE", f"{RESOURCE}/customDomains/x{V}")).status == 204
    assert (await call(rig, "GET", f"/metadata/endpoints{V}", token=None)).json["suffixes"] == {}
    assert (await call(rig, "GET", f"/subscriptions{V}")).json["value"][0]["state"] == "Enabled"
    answer = await call(rig, "GET", f"/subscriptions/{SUBSCRIPTION}{V}")
    assert answer.json["subscriptionId"] == SUBSCRIPTION
    answer = await call(rig, "GET", f"/subscriptions/{SUBSCRIPTION}/resourceGroups/rg{V}")
    assert answer.json["properties"]["provisioningState"] == "Succeeded"
    answer = await call(rig, "GET", f"{RESOURCE}/operationStatuses/x{V}")
    assert answer.json["status"] == "Succeeded"
    assert (await call(rig, "GET", f"/subscriptions/x/y{V}")).status == 404


async def test_sdk_errors_are_the_sdks_own(rig: Rig) -> None:
    with pytest.raises(HttpResponseError, match="FeatureNotSupported"):
        await with_sdk(
            rig, lambda client: client.web_pub_sub.begin_restart("rg", "mine", enforce_https=False)
        )


async def test_the_policy_for_anonymous_clients_is_read_in_any_case(rig: Rig) -> None:
    content = {"properties": {"anonymousConnectPolicy": "ALLOW"}}
    answer = await call(rig, "PUT", f"{RESOURCE}/hubs/a{V}", content)
    assert answer.json["properties"]["anonymousConnectPolicy"] == "allow"
