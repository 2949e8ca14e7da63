"""What other gateways still have of a session that has come here, and that counts as a member there.

A gateway from which a session has gone learns of it a moment later, and so does one that tried in vain to get
it: until then their registrations say that they have a member. A leave is done, and a REST call that took
somebody out of a group is answered, when the owner counts nobody any more on that session's account, so that
`exists` says what was done (DESIGN.md section 4).

Only a session that came here, or was wanted elsewhere, within RECENT_SECONDS is asked about; of the others
nothing is left anywhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final

import structlog

from gateway.registrar import Registrar
from gateway.reliable.holder import Holder
from gateway.reliable.moves import Moves
from gateway.reliable.session import Session
from hubwire.bus.client import BusClient
from hubwire.bus.envelopes import command_to_gateway
from hubwire.bus.keys import reliable_key
from hubwire.bus.settle import settle
from hubwire.bus.subjects import peer_subject
from hubwire.model.errors import HubwireError, Unavailable

log = structlog.get_logger(__name__)

RECENT_SECONDS: Final = 60.0
WAIT_SECONDS: Final = 4.0
"""How long a leave waits for other gateways, less than a control plane waits for its answer. One that is hung
counts as a member for as long as its lease is valid."""
MAX_ASKED: Final = 8
"""How many gateways are asked; with more members than that a group exists in any case."""
MAX_AT_ONCE: Final = 16

LET_GO: Final = "let_go"
"""The command, with hub, session id and plain key as arguments; its answer is not looked at."""


class Leftovers:
    """Of one gateway's sessions at others, and of others' here."""

    def __init__(self, holder: Holder, moves: Moves, bus: BusClient, registrar: Registrar) -> None:
        self._holder = holder
        self._moves = moves
        self._bus = bus
        self._registrar = registrar
        self._room = asyncio.Semaphore(MAX_AT_ONCE)
        self._loop = asyncio.get_running_loop()

    def gone(self, session: Session, key: str, done: Callable[[], None]) -> None:
        """Call back once no other gateway is a member of a plain key because of a session that has left
        it here, or after WAIT_SECONDS; at once when there can be none."""
        recent = self._loop.time() - session.came < RECENT_SECONDS
        if not recent or self._holder.needs.has(key):
            done()
        else:
            self._holder.start(self._gone(session, key, done))

    async def _gone(self, session: Session, key: str, done: Callable[[], None]) -> None:
        try:
            async with asyncio.timeout(WAIT_SECONDS), self._room:
                holders = await self._registrar.holders(reliable_key(key), WAIT_SECONDS)
                others = [gateway for gateway in holders if gateway != self._holder.name]
                payload = command_to_gateway(LET_GO, [session.hub, session.id, key])
                await asyncio.gather(*(self._ask(gateway, payload) for gateway in others[:MAX_ASKED]))
        except (HubwireError, TimeoutError) as error:
            log.debug("session_left_elsewhere", connection_id=session.id, error=str(error) or "no answer")
        finally:
            done()

    async def _ask(self, gateway: str, payload: bytes) -> None:
        try:
            await self._bus.ask(peer_subject(gateway), payload, WAIT_SECONDS)
        except Unavailable as error:
            log.debug("session_left_elsewhere", gateway=gateway, error=str(error))

    async def let_go(self, hub: str, session_id: str, key: str) -> bool:
        """Another gateway has the session: returns when nothing of it is here, and the owner of the key
        knows; at once, with False, when it is here by its record. Raises Unavailable when it is not known
        in time."""
        holder = self._holder
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await self._moves.over(hub, session_id)
                session = holder.get(hub, session_id)
                if session is not None and not await holder.ends.has_gone(session):
                    return False
                await holder.log.until_settled(session_id)
                future: asyncio.Future[None] = self._loop.create_future()
                holder.needs.when_left(key, partial(settle, future, None))
                await future
        except TimeoutError as error:
            raise Unavailable("The session has not left this gateway yet.") from error
        return True
