"""Azure's "send to user through REST": publishers send to one user after the other."""

from __future__ import annotations

from loadtest.locustfiles.scenarios import REST_USER
from loadtest.locustfiles.users import Member, Publisher, Shape, play


class RestUserClient(Member):
    scenario = REST_USER


class RestUserPublisher(Publisher):
    scenario = REST_USER


class RestUser(Shape):
    scenario = REST_USER


play(REST_USER)
