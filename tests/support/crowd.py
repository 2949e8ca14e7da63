"""People on a cluster that breaks: who publishes, stays, comes and goes, loses the network, or asks.

All they do and see goes into one history. Whoever's session ends begins another one, wherever it gets in.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

import aiohttp
import yarl
from support.chaos import Rig
from support.dialects import JSON_PLAIN, JSON_RELIABLE, PROTOBUF_RELIABLE, Dialect
from support.history import OK, Event, Existence, History, Request, Session
from support.notified import Application
from support.processes import KEY
from support.reliable_client import ReliableClient

from hubwire.model.tokens import sign_rest_token

HUB: Final = "chaos"
GROUPS: Final = tuple(f"g{number}" for number in range(6))
API_VERSION: Final = "2024-12-01"
REST_SECONDS: Final = 20.0
WINDOW: Final = 4
"""How many publishes of one client wait for their acks at a time."""

Role = Callable[["Crowd", ReliableClient], Awaitable[None]]


class TimedApplication(Application):
    """Notes when each event came; a repeat with the same number is the same event."""

    def __init__(self, history: History) -> None:
        super().__init__()
        self._history = history
        self._known: set[tuple[str, int]] = set()

    async def _handle(self, request: aiohttp.web.BaseRequest) -> aiohttp.web.StreamResponse:
        at, heard = time.monotonic(), len(self.told)
        response = await super()._handle(request)
        for told in self.told[heard:]:
            if (told.connection_id, told.number) not in self._known:
                self._known.add((told.connection_id, told.number))
                self._history.events.append(Event(at, told.connection_id, told.name))
        return response


class Crowd:
    """`rate` is how many publishes a second all together try. `chance` decides all that is not timing."""

    asks: tuple[str, ...] = ("connection", "user", "group")
    """Of what kinds it asks REST whether they exist."""

    def __init__(self, rig: Rig, history: History, chance: random.Random, *, rate: float = 60.0) -> None:
        self.rig = rig
        self.history = history
        self.chance = chance
        self.rate = rate
        self.over = asyncio.Event()
        self.clients: dict[str, ReliableClient] = {}
        """Who is there now, by user."""
        self._publishers = 0
        self._texts = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._http: aiohttp.ClientSession | None = None

    # Where to.

    def address(self) -> str:
        """Any gateway that has a port, as a load balancer that knows nothing of their health."""
        return f"http://127.0.0.1:{self.chance.choice(self.rig.gateways).port}"

    async def rest(self, method: str, path: str, body: str | None = None) -> int | None:
        """The status; None when there was no answer."""
        port = self.chance.choice(self.rig.control_planes).port
        url = f"http://127.0.0.1:{port}/api/hubs/{HUB}/{path}?api-version={API_VERSION}"
        headers = {"Authorization": f"Bearer {sign_rest_token(KEY, url, time.time())}"}
        if body is not None:
            headers["Content-Type"] = "text/plain"
        if self._http is None:
            self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(REST_SECONDS))
        try:
            async with self._http.request(
                method, yarl.URL(url, encoded=True), headers=headers, data=body
            ) as answer:
                return answer.status
        except (aiohttp.ClientError, TimeoutError):
            return None

    # Who there is.

    def add(self, user: str, role: Role, dialect: Dialect = JSON_RELIABLE, *, acks: bool = True) -> None:
        self._publishers += role is publishes
        self._tasks.append(asyncio.create_task(self._follow(user, role, dialect, acks), name=user))

    def add_all(self, *, plain_only: bool = False) -> None:
        """The usual people. `plain_only`: all with the plain protocol, for a service without another."""
        kinds = (JSON_PLAIN,) if plain_only else (JSON_RELIABLE, PROTOBUF_RELIABLE)
        roles: list[tuple[str, Role, int]] = [
            ("publisher", publishes, 5),
            ("steady", stays, 3),
            ("restless", is_cut_off, 4),
            ("comer", comes_and_goes, 2),
        ]
        for name, role, count in roles:
            for number in range(count):
                self.add(f"{name}-{number}", role, kinds[number % len(kinds)])
        self.add("plain", stays, JSON_PLAIN)
        self._tasks.append(asyncio.create_task(self._publish_rest()))
        self._tasks.append(asyncio.create_task(self._ask()))

    async def _follow(self, user: str, role: Role, dialect: Dialect, acks: bool) -> None:
        while not self.over.is_set():
            try:
                client = await ReliableClient.connect(
                    self.history, self.address, user, key=KEY, hub=HUB, dialect=dialect, acks=acks
                )
            except TimeoutError:
                continue
            self.clients[user] = client
            acting = asyncio.ensure_future(role(self, client))
            await asyncio.wait(
                {acting, asyncio.create_task(client.ended.wait())}, return_when=asyncio.FIRST_COMPLETED
            )
            if acting.done():
                acting.result()  # a role that fails is a fault of the test
                await client.ended.wait()
            else:
                acting.cancel()
                await asyncio.gather(acting, return_exceptions=True)

    def text(self, name: str) -> str:
        self._texts += 1
        return f"{name} {self._texts}"

    async def pause(self, low: float, high: float) -> None:
        """Some seconds, or until it is over."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.over.wait(), self.chance.uniform(low, high))

    async def _publish_rest(self) -> None:
        while not self.over.is_set():
            group = self.chance.choice(GROUPS)
            request = Request("publish", group, 0, self.text("rest"), sent=[time.monotonic()])
            self.history.rest.append(request)
            status = await self.rest("POST", f"groups/{group}/:send", request.text)
            request.answers.append((time.monotonic(), OK if status == 202 else str(status)))
            await self.pause(0.1, 0.5)

    async def _ask(self) -> None:
        while not self.over.is_set():
            client = self.chance.choice(list(self.clients.values()) or [None])
            if client is not None:
                session = client.session
                names = {
                    "connection": session.connection_id,
                    "user": session.user,
                    "group": self.chance.choice(GROUPS),
                }
                for kind in self.asks:
                    await self.ask_about(kind, names[kind])
            await self.pause(0.2, 0.8)

    async def ask_about(self, kind: str, name: str) -> None:
        asked = time.monotonic()
        status = await self.rest("HEAD", f"{kind}s/{name}")
        if status in (200, 404):
            answer = Existence(asked, time.monotonic(), kind, name, status == 200)  # type: ignore[arg-type]
            self.history.existences.append(answer)

    # The end.

    async def settle(self, seconds: float = 60.0) -> list[str]:
        """Let everybody recover, publish a last message to each group, and wait until all members have it.
        Who has not in that time is named; the history counts as drained all the same."""
        self.over.set()
        deadline = time.monotonic() + seconds
        missing: list[str] = []
        for client in list(self.clients.values()):
            waits = {asyncio.create_task(one.wait()) for one in (client.attached, client.ended)}
            done, _ = await asyncio.wait(
                waits, timeout=deadline - time.monotonic(), return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                missing.append(f"{client.session.user} has no socket")
            for one in waits:
                one.cancel()
        last = {group: self.text("last") for group in GROUPS}
        closer = await ReliableClient.connect(
            self.history, self.address, "closer", key=KEY, hub=HUB, dialect=JSON_PLAIN
        )
        for group, text in last.items():
            outcome = await closer.publish(group, text)
            if outcome != OK:
                missing.append(f"the last publish to {group}: {outcome}")
        for user, client in list(self.clients.items()):
            for group in _joined(client.session):
                if client.ended.is_set():
                    break
                try:
                    await client.has(last[group], max(0.1, deadline - time.monotonic()))
                except TimeoutError:
                    missing.append(f"{user} lacks the last message of {group}")
        await closer.close()
        self.history.drained = True
        self.history.ended_at = time.monotonic()
        return missing

    async def leave(self) -> None:
        """End everything that runs, without a word for the history."""
        self.over.set()
        for task in self._tasks:
            task.cancel()
        results = await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(client.close() for client in self.clients.values()))
        if self._http is not None:
            await self._http.close()
        for result in results:
            if isinstance(result, Exception):
                raise result


