"""Who is taken for hung, by a clock that is turned by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hubwire.runtime.child import BEAT, ending, fault_in, says_ready
from hubwire.runtime.nats_probe import stored, well
from hubwire.runtime.vitals import AwakeClock, Vitals


class Answers:
    """A question that is answered as the test says: None for not yet."""

    def __init__(self) -> None:
        self.answer: str | OSError | None = ""
        self.asked = 0
        self.closed = 0

    def ask(self) -> Answers:
        self.asked += 1
        return self

    def advance(self) -> str | None:
        if isinstance(self.answer, OSError):
            raise self.answer
        return self.answer

    def late(self) -> str:
        return "it does not answer"

    def fileno(self) -> int:
        return 99

    def close(self) -> None:
        self.closed += 1


def ticks(vitals: Vitals, begin: float, end: float, each: Callable[[float], None] = lambda _now: None) -> str:
    """Look every second; the first verdict, with its time."""
    now = begin
    while now <= end:
        each(now)
        if why := vitals.tick(now):
            return f"{now:g}: {why}"
        now += 1
    return ""


def test_who_beats_lives_and_who_stops_is_hung_ten_seconds_later() -> None:
    vitals = Vitals(True, (), 10.0, now=0.0)
    assert ticks(vitals, 0, 100, vitals.beat) == ""
    assert ticks(vitals, 101, 200) == "111: nothing was heard of it for 10 seconds"


def test_a_child_that_answers_lives_and_is_asked_every_two_seconds() -> None:
    answers = Answers()
    vitals = Vitals(False, (answers.ask,), 10.0, now=0.0)
    assert ticks(vitals, 0, 20) == ""
    assert answers.asked == answers.closed == 11


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (None, "it does not answer for 10 seconds"),
        ("it stores nothing", "it stores nothing for 10 seconds"),
        (ConnectionRefusedError(111, "Connection refused"), "Connection refused for 10 seconds"),
    ],
)
def test_a_child_that_does_not_answer_well_is_hung_after_its_time(
    answer: str | OSError | None, why: str
) -> None:
    answers = Answers()
    answers.answer = answer
    vitals = Vitals(False, (answers.ask,), 10.0, now=0.0)
    assert ticks(vitals, 0, 100) == f"11: {why}"
    vitals.close()
    assert answers.asked == answers.closed


def test_one_good_answer_in_between_is_enough() -> None:
    answers = Answers()
    vitals = Vitals(False, (answers.ask,), 10.0, now=0.0)

    def slow(now: float) -> None:
        answers.answer = "" if now % 9 == 0 else None

    assert ticks(vitals, 0, 200, slow) == ""


def test_every_sign_counts_by_itself() -> None:
    answers = Answers()
    answers.answer = "the disk"
    vitals = Vitals(True, (answers.ask,), 10.0, now=0.0)
    assert ticks(vitals, 0, 100, vitals.beat) == "11: the disk for 10 seconds"


def test_what_could_not_be_heard_yet_is_excused() -> None:
    vitals = Vitals(True, (), 10.0, now=0.0)
    vitals.excuse(50.0)
    assert ticks(vitals, 50, 100) == "61: nothing was heard of it for 10 seconds"


def test_a_question_under_way_has_a_descriptor_that_a_fork_must_close() -> None:
    answers = Answers()
    answers.answer = None
    vitals = Vitals(False, (answers.ask,), 10.0, now=0.0)
    assert list(vitals.fds()) == []
    vitals.tick(0.0)
    assert list(vitals.fds()) == [99]


def test_time_in_which_we_slept_ourselves_does_not_count() -> None:
    at = 1000.0
    awake = AwakeClock(1.0, clock=lambda: at)
    for _ in range(5):
        at += 1.0
        awake.look()
    assert awake.now == 5.0
    at += 8 * 3600  # a night with the lid closed
    assert awake.look() == 7.0
    at -= 100  # a clock that is put back
    assert awake.look() == 7.0


def test_beats_are_neither_readiness_nor_a_fault() -> None:
    assert not says_ready(BEAT * 3)
    assert says_ready(BEAT + b"r" + BEAT)
    assert fault_in(BEAT) is None
    assert fault_in(BEAT + b"\x00why") == "why"


def test_who_is_killed_has_no_last_words() -> None:
    assert ending(9, "", "Server is ready") == "killed by SIGKILL"
    assert ending(9, "hung: silence", "Server is ready") == "killed by SIGKILL: hung: silence"
    assert ending(6, "", "panic: oh") == "killed by SIGABRT: panic: oh"
    assert ending(1 << 8, "", "no more disk") == "exit code 1: no more disk"
    assert ending(0, "", "") == "ended by itself"


def test_answers_of_a_nats_server() -> None:
    assert stored(b'{"stream":"KV_hw_leases","seq":12}') == ""
    refused = b'{"error":{"code":503,"err_code":10023,"description":"insufficient resources"},"seq":0}'
    assert stored(refused) == "it stores nothing (insufficient resources)"
    assert "stores nothing" in stored(b"[]")
    assert "stores nothing" in stored(b"\xff")
    assert well(b'{"data":{"status":"ok","status_code":200}}') == ""
    assert well(b'{"data":{"status":"unavailable","status_code":503,"error":"no space"}}') == "no space"
    assert "cannot be read" in well(b"{}")
