"""Azure's "send to big group": ten groups share all clients, who send 30 messages a second to them
together."""

from __future__ import annotations

from loadtest.locustfiles.scenarios import BIG_GROUP
from loadtest.locustfiles.users import Member, Shape, play


class BigGroupClient(Member):
    scenario = BIG_GROUP


class BigGroup(Shape):
    scenario = BIG_GROUP


play(BIG_GROUP)
