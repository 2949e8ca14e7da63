"""A service without a fault, as histories: for tests of the judge, which must find it right.

`Perfect` takes any steps; `Scene` is one history with everything in it. The functions below change single
deliveries of a session.
"""

from __future__ import annotations

from support.history import (
    OK,
    End,
    Event,
    Existence,
    Frame,
    History,
    Request,
    Session,
    Socket,
)

GROUPS = ("a", "b")


class Perfect:
    """A service without a fault, and its clients. Each step takes a second unless told otherwise."""

    def __init__(self) -> None:
        self.now = 100.0
        self.history = History(watched=True)
        self.members: dict[str, set[Session]] = {group: set() for group in GROUPS}
        self.away: dict[Session, list[tuple[str, str]]] = {}
        """Sessions without a socket, and what waits for them."""
        self._ids: dict[Session, int] = {}
        self._acks = 0
        self._texts = 0

    def tick(self, seconds: float = 1.0) -> float:
        self.now += seconds
        return self.now

    def connect(self, user: str, *, reliable: bool = True, groups: tuple[str, ...] = ()) -> Session:
        number = len(self.history.sessions)
        session = Session(f"c{number}", user, self.tick(), reliable, frozenset(groups))
        session.sockets.append(Socket(self.tick(), session.connection_id))
        self.history.sessions.append(session)
        self.history.events.append(Event(self.now, session.connection_id, "connected"))
        self._ids[session] = 0
        for group in groups:
            self.members[group].add(session)
        return session

    def ask(self, session: Session, request: Request, outcome: str = OK) -> Request:
        self._acks += 1
        request.ack_id = self._acks
        request.sent.append(self.tick())
        session.requests.append(request)
        if request.kind == "join":
            self.members[request.group].add(session)
        elif request.kind == "leave":
            self.members[request.group].discard(session)
        else:
            self._deliver(request, session)
        request.answers.append((self.tick(), outcome))
        return request

    def join(self, session: Session, group: str) -> Request:
        return self.ask(session, Request("join", group, 0))

    def leave(self, session: Session, group: str) -> Request:
        return self.ask(session, Request("leave", group, 0))

    def publish(self, session: Session, group: str, *, no_echo: bool = False, size: int = 0) -> Request:
        return self.ask(session, Request("publish", group, 0, self._text(), no_echo, size))

    def publish_rest(self, group: str) -> Request:
        request = Request("publish", group, 0, self._text(), sent=[self.tick()])
        self._deliver(request, None)
        request.answers.append((self.tick(), OK))
        self.history.rest.append(request)
        return request

    def _text(self) -> str:
        self._texts += 1
        return f"m{self._texts}"

    def _deliver(self, request: Request, publisher: Session | None) -> None:
        for session in sorted(self.members[request.group], key=lambda one: one.connection_id):
            if session is publisher and request.no_echo:
                continue
            if session in self.away:
                self.away[session].append((request.group, request.text))
            else:
                self._frame(session, request.group, request.text)

    def _frame(self, session: Session, group: str, text: str) -> None:
        number = None
        if session.reliable:
            number = self._ids[session] = self._ids[session] + 1
        session.frames.append(Frame(self.now, len(session.sockets) - 1, number, group, text))

    def ack(self, session: Session) -> None:
        session.acked.append((self.tick(), self._ids[session]))

    def lose(self, session: Session) -> None:
        session.sockets[-1].lost_at = self.tick()
        if session.reliable:
            self.away[session] = []
        else:
            session.end = End(self.now, "lost")
            self._over(session)

    def recover(self, session: Session) -> None:
        """The client comes back and gets what it has not acked again, then what it missed."""
        session.sockets.append(Socket(self.tick(), session.connection_id))
        acked = session.acked_before(self.now)
        again = {
            frame.sequence_id: frame
            for frame in session.frames
            if frame.sequence_id is not None and frame.sequence_id > acked
        }
        for frame in again.values():
            session.frames.append(frame._replace(at=self.now, socket=len(session.sockets) - 1))
        for group, text in self.away.pop(session):
            self._frame(session, group, text)

    def close(self, session: Session) -> None:
        session.end = End(self.tick(), "closed")
        session.sockets[-1].lost_at = self.now
        self._over(session)

    def refuse(self, session: Session) -> None:
        """It comes back too late."""
        self.tick(31)
        session.end = End(self.now, "refused")
        del self.away[session]
        self._over(session)

    def _over(self, session: Session) -> None:
        for members in self.members.values():
            members.discard(session)
        self.history.events.append(Event(self.tick(), session.connection_id, "disconnected"))

    def exists(self, kind: str, name: str, exists: bool) -> None:
        answer = Existence(self.tick(), self.tick(), kind, name, exists)  # type: ignore[arg-type]
        self.history.existences.append(answer)

    def finish(self) -> History:
        for session in list(self.away):
            self.recover(session)
        self.history.drained = True
        self.history.ended_at = self.tick(200)
        for session in self.history.sessions:
            self.exists("connection", session.connection_id, session.end is None)
        for group, members in self.members.items():
            self.exists("group", group, bool(members))
        return self.history


