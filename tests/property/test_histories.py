"""Whatever happens at a service that keeps its promises is right; and whatever goes wrong there is found."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st
from support.history import History, Session
from support.judge import judge
from support.perfect import GROUPS, Perfect

STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "connect",
                "plain",
                "join",
                "leave",
                "publish",
                "rest",
                "ack",
                "lose",
                "recover",
                "close",
                "refuse",
            ]
        ),
        st.integers(0, 9),
        st.sampled_from(GROUPS),
    ),
    max_size=60,
)


def lived(steps: list[tuple[str, int, str]]) -> History:
    """The history of a perfect service in which these steps were taken, as far as they were possible."""
    world = Perfect()
    world.connect("u0", groups=("a",))
    world.connect("u1")
    for step, which, group in steps:
        here = [one for one in world.history.sessions if one.end is None and one not in world.away]
        away = list(world.away)
        if step in ("connect", "plain"):
            groups = (group,) if which % 2 else ()
            world.connect(f"u{which}", reliable=step == "connect", groups=groups)
        elif step == "rest":
            world.publish_rest(group)
        elif step in ("recover", "refuse"):
            if away:
                getattr(world, step)(away[which % len(away)])
        elif here:
            session = here[which % len(here)]
            if step == "publish":
                world.publish(session, group, no_echo=which % 3 == 0)
            elif step in ("join", "leave"):
                getattr(world, step)(session, group)
            else:
                getattr(world, step)(session)
    return world.finish()


@given(STEPS)
@settings(max_examples=150, deadline=None)
def test_what_a_service_without_fault_does_is_always_right(steps: list[tuple[str, int, str]]) -> None:
    assert not judge(lived(steps)).violations


@given(STEPS, st.integers(0, 2**32), st.sampled_from(["leave out", "repeat", "renumber", "make up"]))
@settings(max_examples=150, deadline=None)
def test_one_wrong_delivery_to_one_member_is_always_found(
    steps: list[tuple[str, int, str]], seed: int, wrong: str
) -> None:
    history = lived(steps)
    chance = random.Random(seed)
    there = [one for one in history.sessions if one.end is None and one.frames and one.reliable]
    if not there:
        return
    session = chance.choice(there)
    at = chance.randrange(len(session.frames))
    frame = session.frames[at]
    if wrong == "leave out":
        # All its copies, also those of a replay; what follows moves up, so that only the loss can tell.
        at = next(n for n, one in enumerate(session.frames) if one.sequence_id == frame.sequence_id)
        kept = [one for one in session.frames if one.sequence_id != frame.sequence_id]
        session.frames[:] = [
            one._replace(sequence_id=one.sequence_id - 1)
            if one.sequence_id is not None and one.sequence_id > (frame.sequence_id or 0)
            else one
            for one in kept
        ]
        expected = {"lost"}
    elif wrong == "repeat":
        session.frames.append(
            frame._replace(
                at=session.frames[-1].at, socket=len(session.sockets) - 1, sequence_id=_highest(session) + 1
            )
        )
        expected = {"twice"}
    elif wrong == "renumber":
        session.frames[at] = frame._replace(sequence_id=(frame.sequence_id or 0) + 1 + chance.randrange(5))
        expected = {"gap", "twice"}
    else:
        session.frames.insert(at, frame._replace(text="made up"))
        expected = {"unknown"}
    assert expected & judge(history).broken


def _highest(session: Session) -> int:
    return max(frame.sequence_id or 0 for frame in session.frames)
