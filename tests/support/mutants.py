"""The product with one thing wrong at a time: what the simulator must find, or it sees nothing.

Each mutant takes one rule out of the code that runs (docs/decisions/0030 says what for). `caught`
runs schedules until one fails; a mutant that survives them is a rule whose breaking nobody would notice.

    make mutants                    # all of them, up to 300 schedules each
    make mutants ARGS="replay 1000" # one, and so many
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import pytest
import structlog
from support.reliable_simulation import KINDS, simulate

from gateway.reliable.changes import Changes
from gateway.reliable.fold import InboxFold
from gateway.reliable.holder import Holder
from gateway.reliable.messages import Logged
from gateway.reliable.moves import Moves
from gateway.reliable.seen import Publishes, Seen
from gateway.reliable.service import ReliableSessions
from gateway.reliable.session import Session
from gateway.reliable.state import SessionState
from hubwire.bus.envelopes import OK
from hubwire.bus.session_records import SessionRecords
from hubwire.runtime.leases import Lease
from router.service import RouterService

Patch = Callable[[pytest.MonkeyPatch], None]

SCHEDULES: Final = 300


class Mutant(NamedTuple):
    """`kinds` are faults among which it shows; `often`: in one schedule of twenty, not of thousands."""

    what: str
    patch: Patch
    kinds: tuple[str, ...] = KINDS
    often: bool = True


def _floors(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Moves, "_floors", lambda _moves, _keys: {})


def _compare_and_set(patch: pytest.MonkeyPatch) -> None:
    change = SessionRecords.change

    async def overwrite(self: SessionRecords, session: str, generation: int, holder: str, _at: int) -> Any:
        return await change(self, session, generation, holder, (await self.read(session)).revision)

    patch.setattr(SessionRecords, "change", overwrite)


def _batches(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Seen, "batch", lambda _seen, _writer, _number: True)


def _publish_ids(patch: pytest.MonkeyPatch) -> None:
    judge = Publishes.judge
    patch.setattr(Publishes, "judge", lambda self, publish, now: judge(self, (*publish[:4], None, None), now))


def _left(patch: pytest.MonkeyPatch) -> None:
    adoption = InboxFold.adoption

    def without(self: InboxFold, session: SessionState, *arguments: Any) -> bytes:
        left, session.left = session.left, None
        try:
            return adoption(self, session, *arguments)
        finally:
            session.left = left

    patch.setattr(InboxFold, "adoption", without)


def _stored(patch: pytest.MonkeyPatch) -> None:
    write = RouterService._write

    def at_once(self: RouterService, *arguments: Any) -> Any:
        answer = write(self, *arguments)
        return answer if isinstance(answer, int) else OK

    patch.setattr(RouterService, "_write", at_once)


def _lease(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Lease, "valid", property(lambda lease: lease.renewals > 0))


def _replay(patch: pytest.MonkeyPatch) -> None:
    replay = SessionState.replay

    def but_the_last(self: SessionState, now: float) -> Iterator[tuple[int, Logged]]:
        yield from [*replay(self, now)][:-1]

    patch.setattr(SessionState, "replay", but_the_last)


def _announced(patch: pytest.MonkeyPatch) -> None:
    attached = ReliableSessions.attached

    def anew(self: ReliableSessions, connection: Any) -> None:
        if connection.session.generation:
            connection.session.announced = False
        attached(self, connection)

    patch.setattr(ReliableSessions, "attached", anew)


def _mark(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Holder, "marked", lambda *_: None)


def _confirmed(patch: pytest.MonkeyPatch) -> None:
    async def at_once(_moves: Moves, _keys: list[str]) -> None: ...

    patch.setattr(Moves, "_confirmed_again", at_once)


def _folded(patch: pytest.MonkeyPatch) -> None:
    leave = Changes._leave

    def says_so(self: Changes, session: Session, group: str, done: Any, over: Any) -> None:
        done(None)
        leave(self, session, group, lambda _error: None, over)

    patch.setattr(Changes, "_leave", says_so)


MUTANTS: Final = {
    "floors": Mutant(
        "what owners of before have stamped counts at the gateway a session comes to", _floors, often=False
    ),
    "compare-and-set": Mutant(
        "who takes a session over overwrites what others have decided", _compare_and_set
    ),
    "batches": Mutant("a write to an inbox that is stored twice counts twice", _batches, ("mute", "late")),
    "publish-ids": Mutant("what a client sends again over another gateway is not known", _publish_ids),
    "left": Mutant("a session that moves takes nothing along of groups it has left", _left, often=False),
    "stored": Mutant("a publish is acked before it is stored", _stored),
    "lease": Mutant("an owner goes on after its lease", _lease, ("pause router",)),
    "replay": Mutant("a replay lacks its last message", _replay),
    "announced": Mutant("a session is announced again where it comes to", _announced),
    "mark": Mutant("the holder of before does not heed the mark", _mark),
    "confirmed": Mutant("a session is taken out of its log before its keys are confirmed", _confirmed),
    "folded": Mutant("a leave is acked before it is in the log", _folded, ("mute", "late", "silent")),
}


def caught(mutant: Mutant, seeds: range) -> tuple[int, str] | None:
    """The first of these schedules in which the mutant is caught, and by what; None when it survives."""
    with pytest.MonkeyPatch.context() as patch:
        mutant.patch(patch)
        for seed in seeds:
            try:
                simulate(seed, mutant.kinds, loud=False)
            except AssertionError as error:
                return seed, str(error).partition("\n")[0]
    return None


def main() -> None:
    """Arguments: the name of a mutant (all of them without one, or "all"), and how many schedules."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    logging.disable(logging.CRITICAL)
    names = [*MUTANTS] if len(sys.argv) < 2 or sys.argv[1] == "all" else [sys.argv[1]]
    schedules = int(sys.argv[2]) if len(sys.argv) > 2 else SCHEDULES
    survivors = []
    for name in names:
        found = caught(MUTANTS[name], range(1, schedules + 1))
        print(f"{name}: {f'seed {found[0]}: {found[1][:120]}' if found else 'SURVIVES'}", flush=True)
        if found is None:
            survivors.append(name)
    sys.exit(bool(survivors))


if __name__ == "__main__":
    main()
