"""Metrics as a table: names, distributions, the cap on hubs, and the page that is made of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.admin import OPENMETRICS, Page

from hubwire.model.buckets import Buckets
from hubwire.runtime.exporter import Exporter
from hubwire.runtime.meters import OTHER_HUBS, Meter, Meters, PerHub, Readers

ANOTHER: Readers = {Meter("another", "gauge", "1", ""): lambda: 1}
"""A process always has some that are no distributions."""


@pytest.mark.parametrize(
    ("meter", "name"),
    [
        (Meter("a.b", "counter", "{thing}", ""), "a_b_total"),
        (Meter("a.io", "counter", "By", ""), "a_io_bytes_total"),
        (Meter("a.wait", "histogram", "s", ""), "a_wait_seconds"),
        (Meter("a.bytes", "gauge", "By", ""), "a_bytes"),
        (Meter("a.active_things", "updown", "{thing}", ""), "a_active_things"),
        (Meter("a.utilization", "gauge", "1", ""), "a_utilization"),
    ],
)
def test_prometheus_sees_the_name_that_we_say(meter: Meter, name: str) -> None:
    meters = Meters()
    meters.bind(ANOTHER)
    meters.bind({meter: (lambda: Buckets()) if meter.kind == "histogram" else (lambda: 3)})
    exporter = Exporter(meters, "test", "one")
    page = Page(exporter.page(OPENMETRICS)[1].decode())
    exporter.close()
    assert meter.prometheus == name
    assert (name + "_bucket" if meter.kind == "histogram" else name) in page.names


def test_a_distribution_has_each_value_in_the_bucket_that_it_is_at_most() -> None:
    buckets = Buckets((0.1, 1.0))
    for value in (0.05, 0.1, 0.11, 1.0, 7.0):
        buckets.record(value)
    assert buckets.counts == [2, 2, 1]
    assert buckets.sum == pytest.approx(8.26)
    meters = Meters()
    meters.bind(ANOTHER)
    meters.bind({Meter("wait", "histogram", "s", "", ("hub",)): lambda: [(("chat",), buckets)]})
    exporter = Exporter(meters, "test", "one")
    page = Page(exporter.page(OPENMETRICS)[1].decode())
    exporter.close()
    bounds = {one.labels["le"]: one.value for one in page.found("wait_seconds_bucket", hub="chat")}
    assert bounds == {"0.1": 2, "1.0": 4, "+Inf": 5}
    assert page.value("wait_seconds_count") == 5
    assert page.value("wait_seconds_sum") == pytest.approx(8.26)


def test_hubs_beyond_the_cap_share_one_label_and_no_memory_each() -> None:
    counts: PerHub[list[int]] = PerHub(lambda: [0], 2)
    for hub in ("a", "b", "c", "d", "a"):
        counts.of(hub)[0] += 1
    assert {hub: count[0] for hub, count in counts.items()} == {"a": 2, "b": 1, OTHER_HUBS: 2}
    for number in range(1000):
        counts.of(f"hub{number}")[0] += 1
    assert len(counts.items()) == 3


def test_a_metric_that_is_bound_anew_is_read_there_and_nowhere_after_that_has_ended() -> None:
    meters, meter = Meters(), Meter("a", "gauge", "1", "")
    first = meters.bind({meter: lambda: 1})
    second = meters.bind({meter: lambda: 2})
    first()  # of a run that has ended while the next one had begun
    assert meters.read(meter) == [((), 2)]
    second()
    assert meters.read(meter) == []
    assert meters.known == [meter]


def test_what_is_bound_after_the_export_has_begun_is_exported_too() -> None:
    meters = Meters()
    exporter = Exporter(meters, "test", "one")

    def values() -> Iterator[tuple[tuple[str, ...], int]]:
        yield ("x",), 4

    meters.bind({Meter("late", "counter", "{thing}", "", ("kind",)): values})
    page = Page(exporter.page(OPENMETRICS)[1].decode())
    exporter.close()
    assert page.value("late_total", kind="x") == 4
    assert page.found("target_info", service_name="test", service_instance_id="one")
