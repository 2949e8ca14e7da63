"""Azure's "echo": clients send events, an application server (echo_server.py) answers each with what it
got."""

from __future__ import annotations

from loadtest.locustfiles.scenarios import ECHO
from loadtest.locustfiles.users import Member, Shape, play


class EchoClient(Member):
    scenario = ECHO


class Echo(Shape):
    scenario = ECHO


play(ECHO)
