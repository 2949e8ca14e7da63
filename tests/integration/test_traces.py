"""A message is followed from REST over router and gateway, an event to its handler, as spans of a trace."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from support.processes import eventually
from support.up import Up
from websockets.sync.client import connect

from hubwire.model.tokens import sign_client_token, sign_rest_token

SECONDS = 30.0
JSON = "json.webpubsub.azure.v1"
TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class World(ThreadingHTTPServer):
    """A collector of spans, and an event handler that remembers the headers of events."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.told: list[tuple[str, Span]] = []  # service and span
        self.events: list[dict[str, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def spans(self, trace: str) -> dict[str, tuple[str, Span]]:
        """The spans of a trace by their names."""
        return {span.name: (service, span) for service, span in self.told if span.trace_id.hex() == trace}


class _Handler(BaseHTTPRequestHandler):
    server: World

    def do_OPTIONS(self) -> None:
        self._answer({"WebHook-Allowed-Origin": "*"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/v1/traces":
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                about = {a.key: a.value.string_value for a in resource.resource.attributes}
                for scope in resource.scope_spans:
                    self.server.told += [(about["service.name"], span) for span in scope.spans]
        elif self.path == "/events":
            self.server.events.append(dict(self.headers.items()))
        self._answer({})

    def _answer(self, headers: dict[str, str]) -> None:
        self.send_response(200)
        for name, value in {**headers, "Content-Length": "0"}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def world() -> Iterator[World]:
    server = World()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join(10)


@contextmanager
def used(up: Up) -> Iterator[Any]:
    """A client that hears what REST sends to all, and sends an event."""
    key = up.facts["connectionString"].partition("AccessKey=")[2].partition(";")[0]
    roles = ["webpubsub.joinLeaveGroup", "webpubsub.sendToGroup"]
    token = sign_client_token(
        key, endpoint=up.endpoint, hub="chat", user_id="ada", roles=roles, groups=["room"], now=time.time()
    )
    url = f"{up.endpoint.replace('http', 'ws', 1)}/client/hubs/chat?access_token={token}"
    with connect(url, subprotocols=[JSON], proxy=None, open_timeout=SECONDS) as client:  # type: ignore[list-item]
        client.recv(SECONDS)

        def send(traceparent: str) -> None:
            path = "/api/hubs/chat/:send"
            rest = http.client.HTTPConnection(urlsplit(up.endpoint).netloc, timeout=SECONDS)
            bearer = sign_rest_token(key, up.endpoint + path, time.time())
            headers = {"Authorization": f"Bearer {bearer}", "Content-Type": "text/plain"}
            headers |= {"traceparent": traceparent} if traceparent else {}
            rest.request("POST", path + "?api-version=2024-12-01", body=b"hi", headers=headers)
            assert rest.getresponse().status == 202
            rest.close()
            assert json.loads(client.recv(SECONDS))["data"] == "hi"

        def ask(**message: object) -> None:
            client.send(json.dumps({"dataType": "text", "data": "x", "ackId": 1, **message}))
            while json.loads(client.recv(SECONDS))["type"] != "ack":
                pass

        yield send, ask


CONFIG = """\
hubs:
  chat:
    eventHandlers:
      - urlTemplate: {url}/events
        userEventPattern: "*"
"""


@pytest.fixture
def config(tmp_path: Path, world: World) -> Path:
    path = tmp_path / "hubwire.yaml"
    path.write_text(CONFIG.format(url=world.url))
    return path


def test_the_trace_of_a_caller_goes_from_rest_over_the_router_to_the_gateway(
    tmp_path: Path, world: World, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{world.url}/v1/traces")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "200")
    with Up(tmp_path, "--workers", "1", "--config", str(config)) as up, used(up) as (send, ask):
        send(f"00-{TRACE}-{CALLER}-00")  # not sampled
        send("")
        send(f"00-{TRACE}-{CALLER}-01")
        eventually(lambda: len(world.spans(TRACE)) == 3, SECONDS, "three spans")
        spans = world.spans(TRACE)
        service, rest = spans["REST SendToAll"]
        assert (service, rest.parent_span_id.hex()) == ("gateway-0", CALLER)
        assert rest.kind == Span.SPAN_KIND_SERVER
        service, route = spans["route"]
        assert (service, route.parent_span_id) == ("router", rest.span_id)
        service, deliver = spans["deliver"]
        assert (service, deliver.parent_span_id) == ("gateway-0", rest.span_id)
        ask(type="event", event="hello")
        assert "traceparent" not in world.events[-1]
    assert len(world.told) == 3, "nothing else is traced"


def test_what_begins_here_is_traced_as_often_as_is_wanted_and_told_to_event_handlers(
    tmp_path: Path, world: World, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{world.url}/v1/traces")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "200")
    options = ("--workers", "1", "--config", str(config), "--trace-sample", "1")
    with Up(tmp_path, *options) as up, used(up) as (_, ask):
        ask(type="event", event="hello")
        _, trace, span, flags = world.events[-1]["traceparent"].split("-")
        assert flags == "01"
        eventually(lambda: "event user" in world.spans(trace), SECONDS, "the event's span")
        assert world.spans(trace)["event user"][1].span_id.hex() == span

        ask(type="sendToGroup", group="room", ackId=2)
        eventually(lambda: any(one.name == "publish" for _, one in world.told), SECONDS, "the publish's span")
        publish = next(one for _, one in world.told if one.name == "publish")
        ours = publish.trace_id.hex()
        eventually(lambda: set(world.spans(ours)) == {"publish", "route", "deliver"}, SECONDS, "its way")
        assert world.spans(ours)["route"][1].parent_span_id == publish.span_id


def test_without_a_place_to_push_to_nothing_travels(
    tmp_path: Path, world: World, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", raising=False)
    options = ("--workers", "1", "--config", str(config), "--trace-sample", "1")
    with Up(tmp_path, *options) as up, used(up) as (send, ask):
        send(f"00-{TRACE}-{CALLER}-01")
        ask(type="event", event="hello")
        assert "traceparent" not in world.events[-1]
    assert world.told == []
