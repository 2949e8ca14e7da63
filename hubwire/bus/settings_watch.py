"""Follow a key-value bucket: first everything in it, then every change, in order, without gaps.

A plain push consumer, not the client's own ordered consumer: that one asks for its old position after the
server has lost the stream, and then skips new entries without an error. Here a gap or another stream is
always noticed.
"""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any, Literal, NamedTuple

import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js import JetStreamContext, api
from nats.js.kv import KV_DEL, KV_MARKER_REASON, KV_OP, KV_PURGE, KeyValue

from hubwire.model.errors import Unavailable


class Entry(NamedTuple):
    """One change. `data` is None when the key was deleted or purged with NATS's own tools."""

    key: str
    revision: int
    data: bytes | None


async def bind_bucket(
    js: JetStreamContext, bucket: str, replicas: int, storage: Literal["file", "memory"]
) -> KeyValue:
    """The bucket, created if it is missing; one that exists is taken as it is. Raises what NATS raises."""
    try:
        return await js.key_value(bucket)
    except nats.js.errors.NotFoundError:
        pass
    config = api.KeyValueConfig(
        bucket=bucket,
        history=1,
        replicas=replicas,
        storage=api.StorageType.FILE if storage == "file" else api.StorageType.MEMORY,
        # A direct read may come from a follower that lags behind: useless after a lost race.
        direct=False,
    )
    try:
        return await js.create_key_value(config)
    except nats.js.errors.BadRequestError:
        # Somebody made it a moment ago, configured otherwise; theirs counts.
        return await js.key_value(bucket)


class Watch:
    """One subscription to one incarnation of the bucket. Made by `start`; `stop` it when done."""

    def __init__(self, js: JetStreamContext, nc: Client, bucket: str, info: api.StreamInfo) -> None:
        self._js = js
        self._nc = nc
        self._stream = f"KV_{bucket}"
        self._prefix = f"$KV.{bucket}."
        self._subscription: Subscription | None = None
        # Bounded by the number of settings; the client's `next_msg` may swallow a cancellation.
        self._arrived: asyncio.Queue[Msg] = asyncio.Queue()
        self._position = 0  # consumer sequence of the last entry
        self._revision = 0  # highest stream revision seen
        self._last_revision: int = info.state.last_seq if info.state.messages else 0
        self._reconnects: int = nc.stats["reconnects"]
        self.incarnation: datetime | None = info.created

    @classmethod
    async def start(cls, js: JetStreamContext, nc: Client, bucket: str) -> tuple[Watch, list[Entry]]:
        """Subscribe and return what stands in the bucket now; `next` goes on from there.

        Raises Unavailable or what the NATS client raises; nothing is left subscribed then.
        """
        info = await js.stream_info(f"KV_{bucket}")
        watch = cls(js, nc, bucket, info)
        try:
            return watch, await watch._load()
        except BaseException:
            await watch.stop()
            raise

    async def _load(self) -> list[Entry]:
        inbox = self._nc.new_inbox()
        self._subscription = await self._nc.subscribe(inbox, cb=self._on_message)
        await self._js.add_consumer(
            self._stream,
            api.ConsumerConfig(
                deliver_subject=inbox,
                deliver_policy=api.DeliverPolicy.LAST_PER_SUBJECT,
                ack_policy=api.AckPolicy.NONE,
                filter_subject=self._prefix + ">",
                inactive_threshold=60.0,
                mem_storage=True,
                num_replicas=1,
            ),
        )
        found: list[Entry] = []
        # Entries come in the order of their revisions, and the newest one is the last of its key.
        while self._revision < self._last_revision:
            entry = await self.next(timeout=1.0)
            if entry is None:
                if not found:
                    raise Unavailable("The settings did not come.")
                break  # the newest entry was taken out of the stream by hand
            found.append(entry)
        self._revision = max(self._revision, self._last_revision)
        return found

    async def _on_message(self, message: Msg) -> None:
        self._arrived.put_nowait(message)

    async def next(self, timeout: float) -> Entry | None:
        """The next change, or None when there is none within `timeout` seconds.

        Raises Unavailable when one is missing before it: load everything again.
        """
        if self._subscription is None:
            raise Unavailable("The watch has been stopped.")
        try:
            async with asyncio.timeout(timeout):
                message = await self._arrived.get()
        except TimeoutError:
            return None
        sequence: Any = message.metadata.sequence
        if sequence.consumer != self._position + 1:
            raise Unavailable("A change of the settings went missing on its way.")
        self._position = sequence.consumer
        self._revision = max(self._revision, sequence.stream)
        headers = message.headers or {}
        deleted = headers.get(KV_OP) in (KV_DEL, KV_PURGE) or KV_MARKER_REASON in headers
        return Entry(message.subject[len(self._prefix) :], sequence.stream, None if deleted else message.data)

    def interrupted(self) -> bool:
        """Whether the connection was lost since the start: changes may have gone by. Local, costs nothing."""
        return bool(self._nc.stats["reconnects"] != self._reconnects)

    async def behind(self) -> bool:
        """Ask the server whether the bucket holds more than the watch has brought, or is another one.

        True may also mean that a change is on its way this moment. Raises what the NATS client raises.
        """
        info = await self._js.stream_info(self._stream)
        return bool(info.created != self.incarnation or info.state.last_seq > self._revision)

    async def stop(self) -> None:
        """End the subscription; the server forgets its consumer. A second call does nothing. Never raises."""
        subscription, self._subscription = self._subscription, None
        if subscription is None or self._nc.is_closed:
            return
        try:
            async with asyncio.timeout(1.0):
                await subscription.unsubscribe()
        except (nats.errors.Error, TimeoutError, OSError):
            pass  # the connection is away: the consumer ends by itself
