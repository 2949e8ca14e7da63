"""Whether a process may get traffic, and the reasons that it gives."""

from __future__ import annotations

from hubwire.runtime.admin import health_pages
from hubwire.runtime.health import NO_LEASE, NO_NATS, Health, bus_check, lease_check


class Thing:
    """A bus or a lease."""

    connected = True
    valid = True


def test_a_process_that_starts_is_neither_started_nor_ready() -> None:
    health = Health()
    assert not health.started
    assert health.problems() == ["It is starting: NATS has not been reached yet."]
    health.check(lambda: "")
    assert health.problems() == ["It is starting."]
    health.serves()
    assert health.started
    assert health.problems() == []


def test_each_thing_that_is_wrong_is_told_and_passes() -> None:
    health, bus, lease = Health(), Thing(), Thing()
    health.check(bus_check(bus), lease_check(lease))
    health.serves()
    bus.connected = lease.valid = False
    assert health.problems() == [NO_NATS, NO_LEASE]
    bus.connected = True
    assert health.problems() == [NO_LEASE]
    lease.valid = True
    assert health.problems() == []
    assert health.started


def test_a_stop_of_the_process_is_all_that_is_told_then() -> None:
    health, told = Health(), [""]
    health.check(lambda: NO_NATS)
    health.serves()
    health.stopping = lambda: told[0]
    told[0] = "It is being stopped."
    assert health.problems() == ["It is being stopped."]


def test_a_run_under_a_new_name_has_started_but_is_not_ready_before_it_serves() -> None:
    health, old = Health(), Thing()
    health.check(lease_check(old))
    health.serves()
    health.leaves("the lease was lost")
    assert health.problems() == ["It is being stopped: the lease was lost."]
    health.begin()
    old.valid = False  # of the name before: nobody asks for it any more
    assert health.problems() == ["It is starting: NATS has not been reached yet."]
    assert health.started


def test_the_three_questions_have_three_answers() -> None:
    health = Health()
    pages = health_pages(health)
    assert pages["/livez"]("").status == 200
    assert pages["/startupz"]("").status == 503
    assert pages["/readyz"]("").status == 503
    health.check(lambda: NO_NATS, lambda: NO_LEASE)
    health.serves()
    assert pages["/startupz"]("").status == 200
    answer = pages["/readyz"]("")
    assert (answer.status, answer.body.decode().splitlines()) == (503, [NO_NATS, NO_LEASE])
