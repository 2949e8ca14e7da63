"""Azure's "broadcast through REST": publishers send to all clients of the hub."""

from __future__ import annotations

from loadtest.locustfiles.scenarios import REST_BROADCAST
from loadtest.locustfiles.users import Member, Publisher, Shape, play


class RestBroadcastClient(Member):
    scenario = REST_BROADCAST


class RestBroadcastPublisher(Publisher):
    scenario = REST_BROADCAST


class RestBroadcast(Shape):
    scenario = REST_BROADCAST


play(REST_BROADCAST)
