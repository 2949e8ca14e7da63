"""What the Grafana dashboards show: rows of panels, and the queries of each. See generate_dashboards.py."""

from __future__ import annotations

from typing import NamedTuple


class Panel(NamedTuple):
    """One graph, or one number when `stat`. A query is an expression and the legend of its series."""

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    about: str
    stat: bool


class Row(NamedTuple):
    title: str
    panels: tuple[Panel, ...]


def panel(title: str, unit: str, *queries: tuple[str, str], about: str = "", stat: bool = False) -> Panel:
    return Panel(title, unit, queries, about, stat)


def row(title: str, *panels: Panel) -> Row:
    return Row(title, panels)


def rate(metric: str, by: str = "", more: str = "") -> str:
    """The rate of a counter, added up."""
    return f"sum{_by(by)}(rate({metric}{_where(metric, more)}[$__rate_interval]))"


def total(metric: str, by: str = "", more: str = "") -> str:
    return f"sum{_by(by)}({metric}{_where(metric, more)})"


def highest(metric: str, by: str = "") -> str:
    return f"max{_by(by)}({metric}{_where(metric, '')})"


def quantiles(metric: str, by: str = "", more: str = "") -> tuple[tuple[str, str], ...]:
    """Half, and 99 of a hundred, of a histogram."""
    labels = f"le, {by}" if by else "le"
    legend = f" {{{{{by}}}}}" if by else ""
    bucket = f"{metric}_bucket"
    return tuple(
        (f"histogram_quantile({part}, {rate(bucket, labels, more)})", f"{name}{legend}")
        for part, name in ((0.5, "half"), (0.99, "99 %"))
    )


def _by(labels: str) -> str:
    return f" by ({labels}) " if labels else ""


_HUBS = (
    "webpubsub_server_active",
    "webpubsub_connection_",
    "webpubsub_messages",
    "webpubsub_network_io",
    "webpubsub_message_delivery",
    "webpubsub_upstream_request",
)


def _where(metric: str, more: str) -> str:
    hub = ['hub=~"$hub"'] if metric.startswith(_HUBS) and "utilization" not in metric else []
    return "{" + ", ".join(['job=~"$job"', *hub, *([more] if more else [])]) + "}"


OVERVIEW = (
    row(
        "Now",
        panel("Connections", "short", (total("webpubsub_server_active_connections"), ""), stat=True),
        panel(
            "Processes that are not ready",
            "short",
            ('count(hubwire_process_ready{job=~"$job"} == 0) or vector(0)', ""),
            stat=True,
        ),
        panel(
            "Partitions without an owner",
            "short",
            (f"256 - {total('hubwire_router_partitions')}", ""),
            stat=True,
        ),
    ),
    row(
        "Traffic",
        panel(
            "Connections by protocol",
            "short",
            (total("webpubsub_server_active_connections", "protocol"), "{{protocol}}"),
        ),
        panel(
            "Messages",
            "cps",
            (rate("webpubsub_messages_total", "direction"), "{{direction}}"),
            about="One message to a thousand clients is a thousand.",
        ),
        panel("Bytes", "Bps", (rate("webpubsub_network_io_bytes_total", "direction"), "{{direction}}")),
        panel("From accepting to writing", "s", *quantiles("webpubsub_message_delivery_duration_seconds")),
        panel(
            "REST requests",
            "reqps",
            (
                rate("http_server_request_duration_seconds_count", "http_response_status_code"),
                "{{http_response_status_code}}",
            ),
        ),
        panel("REST times", "s", *quantiles("http_server_request_duration_seconds")),
    ),
    row(
        "Trouble",
        panel(
            "Connections closed",
            "cps",
            (rate("webpubsub_connection_closed_total", "close_category"), "{{close_category}}"),
        ),
        panel(
            "Clients refused",
            "cps",
            (rate("webpubsub_client_requests_total", "status_code", 'status_code!="101"'), "{{status_code}}"),
        ),
        panel(
            "Events that failed",
            "cps",
            (rate("webpubsub_upstream_failures_total", "category"), "{{category}}"),
        ),
        panel(
            "Load, of a core",
            "percentunit",
            (highest("webpubsub_server_utilization", "instance"), "{{instance}}"),
        ),
        panel(
            "Event loop, how late",
            "s",
            (
                f"histogram_quantile(0.99, {rate('hubwire_loop_lag_seconds_bucket', 'le, instance')})",
                "{{instance}}",
            ),
        ),
        panel("Memory", "bytes", (highest("process_memory_usage_bytes", "instance"), "{{instance}}")),
    ),
)

