"""What real processes export, after real traffic."""

from __future__ import annotations

import asyncio
import json
import runpy
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from support.admin import Page, admin_url, ask, scrape
from support.application import Application
from support.certificate_authority import CertificateAuthority
from support.local_issuer import LocalIssuer
from support.nats import NatsServer
from support.processes import KEY, Fleet, eventually
from support.up import Up
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from hubwire.cli.rest import call
from hubwire.model.tokens import sign_client_token, sign_rest_token
from hubwire.runtime.listen import hold_listen_port

ROOT = Path(__file__).parents[2]
JSON, RELIABLE = "json.webpubsub.azure.v1", "json.reliable.webpubsub.azure.v1"
SECONDS = 30.0
CONFIG = """\
hubs:
  chat:
    eventHandlers:
      - urlTemplate: http://127.0.0.1:{port}/
        userEventPattern: "*"
        systemEvents: [connected]
"""


class Service:
    """A `hubwire up` with clients and calls of REST."""

    def __init__(self, up: Up, stack: ExitStack) -> None:
        self.up = up
        self._stack = stack
        self.key = up.facts["connectionString"].partition("AccessKey=")[2].partition(";")[0]

    def client(self, hub: str, subprotocol: str = "", key: str = "") -> ClientConnection:
        token = sign_client_token(
            key or self.key,
            endpoint=self.up.endpoint,
            hub=hub,
            user_id="ada",
            roles=["webpubsub.joinLeaveGroup", "webpubsub.sendToGroup"],
            now=time.time(),
        )
        url = f"{self.up.endpoint.replace('http', 'ws', 1)}/client/hubs/{hub}?access_token={token}"
        more: Any = {"subprotocols": [subprotocol]} if subprotocol else {}
        return self._stack.enter_context(connect(url, open_timeout=SECONDS, proxy=None, **more))

    def rest(self, method: str, path: str, body: bytes | None = None) -> int:
        url = f"{self.up.endpoint}/api/hubs/{path}?api-version=2024-12-01"
        token = sign_rest_token(self.key, url.partition("?")[0], time.time())
        return call(method, url, token=token, body=body, content_type="text/plain" if body else None).status

    def page(self, name: str = "gateway-0") -> Page:
        return scrape(self.up.facts["admin"][name])


def say(client: ClientConnection, **message: object) -> None:
    client.send(json.dumps(message))


