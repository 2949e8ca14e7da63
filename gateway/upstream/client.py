"""Delivers events over HTTP: admission, abuse protection, credentials, attempts, one deadline over all.

The times and the table of what is tried again are those of server-events.md 4.8.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from gateway.upstream.auth import TokenSource, TokenUnavailable
from gateway.upstream.breaker import Pass
from gateway.upstream.clock import Clock
from gateway.upstream.config import UpstreamConfig
from gateway.upstream.deadlines import Deadlines
from gateway.upstream.exchange import ExchangeFailed, Exchanger
from gateway.upstream.outcome import Answer, DeliveryFailure, FailureCategory, is_retried
from gateway.upstream.requests import EventRequest
from gateway.upstream.upstream import Upstream, UpstreamKey, UpstreamStatus
from gateway.upstream.validation import Validator
from hubwire.model.event_handlers import CONNECT, is_tunnel

EVENT_BYTES: Final = 2048
"""What an event that waits costs beside its body and header values, roughly."""
MAX_UPSTREAMS: Final = 1000
"""Kept at a time; the ones that nobody uses go first. Settings name them, so there are few."""


class _Failed(Exception):
    def __init__(self, category: FailureCategory, reason: str, status: int | None = None) -> None:
        super().__init__(reason)
        self.category: FailureCategory = category
        self.reason = reason
        self.status = status


class _Progress:
    """How far a delivery has come. `given` is the permission of the circuit, until it is told how the
    delivery ended; `waiting` says that it stands in the queue for a connection."""

    __slots__ = ("attempts", "fault", "given", "status", "waiting")

    def __init__(self) -> None:
        self.attempts = 0
        self.given: Pass | None = None
        self.status: int | None = None
        self.waiting = False
        self.fault: tuple[FailureCategory, int | None, str] | None = None
        """Why the last attempt has to be repeated."""


class UpstreamClient:
    """Sends events to their upstreams.

    A slow or dead upstream delays its own events only. Counters are plain integers that metrics read:
    `attempts` were sent, `retries` are those of them that repeat.
    """

    def __init__(
        self,
        config: UpstreamConfig,
        clock: Clock,
        exchanger: Exchanger,
        validator: Validator,
        tokens: TokenSource,
    ) -> None:
        self._config = config
        self._clock = clock
        self._exchanger = exchanger
        self._validator = validator
        self._tokens = tokens
        self._deadlines = Deadlines(config.event_seconds)
        self._upstreams: dict[UpstreamKey, Upstream] = {}
        self.attempts = 0
        self.retries = 0

    async def deliver(
        self, request: EventRequest, given_up: Callable[[DeliveryFailure], None] | None = None
    ) -> Answer | DeliveryFailure:
        """The answer, of whatever status, after the repeats that 4.8 allows; or why there is none.

        Never raises for what an upstream does. Over the bounds of what may wait for an upstream, or while
        its circuit is open, it fails at once. Cancelling it ends the delivery and closes its connection;
        `given_up` is then told of an attempt that had failed and would have been repeated.
        """
        started = self._clock.monotonic()
        progress = _Progress()
        upstream: Upstream | None = None
        size = _size(request)
        try:
            if is_tunnel(request.url):
                raise _Failed("unsupported", "This service has no server tunnel for tunnel:/// addresses.")
            upstream = self._upstream(request)
            if not upstream.enter(size):
                held, upstream = upstream, None
                raise _Failed("overloaded", f"{held.pending} events wait for this upstream already.")
            async with self._deadlines.limit():
                answer = await self._deliver(upstream, request, progress)
            # Whatever it answers, also 503: one event that fails says nothing of the others.
            self._tell(upstream, progress, alive=True)
            seconds = self._clock.monotonic() - started
            return Answer(answer.status, answer.headers, answer.body, progress.attempts, seconds)
        except _Failed as failed:
            category, reason, status = failed.category, failed.reason, failed.status
            if upstream is not None and category in ("network", "bad_answer", "too_large"):
                self._tell(upstream, progress, alive=category != "network")
        except TimeoutError:
            category, status = "timeout", progress.status
            doing = "its turn had not come" if progress.waiting else "there was no complete answer"
            reason = f"After {self._config.event_seconds:g} s {doing}."
            if upstream is not None and not progress.waiting:
                self._tell(upstream, progress, alive=False)
        except asyncio.CancelledError:
            if progress.fault is not None and given_up is not None:
                seconds = self._clock.monotonic() - started
                given_up(DeliveryFailure(*progress.fault, progress.attempts, seconds, request.shown))
            raise
        finally:
            if upstream is not None:
                upstream.leave(size)
                if progress.given is not None:  # cancelled, or nothing that says how the upstream is
                    upstream.breaker.unknown(progress.given, self._clock.monotonic())
        seconds = self._clock.monotonic() - started
        return DeliveryFailure(category, status, reason, progress.attempts, seconds, request.shown)

    def close(self) -> None:
        self._deadlines.close()

    def upstreams(self) -> list[UpstreamStatus]:
        now = self._clock.monotonic()
        return [upstream.status(now) for upstream in self._upstreams.values()]

    def _tell(self, upstream: Upstream, progress: _Progress, *, alive: bool) -> None:
        if progress.given is None:
            return
        if alive:
            upstream.breaker.succeeded(self._clock.monotonic())
        else:
            upstream.breaker.failed(progress.given, self._clock.monotonic())
        progress.given = None

    async def _deliver(self, upstream: Upstream, request: EventRequest, progress: _Progress) -> Answer:
        if upstream.breaker.state(self._clock.monotonic()) == "open":
            raise _circuit_open()
        verdict = self._validator.remembered(request.validation_url, request.origin)
        if verdict is None:
            async with upstream.validations:
                verdict = await self._validator.check(request.validation_url, request.origin)
        if not verdict.allowed:
            raise _Failed("validation", f"{verdict.code}: {verdict.reason}", verdict.status)
        headers = list(request.headers)
        if request.auth is not None and request.auth.type == "ManagedIdentity":
            identity = request.auth.managed_identity
            resource = identity.resource if identity is not None and identity.resource else ""
            try:
                headers.append(("Authorization", f"Bearer {await self._tokens.token(resource)}"))
            except TokenUnavailable as error:
                raise _Failed("token", str(error)) from error
        pauses = iter(self._config.retry_seconds)
        most = 1 + len(self._config.retry_seconds)
        while True:
            progress.waiting = True
            async with upstream.slots:
                progress.waiting = False
                if progress.given is None:
                    # One permission for all attempts: an event that has begun goes through its repeats,
                    # whatever becomes of others meanwhile.
                    progress.given = upstream.breaker.admit(self._clock.monotonic())
                    if progress.given is None:
                        raise _circuit_open()
                result = await self._attempt(upstream, request, headers, progress)
            last = progress.attempts >= most
            if isinstance(result, ExchangeFailed):
                if last or not result.retryable:
                    raise _Failed(result.category, result.reason, result.status) from result
                if result.stale and progress.attempts == 1:
                    # The server closed an idle connection while we sent. That is no sign of trouble, so no
                    # pause; nor does it use up one of the attempts, which a restarting upstream needs.
                    most += 1
                    continue
                progress.fault = (result.category, result.status, result.reason)
            else:
                progress.status = result.status
                if last or not is_retried(result.status):
                    return result
                progress.fault = ("status", result.status, f"The event handler answered {result.status}.")
            await self._clock.sleep(next(pauses))

    async def _attempt(
        self,
        upstream: Upstream,
        request: EventRequest,
        headers: list[tuple[str, str]],
        progress: _Progress,
    ) -> Answer | ExchangeFailed:
        progress.attempts += 1
        self.attempts += 1
        if progress.attempts > 1:
            self.retries += 1
        upstream.active += 1
        try:
            return await self._exchanger.exchange(
                "POST",
                request.url,
                headers,
                request.body,
                answer_bytes=self._config.answer_bytes,
                large=upstream.large,
                ignore_body=not request.blocking,
            )
        except ExchangeFailed as failure:
            return failure
        finally:
            upstream.active -= 1

    def _upstream(self, request: EventRequest) -> Upstream:
        key = UpstreamKey(request.hub, _place(request.url), request.event is CONNECT)
        upstream = self._upstreams.get(key)
        if upstream is None:
            if len(self._upstreams) >= MAX_UPSTREAMS:
                for idle in [each for each in self._upstreams.values() if not each.pending]:
                    del self._upstreams[idle.key]
            upstream = self._upstreams[key] = Upstream(key, self._config)
        return upstream


def _place(url: str) -> str:
    """Scheme, host and port. Templates are checked to have no user in them (1.2)."""
    end = url.find("/", url.index("://") + 3)
    return (url if end < 0 else url[:end]).partition("?")[0]


def _size(request: EventRequest) -> int:
    return EVENT_BYTES + len(request.body) + sum([len(value) for _, value in request.headers])


def _circuit_open() -> _Failed:
    return _Failed("circuit_open", "The upstream failed too often lately; it is tried again soon.")
