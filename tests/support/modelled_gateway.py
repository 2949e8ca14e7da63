"""A gateway and a client in the schedules of reliable_moves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from support.reliable_model import Inbox

from gateway.reliable.cycle import Cycle
from gateway.reliable.messages import Logged
from gateway.reliable.state import SessionState
from hubwire.bus.envelopes import Body
from hubwire.bus.keys import partition_of

if TYPE_CHECKING:
    from support.reliable_moves import Schedule


class Gateway:
    def __init__(self, name: str, world: Schedule) -> None:
        self.name = name
        self.world = world
        self.inbox = Inbox(name, self)
        self.alive = True
        self.attached: dict[str, int] = {}  # session -> the generation of the record that it is attached in
        self.wanted: dict[str, int] = {}  # how many need a key
        self.adopting: set[str] = set()
        self.cycle: tuple[Cycle, Iterator[bytes | None]] | None = None
        self.cycles = 0
        self.doubts: set[str] = set()  # sessions that somebody else wants
        self.let_go: set[tuple[str, int]] = set()  # sessions of a generation whose keys were given back

    # what the fold tells
    def delivered(self, message: Logged, content: Body, sessions: list[SessionState]) -> None:
        for session in sessions:
            if session.id in self.attached:
                self.world.received(session.id, session.last_id, content)

    def marked(self, session_id: str, generation: int, by: str) -> None:
        if self.attached.get(session_id) == generation:
            del self.attached[session_id]
        self.doubts.add(session_id)

    def ended(self, session: SessionState) -> None:
        self.attached.pop(session.id, None)

    def want(self, key: str) -> None:
        self.wanted[key] = self.wanted.get(key, 0) + 1

    def unwant(self, key: str) -> None:
        self.wanted[key] -= 1
        if not self.wanted[key]:
            del self.wanted[key]
            owner = self.world.owners[partition_of(key)]
            owner.members.get(key, set()).discard(self.name)

    def write(self, *packed: bytes) -> None:
        data = self.inbox.batch(self.name, list(packed))
        self.inbox.store(data, self.world.now)
        if self.world.random.random() < 0.1:
            self.world.late.append((self.name, data))


@dataclass(eq=False)
class Client:
    id: str
    home: str
    got: dict[int, str] = field(default_factory=dict)
    acked: int = 0
    members: dict[str, int] = field(default_factory=dict)  # group -> since when its join was acknowledged
    joining: set[str] = field(default_factory=set)
    busy: bool = False  # a recovery is under way
