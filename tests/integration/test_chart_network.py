"""The NetworkPolicies of the chart let through the paths of the design, and no other."""

from __future__ import annotations

from typing import Any

from support.network_policies import Network, Peer
from support.rendered_chart import VALUES, needs_helm, pods_of, rendered

pytestmark = needs_helm

CLIENTS, ADMIN, NATS, ROUTES, MONITOR = 8080, 9464, 4222, 6222, 8222
ROLES = ("gateway", "router", "controlplane")
EDGE = Peer("edge", {"app": "ingress"})
PROMETHEUS = Peer("mon", {"app": "prometheus"})
STRANGER = Peer("ns", {"app": "shop"})
ELSEWHERE = Peer("other", {"app": "shop"})
HANDLER = Peer(address="10.1.2.3")
INTERNET = Peer(address="198.51.100.7")
Path = tuple[str, str, int]


def people(objects: list[dict[str, Any]]) -> dict[str, Peer]:
    """The pods of the release, by component, and who else there may be."""
    pods = {name: Peer("ns", pod["metadata"]["labels"]) for name, pod in pods_of(objects).items()}
    # A second release in the same namespace, with the same labels but its name.
    twins = {
        f"other {name}": Peer("ns", {**pod.labels, "app.kubernetes.io/instance": "u"})
        for name, pod in pods.items()
        if name != "test"
    }
    others = {"edge": EDGE, "prometheus": PROMETHEUS, "stranger": STRANGER, "elsewhere": ELSEWHERE}
    return {**pods, **twins, **others, "handler": HANDLER, "internet": INTERNET}


def open_paths(values: dict[str, Any], *more_ports: int) -> set[Path]:
    """All pairs and ports that are let through, with one of the release's pods at an end."""
    objects = rendered(values)
    network, found = Network(objects, "ns"), people(objects)
    ours = set(pods_of(objects))
    ports = (CLIENTS, ADMIN, NATS, ROUTES, MONITOR, 443, *more_ports)
    return {
        (sender, receiver, port)
        for sender, one in found.items()
        for receiver, other in found.items()
        for port in ports
        if {sender, receiver} & ours and (sender != receiver or sender in ours)
        if network.lets(one, other, port)
    }


def expected(admin_ports: range) -> set[Path]:
    """The paths of the design. The others are forbidden."""
    gateway_admin = {("prometheus", "gateway", port) for port in admin_ports}
    return {
        *((who, role, CLIENTS) for who in ("edge", "test") for role in ("gateway", "controlplane")),
        *(("prometheus", role, ADMIN) for role in ("router", "controlplane")),
        *gateway_admin,
        *((role, "nats", NATS) for role in (*ROLES, "test")),
        ("nats", "nats", ROUTES),
        ("prometheus", "nats", MONITOR),
    }


def test_the_paths_of_the_design_are_open_and_no_others() -> None:
    handler = {
        ("gateway", "handler", port) for port in (CLIENTS, ADMIN, 9465, 9466, NATS, ROUTES, MONITOR, 443)
    }
    assert open_paths(VALUES["everything"], 9465, 9466) == expected(range(9464, 9467)) | handler


def test_by_default_clients_monitoring_and_event_handlers_are_anybody_and_nats_is_not() -> None:
    paths = open_paths({})
    assert expected(range(9464, 9465)) <= paths
    outside = ("edge", "prometheus", "stranger", "elsewhere", "internet", "handler")
    for who in (*outside, "other gateway", "other nats"):
        assert not {(who, "nats", port) for port in (NATS, ROUTES)} & paths, who
        assert not {(who, "router", port) for port in (CLIENTS, NATS, 443)} & paths, who
    for role in ("gateway", "router", "controlplane", "test"):
        assert (role, "nats", ROUTES) not in paths
    for who in ("internet", "stranger"):
        assert (who, "gateway", CLIENTS) in paths
        assert (who, "controlplane", CLIENTS) in paths
    assert ("internet", "gateway", ADMIN) not in paths
    # Only gateways call out.
    callers = {sender for sender, receiver, _ in paths if receiver in ("internet", "handler", "stranger")}
    assert callers == {"gateway"}


def test_names_are_resolved_by_all() -> None:
    objects = rendered(VALUES["everything"])
    network, dns = Network(objects, "ns"), Peer("kube-system", {"k8s-app": "kube-dns"})
    for name, pod in pods_of(objects).items():
        who = Peer("ns", pod["metadata"]["labels"])
        assert network.lets(who, dns, 53, "UDP"), name
        assert network.lets(who, dns, 53), name
        assert not network.lets(dns, who, 53), name


def test_nats_outside_is_reached_by_its_port() -> None:
    paths = open_paths(VALUES["nats outside"] | {"networkPolicy": {"upstreams": []}}, 4223)
    reached = {(sender, port) for sender, receiver, port in paths if receiver == "internet"}
    assert reached == {(role, 4223) for role in (*ROLES, "test")}


def test_keys_of_issuers_are_fetched_by_who_serves_rest_and_from_there_alone() -> None:
    values = VALUES["tokens of an issuer"]
    reached = {(sender, port) for sender, receiver, port in open_paths(values) if receiver == "internet"}
    assert reached == {("gateway", 443), ("controlplane", 443)}
    apart = values | {"gateway": {"rest": False}}
    reached = {(sender, port) for sender, receiver, port in open_paths(apart) if receiver == "internet"}
    assert reached == {("controlplane", 443)}
    assert not [path for path in open_paths(values) if path[1] == "handler"]


def test_the_load_test_reaches_clients_ports_and_nothing_else() -> None:
    paths = {path for path in open_paths(VALUES["a load test"]) if "loadtest" in path[:2]}
    assert paths == {("loadtest", role, CLIENTS) for role in ("gateway", "controlplane")}
    assert ("stranger", "gateway", CLIENTS) not in open_paths(VALUES["a load test"])


def test_without_policies_nothing_is_kept_out() -> None:
    """Or the tests above would prove nothing."""
    paths = open_paths({"networkPolicy": {"enabled": False}})
    assert ("internet", "nats", ROUTES) in paths
    assert ("router", "internet", 443) in paths
