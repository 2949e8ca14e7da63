"""Random schedules of notifications: whatever fails or comes late, order and count hold."""

from __future__ import annotations

from collections import Counter, defaultdict
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.upstream.schedule import BackOff, Schedule, Waiting

NAMES = ("connected", "joined", "left", "disconnected")
LANES = 4


@settings(max_examples=300)
@given(seed=st.integers(0, 2**32))
def test_each_event_is_finished_once_one_at_a_time_and_in_order_whatever_happens(seed: int) -> None:
    random = Random(seed)  # a step is decided too often to be drawn one by one
    now = 0.0
    at_once = random.randint(1, 3)
    back_off = BackOff(tries=3, first_seconds=2, most_seconds=8, give_up_seconds=40, away_seconds=3)
    schedule: Schedule[tuple[str, str]] = Schedule(lambda event: event[1], back_off, at_once, random.random)
    todo = {f"c{lane}": [(number + 1, name) for number, name in enumerate(NAMES)] for lane in range(LANES)}
    unstored: list[Waiting[tuple[str, str]]] = []
    running: list[Waiting[tuple[str, str]]] = []
    finished: dict[str, list[str]] = defaultdict(list)
    total = LANES * len(NAMES)

    def finish(waiting: Waiting[tuple[str, str]], answered: bool) -> None:
        schedule.done(waiting, answered)
        finished[waiting.lane].append(waiting.event[0])

    for _ in range(600):
        step = random.choice(("add", "store", "end", "end", "time"))
        waiting_lanes = [lane for lane, left in todo.items() if left]
        if step == "add" and waiting_lanes:
            lane = random.choice(waiting_lanes)
            number, name = todo[lane].pop(0)
            upstream = random.choice(("app", "other"))
            waiting = Waiting(lane, number, (name, upstream), now + back_off.give_up_seconds)
            unstored.append(waiting)
            schedule.add(waiting)
        elif step == "store" and unstored:
            waiting = unstored.pop(random.randrange(len(unstored)))
            waiting.stored = True
            schedule.look(waiting.lane)
        elif step == "end" and running:
            waiting = running.pop(random.randrange(len(running)))
            outcome = random.choice(("answered", "unwanted", "failed", "away"))
            if outcome == "failed":
                gone = not schedule.failed(waiting, now)
            elif outcome == "away":
                gone = not schedule.not_tried(waiting, now, "away")
            else:
                gone = True
            if gone:
                finish(waiting, outcome == "answered")
        elif step == "time":
            now = random.choice((now + 1, schedule.wake_at(now) or now))
        for waiting, _ in schedule.take_expired(now):
            finish(waiting, False)
        running.extend(schedule.take(now))

        assert max(Counter(waiting.lane for waiting in running).values(), default=0) <= 1
        assert max(Counter(waiting.event[1] for waiting in running).values(), default=0) <= at_once
        assert all(waiting.stored for waiting in running)
        for names in finished.values():
            assert names == [*NAMES[: len(names)]]
        if not waiting_lanes and not len(schedule):
            break

    # Nothing is forgotten: when everybody answers, all of it comes to its end, without help from outside.
    for lane, left in todo.items():
        for number, name in left:
            schedule.add(Waiting(lane, number, (name, "app"), now + 40, True))
    for waiting in unstored:
        waiting.stored = True
        schedule.look(waiting.lane)
    for _ in range(10 * total):
        for waiting in running:
            finish(waiting, True)
        for waiting, _ in schedule.take_expired(now):
            finish(waiting, False)
        running = [*schedule.take(now)]
        if not running:
            at = schedule.wake_at(now)
            if at is None:
                break
            now = max(now, at)
    assert {lane: names == [*NAMES] for lane, names in finished.items()} == dict.fromkeys(todo, True)
    assert len(schedule) == 0
