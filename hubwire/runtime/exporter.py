"""From `Meters` to the world, through OpenTelemetry's SDK: a page for Prometheus, and OTLP by push.

Counters and gauges are observable instruments. A histogram that is filled by the SDK would cost a
microsecond or two for each message, and observable ones do not exist; so ours (`Buckets`) are put into what
the SDK has collected, as its own data points, on the way to either exporter.

OTEL_EXPORTER_OTLP_ENDPOINT and the other OTEL_ variables are OpenTelemetry's own and read by its SDK.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import structlog
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricExporter,
    MetricExportResult,
    MetricReader,
    MetricsData,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.resources import Resource
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from hubwire.model.buckets import Buckets
from hubwire.runtime.meters import Meter, Meters

log = structlog.get_logger(__name__)

_OTLP = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT")
SHUTDOWN_SECONDS = 2.0


class Exporter:
    """The export of one process. Make it in the process that it is for; `close` sends what is left."""

    def __init__(self, meters: Meters, service: str, instance: str) -> None:
        """`service` and `instance` are OpenTelemetry's service.name and service.instance.id."""
        self._meters = meters
        self._since = time.time_ns()
        self._registry = CollectorRegistry()
        readers: list[MetricReader] = [_PrometheusReader(self, self._registry)]
        if any(os.environ.get(name) for name in _OTLP):
            readers.append(PeriodicExportingMetricReader(_Pushing(self, _otlp_exporter())))
        resource = Resource.create(
            {
                "service.namespace": "hubwire",
                "service.name": service,
                "service.instance.id": instance,
                "host.name": platform.node(),
            }
        )
        # What is still to be sent is sent by `close`, not by a hook at the interpreter's end.
        self._provider = MeterProvider(readers, resource, shutdown_on_exit=False)
        self._meter = self._provider.get_meter("hubwire")
        meters.on_new = self._new
        for meter in meters.known:
            self._new(meter)

    def page(self, accept: str) -> tuple[str, bytes]:
        """Content type and text for Prometheus, in the format that its Accept header prefers."""
        encode, content_type = choose_encoder(accept)
        text: bytes = encode(self._registry)
        return content_type, text

    def close(self) -> None:
        """Push once more, where that is wanted; at most SHUTDOWN_SECONDS. Blocks: call it on a thread."""
        self._meters.on_new = lambda _meter: None
        self._provider.shutdown(timeout_millis=SHUTDOWN_SECONDS * 1000)

    def _new(self, meter: Meter) -> None:
        def observe(_options: CallbackOptions) -> Iterable[Observation]:
            for labels, value in self._meters.read(meter):
                assert not isinstance(value, Buckets)
                yield Observation(value, dict(zip(meter.labels, labels, strict=True)))

        name, unit, help = meter.name, meter.unit, meter.help
        if meter.kind == "counter":
            self._meter.create_observable_counter(name, [observe], unit, help)
        elif meter.kind == "updown":
            self._meter.create_observable_up_down_counter(name, [observe], unit, help)
        elif meter.kind == "gauge":
            self._meter.create_observable_gauge(name, [observe], unit, help)

    def complete(self, collected: MetricsData) -> MetricsData:
        """What the SDK has collected, with our histograms. (There is always some: what `LoopWatch` has.)"""
        ours = [
            found
            for meter in self._meters.known
            if meter.kind == "histogram" and (found := self._histogram(meter)) is not None
        ]
        if not ours or not collected.resource_metrics:
            return collected
        of_process, *others = collected.resource_metrics
        scope, *rest = of_process.scope_metrics
        scope = replace(scope, metrics=[*scope.metrics, *ours])
        return MetricsData([replace(of_process, scope_metrics=[scope, *rest]), *others])

    def _histogram(self, meter: Meter) -> Metric | None:
        now = time.time_ns()
        points: list[HistogramDataPoint] = []
        for labels, value in self._meters.read(meter):
            assert isinstance(value, Buckets)
            counts = list(value.counts)
            points.append(
                HistogramDataPoint(
                    attributes=dict(zip(meter.labels, labels, strict=True)),
                    start_time_unix_nano=self._since,
                    time_unix_nano=now,
                    count=sum(counts),
                    sum=value.sum,
                    bucket_counts=counts,
                    explicit_bounds=list(value.bounds),
                    min=0.0,
                    max=0.0,
                )
            )
        if not points:
            return None
        data = Histogram(data_points=points, aggregation_temporality=AggregationTemporality.CUMULATIVE)
        return Metric(name=meter.name, description=meter.help, unit=meter.unit, data=data)


class _PrometheusReader(PrometheusMetricReader):
    def __init__(self, exporter: Exporter, registry: CollectorRegistry) -> None:
        self._exporter = exporter
        super().__init__(scope_info_enabled=False, registry=registry)

    def _receive_metrics(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **more: Any
    ) -> None:
        super()._receive_metrics(self._exporter.complete(metrics_data), timeout_millis, **more)


class _Pushing(MetricExporter):
    """Another exporter, which gets our histograms too."""

    def __init__(self, ours: Exporter, to: MetricExporter) -> None:
        super().__init__()
        self._ours = ours
        self._to = to

    def export(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **more: Any
    ) -> MetricExportResult:
        return self._to.export(self._ours.complete(metrics_data), timeout_millis, **more)

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        return self._to.force_flush(timeout_millis)

    def shutdown(self, timeout_millis: float = 30_000, **more: Any) -> None:
        self._to.shutdown(timeout_millis, **more)


def _otlp_exporter() -> MetricExporter:
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter

    return OTLPMetricExporter()