def hear(client: ClientConnection, **wanted: object) -> dict[str, Any]:
    """The next message that has these fields."""
    while True:
        message: dict[str, Any] = json.loads(client.recv(SECONDS))
        if all(message.get(name) == value for name, value in wanted.items()):
            return message


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Used a little, in every way that is measured."""
    folder = tmp_path_factory.mktemp("measured")
    held = hold_listen_port("127.0.0.1", 0)
    (folder / "hubwire.yaml").write_text(CONFIG.format(port=held.port))
    options = ("--workers", "1", "--metrics-hubs", "2", "--config", str(folder / "hubwire.yaml"))
    with held.socket, Application(held.port), Up(folder, *options) as up, ExitStack() as stack:
        service = Service(up, stack)
        ada, bob = service.client("chat", JSON), service.client("chat", JSON)
        for client in (ada, bob):
            hear(client, type="system")
            say(client, type="joinGroup", group="room", ackId=1)
            hear(client, type="ack", success=True)
        for number in range(32):
            say(
                ada, type="sendToGroup", group="room", dataType="text", data=f"hello {number:02}", noEcho=True
            )
            hear(bob, type="message")
        say(ada, type="event", event="echo", dataType="text", data="ping", ackId=2)
        hear(ada, type="ack", ackId=2)
        say(ada, type="event", event="fail", dataType="text", data="ping", ackId=3)
        hear(ada, type="ack", ackId=3)
        reliable = service.client("lasting", RELIABLE)
        hear(reliable, type="system")
        assert service.rest("POST", "lasting/:send", b"to all") == 202
        hear(reliable, type="message")
        assert service.rest("POST", "chat/groups/room/:send", b"to the room") == 202
        assert service.rest("POST", "chat/users/nobody/:send", b"to nobody") == 202
        assert service.rest("HEAD", "chat/connections/none") == 404
        for hub in ("third", "fourth"):
            service.client(hub, JSON)
        with pytest.raises(InvalidStatus):
            service.client("chat", key="x" * 44)
        bob.close()
        eventually(
            lambda: service.page().value("webpubsub_connection_closed_total") == 1, SECONDS, "bob left"
        )
        yield service


def test_connections_are_counted_by_hub_protocol_and_close_category(service: Service) -> None:
    page = service.page()
    active, opened = "webpubsub_server_active_connections", "webpubsub_connection_opened_total"
    assert page.value(active, hub="chat", protocol=JSON) == 1
    assert page.value(opened, hub="chat", protocol=JSON) == 2
    assert page.value(active, hub="lasting", protocol=RELIABLE) == 1
    assert page.value("webpubsub_connection_closed_total", hub="chat", close_category="Normal") == 1
    assert page.value("webpubsub_client_requests_total", status_code="101") == 5
    assert page.value("webpubsub_client_requests_total", status_code="401") == 1
    assert page.value("webpubsub_reliable_sessions") == 1
    assert 0 < page.value("webpubsub_connection_utilization") < 0.001


def test_hubs_beyond_the_cap_are_counted_together(service: Service) -> None:
    page = service.page()
    assert page.value("webpubsub_server_active_connections", hub="_other") == 2
    assert {one.labels["hub"] for one in page.samples if "hub" in one.labels} == {"chat", "lasting", "_other"}


def test_messages_and_bytes_are_counted_by_way_hub_and_kind(service: Service) -> None:
    page = service.page()
    messages, traffic = "webpubsub_messages_total", "webpubsub_network_io_bytes_total"
    assert page.value(messages, direction="receive", hub="chat", kind="group") == 32
    assert page.value(traffic, direction="receive", hub="chat", kind="group") == 32 * len("hello 00")
    assert page.value(messages, direction="receive", hub="chat", kind="event") == 2
    # Thirty-two to bob without ada's echo, and one of REST to both.
    assert page.value(messages, direction="transmit", hub="chat", kind="group") == 34
    assert page.value(traffic, direction="transmit", hub="chat", kind="group") > 34 * 60
    assert page.value(messages, direction="transmit", hub="lasting", kind="hub") == 1


def test_delivery_times_are_those_of_some_publishes_of_clients_and_of_all_of_rest(service: Service) -> None:
    page = service.page()
    name = "webpubsub_message_delivery_duration_seconds"
    assert page.value(f"{name}_count", hub="chat") == 32 // 16 + 1
    assert page.value(f"{name}_count", hub="lasting") == 1
    assert 0 < page.value(f"{name}_sum", hub="chat") < SECONDS


def test_events_for_handlers_are_timed_by_kind_and_outcome(service: Service) -> None:
    page = service.page()
    name = "webpubsub_upstream_request_duration_seconds_count"
    assert page.value(name, hub="chat", event="user", outcome="success") == 1
    assert page.value(name, hub="chat", event="user", outcome="status") == 1
    assert page.value("webpubsub_upstream_failures_total", category="status") == 1
    assert page.value("webpubsub_upstream_attempts_total", attempt="first") >= 2


def test_rest_is_timed_by_operation_and_status(service: Service) -> None:
    page = service.page()
    name = "http_server_request_duration_seconds_count"
    assert page.value(name, rest_category="SendToGroup", http_response_status_code="202") == 1
    assert page.value(name, rest_category="SendToUser", http_response_status_code="202") == 1
    assert page.value(name, rest_category="ConnectionExists", http_response_status_code="404") == 1
    assert page.value("http_server_active_requests") == 0


def test_a_router_tells_of_partitions_members_and_envelopes(service: Service) -> None:
    page = service.page("router")
    assert page.value("hubwire_router_partitions") == 256
    assert page.value("hubwire_router_handovers_total", direction="gained") == 256
    assert page.value("hubwire_router_gateways") == 1
    assert page.value("hubwire_router_keys") >= 4  # hubs, a user in each, a group
    assert page.value("hubwire_router_forwarded_total", reason="known") >= 33
    assert page.value("hubwire_router_inbox_entries_total") >= 1
    assert page.value("hubwire_lease_valid") == 1
    assert page.value("hubwire_lease_renewals_total", outcome="stored") >= 1


def test_the_bus_and_the_loop_are_measured_everywhere(service: Service) -> None:
    for name in service.up.facts["admin"]:
        eventually(
            lambda name=name: service.page(name).value("hubwire_bus_ping_duration_seconds_count") >= 1,
            SECONDS,
        )
        page = service.page(name)
        assert page.value("hubwire_bus_connected") == 1
        assert page.value("hubwire_loop_lag_seconds_count") >= 1
        assert page.value("process_cpu_time_seconds_total") > 0
        assert page.value("process_memory_usage_bytes") > 10_000_000
        assert 0 < page.value("hubwire_process_open_files") < page.value("hubwire_process_open_files_limit")
    dispatched = service.page().value("hubwire_dispatch_duration_seconds_count")
    assert 0 < dispatched <= service.page().value("hubwire_dispatch_entries_total")


def exported(page: Page) -> set[str]:
    """Names as docs/metrics.md has them."""
    suffixes = {"counter": "_total"}
    return {name + suffixes.get(family.type, "") for name, family in page.families.items()} - {
        "target_info",
        "target",
    }


def guarded(folder: Path, issuer: str) -> Page:
    """Of a process with TLS, which has fetched the keys of an issuer of tokens."""
    folder.mkdir()
    pair = CertificateAuthority(folder / "authority").issue("localhost", "127.0.0.1")
    options = ("--memory", "--workers", "1", *pair.options, "--oidc-issuers", issuer)
    with Up(folder, *options) as up:
        admin = up.facts["admin"]["gateway-0"]
        fetched = "hubwire_oidc_keys_age_seconds"
        eventually(lambda: fetched in exported(scrape(admin)), SECONDS, "the keys are fetched")
        return scrape(admin)


async def test_the_page_in_the_docs_has_what_is_exported_and_nothing_else(
    service: Service, tmp_path: Path
) -> None:
    generator = runpy.run_path(str(ROOT / "docs" / "generate_metrics.py"))
    assert generator["page"]() == (ROOT / "docs" / "metrics.md").read_text(), (
        "run: python docs/generate_metrics.py"
    )
    documented = {meter.prometheus for meters in generator["ROOMS"].values() for meter in meters}
    async with LocalIssuer() as issuer:
        secured = await asyncio.to_thread(guarded, tmp_path / "up", issuer.url)
    found = exported(service.page()) | exported(service.page("router")) | exported(secured)
    assert found - documented == set(), "docs/metrics.md lacks these"
    assert documented - found == set(), "no process exports these"


def test_a_control_plane_of_its_own_measures_rest(tmp_path: Path) -> None:
    with NatsServer(tmp_path / "nats") as nats, Fleet(tmp_path, [nats.url]) as fleet:
        _, rest = fleet.start_all("router", "controlplane")
        url = f"http://127.0.0.1:{rest.port}/api/hubs/chat/:send"
        token = sign_rest_token(KEY, url, time.time())
        sent = call(
            "POST", f"{url}?api-version=2024-12-01", token=token, body=b"hi", content_type="text/plain"
        )
        assert sent.status == 202
        assert call("GET", f"http://127.0.0.1:{rest.port}/api/health").status == 200
        page = scrape(admin_url(rest))
        name = "http_server_request_duration_seconds_count"
        assert page.value(name, rest_category="SendToAll", http_response_status_code="202") == 1
        assert page.value(name, rest_category="HealthCheck", http_response_status_code="200") == 1
        assert page.value("hubwire_dispatch_duration_seconds_count") >= 1
        assert not page.found("hubwire_lease_valid")


class Collector(BaseHTTPRequestHandler):
    """What is pushed by OTLP over HTTP."""

    heard: list[ExportMetricsServiceRequest]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert self.path == "/v1/metrics"
        self.heard.append(ExportMetricsServiceRequest.FromString(body))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_the_same_is_pushed_by_otlp_histograms_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[ExportMetricsServiceRequest] = []
    server = HTTPServer(("127.0.0.1", 0), type("Here", (Collector,), {"heard": heard}))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "200")
    try:
        with Up(tmp_path, "--workers", "1", "--memory") as up:

            def kinds() -> dict[str, str]:
                """Name and kind of all metrics that were pushed."""
                return {
                    metric.name: metric.WhichOneof("data")
                    for request in list(heard)
                    for resource in request.resource_metrics
                    for scope in resource.scope_metrics
                    for metric in scope.metrics
                }

            eventually(lambda: "hubwire.router.partitions" in kinds(), SECONDS, "the router pushes")
            eventually(lambda: "webpubsub.connection.utilization" in kinds(), SECONDS, "the gateway pushes")
            eventually(lambda: "hubwire.loop.lag" in kinds(), SECONDS, "histograms come too")
            assert kinds()["hubwire.loop.lag"] == "histogram"
            assert kinds()["hubwire.router.publishes"] == "sum"
            assert kinds()["webpubsub.connection.utilization"] == "gauge"
            services = {
                attribute.value.string_value
                for request in list(heard)
                for resource in request.resource_metrics
                for attribute in resource.resource.attributes
                if attribute.key == "service.name"
            }
            assert services == {"gateway-0", "router"}
            assert ask(up.facts["admin"]["router"], "/metrics")[0] == 200
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