def _joined(session: Session) -> list[str]:
    """The groups of which it is a member now, beyond doubt: nothing was asked after the last join."""
    last = {one.group: one for one in session.requests if one.kind != "publish"}
    return [group for group, one in last.items() if one.kind == "join" and one.executed]


# Roles. Each ends when it is over, or by being cancelled when the session ends.


async def publishes(crowd: Crowd, client: ReliableClient) -> None:
    """Numbered messages to all groups in turn, some of them at a time, and is a member of one."""
    await client.join(crowd.chance.choice(GROUPS))
    waiting: set[asyncio.Task[str]] = set()
    while not crowd.over.is_set():
        group = crowd.chance.choice(GROUPS)
        text = crowd.text(client.session.user)
        publish = client.publish(group, text, no_echo=crowd.chance.random() < 0.1)
        waiting.add(asyncio.create_task(publish))
        if len(waiting) >= WINDOW:
            _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        await crowd.pause(0, 2 * crowd._publishers / crowd.rate)
    if waiting:
        await asyncio.wait(waiting)


async def stays(crowd: Crowd, client: ReliableClient) -> None:
    """A member of all groups."""
    await asyncio.gather(*(client.join(group) for group in GROUPS))
    await crowd.over.wait()


async def is_cut_off(crowd: Crowd, client: ReliableClient) -> None:
    """A member of all groups whose network goes, for a moment or longer, or changes."""
    await asyncio.gather(*(client.join(group) for group in GROUPS))
    while not crowd.over.is_set():
        await crowd.pause(0.5, 5.0)
        how = crowd.chance.choice(("loses", "loses", "moves", "away"))
        if how == "loses":
            client.lose_socket()
        elif how == "moves":
            await client.move()
        else:
            async with client.away():
                await crowd.pause(0.2, 15.0)


async def comes_and_goes(crowd: Crowd, client: ReliableClient) -> None:
    """Joins and leaves, and after a while closes, vanishes or is closed over REST."""
    for _ in range(crowd.chance.randint(5, 15)):
        if crowd.over.is_set():
            return
        await client.request(crowd.chance.choice(("join", "leave")), crowd.chance.choice(GROUPS))
        await crowd.pause(0.05, 1.5)
    how = crowd.chance.choice(("closes", "vanishes", "is removed"))
    if how == "closes":
        await client.close()
    elif how == "vanishes":
        await client.vanish()
    else:
        client.removed_at = time.monotonic()
        await crowd.rest("DELETE", f"connections/{client.session.connection_id}?reason=enough")


async def sleeps(crowd: Crowd, client: ReliableClient) -> None:
    """A member of one group, so that its backlog holds, that stays away as long as one may, or longer."""
    await client.join(GROUPS[0])
    while not crowd.over.is_set():
        await crowd.pause(2.0, 5.0)
        async with client.away():
            await crowd.pause(20.0, 60.0)


@contextlib.asynccontextmanager
async def gathered(
    rig: Rig, history: History, chance: random.Random, *, rate: float = 60.0
) -> AsyncIterator[Crowd]:
    """An empty crowd; everybody leaves with the context."""
    crowd = Crowd(rig, history, chance, rate=rate)
    try:
        yield crowd
    finally:
        await crowd.leave()
