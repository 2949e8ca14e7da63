"""The five scenarios of Azure's performance guide, and the figures that it publishes for them.

The figures: https://learn.microsoft.com/azure/azure-web-pubsub/concept-performance, 2,048 bytes a message,
the most at which 99 % of messages took less than a second, by units; each doubles with the units as far as
the table goes.
"""

from __future__ import annotations

from typing import NamedTuple


class Scenario(NamedTuple):
    """`connections` and `rate` (messages a second sent, of all senders) are what Azure has with one unit."""

    name: str
    title: str
    sent_by: str  # "clients" to groups, "events" of clients to the upstream, "rest"
    to: str  # "group", "one" or "all"
    connections: int
    rate: float
    groups: int = 0
    group_size: int = 0
    azure_out: float = 0.0
    """Messages a second to clients that Azure publishes for one unit."""

    def group_count(self, connections: int) -> int:
        """How many groups so many connections make."""
        return self.groups or max(1, connections // max(1, self.group_size))


BIG_GROUP = Scenario(
    "big-group", "Send to big group", "clients", "group", 1000, 30, groups=10, azure_out=3000
)
SMALL_GROUPS = Scenario(
    "small-groups", "Send to small group", "clients", "group", 1000, 400, group_size=10, azure_out=4000
)
ECHO = Scenario("echo", "Echo through an upstream", "events", "one", 1000, 500, azure_out=500)
REST_USER = Scenario("rest-user", "Send to user through REST", "rest", "one", 1000, 180, azure_out=180)
REST_BROADCAST = Scenario("rest-broadcast", "Broadcast through REST", "rest", "all", 1000, 3, azure_out=3000)
SCENARIOS = {one.name: one for one in (BIG_GROUP, SMALL_GROUPS, ECHO, REST_USER, REST_BROADCAST)}
PROTOCOLS = {
    "simple": "",
    "json": "json.webpubsub.azure.v1",
    "reliable": "json.reliable.webpubsub.azure.v1",
}
AZURE_BYTES = 2048


def refusal(scenario: Scenario, protocol: str) -> str:
    """Why these two do not go together; empty when they do."""
    if scenario.to == "group" and protocol == "simple":
        return f"{scenario.name}: only --protocol json and reliable can send to a group, simple cannot"
    return ""