class Scene(Perfect):
    """Two members that stay, one that left, one that lost its socket and came back, one that was closed, one
    that stayed away too long, a plain one, and a publisher; messages of before, during and after."""

    def __init__(self) -> None:
        super().__init__()
        self.publisher = self.connect("publisher")
        self.one, self.two = self.connect("one"), self.connect("two", groups=("a",))
        self.leaver, self.back = self.connect("leaver"), self.connect("back")
        self.closed, self.late = self.connect("closed"), self.connect("late")
        self.plain = self.connect("plain", reliable=False)
        for session in (self.one, self.leaver, self.back, self.closed, self.late, self.plain, self.publisher):
            self.join(session, "a")
        self.join(self.publisher, "b")
        self.before = [self.publish(self.publisher, "a") for _ in range(3)]
        self.own = self.publish(self.publisher, "a", no_echo=True)
        self.ack(self.back)
        self.unacked = self.publish(self.publisher, "a")
        self.left = self.leave(self.leaver, "a")
        self.lose(self.back)
        self.lose(self.late)
        self.while_away = [self.publish(self.publisher, "a") for _ in range(3)]
        self.other_group = self.publish(self.publisher, "b")
        self.recover(self.back)
        self.close(self.closed)
        self.refuse(self.late)
        self.after = [self.publish(self.publisher, "a") for _ in range(3)]
        self.rest = self.publish_rest("a")
        self.finish()


def place(session: Session, request: Request) -> int:
    """Where the last frame with this message is."""
    return max(n for n, frame in enumerate(session.frames) if frame.text == request.text)


def change(session: Session, request: Request, **what: object) -> None:
    at = place(session, request)
    session.frames[at] = session.frames[at]._replace(**what)  # type: ignore[arg-type]


def drop(session: Session, request: Request) -> None:
    """As if the service had never had this message for it: the numbers of later ones go down."""
    at = place(session, request)
    del session.frames[at]
    for later in range(at, len(session.frames)):
        frame = session.frames[later]
        if frame.sequence_id is not None:
            session.frames[later] = frame._replace(sequence_id=frame.sequence_id - 1)


def add(session: Session, group: str, text: str, *, socket: int | None = None) -> None:
    """One more message at the end."""
    last = session.frames[-1]
    number = None if last.sequence_id is None else last.sequence_id + 1
    frame = Frame(last.at, last.socket if socket is None else socket, number, group, text)
    session.frames.append(frame)


def swap(session: Session, one: Request, other: Request) -> None:
    """Each in the other's place, with the other's number."""
    first, second = place(session, one), place(session, other)
    frames = session.frames
    frames[first], frames[second] = (
        frames[first]._replace(text=other.text),
        frames[second]._replace(text=one.text),
    )
