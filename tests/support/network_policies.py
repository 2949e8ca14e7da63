"""What NetworkPolicies let through, worked out as Kubernetes defines it (networking.k8s.io/v1).

    network = Network(objects)
    network.lets(Peer("ns", {"app": "a"}), Peer("ns", {"app": "b"}), 8080)

A pod that no policy of a direction selects may do everything there; one that some select may do what any rule
of them allows. A connection needs both: the sender's egress and the receiver's ingress.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Peer:
    """A pod, or with `address` something outside of the cluster. A namespace is known by its name alone."""

    namespace: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    address: str = ""


class Network:
    def __init__(self, objects: list[dict[str, Any]], namespace: str) -> None:
        self._namespace = namespace
        self._policies = [o["spec"] for o in objects if o["kind"] == "NetworkPolicy"]

    def lets(self, sender: Peer, receiver: Peer, port: int, protocol: str = "TCP") -> bool:
        return self._allows("Egress", sender, receiver, port, protocol) and self._allows(
            "Ingress", receiver, sender, port, protocol
        )

    def _allows(self, direction: str, pod: Peer, other: Peer, port: int, protocol: str) -> bool:
        chosen = [policy for policy in self._policies if self._is_of(policy, direction, pod)]
        rules = [rule for policy in chosen for rule in policy.get(direction.lower()) or []]
        end = "to" if direction == "Egress" else "from"
        return not chosen or any(
            self._has_port(rule, port, protocol) and self._has_peer(rule.get(end), other) for rule in rules
        )

    def _is_of(self, policy: dict[str, Any], direction: str, pod: Peer) -> bool:
        return (
            not pod.address
            and pod.namespace == self._namespace
            and direction in policy["policyTypes"]
            and _selects(policy["podSelector"], pod.labels)
        )

    @staticmethod
    def _has_port(rule: dict[str, Any], port: int, protocol: str) -> bool:
        ports = rule.get("ports")
        return not ports or any(
            one["port"] <= port <= one.get("endPort", one["port"]) and protocol == one.get("protocol", "TCP")
            for one in ports
        )

    def _has_peer(self, peers: list[dict[str, Any]] | None, other: Peer) -> bool:
        return not peers or any(self._fits(peer, other) for peer in peers)

    def _fits(self, peer: dict[str, Any], other: Peer) -> bool:
        if other.address:
            return "ipBlock" in peer and _in_block(peer["ipBlock"], other.address)
        if "ipBlock" in peer:
            return False
        if "namespaceSelector" in peer:
            name = {"kubernetes.io/metadata.name": other.namespace}
            if not _selects(peer["namespaceSelector"], name):
                return False
        elif other.namespace != self._namespace:
            return False
        return _selects(peer.get("podSelector", {}), other.labels)


def _in_block(block: dict[str, Any], address: str) -> bool:
    inside = ipaddress.ip_address(address)
    excepted = block.get("except", [])
    return inside in ipaddress.ip_network(block["cidr"]) and not any(
        inside in ipaddress.ip_network(one) for one in excepted
    )


def _selects(selector: dict[str, Any], labels: Mapping[str, str]) -> bool:
    wanted = selector.get("matchLabels") or {}
    return all(labels.get(key) == value for key, value in wanted.items()) and all(
        _expressions(selector, labels)
    )


def _expressions(selector: dict[str, Any], labels: Mapping[str, str]) -> Iterator[bool]:
    for one in selector.get("matchExpressions") or []:
        value = labels.get(one["key"])
        match one["operator"]:
            case "In":
                yield value in one["values"]
            case "NotIn":
                yield value not in one["values"]
            case "Exists":
                yield value is not None
            case "DoesNotExist":
                yield value is None
            case operator:
                raise ValueError(operator)
