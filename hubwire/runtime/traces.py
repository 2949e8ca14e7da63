"""Traces: the way of a publish from REST or a client over a router to the gateways and to event handlers.

Off unless OTEL_EXPORTER_OTLP_ENDPOINT (or ..._TRACES_ENDPOINT) says where spans are pushed to: nothing
is made and nothing travels then, and hot paths ask one `if`. A caller's `traceparent` (W3C Trace
Context) is followed when it is sampled; of what begins here `--trace-sample` decides how much is
traced. On the bus a traced message carries the `traceparent` of the span before.
"""

from __future__ import annotations

import os
import random
import re
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span
    from opentelemetry.util.types import Attributes

_OTLP = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
MAX_PARENT = 200
"""Characters of a `traceparent`; a longer one is none."""

current: ContextVar[str] = ContextVar("traceparent", default="")
"""The `traceparent` under which the request at hand is served; "" when it is not traced."""


class Traced:
    """A span that is sampled. End it once."""

    def __init__(self, span: Span) -> None:
        self._span = span
        context = span.get_span_context()
        self.traceparent = f"00-{context.trace_id:032x}-{context.span_id:016x}-01"
        """For whatever it leads to."""

    def end(self, attributes: Attributes = None, *, name: str = "", failed: bool = False) -> None:
        """`name` replaces the one that it began with."""
        from opentelemetry.trace import StatusCode

        if name:
            self._span.update_name(name)
        self._span.set_attributes(attributes or {})
        if failed:
            self._span.set_status(StatusCode.ERROR)
        self._span.end()


class Traces:
    """The spans of one process. `ratio` of what begins here without a caller's trace is traced."""

    def __init__(self, provider: TracerProvider | None, ratio: float) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("hubwire") if provider is not None else None
        self._ratio = ratio

    @property
    def on(self) -> bool:
        return self._tracer is not None

    def begin(self, name: str, parent: str = "", *, server: bool = False) -> Traced | None:
        """A span under the caller's, or perhaps one of its own; None when this is not traced."""
        if self._tracer is None:
            return None
        from opentelemetry.trace import SpanKind

        context = None
        if parent:
            remote = read_parent(parent)
            if remote is None:
                return None
            context = _context_of(*remote)
        elif random.random() >= self._ratio:
            return None
        kind = SpanKind.SERVER if server else SpanKind.INTERNAL
        return Traced(self._tracer.start_span(name, context, kind))

    def moment(self, name: str, parent: str, attributes: Attributes = None) -> None:
        """A span under another that is over at once: something traced has come by."""
        if parent and (span := self.begin(name, parent)) is not None:
            span.end(attributes)

    def close(self) -> None:
        """Push what is left. Blocks for seconds at most: call it on a thread."""
        if self._provider is not None:
            self._provider.shutdown()


OFF = Traces(None, 0.0)


def read_parent(text: str) -> tuple[int, int] | None:
    """Trace and span of a `traceparent` that is sampled; None for one that is not, or is none."""
    found = _PARENT.fullmatch(text) if len(text) <= MAX_PARENT else None
    if found is None:
        return None
    version, trace, span, flags, more = found.groups()
    if version == "ff" or (version == "00" and more) or not int(trace, 16) or not int(span, 16):
        return None
    return (int(trace, 16), int(span, 16)) if int(flags, 16) & 1 else None


def open_traces(service: str, instance: str, ratio: float) -> Traces:
    """What the environment asks for: pushed by OTLP, or off."""
    if not any(os.environ.get(name) for name in _OTLP):
        return OFF
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ALWAYS_ON

    resource = Resource.create(
        {"service.namespace": "hubwire", "service.name": service, "service.instance.id": instance}
    )
    # What is traced was decided before a span is made.
    provider = TracerProvider(sampler=ALWAYS_ON, resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Traces(provider, ratio)


def _context_of(trace_id: int, span_id: int) -> Context:
    from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

    context = SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))
    return set_span_in_context(NonRecordingSpan(context))
