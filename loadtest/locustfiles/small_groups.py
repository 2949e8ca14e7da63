"""Azure's "send to small group": groups of ten, whose members send to them."""

from __future__ import annotations

from loadtest.locustfiles.scenarios import SMALL_GROUPS
from loadtest.locustfiles.users import Member, Shape, play


class SmallGroupsClient(Member):
    scenario = SMALL_GROUPS


class SmallGroups(Shape):
    scenario = SMALL_GROUPS


play(SMALL_GROUPS)
