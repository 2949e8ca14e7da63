"""A client that keeps exactly to the reliable subprotocols, and writes down all that it does and hears.

It does what the vendors' clients do (client-protocols.md 9.3): it acks what it got once a second, and at once
when much came; it recovers after any loss but a close with 1008, trying each second for 30 s. And what these
leave to the application: after a recovery it sends what was not answered again, under the same ack ids and in
the same order. `ReliableClient` is one session; who wants to go on after its end makes another one.

    client = await ReliableClient.connect(history, address, "ann", key=key, hub="chat")
    assert await client.join("room") == OK
    assert await client.publish("room", "m1") == OK
    client.lose_socket()            # it recovers by itself, at whatever `address()` says then
    await client.close()
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlencode

from support.client_socket import NOT_THERE, Attachment, dial
from support.dialects import JSON_RELIABLE, Acked, Connected, Dialect, Disconnected, Message
from support.history import End, Frame, History, Request, RequestKind, Session, Socket
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus

from hubwire.model.tokens import sign_client_token

ROLES: Final = ("webpubsub.joinLeaveGroup", "webpubsub.sendToGroup")
CLOSED: Final = "Closed"
"""The outcome of a request whose session ended before an answer came."""
ACK_SECONDS: Final = 1.0
ACK_MESSAGES: Final = 300
RETRY_SECONDS: Final = 1.0
PATIENCE_SECONDS: Final = 30.0
PING_SECONDS: Final = 5.0
MAX_UNANSWERED: Final = 200


class ReliableClient:
    """One session. All methods are for one event loop; `request` and its like may be called by many tasks, of
    which no more than `MAX_UNANSWERED` wait for an answer at a time, the others for their turn.
    `acks` False makes one that never acks. `silence_seconds` after the last sign of life (it pings) it gives
    a socket up."""

    def __init__(
        self,
        history: History,
        address: Callable[[], str],
        session: Session,
        hub: str,
        dialect: Dialect,
        *,
        acks: bool,
        silence_seconds: float,
    ) -> None:
        self.history = history
        self.session = session
        self.dialect = dialect
        self.token = ""
        self.disconnected: str | None = None
        """The reason of a `disconnected` message, once there was one."""
        self.removed_at: float | None = None
        """When somebody was about to close this connection over REST; what is refused then is `removed`."""
        self.ended = asyncio.Event()
        self.attached = asyncio.Event()
        self.arrived: set[str] = set()
        self._address = address
        self._hub = hub
        self._acks = acks
        self._silence_seconds = silence_seconds
        self._highest = 0
        self._acked = 0
        self._next_ack_id = 0
        self._sought_at = 0.0
        self._awaited: dict[str, asyncio.Event] = {}
        self._unanswered: dict[int, tuple[Request, asyncio.Future[str]]] = {}
        self._turns = asyncio.Semaphore(MAX_UNANSWERED)
        self._now: Attachment | None = None
        self._old: list[Attachment] = []
        self._finishing = False
        self._dialling = asyncio.Lock()
        self._hold = asyncio.Event()
        self._hold.set()
        self._life: asyncio.Task[None] | None = None

    # Beginning and end.

    @classmethod
    async def connect(
        cls,
        history: History,
        address: Callable[[], str],
        user: str,
        *,
        key: str,
        hub: str,
        dialect: Dialect = JSON_RELIABLE,
        groups: tuple[str, ...] = (),
        acks: bool = True,
        silence_seconds: float = 15.0,
        seconds: float = 30.0,
    ) -> ReliableClient:
        """A new session, tried for so long while nobody serves. TimeoutError when that was in vain; other
        refusals (InvalidStatus, 4xx) at once."""
        deadline = time.monotonic() + seconds
        while True:
            endpoint = address()
            token = sign_client_token(
                key, endpoint=endpoint, hub=hub, user_id=user, roles=ROLES, groups=groups, now=time.time()
            )
            dialled_at = time.monotonic()
            try:
                query = urlencode({"access_token": token})
                socket, greeting = await dial(endpoint, hub, query, dialect)
                break
            except NOT_THERE as error:
                if isinstance(error, InvalidStatus) and error.response.status_code < 500:
                    raise
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{user} could not connect: {error!r}") from error
            await asyncio.sleep(0.1)
        session = Session(greeting.connection_id, user, dialled_at, dialect.reliable, frozenset(groups))
        self = cls(history, address, session, hub, dialect, acks=acks, silence_seconds=silence_seconds)
        history.sessions.append(session)
        self._attach(socket, greeting)
        self._life = asyncio.create_task(self._live(), name=f"client {user}")
        return self

    async def close(self) -> None:
        """Close with 1000, which ends the session for good. What waits for an answer gets `CLOSED`."""
        await self._finish(closing=True)

    async def vanish(self) -> None:
        """Go without a word and do not come back."""
        await self._finish(closing=False)

    async def _finish(self, *, closing: bool) -> None:
        self._finishing = True
        self._hold.set()
        here = self._now
        if not self.ended.is_set():
            kind = "closed" if closing and here is not None else "vanished"
            self.session.end = End(time.monotonic(), kind)  # type: ignore[arg-type]
            if closing and here is not None:
                try:
                    await asyncio.wait_for(here.socket.close(1000), 2.0)
                except TimeoutError:
                    pass
        if self._life is not None:
            self._life.cancel()
            await asyncio.gather(self._life, return_exceptions=True)
        for attachment in [*self._old, *([here] if here is not None else [])]:
            self._mark_lost(attachment)
            await attachment.end()
        self._over()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def lose_socket(self) -> None:
        """As if its network had gone for a moment."""
        if self._now is not None:
            self._now.abort()

    @asynccontextmanager
    async def away(self) -> AsyncIterator[None]:
        """Without a socket, and without trying to get one, until the context is left."""
        self._hold.clear()
        self.lose_socket()
        try:
            yield
        finally:
            self._hold.set()

    async def move(self) -> None:
        """Recover while the old socket is open, as a client does whose network changed: that one is left
        half open, and whatever comes on it is written down."""
        async with self._dialling:
            before = self._now
            if before is None or self.ended.is_set():
                return
            try:
                socket, greeting = await self._dial_again()
            except NOT_THERE:
                return  # it stays where it is; if the service has let it go, the old socket will say so
            if self.ended.is_set():
                socket.transport.abort()
                return
            self._old.append(before)
            before.tasks[-1].cancel()
            self._attach(socket, greeting)
            before.replaced.set_result(None)

    async def join(self, group: str) -> str:
        return await self.request("join", group)

    async def leave(self, group: str) -> str:
        return await self.request("leave", group)

    async def publish(self, group: str, text: str, *, no_echo: bool = False, size: int = 0) -> str:
        return await self.request("publish", group, text, no_echo=no_echo, size=size)

    async def request(
        self, kind: RequestKind, group: str, text: str = "", *, no_echo: bool = False, size: int = 0
    ) -> str:
        """The outcome: `OK`, the name of an error, or `CLOSED`. It waits through recoveries for as long as
        the session lasts; cancelling it does not take back what was sent."""
        async with self._turns:
            if self.ended.is_set():
                return CLOSED
            self._next_ack_id += 1
            request = Request(kind, group, self._next_ack_id, text, no_echo, size)
            self.session.requests.append(request)
            answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            self._unanswered[request.ack_id] = request, answer
            if self._now is not None:
                self._now.outgoing.put_nowait(request)
            return await asyncio.shield(answer)

    async def has(self, text: str, seconds: float = 10.0) -> None:
        """Wait until this message has come."""
        if text not in self.arrived:
            async with asyncio.timeout(seconds):
                await self._awaited.setdefault(text, asyncio.Event()).wait()

    # The life of a session.

    def _attach(self, socket: ClientConnection, greeting: Connected) -> None:
        number = len(self.session.sockets)
        opened_at = time.monotonic()
        self.session.sockets.append(Socket(opened_at, greeting.connection_id, self._sought_at))
        self.token = greeting.token or self.token
        here = self._now = Attachment(socket, number)
        for request, _ in self._unanswered.values():
            here.outgoing.put_nowait(request)
        reading = self._read(here)
        here.tasks = [asyncio.create_task(work) for work in (reading, self._write(here), self._keep(here))]
        self.attached.set()

    async def _live(self) -> None:
        """From socket to socket, until there is a verdict."""
        while True:
            here = self._now
            assert here is not None
            await asyncio.wait({here.tasks[0], here.replaced}, return_when=asyncio.FIRST_COMPLETED)
            if self._finishing:
                return
            if self._now is not here:
                continue  # it has moved
            self._mark_lost(here)
            self._now = None
            self.attached.clear()
            code = here.socket.close_code
            await here.end()
            lost_at = self.session.sockets[-1].lost_at
            if not self.dialect.reliable:
                self.session.end = End(lost_at, "lost")
            elif code == 1008:
                self.session.end = End(lost_at, "overflow")
            else:
                async with self._dialling:
                    if self._now is None:  # else it has moved meanwhile
                        await self._recover(lost_at + PATIENCE_SECONDS)
            if self.session.end is not None:
                self._over()
                await asyncio.gather(*(one.end() for one in self._old))
                return

    async def _recover(self, deadline: float) -> None:
        """Attach to another socket, or set the session's end."""
        while True:
            if not self._hold.is_set():
                await self._hold.wait()
                self._sought_at = time.monotonic()
                deadline = self._sought_at + PATIENCE_SECONDS
            try:
                socket, greeting = await self._dial_again()
            except ConnectionClosed as error:
                if error.rcvd is not None and error.rcvd.code == 1008:
                    self.session.end = self._refused()
                    return
            except NOT_THERE:
                pass
            except AssertionError as error:
                self.history.errors.append(f"{self.session.connection_id}: {error!r}")
            else:
                self._attach(socket, greeting)
                return
            if time.monotonic() > deadline:
                self.session.end = End(time.monotonic(), "unrecovered")
                return
            await asyncio.sleep(RETRY_SECONDS)

    def _refused(self) -> End:
        if self.removed_at is not None:
            return End(self.removed_at, "removed")
        return End(time.monotonic(), "refused")

    async def _dial_again(self) -> tuple[ClientConnection, Connected]:
        query = urlencode(
            {"awps_connection_id": self.session.connection_id, "awps_reconnection_token": self.token}
        )
        return await dial(self._address(), self._hub, query, self.dialect)

    def _mark_lost(self, attachment: Attachment) -> None:
        socket = self.session.sockets[attachment.number]
        if socket.lost_at > time.monotonic():
            socket.lost_at = time.monotonic()
            socket.code = attachment.socket.close_code

    def _over(self) -> None:
        self.ended.set()
        self.attached.clear()
        for _, answer in self._unanswered.values():
            if not answer.done():
                answer.set_result(CLOSED)
        self._unanswered.clear()

    async def _read(self, here: Attachment) -> None:
        try:
            async for frame in here.socket:
                here.heard_at = time.monotonic()
                heard = self.dialect.read(frame)
                if isinstance(heard, Message):
                    self._got(here, heard)
                elif isinstance(heard, Acked):
                    self._answered(heard)
                elif isinstance(heard, Disconnected):
                    self.disconnected = heard.reason
                elif isinstance(heard, Connected):
                    raise AssertionError(f"a second connected message: {heard}")
        except ConnectionClosed:
            pass
        except (AssertionError, LookupError, ValueError) as error:
            self.history.errors.append(f"{self.session.connection_id}: {error!r}")
        finally:
            self._mark_lost(here)

    def _got(self, here: Attachment, message: Message) -> None:
        text, group = sys.intern(message.text), sys.intern(message.group)
        self.session.frames.append(Frame(here.heard_at, here.number, message.sequence_id, group, text))
        self._highest = max(self._highest, message.sequence_id or 0)
        if self._highest - self._acked >= ACK_MESSAGES:
            self._ack(here)
        self.arrived.add(text)
        if (awaited := self._awaited.pop(text, None)) is not None:
            awaited.set()

    def _answered(self, ack: Acked) -> None:
        request, answer = self._unanswered.pop(ack.ack_id, (None, None))
        if request is None:
            request = next((one for one in self.session.requests if one.ack_id == ack.ack_id), None)
            assert request is not None, f"an answer to nothing: {ack}"
        request.answers.append((time.monotonic(), ack.outcome))
        if answer is not None and not answer.done():
            answer.set_result(ack.outcome)

    def _ack(self, here: Attachment) -> None:
        if self._acks and here is self._now and self.dialect.reliable and self._highest > self._acked:
            self._acked = self._highest
            self.session.acked.append((time.monotonic(), self._acked))
            here.outgoing.put_nowait(self.dialect.sequence_ack(self._acked))

    async def _write(self, here: Attachment) -> None:
        """In order, and written down before it is done."""
        try:
            while True:
                one = await here.outgoing.get()
                if isinstance(one, Request):
                    one.sent.append(time.monotonic())
                    await here.socket.send(self.dialect.request(one))
                else:
                    await here.socket.send(one)
        except ConnectionClosed:
            pass

    async def _keep(self, here: Attachment) -> None:
        """Acks each second, pings now and then, and gives the socket up when nothing is heard."""
        pinged = time.monotonic()
        while True:
            await asyncio.sleep(ACK_SECONDS)
            self._ack(here)
            now = time.monotonic()
            if now - here.heard_at > self._silence_seconds:
                here.abort()
                return
            if now - pinged >= PING_SECONDS:
                pinged = now
                here.outgoing.put_nowait(self.dialect.ping())