HUB = (
    row(
        "Connections",
        panel(
            "Open",
            "short",
            (total("webpubsub_server_active_connections", "hub, protocol"), "{{hub}} {{protocol}}"),
        ),
        panel("Opened", "cps", (rate("webpubsub_connection_opened_total", "hub"), "{{hub}}")),
        panel(
            "Closed",
            "cps",
            (rate("webpubsub_connection_closed_total", "hub, close_category"), "{{hub}} {{close_category}}"),
        ),
    ),
    row(
        "Messages",
        panel(
            "From clients",
            "cps",
            (rate("webpubsub_messages_total", "hub, kind", 'direction="receive"'), "{{hub}} {{kind}}"),
        ),
        panel(
            "To clients",
            "cps",
            (rate("webpubsub_messages_total", "hub, kind", 'direction="transmit"'), "{{hub}} {{kind}}"),
        ),
        panel(
            "Bytes",
            "Bps",
            (rate("webpubsub_network_io_bytes_total", "hub, direction"), "{{hub}} {{direction}}"),
        ),
        panel(
            "From accepting to writing", "s", *quantiles("webpubsub_message_delivery_duration_seconds", "hub")
        ),
    ),
    row(
        "Event handlers",
        panel(
            "Calls",
            "cps",
            (
                rate("webpubsub_upstream_request_duration_seconds_count", "hub, outcome"),
                "{{hub}} {{outcome}}",
            ),
        ),
        panel("Times", "s", *quantiles("webpubsub_upstream_request_duration_seconds", "hub")),
        panel(
            "By event",
            "cps",
            (rate("webpubsub_upstream_request_duration_seconds_count", "event"), "{{event}}"),
        ),
    ),
)

GATEWAY = (
    row(
        "Connections",
        panel("Open", "short", (total("webpubsub_server_active_connections", "instance"), "{{instance}}")),
        panel(
            "Of the most that it takes",
            "percentunit",
            (highest("webpubsub_connection_utilization", "instance"), "{{instance}}"),
        ),
        panel(
            "Requests to connect",
            "reqps",
            (rate("webpubsub_client_requests_total", "status_code"), "{{status_code}}"),
        ),
    ),
    row(
        "Slow clients",
        panel(
            "Waiting for clients", "bytes", (total("webpubsub_outbox_size_bytes", "instance"), "{{instance}}")
        ),
        panel(
            "Clients something waits for",
            "short",
            (total("webpubsub_outbox_connections", "instance"), "{{instance}}"),
        ),
        panel(
            "Closed as too slow",
            "cps",
            (
                rate("webpubsub_connection_closed_total", "instance", 'close_category="SlowClient"'),
                "{{instance}}",
            ),
        ),
    ),
    row(
        "Reliable sessions",
        panel("Sessions", "short", (total("webpubsub_reliable_sessions", "instance"), "{{instance}}")),
        panel(
            "Recoveries",
            "cps",
            (rate("webpubsub_reliable_recoveries_total", "outcome"), "{{outcome}}"),
            (rate("webpubsub_reliable_sessions_moved_total"), "moved here"),
        ),
        panel(
            "Inbox",
            "bytes",
            (total("hubwire_inbox_size_bytes", "instance"), "{{instance}}"),
            (total("hubwire_inbox_untrimmed_bytes", "instance"), "{{instance}} not trimmed"),
            (total("hubwire_inbox_waiting_bytes", "instance"), "{{instance}} not stored"),
        ),
        panel(
            "Age of the oldest in the inbox",
            "s",
            (highest("hubwire_inbox_age_seconds", "instance"), "{{instance}}"),
        ),
    ),
    row(
        "Event handlers and listeners",
        panel("Requests", "reqps", (rate("webpubsub_upstream_attempts_total", "attempt"), "{{attempt}}")),
        panel(
            "Notifications",
            "short",
            (total("webpubsub_upstream_notifications_pending", "instance"), "{{instance}} pending"),
            (
                'sum(increase(webpubsub_upstream_notifications_given_up_total{job=~"$job"}[1h]))',
                "given up in an hour",
            ),
        ),
        panel("Event listeners", "cps", (rate("webpubsub_listener_events_total", "outcome"), "{{outcome}}")),
    ),
    row(
        "Process",
        panel(
            "Load, of a core",
            "percentunit",
            (highest("webpubsub_server_utilization", "instance"), "{{instance}}"),
        ),
        panel("Processor time", "s", (rate("process_cpu_time_seconds_total", "instance"), "{{instance}}")),
        panel(
            "Descriptors",
            "short",
            (total("hubwire_process_open_files", "instance"), "{{instance}}"),
            (f"""min({"hubwire_process_open_files_limit"}{{job=~"$job"}})""", "limit"),
        ),
    ),
)

