"""W3C Trace Context: which callers are followed, and that nothing is made when traces are off."""

from __future__ import annotations

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from hubwire.runtime.traces import OFF, Traces, open_traces, read_parent

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE}-{SPAN}-01"


def traces(ratio: float) -> tuple[Traces, InMemorySpanExporter]:
    kept = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(kept))
    return Traces(provider, ratio), kept


@pytest.mark.parametrize("parent", [PARENT, f"00-{TRACE}-{SPAN}-03", f"01-{TRACE}-{SPAN}-01-more"])
def test_a_sampled_parent_is_read(parent: str) -> None:
    assert read_parent(parent) == (int(TRACE, 16), int(SPAN, 16))


@pytest.mark.parametrize(
    "parent",
    [
        "",
        "nonsense",
        f"00-{TRACE}-{SPAN}-00",  # not sampled
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}-1",
        f"01-{TRACE}-{SPAN}-01-{'x' * 10_000}",
    ],
)
def test_what_is_no_sampled_parent_is_not_followed(parent: str) -> None:
    assert read_parent(parent) is None
    ours, kept = traces(1.0)
    if parent:
        assert ours.begin("REST", parent) is None
    assert kept.get_finished_spans() == ()


def test_a_span_is_the_child_of_its_caller_and_tells_who_it_is() -> None:
    ours, kept = traces(0.0)
    span = ours.begin("REST", PARENT, server=True)
    assert span is not None
    ours.moment("route", span.traceparent, {"partition": 3})
    span.end({"http.request.method": "POST"}, name="REST SendToAll", failed=True)
    route, rest = kept.get_finished_spans()
    assert (rest.name, rest.context.trace_id) == ("REST SendToAll", int(TRACE, 16))
    assert rest.parent is not None
    assert rest.parent.span_id == int(SPAN, 16)
    assert rest.attributes == {"http.request.method": "POST"}
    assert not rest.status.is_ok
    assert route.parent is not None
    assert route.parent.span_id == rest.context.span_id
    assert span.traceparent == f"00-{TRACE}-{rest.context.span_id:016x}-01"


def test_without_a_caller_the_ratio_decides() -> None:
    assert traces(0.0)[0].begin("publish") is None
    assert traces(1.0)[0].begin("publish") is not None


def test_off_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", raising=False)
    assert open_traces("gateway", "one", 1.0) is OFF
    assert OFF.begin("REST", PARENT) is None
    OFF.moment("route", PARENT)
    OFF.close()
