"""Who talks to a cluster while it is changed: our own clients, the vendors', and callers of REST."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from contextlib import AsyncExitStack
from itertools import pairwise
from typing import Final, NamedTuple, cast
from urllib.parse import urlencode

import aiohttp
import yarl
from support.chaos import Rig
from support.crowd import API_VERSION, GROUPS, HUB, Crowd, publishes, stays
from support.dialects import JSON_PLAIN, JSON_RELIABLE, PROTOBUF_RELIABLE
from support.history import OK, End, Frame, History, Request, Session, Socket
from support.processes import KEY
from support.vendor_clients import Seen, VendorClient, vendor_client

from hubwire.model.tokens import sign_client_token, sign_rest_token

REST_SECONDS: Final = 30.0
RELIABLE_VENDORS: Final = ("python", "python-aio", "javascript", "javascript-protobuf")
PLAIN_VENDORS: Final = ("python-aio-plain", "javascript-plain")
RESET: Final = "reset"
"""The outcome of a call whose connection was closed under it: the one thing that callers try again."""


class Call(NamedTuple):
    """A call to REST, and what became of it: a status, `RESET` or an error."""

    begin: float
    seconds: float
    way: str
    outcome: str
    body: str = ""

    @property
    def failed(self) -> bool:
        return self.outcome not in ("202", RESET)


class ClusterCrowd(Crowd):
    """A crowd that knows two addresses, behind which Kubernetes chooses."""

    asks = ()

    def __init__(self, clients: str, rest: str, history: History, chance: random.Random) -> None:
        super().__init__(cast(Rig, None), history, chance, rate=40.0)
        self._clients = clients
        self._ways = {"gateways": clients, "control planes": rest}
        self.calls: list[Call] = []
        self.during = "the beginning"
        """What is being done to the cluster, for the messages."""
        self.since = time.monotonic()

    def address(self) -> str:
        return self._clients

    def gather(self) -> None:
        kinds = (JSON_RELIABLE, PROTOBUF_RELIABLE)
        for number in range(4):
            self.add(f"publisher-{number}", publishes, kinds[number % 2])
        for number in range(12):
            self.add(f"reliable-{number}", stays, kinds[number % 2])
        for number in range(12):
            self.add(f"plain-{number}", stays, JSON_PLAIN)
        for way in self._ways:
            for keeps in (True, False):
                self._tasks.append(asyncio.create_task(self._call_on(way, keeps)))

    async def _call_on(self, way: str, keeps_alive: bool) -> None:
        """One application that publishes by REST: over one connection for as long as that lasts, which is the
        harder case, or over a new one each time, so that every pod is asked."""
        connector = aiohttp.TCPConnector(force_close=not keeps_alive)
        timeout = aiohttp.ClientTimeout(REST_SECONDS)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            while not self.over.is_set():
                group = self.chance.choice(GROUPS)
                request = Request("publish", group, 0, self.text("rest"), sent=[time.monotonic()])
                self.history.rest.append(request)
                call = await self._call(session, way, f"groups/{group}/:send", request.text)
                request.answers.append((time.monotonic(), OK if call.outcome == "202" else call.outcome))
                self._note(call)
                await self.pause(0.2, 0.8)

    async def _call(self, session: aiohttp.ClientSession, way: str, path: str, body: str) -> Call:
        url = f"{self._ways[way]}/api/hubs/{HUB}/{path}?api-version={API_VERSION}"
        token = sign_rest_token(KEY, url, time.time())
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "text/plain"}
        begin, said = time.monotonic(), ""
        try:
            async with session.post(yarl.URL(url, encoded=True), headers=headers, data=body) as answer:
                outcome = str(answer.status)
                if answer.status >= 400:
                    said = await answer.text()
        except aiohttp.ClientConnectorError as error:
            outcome, said = "not connected", repr(error)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
            outcome = RESET
        except (aiohttp.ClientError, TimeoutError) as error:
            outcome, said = "no answer", repr(error)
        return Call(begin, time.monotonic() - begin, way, outcome, said)

    def _note(self, call: Call) -> None:
        self.calls.append(call)
        if call.failed:
            print(f"  REST failed: {self.where(call)}", flush=True)

    def where(self, call: Call) -> str:
        """For people: when it was, and what it got."""
        return (
            f"{call.outcome} by the {call.way}, asked {call.begin - self.since:.1f} s into {self.during!r}, "
            f"answered after {call.seconds:.1f} s: {call.body[:300]}"
        )


async def vendors(stack: AsyncExitStack, crowd: ClusterCrowd) -> dict[str, VendorClient]:
    """The vendors' clients, members of one group."""
    found = {}
    for kind in (*RELIABLE_VENDORS, *PLAIN_VENDORS):
        endpoint = crowd.address()
        token = sign_client_token(
            KEY,
            endpoint=endpoint,
            hub=HUB,
            user_id=kind,
            roles=["webpubsub.joinLeaveGroup"],
            now=time.time(),
            minutes=600,
        )
        url = f"{endpoint.replace('http', 'ws', 1)}/client/hubs/{HUB}?{urlencode({'access_token': token})}"
        try:
            found[kind] = await stack.enter_async_context(vendor_client(kind, url))
        except FileNotFoundError:
            print(f"There is no Node here: no {kind} client.")
            continue
        await found[kind].join(GROUPS[0])
    return found


def vendor_faults(crowd: ClusterCrowd, clients: dict[str, VendorClient], since: float) -> list[str]:
    """What the reliable ones lack or have twice, of what was acked after all of them had joined. The plain
    ones become sessions of the history, for the judge."""
    owed = {
        one.text
        for _, one in crowd.history.publishes()
        if one.group == GROUPS[0] and one.executed and one.sent[0] > since
    }
    faults = []
    for kind, client in clients.items():
        got = Counter(text for _, text in client.seen.messages)
        lost = len(owed - set(got))
        twice = sum(count > 1 for count in got.values())
        print(
            f"vendor's client {kind}: {len(owed)} owed, {lost} lost, {twice} twice, "
            f"{len(client.seen.connected)} times connected, {client.seen.disconnected} ended; "
            f"longest silence {longest_silence(client.seen):.1f} s"
        )
        if kind in PLAIN_VENDORS:
            crowd.history.sessions += plain_sessions(kind, client.seen)
        elif lost or twice or client.seen.disconnected:
            faults.append(f"{kind}: {lost} lost, {twice} twice, {client.seen.disconnected} sessions ended")
    return faults


def longest_silence(seen: Seen) -> float:
    """Between two messages to the application; the SDKs do not tell when they recover. Seconds."""
    times = [one.at for one in seen.heard if one.what == "message"]
    return max((after - before for before, after in pairwise(times)), default=0.0)


def plain_sessions(kind: str, seen: Seen) -> list[Session]:
    """What a vendor's plain client went through. It joins again by itself and does not tell when that is
    done: it is a member for certain from the first message on."""
    sessions: list[Session] = []
    for one in seen.heard:
        if one.what == "connected":
            session = Session(one.text, kind, one.at, reliable=False)
            session.sockets.append(Socket(one.at, one.text))
            sessions.append(session)
        elif one.what == "disconnected" and sessions[-1].end is None:
            sessions[-1].sockets[-1].lost_at = one.at
            sessions[-1].end = End(one.at, "lost")
        elif one.what == "message":
            session = sessions[-1]
            if not session.requests:
                answer = (one.at, OK)
                session.requests.append(Request("join", GROUPS[0], 1, sent=[session.begin], answers=[answer]))
            session.frames.append(Frame(one.at, 0, None, GROUPS[0], one.text))
    return sessions
