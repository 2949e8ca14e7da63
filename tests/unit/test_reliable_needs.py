"""Which keys sessions need: counted, given back once, and believed only when an owner has confirmed them."""

from __future__ import annotations

import pytest

from gateway.reliable.attempts import Attempts
from gateway.reliable.needs import Needs
from gateway.reliable.state import SessionState
from hubwire.model.errors import Unavailable

KEY = "g\0chat\0room"
OTHER = "g\0chat\0other"


class Registrar:
    """Owners that answer when the test says so."""

    def __init__(self):
        self.joined = set()
        self.waiting = {}

    def join(self, key):
        assert key not in self.joined
        self.joined.add(key)
        self.waiting[key] = []

    def leave(self, key):
        self.joined.remove(key)
        self.answer(key, Unavailable("withdrawn"))

    def when_confirmed(self, key, confirmed):
        if key in self.waiting:
            self.waiting[key].append(confirmed)
        else:
            confirmed(None)

    def answer(self, key, error=None):
        for confirmed in self.waiting.pop(key, ()):
            confirmed(error)


class Log:
    """The own log, as far as attempts know it: what is insisted on is folded when the test says so."""

    def __init__(self):
        self.insisted = []

    def insist(self, _session_id, _entry, folded):
        self.insisted.append(folded)

    def fold(self):
        self.insisted.pop(0)(None)


@pytest.fixture
def registrar():
    return Registrar()


@pytest.fixture
def needs(registrar):
    return Needs(registrar)


def heard(needs, *keys):
    told = []
    needs.when_confirmed(keys, told.append)
    return told


def test_keys_are_registered_once_and_left_once(needs, registrar):
    needs.need(KEY)
    needs.need(KEY)
    needs.release(KEY)
    assert registrar.joined == {"r" + KEY}
    needs.release(KEY)
    needs.release(KEY)  # of nobody
    assert not registrar.joined


def test_all_of_several_keys_must_be_confirmed(needs, registrar):
    needs.need_all([KEY, OTHER])
    told = heard(needs, KEY, OTHER)
    registrar.answer("r" + KEY)
    assert told == []
    registrar.answer("r" + OTHER)
    assert told == [None]
    assert heard(needs, KEY, OTHER) == [None]
    assert heard(needs) == [None]


def test_the_first_error_is_told_and_nothing_after_it(needs, registrar):
    needs.need_all([KEY, OTHER])
    told = heard(needs, KEY, OTHER)
    registrar.answer("r" + KEY, Unavailable("no answer"))
    registrar.answer("r" + OTHER, Unavailable("no answer"))
    assert len(told) == 1
    assert isinstance(told[0], Unavailable)


def test_a_key_that_no_owner_confirmed_is_not_counted_on_before_it_is_registered_anew(needs, registrar):
    """A session that is being taken out still needs it; the next one must not think that it is confirmed."""
    needs.need(KEY)
    assert heard(needs, KEY) == []
    registrar.answer("r" + KEY, Unavailable("no answer"))
    needs.need(KEY)
    assert isinstance(heard(needs, KEY)[0], Unavailable)
    needs.release(KEY)
    needs.release(KEY)
    needs.need(KEY)
    told = heard(needs, KEY)
    assert told == []
    registrar.answer("r" + KEY)
    assert told == [None]


# -- sessions on their way into the log ----------------------------------------------------------------


@pytest.fixture
def log():
    return Log()


@pytest.fixture
def attempts(log, needs):
    return Attempts(log, needs)


def state(generation):
    return SessionState("s", "chat", None, "json.reliable.webpubsub.azure.v1", generation=generation)


def begun(attempts, generation, *keys):
    attempt = attempts.begin("s", generation)
    attempts.need(attempt, [*keys])
    return attempt


def ends(attempts, needs, of_it, *keys):
    """What the holder does when a state has left the log."""
    attempts.ended(of_it)
    needs.release_all(keys)


def test_an_attempt_that_never_came_into_the_log_gives_its_keys_back_when_that_is_known(
    attempts, log, registrar
):
    attempt = begun(attempts, 1, KEY)
    attempts.give_up(attempt)
    assert registrar.joined
    log.fold()
    assert not registrar.joined
    assert len(attempts) == 0


def test_one_that_came_into_the_log_all_the_same_gives_them_back_once(attempts, log, needs, registrar):
    needs.need(KEY)  # another session's
    attempt = begun(attempts, 1, KEY)
    attempts.give_up(attempt)
    ends(attempts, needs, state(1), KEY)
    log.fold()
    assert registrar.joined == {"r" + KEY}
    needs.release(KEY)
    assert not registrar.joined


def test_the_end_of_the_coming_before_is_not_that_of_the_attempt(attempts, log, needs, registrar):
    """A session comes back while what it was here before is being taken out."""
    needs.need(KEY)
    attempt = begun(attempts, 2, KEY)
    ends(attempts, needs, state(0), KEY)
    attempts.give_up(attempt)
    log.fold()
    assert not registrar.joined


def test_two_attempts_of_one_generation_are_told_apart_by_their_order(attempts, log, needs, registrar):
    first = begun(attempts, 1, KEY)
    attempts.give_up(first)
    second = begun(attempts, 1, KEY, OTHER)
    ends(attempts, needs, state(1), KEY)
    log.fold()
    assert registrar.joined == {"r" + KEY, "r" + OTHER}
    attempts.arrived(second)
    assert len(attempts) == 0
    needs.release_all([KEY, OTHER])
    assert not registrar.joined


def test_marks_are_kept_for_those_on_their_way(attempts):
    attempt = attempts.begin("s", 1)
    attempts.marked("other", 5)
    assert attempt.wanted == -1
    attempts.marked("s", 1)
    attempts.marked("s", 0)
    assert attempt.wanted == 1
