"""Copies of events into a JetStream stream of the cluster (server-events.md 5.4).

Guarantee: what `publish` returned for is stored in the stream, at least once; within two minutes JetStream
drops the copies that repeats made, by their `Nats-Msg-Id`.
"""

from __future__ import annotations

import asyncio
import json
from itertools import count
from typing import Final

import nats.errors
import structlog
from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig

from hubwire.bus.client import NO_RESPONDERS, BusClient
from hubwire.model.errors import Unavailable
from hubwire.model.event_listeners import CloudEvent, NotTaken, nats_headers, nats_subject
from hubwire.model.settings import NatsEndpoint

log = structlog.get_logger(__name__)

ATTEMPTS: Final = 3
ACK_SECONDS: Final = 5.0
PAUSE_SECONDS: Final = 0.25
ELECTION_SECONDS: Final = 5.0
"""How long a stream that is there, and has no leader yet, is waited for: nobody answers for it meanwhile."""
STREAM_BYTES: Final = 256 * 1024 * 1024
STREAM_AGE_SECONDS: Final = 7 * 24 * 3600
DUPLICATE_SECONDS: Final = 120
DESCRIPTION: Final = "Events of Hubwire's listeners"
"""By this we know a stream that we made, and may change."""
MISSING_STREAM: Final = 10059
NAME_IN_USE: Final = 10058


class NatsTarget:
    """One endpoint of listeners: a stream and a prefix of subjects. Implements
    `gateway.upstream.listeners.ListenerTarget`.

    A missing stream is made when the first event finds nobody to take it: 256 MiB and seven days at most,
    the oldest events go first. One that somebody else made is used as it is.
    """

    def __init__(
        self,
        bus: BusClient,
        endpoint: NatsEndpoint,
        *,
        memory: bool = False,
        replicas: int = 1,
        ack_seconds: float = ACK_SECONDS,
    ) -> None:
        self._bus = bus
        self._endpoint = endpoint
        self._memory = memory
        self._replicas = replicas
        self._ack_seconds = ack_seconds
        self._making = asyncio.Lock()
        # Whether the stream was there when we last looked. That nobody answers does not tell: whoever
        # watches the subjects with a plain subscription counts as somebody who might.
        self._there = False

    async def publish(self, event: CloudEvent) -> None:
        subject = nats_subject(self._endpoint.subject_prefix, event)
        headers = [*nats_headers(event), ("Nats-Expected-Stream", self._endpoint.stream)]
        block = "NATS/1.0\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers) + "\r\n"
        loop = asyncio.get_running_loop()
        elected = loop.time() + ELECTION_SECONDS
        for attempt in count(1):
            if not self._there:
                await self._look()
            try:
                answer = await self._bus.ask(subject, event.data, self._ack_seconds, block.encode("ascii"))
                _check(answer)
                return
            except Unavailable as error:
                nobody = str(error) == NO_RESPONDERS
                if attempt >= ATTEMPTS and not (nobody and loop.time() < elected):
                    self._there = False
                    raise NotTaken(
                        f"The stream {self._endpoint.stream} did not take the event: {error}", attempt
                    ) from error
                if nobody:
                    async with self._making:
                        await self._make_stream()
                else:
                    self._there = False
                if attempt > 1 or not nobody:
                    await asyncio.sleep(PAUSE_SECONDS)

    async def _look(self) -> None:
        """See that the stream is there, once for all events that come meanwhile: none of them may be sent
        before it is, since only a watcher would have it. Never raises for what NATS does."""
        async with self._making:
            if self._there:
                return
            try:
                await self._make_stream()
            except Unavailable as error:
                log.debug("listener_stream_not_made", error=str(error))  # the publish says it better
            self._there = True

    async def _make_stream(self) -> None:
        """Make the stream if it is missing, or let it take our subjects too; one at a time (`_making`).
        Raises Unavailable."""
        stream, subjects = self._endpoint.stream, f"{self._endpoint.subject_prefix}.>"
        config = StreamConfig(
            name=stream,
            description=DESCRIPTION,
            subjects=[subjects],
            retention=RetentionPolicy.LIMITS,
            discard=DiscardPolicy.OLD,
            max_bytes=STREAM_BYTES,
            max_age=STREAM_AGE_SECONDS,
            duplicate_window=DUPLICATE_SECONDS,
            storage=StorageType.MEMORY if self._memory else StorageType.FILE,
            num_replicas=self._replicas,
        )
        js = self._bus.js
        try:
            try:
                found = (await js.stream_info(stream)).config
            except nats.errors.Error as error:
                if getattr(error, "err_code", None) != MISSING_STREAM:
                    raise
                await js.add_stream(config)
                log.info("listener_stream_made", stream=stream, subjects=subjects)
                return
            if subjects in (found.subjects or ()):
                return  # somebody was faster, or its leader is being elected
            if found.description != DESCRIPTION:
                raise Unavailable(f"the stream {stream} does not take {subjects}; add it there")
            found.subjects = [*(found.subjects or ()), subjects]
            await js.update_stream(found)
        except (nats.errors.Error, TimeoutError, OSError) as error:
            if getattr(error, "err_code", None) == NAME_IN_USE:
                return  # two gateways at the same moment
            raise Unavailable(
                f"The stream {stream} is missing and cannot be made: {error or type(error).__name__}"
            ) from error


def _check(answer: bytes) -> None:
    """Raises Unavailable when it is no acknowledgement of a stream."""
    try:
        content = json.loads(answer)
        error = content.get("error")
    except (ValueError, AttributeError):
        raise Unavailable("The answer is not that of a stream.") from None
    if error:
        raise Unavailable(str(error.get("description") or error))
    if "seq" not in content:
        raise Unavailable("The answer is not that of a stream.")
