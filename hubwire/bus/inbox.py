"""The inbox of a gateway's run: the stream that is the log of its reliable sessions (DESIGN.md section 5).

Routers and the gateway write to it with `hubwire.bus.inbox_writer`; the gateway follows it with
`hubwire.bus.inbox_tail`, and whoever takes a session over reads it with `hubwire.bus.inbox_reader`.

Guarantee: what is stored stays, in one order, until the gateway trims it; a full inbox refuses, and loses
nothing. The numbers of the messages have no gaps. They belong to one incarnation of the stream.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, NamedTuple

import structlog

from hubwire.bus.client import BusClient
from hubwire.bus.jetstream import ASK_SECONDS, StreamFull, StreamMissing, api, call
from hubwire.bus.subjects import INBOX_STREAM_PREFIX, INBOX_SUBJECTS, inbox_stream, inbox_subject
from hubwire.model.errors import Unavailable

log = structlog.get_logger(__name__)

MAX_BYTES: Final = 256 * 1024 * 1024
"""What an inbox holds; past it nothing more is taken. JetStream sets that much aside for it."""

SMALLEST_BYTES: Final = 16 * 1024 * 1024
"""Twice what is logged between two trimmings."""

PROOF_SECONDS: Final = 0.25
"""Between two answers that there is no inbox: a server that is being stopped may give one of them."""


class InboxInfo(NamedTuple):
    """`created` tells one incarnation from another. `first` is above `last` when nothing is there."""

    created: str
    first: int
    last: int
    bytes: int
    max_bytes: int


def _info_of(content: dict[str, Any]) -> InboxInfo:
    try:
        state, config = content["state"], content["config"]
        return InboxInfo(
            str(content["created"]),
            max(1, int(state["first_seq"])),  # 0 in a stream that is new
            int(state["last_seq"]),
            int(state["bytes"]),
            int(config.get("max_bytes", -1)),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise Unavailable(f"JetStream's answer cannot be read: {error!r}") from error


async def inbox_info(bus: BusClient, gateway: str, timeout: float = ASK_SECONDS) -> InboxInfo:
    """What the leader of a gateway's inbox says of it. Raises StreamMissing and Unavailable."""
    return _info_of(await call(bus, "INFO", inbox_stream(gateway), {}, timeout))


async def inbox_is_gone(bus: BusClient, gateway: str) -> bool:
    """Whether it is proved that the gateway has no inbox: told twice. Raises Unavailable when it is
    not known."""
    for look in range(2):
        if look:
            await asyncio.sleep(PROOF_SECONDS)
        try:
            await inbox_info(bus, gateway)
            return False
        except StreamMissing:
            pass
    return True


async def list_inboxes(bus: BusClient) -> set[str]:
    """The gateways that have an inbox, also lost ones. Raises Unavailable."""
    found: list[str] = []
    while True:
        page = await api(bus, "STREAM.NAMES", {"subject": INBOX_SUBJECTS, "offset": len(found)})
        names = page.get("streams") or []
        found += names
        if not names or len(found) >= int(page.get("total", 0)):
            prefix = len(INBOX_STREAM_PREFIX)
            return {name[prefix:] for name in found if name.startswith(INBOX_STREAM_PREFIX)}


class Inbox:
    """The inbox of one gateway, for who may change it: the gateway itself, and who sweeps it away.

    Every method ends within seconds or raises Unavailable, after which it may have been done or not; all of
    them can be done again.
    """

    def __init__(
        self, bus: BusClient, gateway: str, *, memory: bool, replicas: int, max_bytes: int = MAX_BYTES
    ) -> None:
        self._bus = bus
        self._stream = inbox_stream(gateway)
        self._gateway = gateway
        self._config: dict[str, Any] = {
            "name": self._stream,
            "subjects": [inbox_subject(gateway)],
            "retention": "limits",
            "discard": "new",
            "max_bytes": max_bytes,
            "max_msgs": -1,
            "max_age": 0,
            "max_consumers": -1,
            "storage": "memory" if memory else "file",
            "num_replicas": replicas,
            # Asked of the leader alone: a follower that lags would hide the end of the log.
            "allow_direct": False,
        }

    async def open(self) -> InboxInfo:
        """Make it unless it is there; smaller when JetStream cannot set its bytes aside. Raises StreamFull
        when it cannot set aside SMALLEST_BYTES either."""
        try:
            return await self.info()
        except StreamMissing:
            pass
        size = int(self._config["max_bytes"])
        while True:
            config = {**self._config, "max_bytes": size}
            try:
                return _info_of(await call(self._bus, "CREATE", self._stream, config))
            except StreamFull as error:
                size //= 4
                if size < SMALLEST_BYTES:
                    raise
                log.warning("inbox_is_small", gateway=self._gateway, bytes=size, reason=str(error))

    async def info(self) -> InboxInfo:
        """Raises StreamMissing when it is not there (any more)."""
        return await inbox_info(self._bus, self._gateway)

    async def purge(self, before_seq: int) -> None:
        """Trim what stands below a number. Never trim beyond what was folded."""
        await call(self._bus, "PURGE", self._stream, {"seq": before_seq})

    async def resize(self, max_bytes: int) -> None:
        """Give it more room, so that a full inbox can take the checkpoint that lets it be trimmed; or less
        again. What is in it stays in either case."""
        await call(self._bus, "UPDATE", self._stream, {**self._config, "max_bytes": max_bytes})

    async def delete(self) -> None:
        """Take it away with all that is in it; nothing happens when it is not there."""
        try:
            await call(self._bus, "DELETE", self._stream, {})
        except StreamMissing:
            pass