ROUTER_AND_BUS = (
    row(
        "Partitions",
        panel(
            "Owned",
            "short",
            (total("hubwire_router_partitions", "instance"), "{{instance}}"),
            about="All together must be 256.",
        ),
        panel(
            "Handovers",
            "cps",
            (rate("hubwire_router_handovers_total", "instance, direction"), "{{instance}} {{direction}}"),
        ),
        panel(
            "Snapshots that are missing",
            "short",
            (total("hubwire_router_unsynced", "instance"), "{{instance}}"),
        ),
        panel("Keys with members", "short", (total("hubwire_router_keys", "instance"), "{{instance}}")),
        panel("Gateways seen", "short", (total("hubwire_router_gateways", "instance"), "{{instance}}")),
        panel(
            "Lease, time left",
            "s",
            ('min by (instance) (hubwire_lease_remaining_seconds{job=~"$job"})', "{{instance}}"),
        ),
    ),
    row(
        "Messages",
        panel("Publishes", "cps", (rate("hubwire_router_publishes_total", "instance"), "{{instance}}")),
        panel(
            "Forwarded",
            "cps",
            (rate("hubwire_router_forwarded_total", "reason"), "{{reason}}"),
            about="`broad` goes to gateways of which it is not known whether they have members.",
        ),
        panel(
            "Into inboxes", "cps", (rate("hubwire_router_inbox_entries_total", "instance"), "{{instance}}")
        ),
        panel(
            "Inboxes, not stored",
            "bytes",
            (total("hubwire_router_inbox_waiting_bytes", "instance"), "{{instance}}"),
        ),
        panel("Batches", "cps", (rate("hubwire_router_batches_total", "instance"), "{{instance}}")),
        panel("Not mine", "cps", (rate("hubwire_router_refused_total", "instance"), "{{instance}}")),
    ),
    row(
        "From gateways and REST to routers",
        panel("There and back", "s", *quantiles("hubwire_dispatch_duration_seconds")),
        panel("Entries", "cps", (rate("hubwire_dispatch_entries_total", "instance"), "{{instance}}")),
        panel("Repeats", "cps", (rate("hubwire_dispatch_repeats_total", "instance"), "{{instance}}")),
        panel("Waiting", "bytes", (total("hubwire_dispatch_waiting_bytes", "instance"), "{{instance}}")),
        panel(
            "Envelopes dropped", "cps", (rate("webpubsub_envelopes_dropped_total", "reason"), "{{reason}}")
        ),
    ),
    row(
        "NATS",
        panel("Connected", "short", (total("hubwire_bus_connected"), "processes")),
        panel("Ping", "s", *quantiles("hubwire_bus_ping_duration_seconds")),
        panel("Pings lost", "cps", (rate("hubwire_bus_pings_lost_total", "instance"), "{{instance}}")),
        panel("Reconnections", "cps", (rate("hubwire_bus_reconnections_total", "instance"), "{{instance}}")),
        panel(
            "Waiting to be written", "bytes", (total("hubwire_bus_waiting_bytes", "instance"), "{{instance}}")
        ),
        panel(
            "Leases",
            "cps",
            (rate("hubwire_lease_renewals_total", "outcome"), "{{outcome}}"),
            ('count(hubwire_lease_valid{job=~"$job"} == 0) or vector(0)', "not valid"),
        ),
    ),
)

DASHBOARDS: dict[str, tuple[str, tuple[Row, ...]]] = {
    "overview": ("Hubwire: overview", OVERVIEW),
    "hub": ("Hubwire: hubs", HUB),
    "gateway": ("Hubwire: gateways", GATEWAY),
    "router-and-bus": ("Hubwire: routers and bus", ROUTER_AND_BUS),
}
