"""The judge of histories finds every kind of wrong, names it rightly, and finds nothing in what is right.

A small service that keeps every promise makes a right history. Wrong ones are that one with a single thing
changed. (Any steps whatsoever: tests/property/test_histories.py.)
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support.history import (
    DUPLICATE,
    OK,
    End,
    Event,
    Existence,
    Frame,
    Request,
    Session,
    Socket,
    Span,
    certain_memberships,
    possible_memberships,
)
from support.judge import RULES, judge
from support.perfect import Perfect, Scene, add, change, drop, place, swap


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_a_right_history_is_right_and_all_of_it_is_looked_at(scene: Scene) -> None:
    verdict = judge(scene.history)
    assert not verdict.violations
    assert verdict.acked == 3 + 1 + 1 + 3 + 1 + 3 + 1
    # What is owed: all twelve of group a, less the own one, and one of b; the leaver its five; the closed one
    # what came before its end (eight), and the late one what it got (five).
    staying = 12 * 4 + (12 - 1) + 1
    assert verdict.checked == staying + 5 + 8 + 5
    assert (verdict.sessions, verdict.recoveries) == (8, 1)
    gone = scene.back.sockets[1].opened_at - scene.back.sockets[0].lost_at
    assert verdict.longest_interruption == gone
    assert verdict.longest_ack == 1.0


Wrong = Callable[[Scene], None]


def _lost_of_one_who_stayed(scene: Scene) -> None:
    drop(scene.one, scene.before[1])


def _lost_last_message(scene: Scene) -> None:
    drop(scene.two, scene.rest)


def _lost_while_away(scene: Scene) -> None:
    drop(scene.back, scene.while_away[1])


def _lost_before_the_end(scene: Scene) -> None:
    drop(scene.closed, scene.before[1])


def _lost_for_all(scene: Scene) -> None:
    for session in scene.history.sessions:
        if any(frame.text == scene.after[0].text for frame in session.frames):
            drop(session, scene.after[0])


def _lost_of_a_plain_one(scene: Scene) -> None:
    drop(scene.plain, scene.before[0])


def _lost_own_echo(scene: Scene) -> None:
    drop(scene.publisher, scene.other_group)


def _twice(scene: Scene) -> None:
    add(scene.one, "a", scene.rest.text)


def _twice_when_plain(scene: Scene) -> None:
    add(scene.plain, "a", scene.rest.text)


def _gap(scene: Scene) -> None:
    change(scene.one, scene.rest, sequence_id=99)


def _starts_at_zero(scene: Scene) -> None:
    for at, frame in enumerate(scene.one.frames):
        assert frame.sequence_id is not None
        scene.one.frames[at] = frame._replace(sequence_id=frame.sequence_id - 1)


def _replay_skips(scene: Scene) -> None:
    at = next(n for n, frame in enumerate(scene.back.frames) if frame.socket == 1)
    del scene.back.frames[at]
    del scene.back.frames[at]


def _repeated_on_the_same_socket(scene: Scene) -> None:
    scene.one.frames.append(scene.one.frames[-1])


def _plain_with_number(scene: Scene) -> None:
    change(scene.plain, scene.before[0], sequence_id=1)


def _reliable_without_number(scene: Scene) -> None:
    change(scene.one, scene.rest, sequence_id=None)


def _changed(scene: Scene) -> None:
    at = next(n for n, frame in enumerate(scene.back.frames) if frame.socket == 1)
    scene.back.frames[at] = scene.back.frames[at]._replace(text=scene.own.text)


def _order(scene: Scene) -> None:
    swap(scene.one, scene.after[2], scene.rest)


def _order_among_three(scene: Scene) -> None:
    """No two disagree, but the three do: x before y, y before z, z before x."""
    x, y, z = (scene.publish_rest("a") for _ in range(3))
    for session, missing in ((scene.one, z), (scene.two, x), (scene.back, y)):
        drop(session, missing)
    swap(scene.back, x, z)


def _publisher_order(scene: Scene) -> None:
    for session in scene.history.sessions:
        if any(frame.text == scene.after[0].text for frame in session.frames):
            swap(session, scene.after[0], scene.after[1])


def _unknown(scene: Scene) -> None:
    add(scene.one, "a", "nobody published this")


def _in_another_group(scene: Scene) -> None:
    change(scene.one, scene.rest, group="b")


def _stranger_after_leaving(scene: Scene) -> None:
    add(scene.leaver, "a", scene.while_away[0].text)


def _stranger_before_joining(scene: Scene) -> None:
    newcomer = scene.connect("newcomer")
    newcomer.frames.append(Frame(scene.tick(), 0, 1, "b", scene.other_group.text))
    scene.join(newcomer, "b")


def _echo(scene: Scene) -> None:
    frames, own = scene.publisher.frames, scene.own.text
    at = place(scene.publisher, scene.unacked)
    later = [one._replace(sequence_id=(one.sequence_id or 0) + 1) for one in frames[at:]]
    frames[at:] = [frames[at]._replace(text=own), *later]


def _identity(scene: Scene) -> None:
    scene.back.sockets[1].connection_id = "c99"


def _protocol(scene: Scene) -> None:
    scene.history.errors.append("a frame that nobody knows")


def _fenced(scene: Scene) -> None:
    change(scene.back, scene.rest, socket=0)


def _refused(scene: Scene) -> None:
    assert scene.late.end is not None
    scene.late.end = scene.late.end._replace(at=scene.late.sockets[0].lost_at + 29)


def _unrecovered(scene: Scene) -> None:
    assert scene.late.end is not None
    scene.late.end = scene.late.end._replace(kind="unrecovered")


def _overflow(scene: Scene) -> None:
    assert scene.closed.end is not None
    scene.closed.end = scene.closed.end._replace(kind="overflow")


def _unbounded(scene: Scene) -> None:
    slow = scene.connect("slow", groups=("b",))
    for _ in range(1005):
        scene.publish_rest("b")
    scene.ack(slow)


def _answers(scene: Scene) -> None:
    scene.rest.answers.append((scene.now, OK))
    scene.before[0].answers.append((scene.now, DUPLICATE))


def _duplicate(scene: Scene) -> None:
    scene.before[0].answers[0] = (scene.before[0].answers[0][0], DUPLICATE)


def _silence(scene: Scene) -> None:
    scene.left.answers.clear()


def _answered_too_late(scene: Scene) -> None:
    scene.left.answers[0] = (scene.left.sent[0] + 31, OK)


def _disconnected_missing(scene: Scene) -> None:
    scene.history.events = [one for one in scene.history.events if one.connection_id != "c6"]


def _disconnected_twice(scene: Scene) -> None:
    scene.history.events.append(scene.history.events[-1])


def _disconnected_in_the_window(scene: Scene) -> None:
    events = scene.history.events
    events[-1] = events[-1]._replace(at=scene.late.sockets[0].lost_at + 20)


def _disconnected_while_there(scene: Scene) -> None:
    scene.history.events.append(Event(scene.now, scene.one.connection_id, "disconnected"))


def _after_end(scene: Scene) -> None:
    scene.closed.frames[-1] = scene.closed.frames[-1]._replace(at=scene.now)


def _ghost_connection(scene: Scene) -> None:
    scene.exists("connection", scene.closed.connection_id, True)


def _ghost_group(scene: Scene) -> None:
    scene.leave(scene.publisher, "b")
    scene.tick(10)
    scene.exists("group", "b", True)


def _vanished(scene: Scene) -> None:
    scene.exists("connection", scene.back.connection_id, False)


def _vanished_group(scene: Scene) -> None:
    scene.exists("group", "a", False)


def _vanished_user(scene: Scene) -> None:
    scene.exists("user", "one", False)


def _vanished_while_away(scene: Scene) -> None:
    lost_at = scene.back.sockets[0].lost_at
    answer = Existence(lost_at + 1, lost_at + 2, "connection", scene.back.connection_id, False)
    scene.history.existences.append(answer)


# Each wrong, and the rules that name it: no more and no less.
WRONGS: list[tuple[Wrong, set[str]]] = [
    (_lost_of_one_who_stayed, {"lost"}),
    (_lost_last_message, {"lost"}),
    (_lost_while_away, {"lost"}),
    (_lost_before_the_end, {"lost"}),
    (_lost_for_all, {"lost"}),
    (_lost_of_a_plain_one, {"lost"}),
    (_lost_own_echo, {"lost"}),
    (_twice, {"twice"}),
    (_twice_when_plain, {"twice"}),
    (_gap, {"gap"}),
    (_starts_at_zero, {"gap", "lost"}),
    (_replay_skips, {"gap", "lost"}),
    (_repeated_on_the_same_socket, {"gap"}),
    (_plain_with_number, {"gap"}),
    (_reliable_without_number, {"gap"}),
    (_changed, {"changed", "twice"}),
    (_order, {"order"}),
    (_order_among_three, {"order", "lost"}),
    (_publisher_order, {"publisher_order"}),
    (_unknown, {"unknown"}),
    (_in_another_group, {"unknown", "lost"}),
    (_stranger_after_leaving, {"stranger"}),
    (_stranger_before_joining, {"stranger"}),
    (_echo, {"echo"}),
    (_identity, {"identity"}),
    (_protocol, {"protocol"}),
    (_fenced, {"fenced", "gap"}),
    (_refused, {"refused"}),
    (_unrecovered, {"unrecovered"}),
    (_overflow, {"overflow"}),
    (_unbounded, {"unbounded"}),
    (_answers, {"answers", "duplicate"}),
    (_duplicate, {"duplicate"}),
    (_silence, {"silence"}),
    (_answered_too_late, {"silence"}),
    (_disconnected_missing, {"disconnected_missing"}),
    (_disconnected_twice, {"disconnected_twice"}),
    (_disconnected_in_the_window, {"disconnected_early"}),
    (_disconnected_while_there, {"disconnected_early"}),
    (_after_end, {"after_end"}),
    (_ghost_connection, {"ghost"}),
    (_ghost_group, {"ghost"}),
    (_vanished, {"vanished"}),
    (_vanished_group, {"vanished"}),
    (_vanished_user, {"vanished"}),
    (_vanished_while_away, {"vanished"}),
]


@pytest.mark.parametrize(("wrong", "rules"), WRONGS, ids=[wrong.__name__[1:] for wrong, _ in WRONGS])
def test_a_history_that_is_wrong_in_one_way_is_found_and_named(
    scene: Scene, wrong: Wrong, rules: set[str]
) -> None:
    wrong(scene)
    assert judge(scene.history).broken == rules


def test_there_is_a_wrong_history_for_every_rule() -> None:
    assert set().union(*(rules for _, rules in WRONGS)) == RULES.keys()


# What looks wrong and is not, because the promise has an exception or nobody can know.


def test_a_publish_that_may_have_reached_two_owners_may_stand_at_different_places(scene: Scene) -> None:
    _order(scene)
    scene.history.owner_changes.append(Span(scene.rest.sent[0], scene.rest.sent[0]))
    assert not judge(scene.history).violations


def test_that_exception_is_for_nothing_else(scene: Scene) -> None:
    scene.history.owner_changes.append(Span(scene.rest.sent[0], scene.rest.sent[0]))
    drop(scene.one, scene.rest)
    swap(scene.one, scene.after[0], scene.after[1])
    assert judge(scene.history).broken == {"lost", "order", "publisher_order"}


def _late_for_a_newcomer(scene: Scene) -> Session:
    """A member of group b since what was published there was acked; gets it, behind something later."""
    newcomer = scene.connect("newcomer")
    scene.join(newcomer, "b")
    later = scene.publish(scene.publisher, "b")
    newcomer.frames[:] = [
        Frame(scene.tick(), 0, number, "b", one.text)
        for number, one in enumerate((later, scene.other_group), 1)
    ]
    return newcomer


def test_what_was_sent_again_to_another_owner_may_come_late_to_those_who_have_joined(scene: Scene) -> None:
    newcomer = _late_for_a_newcomer(scene)
    assert judge(scene.history).broken == {"stranger", "order", "publisher_order"}
    scene.history.owner_changes.append(Span(newcomer.begin, newcomer.begin))
    assert judge(scene.history).broken == {"order", "publisher_order"}, "it was sent once"
    scene.other_group.sent.append(scene.other_group.sent[0])
    assert not judge(scene.history).violations


def test_that_exception_is_for_newcomers_only(scene: Scene) -> None:
    swap(scene.publisher, scene.after[0], scene.after[1])
    moment = scene.after[1].answered + 0.5
    scene.history.owner_changes.append(Span(moment, moment))
    scene.after[0].sent.append(moment)
    assert "publisher_order" in judge(scene.history).broken
    newcomer = scene.connect("newcomer")
    newcomer.frames.append(Frame(scene.tick(), 0, 1, "b", scene.other_group.text))
    scene.history.owner_changes.append(Span(newcomer.begin, newcomer.begin))
    assert "stranger" in judge(scene.history).broken, "it never joined"


def _sent_again(scene: Scene, seconds: float) -> Request:
    """A publish that was sent so long before already, and that others overtook."""
    _publisher_order(scene)
    first = scene.after[0]
    first.sent.insert(0, first.sent[0] - seconds)
    return first


def test_what_failed_after_ten_seconds_unheard_comes_where_it_was_sent_again(scene: Scene) -> None:
    _sent_again(scene, scene.history.limits.publish_seconds)
    assert not judge(scene.history).violations


def test_nothing_is_overtaken_before_it_can_have_failed(scene: Scene) -> None:
    _sent_again(scene, scene.history.limits.publish_seconds - 0.5)
    assert judge(scene.history).broken == {"publisher_order"}


def test_what_was_done_the_first_time_had_not_failed(scene: Scene) -> None:
    first = _sent_again(scene, scene.history.limits.publish_seconds)
    first.answers[:] = [(first.answers[0][0], DUPLICATE)]
    assert judge(scene.history).broken == {"publisher_order"}


def test_what_failed_unheard_excuses_nothing_that_comes_after_it(scene: Scene) -> None:
    first, second, third = scene.after
    first.sent.insert(0, first.sent[0] - scene.history.limits.publish_seconds)
    for session in scene.history.sessions:
        if any(frame.text == first.text for frame in session.frames):
            swap(session, first, third)
            swap(session, second, first)  # third, first, second
    assert judge(scene.history).broken == {"publisher_order"}


def test_nobody_is_owed_what_was_not_acked_and_all_may_have_it(scene: Scene) -> None:
    for request in (scene.rest, scene.after[0]):
        request.answers[:] = [(request.answers[0][0], "InternalServerError")]
    assert not judge(scene.history).violations
    drop(scene.one, scene.rest)
    drop(scene.two, scene.after[0])
    assert not judge(scene.history).violations


def test_while_a_join_or_a_leave_is_on_its_way_a_message_may_come_or_not(scene: Scene) -> None:
    scene.left.sent[0] = scene.before[2].sent[0]
    assert not judge(scene.history).violations
    drop(scene.leaver, scene.unacked)
    assert not judge(scene.history).violations
    drop(scene.leaver, scene.before[0])
    assert judge(scene.history).broken == {"lost"}


def test_a_session_that_was_refused_is_owed_only_what_stands_before_what_it_got(scene: Scene) -> None:
    drop(scene.late, scene.unacked)
    assert not judge(scene.history).violations
    drop(scene.late, scene.before[0])
    assert judge(scene.history).broken == {"lost"}


def test_a_client_that_reads_no_further_is_owed_nothing_more(scene: Scene) -> None:
    drop(scene.two, scene.rest)
    scene.history.drained = False
    assert not judge(scene.history).violations


@pytest.mark.parametrize(("count", "size"), [(1001, 0), (16, 1_000_000)])
def test_a_refusal_past_the_backlog_is_right_by_number_and_by_bytes(count: int, size: int) -> None:
    world = Perfect()
    publisher, slow = world.connect("publisher"), world.connect("slow", groups=("b",))
    first = world.publish(publisher, "b", size=size)
    world.lose(slow)
    for _ in range(count - 1):
        world.publish(publisher, "b", size=size)
    slow.end = End(world.tick(), "refused")
    slow.sockets[0].lost_at = world.now - 5
    assert "refused" not in judge(world.history).broken
    slow.acked.append((first.answered, 1))
    assert "refused" in judge(world.history).broken, "what was acked does not count"
    slow.acked.clear()
    world.history.sessions[0].requests.pop()
    assert "refused" in judge(world.history).broken


def test_what_may_have_exceeded_its_backlog_while_it_was_away_may_exist_no_more() -> None:
    world = Perfect()
    publisher, slow = world.connect("publisher"), world.connect("slow", groups=("b",))
    world.lose(slow)
    world.history.limits.window_seconds = 10_000
    for _ in range(1000):
        world.publish(publisher, "b")
    world.exists("user", "slow", False)
    assert judge(world.history).broken == {"vanished"}
    world.publish(publisher, "b")
    world.history.existences.clear()
    world.exists("user", "slow", False)
    assert not judge(world.history).violations


def test_a_burst_past_the_backlog_may_last_for_a_moment(scene: Scene) -> None:
    slow = scene.connect("slow", groups=("b",))
    scene.publish_rest("b")
    scene.ack(scene.publisher)
    for _ in range(1002):
        scene.publish_rest("b")
    for session in (slow, scene.publisher):
        scene.ack(session)
    scene.history.ended_at = scene.tick()
    assert not judge(scene.history).violations


def test_where_a_gateway_may_have_been_dead_before_the_client_saw_it_the_window_began_then(
    scene: Scene,
) -> None:
    _refused(scene)
    lost_at = scene.late.sockets[0].lost_at
    scene.history.deaf.append(Span(lost_at - 2, lost_at))
    assert not judge(scene.history).violations


def test_where_the_store_was_lost_all_sessions_of_before_end(scene: Scene) -> None:
    _refused(scene)
    _disconnected_in_the_window(scene)
    scene.history.stores_lost.append(scene.late.sockets[0].lost_at + 1)
    assert not judge(scene.history).violations


def test_what_is_on_its_way_to_a_plain_connection_during_a_cut_is_promised_to_nobody(scene: Scene) -> None:
    drop(scene.plain, scene.before[0])
    scene.history.cuts.append(scene.before[0].span)
    assert not judge(scene.history).violations
    drop(scene.one, scene.before[0])
    assert judge(scene.history).broken == {"lost"}


def test_a_request_that_was_sent_again_may_be_answered_for_each_time(scene: Scene) -> None:
    request = scene.before[0]
    request.sent.append(request.sent[0] + 0.5)
    request.answers.append((request.answers[0][0] + 0.5, DUPLICATE))
    assert not judge(scene.history).violations


def test_memberships_by_the_times_of_requests_and_answers() -> None:
    def request(kind: str, sent: float, *answers: tuple[float, str]) -> Request:
        return Request(kind, "a", 1, sent=[sent], answers=list(answers))  # type: ignore[arg-type]

    session = Session("c", "u", 1.0, groups=frozenset("t"), sockets=[Socket(2.0, "c")])
    session.requests += [
        request("join", 10, (12, OK)),
        request("leave", 20, (22, OK)),
        request("join", 30, (32, "Forbidden")),
        request("join", 40, (42, DUPLICATE)),
        request("leave", 50, (52, "InternalServerError")),
        request("join", 60, (62, OK)),
    ]
    assert certain_memberships(session, "a") == [Span(12, 20), Span(42, 50), Span(62)]
    assert possible_memberships(session, "a") == [Span(10, 22), Span(30)]
    assert (certain_memberships(session, "t"), possible_memberships(session, "t")) == ([Span(2)], [Span(1)])


def test_the_verdict_counts_by_rule(scene: Scene) -> None:
    _twice(scene)
    _lost_while_away(scene)
    verdict = judge(scene.history)
    assert (verdict.count("lost"), verdict.count("twice"), verdict.count("lost", "twice")) == (1, 1, 2)
    assert str(verdict.violations[0]).startswith("twice: ")
