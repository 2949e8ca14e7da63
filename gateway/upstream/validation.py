"""Abuse protection: an upstream must agree to be called before it gets an event (server-events.md section 2).

Asked lazily, remembered per address and origin, in this process only. What an upstream answered, and why
it was refused, can be read at any time.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple

from gateway.upstream.clock import Clock
from gateway.upstream.exchange import ExchangeFailed
from gateway.upstream.outcome import Answer, is_retried
from gateway.upstream.requests import Origin
from gateway.upstream.single_flight import SingleFlight
from hubwire.model.event_handlers import shown_url

GOOD_SECONDS: Final = 60.0
FIRST_BACK_OFF_SECONDS: Final = 1.0
MAX_BACK_OFF_SECONDS: Final = 60.0
MAX_REMEMBERED: Final = 1000
"""The origin can be what a client says it connected to, so there must be a bound; the oldest goes."""

INVALID_STATUS: Final = "AbuseProtectionResponseInvalidStatusCode"
MISSING_ORIGIN: Final = "AbuseProtectionResponseMissingAllowedOrigin"
FAILED: Final = "AbuseProtectionResponseFailed"

Send = Callable[[str, str, Sequence[tuple[str, str]]], Awaitable[Answer]]
"""Method, URL, headers. Raises ExchangeFailed."""


class Verdict(NamedTuple):
    """What came of asking an upstream. `code` is empty when it is allowed, else one of the names of Azure's
    resource log (2.4); `reason` is a sentence. `at` is Unix time in seconds."""

    allowed: bool
    code: str
    reason: str
    status: int | None
    at: float


class Validation(NamedTuple):
    """One remembered verdict, for people: the address without its secrets."""

    url: str
    origin: str
    verdict: Verdict


class _Entry:
    __slots__ = ("back_off", "due", "verdict")

    def __init__(self, verdict: Verdict, due: float, back_off: float) -> None:
        self.verdict = verdict
        self.due = due
        self.back_off = back_off


def judge(answer: Answer, origin: Origin, at: float) -> Verdict:
    """The table of 2.2, the repetition with GET left out: it belongs to whoever asks."""
    status = answer.status
    if not answer.success:
        hint = "; redirects are not followed" if 300 <= status <= 399 else ""
        return Verdict(False, INVALID_STATUS, f"The validation was answered {status}{hint}.", status, at)
    lines = answer.values("webhook-allowed-origin")
    if not lines:
        reason = "The answer to the validation has no header WebHook-Allowed-Origin."
        return Verdict(False, MISSING_ORIGIN, reason, status, at)
    allowed = {item.strip().lower() for line in lines for item in line.split(",")}
    if allowed & {"*", origin.host, origin.authority}:
        return Verdict(True, "", "", status, at)
    named = ", ".join(lines)[:200]
    reason = f"WebHook-Allowed-Origin is {named!r}, which does not allow {origin.host!r}."
    return Verdict(False, MISSING_ORIGIN, reason, status, at)


class Validator:
    """Asks upstreams and remembers what they said.

    `seconds` is the limit of one OPTIONS or GET with its repeats after `retry_seconds` (2.3, 4.8).
    """

    def __init__(self, send: Send, clock: Clock, *, seconds: float, retry_seconds: Sequence[float]) -> None:
        self._send = send
        self._clock = clock
        self._seconds = seconds
        self._retry_seconds = retry_seconds
        self._entries: OrderedDict[tuple[str, str], _Entry] = OrderedDict()
        self._flight: SingleFlight[tuple[str, str], Verdict] = SingleFlight()

    def remembered(self, url: str, origin: Origin) -> Verdict | None:
        """The verdict as far as it is known now, without waiting; `check` has the rules."""
        key = (url, origin.authority)
        entry = self._entries.get(key)
        if entry is None:
            return None
        self._entries.move_to_end(key)
        if self._clock.monotonic() >= entry.due:
            if not entry.verdict.allowed:
                return None
            self._flight.start(key, lambda: self._validate(url, origin, self._retry_seconds))
        return entry.verdict

    async def check(self, url: str, origin: Origin) -> Verdict:
        """Whether events may go there now; `url` is the template resolved with the event `validate`.

        The first use waits for the one validation that all concurrent first uses share. A verdict that
        allows is used for 60 s, and then while it is refreshed in the background; one that refuses is used
        until its back-off ends. Cancelling a waiter does not cancel the validation.
        """
        known = self.remembered(url, origin)
        if known is not None:
            return known
        key = (url, origin.authority)
        return await self._flight.run(key, lambda: self._validate(url, origin, self._retry_seconds))

    async def ask(self, url: str, origin: Origin, *, repeats: bool = True) -> Verdict:
        """Ask now, whatever is remembered, and remember the answer: for a setting that is being saved.
        Without `repeats` the first fault is the verdict: somebody waits."""
        pauses = self._retry_seconds if repeats else ()
        return await self._flight.run((url, origin.authority), lambda: self._validate(url, origin, pauses))

    def latest(self) -> list[Validation]:
        """What is remembered, the least recently used first."""
        return [
            Validation(shown_url(url), authority, entry.verdict)
            for (url, authority), entry in self._entries.items()
        ]

    async def close(self) -> None:
        await self._flight.close()

    async def _validate(self, url: str, origin: Origin, pauses: Sequence[float]) -> Verdict:
        verdict = await self._exchange(url, origin, pauses)
        key = (url, origin.authority)
        before = self._entries.get(key)
        if verdict.allowed:
            wait, back_off = GOOD_SECONDS, 0.0
        else:
            back_off = FIRST_BACK_OFF_SECONDS
            if before is not None and not before.verdict.allowed:
                back_off = min(before.back_off * 2, MAX_BACK_OFF_SECONDS)
            wait = back_off
        self._entries[key] = _Entry(verdict, self._clock.monotonic() + wait, back_off)
        self._entries.move_to_end(key)
        if len(self._entries) > MAX_REMEMBERED:
            self._entries.popitem(last=False)
        return verdict

    async def _exchange(self, url: str, origin: Origin, pauses: Sequence[float]) -> Verdict:
        try:
            answer = await self._operate("OPTIONS", url, origin, pauses)
            if answer.status == 404:
                answer = await self._operate("GET", url, origin, pauses)
            return judge(answer, origin, self._clock.time())
        except TimeoutError:
            reason = f"The validation was not answered within {self._seconds:g} s."
        except ExchangeFailed as failure:
            reason = f"The validation failed: {failure.reason}"
        return Verdict(False, FAILED, reason, None, self._clock.time())

    async def _operate(self, method: str, url: str, origin: Origin, pauses: Sequence[float]) -> Answer:
        # No body, signature, credentials or cookies (2.1).
        headers = (("WebHook-Request-Origin", origin.host), ("ce-awpsversion", "1.0"))
        async with asyncio.timeout(self._seconds):
            for pause in pauses:
                try:
                    answer = await self._send(method, url, headers)
                except ExchangeFailed as failure:
                    if not failure.retryable:
                        raise
                else:
                    if not is_retried(answer.status):
                        return answer
                await self._clock.sleep(pause)
            return await self._send(method, url, headers)
