"""From an envelope to the sockets of its receivers: the fan-out (DESIGN.md section 6)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import structlog

from gateway.connection import Connection
from gateway.frames import BINARY, TEXT, frame
from gateway.hub import LocalHubs
from gateway.protocol.codec import Codec
from gateway.tally import KIND_OF_KEY, HubTally
from hubwire.bus.envelopes import Body, unpack_body
from hubwire.bus.keys import PARTITIONS, split_key
from hubwire.model.filters import InvalidFilter, compile_filter
from hubwire.model.message import Message
from hubwire.model.publish_ids import PublishIds
from hubwire.runtime.meters import PerHub
from hubwire.runtime.traces import OFF, Traces

log = structlog.get_logger(__name__)

MAX_SENDERS_REMEMBERED = 4096


class Delivery:
    """Delivers what routers send, once each, to the local members; encoded once per subprotocol."""

    def __init__(
        self,
        hubs: LocalHubs[Connection],
        now: Callable[[], float],
        tallies: PerHub[HubTally] | None = None,
        soon: Callable[..., object] | None = None,
        traces: Traces = OFF,
    ) -> None:
        """`soon` calls a function when what was sent in this turn is written (the loop's `call_soon`)."""
        self._hubs = hubs
        self._now = now
        self._tallies: PerHub[HubTally] = tallies if tallies is not None else PerHub(HubTally, 0)
        self._soon = soon
        self._traces = traces
        self._epochs = [0] * PARTITIONS
        self._seen: list[dict[str, int]] = [{} for _ in range(PARTITIONS)]
        self._ids = PublishIds()
        self.taken = 0
        self.delivered = 0
        self.fenced = 0
        self.repeated = 0

    def epoch_seen(self, partition: int, epoch: int) -> None:
        """The ownership table names a newer owner: what the one before still sends is dropped."""
        if epoch > self._epochs[partition]:
            self._epochs[partition] = epoch

    def envelopes(self, items: Iterable[Sequence[Any]]) -> None:
        """What an owner sends in one message. One that is not understood is logged and costs nobody else."""
        for item in items:
            try:
                self.envelope(*item)
            except Exception as error:  # its text may quote a payload
                log.error("envelope_refused", error=type(error).__name__)

    def envelope(
        self,
        partition: int,
        epoch: int,
        sender: str,
        number: int,
        key: str,
        body: bytes,
        publisher: str | None = None,
        ack_id: int = 0,
    ) -> None:
        """One envelope from an owner, to the members of its key that are here. With a publisher it is dropped
        if its members had it before, from another sender and an owner that has gone."""
        if epoch < self._epochs[partition]:
            self.fenced += 1
            return
        self._epochs[partition] = epoch
        # A publisher repeats a batch whose answer was lost, perhaps to another owner. Its publishes come
        # in the order of their numbers, so what is not above the highest was delivered here before.
        seen = self._seen[partition]
        if number <= seen.get(sender, 0):
            self.repeated += 1
            return
        if len(seen) >= MAX_SENDERS_REMEMBERED and sender not in seen:
            for old in list(seen)[: MAX_SENDERS_REMEMBERED // 2]:
                del seen[old]
        seen[sender] = number
        self.taken += 1
        members = self._hubs.members(key)
        if not members or (publisher is not None and self._had((partition, publisher), ack_id)):
            return
        kind, hub, name = split_key(key)
        self.to(members, unpack_body(body, name if kind == "g" else None), hub, KIND_OF_KEY[kind])

    def _had(self, publisher: tuple[int, str], ack_id: int) -> bool:
        """Whether this publish was here before; from now on it was."""
        if self._ids.knows(publisher, ack_id):
            self.repeated += 1
            return True
        self._ids.remember(publisher, ack_id, self._now())
        return False

    def to(self, members: Iterable[Connection], content: Body, hub: str, kind: str) -> int:
        """Send to these connections of a hub, except those that the body spares; `kind` is what they were
        addressed by. Returns how many got it."""
        message, excluded, filter_text, ttl_seconds, accepted, trace = content
        if excluded is not None:
            members = [one for one in members if one.id not in excluded]
        if filter_text:
            try:
                test = compile_filter(filter_text)
            except InvalidFilter as error:
                log.error("envelope_filter_refused", error=str(error))
                return 0
            members = [
                one
                for one in members
                if test.matches(one.id, one.user_id, one.groups, one.codec.name or None)
            ]
        deadline = 0.0
        if ttl_seconds:
            deadline = self._now() + ttl_seconds
            members = tuple(members)  # one that is too slow is closed, and leaves the table, on the way
        count, size = _send(message, members, deadline)
        self.delivered += count
        self._count(hub, kind, count, size, accepted)
        if trace:
            self._traces.moment("deliver", trace, {"hub": hub, "kind": kind, "connections": count})
        return count

    def _count(self, hub: str, kind: str, count: int, size: int, accepted: float) -> None:
        if not count:
            return
        tally = self._tallies.of(hub)
        sent = tally.sent_to(kind)
        sent.messages += count
        sent.bytes += size
        if accepted and self._soon is not None:
            self._soon(tally.delivered, accepted)


def _send(message: Message, members: Iterable[Connection], deadline: float) -> tuple[int, int]:
    """One frame to each, encoded once per subprotocol. Returns how many, and how many bytes."""
    frames: dict[Codec, bytes] = {}
    codec: Codec | None = None
    data = b""
    count = size = length = 0
    add: Callable[[Connection], None] | None = None
    for connection in members:
        if connection.codec is not codec:
            codec = connection.codec
            known = frames.get(codec)
            if known is None:
                known = frame(BINARY if codec.is_binary(message) else TEXT, codec.message(message))
                frames[codec] = known
            data = known
            length = len(data)
        count += 1
        size += length
        if connection.direct >= 0 and connection.turn is None:
            # `connection.send(data)`, without calls of ours for each of them.
            connection.turn = data
            if add is None:
                add = connection.flusher.adder()
            add(connection)
        elif deadline:
            connection.send_until(data, deadline)
        else:
            connection.send(data)
    return count, size
