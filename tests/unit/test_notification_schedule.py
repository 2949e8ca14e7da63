"""When which event is sent: order of a connection, turns of an upstream, back-off. In a test's own time."""

from __future__ import annotations

from gateway.upstream.schedule import BackOff, Schedule, Waiting

BACK_OFF = BackOff(tries=3, first_seconds=10, most_seconds=15, give_up_seconds=100, away_seconds=5)


class World:
    """A schedule whose events are strings such as `app:connected`, sent to the upstream before the colon."""

    def __init__(self, at_once: int = 2) -> None:
        self.now = 0.0
        self.schedule: Schedule[str] = Schedule(
            lambda event: event.partition(":")[0], BACK_OFF, at_once, lambda: 0.5
        )

    def add(self, lane: str, number: int, event: str, *, stored: bool = True) -> Waiting[str]:
        waiting = Waiting(lane, number, event, self.now + BACK_OFF.give_up_seconds, stored)
        self.schedule.add(waiting)
        return waiting

    def take(self) -> list[Waiting[str]]:
        return [*self.schedule.take(self.now)]

    def taken(self) -> list[str]:
        return [waiting.event for waiting in self.take()]


def test_the_next_event_of_a_connection_waits_until_the_one_before_is_done() -> None:
    world = World()
    first = world.add("c", 1, "app:connected")
    world.add("c", 2, "app:disconnected")
    assert world.take() == [first]
    assert world.take() == []
    world.schedule.done(first)
    assert world.taken() == ["app:disconnected"]


def test_the_numbers_decide_and_not_the_order_in_which_events_come() -> None:
    world = World()
    world.add("c", 7, "app:disconnected", stored=False)
    first = world.add("c", 1, "app:connected")
    assert world.take() == [first]


def test_an_event_whose_turn_has_begun_is_not_overtaken() -> None:
    world = World()
    later = world.add("c", 7, "app:disconnected")
    earlier = world.add("c", 1, "app:connected")
    assert world.take() == [later]
    world.schedule.done(later)
    assert world.take() == [earlier]


def test_what_is_not_stored_is_not_sent_and_holds_up_what_is_behind_it() -> None:
    world = World()
    first = world.add("c", 1, "app:connected", stored=False)
    world.add("c", 2, "app:disconnected")
    assert world.take() == []
    first.stored = True
    world.schedule.look("c")
    assert world.take() == [first]


def test_an_upstream_has_so_many_turns_at_a_time_and_another_one_its_own() -> None:
    world = World(at_once=2)
    for number in range(5):
        world.add(f"c{number}", 1, "slow:connected")
    world.add("d", 1, "quick:connected")
    assert sorted(world.taken()) == ["quick:connected", "slow:connected", "slow:connected"]
    assert world.schedule.wake_at(world.now) is None, "only an answer can change that"


def test_a_failed_event_waits_longer_each_time_and_is_given_up_after_its_last_turn() -> None:
    world = World()
    event = world.add("c", 1, "app:connected")
    pauses = []
    for _ in range(BACK_OFF.tries - 1):
        assert world.take() == [event]
        assert world.schedule.failed(event, world.now)
        assert world.take() == []
        at = world.schedule.wake_at(world.now)
        assert at is not None
        pauses.append(at - world.now)
        world.now = at
    assert world.take() == [event]
    assert not world.schedule.failed(event, world.now)
    world.schedule.done(event)
    assert pauses == [10, 15], "doubled, up to the most"
    assert len(world.schedule) == 0


def test_an_event_that_is_too_old_has_no_further_turn() -> None:
    world = World()
    event = world.add("c", 1, "app:connected")
    world.take()
    world.now = BACK_OFF.give_up_seconds
    assert not world.schedule.failed(event, world.now)


def test_others_go_on_while_a_failed_event_pauses() -> None:
    world = World(at_once=1)
    failed, other = world.add("c", 1, "app:connected"), world.add("d", 1, "app:connected")
    assert world.take() == [failed]
    assert world.schedule.failed(failed, world.now)
    assert world.take() == [other]


def test_an_upstream_that_is_away_is_asked_by_one_event_at_a_time_until_it_answers() -> None:
    world = World(at_once=2)
    events = [world.add(f"c{number}", 1, "app:connected") for number in range(5)]
    for waiting in world.take():
        assert world.schedule.not_tried(waiting, world.now, "its circuit is open")
    assert world.take() == []
    assert world.schedule.wake_at(world.now) == BACK_OFF.away_seconds
    world.now = BACK_OFF.away_seconds
    (probe,) = world.take()
    assert probe.attempts == 0, "what was not tried uses up no turn"
    world.schedule.done(probe, answered=True)
    assert len(world.take()) == 2
    assert probe in events


def test_events_of_an_upstream_that_stays_away_are_given_up_when_their_time_is_over() -> None:
    world = World()
    old = [world.add(f"c{number}", 1, "app:connected") for number in range(3)]
    for waiting in world.take():
        world.schedule.not_tried(waiting, world.now, "its circuit is open")
    world.now = 50.0
    young = world.add("d", 1, "app:connected")
    world.now = BACK_OFF.give_up_seconds
    expired = [*world.schedule.take_expired(world.now)]
    assert {waiting for waiting, _ in expired} == set(old)
    assert {reason for _, reason in expired} == {"its circuit is open"}
    for waiting, _ in expired:
        world.schedule.done(waiting)
    assert world.take() == [young]


def test_events_that_others_took_over_leave_and_the_lane_goes_on() -> None:
    world = World()
    running = world.add("c", 1, "app:connected")
    world.take()
    gone = world.add("c", 2, "app:joined")
    stays = world.add("c", 3, "app:disconnected")
    assert world.schedule.forget("c", lambda event: event != "app:disconnected") == [gone]
    world.schedule.done(running)
    assert world.take() == [stays]
