"""The facade: asks the event handler of a hub and says what that means for the client.

Made and used in one event loop. Settings and keys are asked for at every event, so changes take effect
with the next one (server-events.md 1.4, 3.4).
"""

from __future__ import annotations

import os
import random
import uuid
from collections import Counter
from collections.abc import Callable

import structlog

from gateway.upstream.answers import (
    BadAnswer,
    ConnectAccepted,
    ConnectRefused,
    StateUpdate,
    accepted_without_handler,
    read_connect_answer,
    read_event_answer,
    refused_for_fault,
)
from gateway.upstream.auth import token_source
from gateway.upstream.call_times import CallTimes
from gateway.upstream.client import UpstreamClient
from gateway.upstream.clock import Clock, SystemClock
from gateway.upstream.config import UpstreamConfig
from gateway.upstream.contexts import (
    ConnectContext,
    ConnectResult,
    EventAnswered,
    EventContext,
    EventFailed,
    EventUnhandled,
    NotificationContext,
    NotificationDelivered,
    NotificationResult,
    NotificationUnwanted,
    UserEventResult,
)
from gateway.upstream.exchange import IGNORED_BYTES, Exchanger
from gateway.upstream.failures import FailureLog
from gateway.upstream.outcome import Answer, DeliveryFailure, failed_status
from gateway.upstream.requests import (
    EventRequest,
    Source,
    Stamp,
    UnsendableEvent,
    connect_request,
    origin_of,
    user_event_request,
)
from gateway.upstream.safety import AddressPolicy, Lookup, system_lookup
from gateway.upstream.source import EventSource
from gateway.upstream.upstream import UpstreamStatus
from gateway.upstream.validation import Validation, Validator, Verdict
from hubwire.model.errors import Unavailable
from hubwire.model.event_handlers import (
    CONNECT,
    VALIDATE,
    HandlerEvent,
    SecretOf,
    UnusableUrl,
    choose_handler,
    resolve_url,
    shown_url,
)
from hubwire.model.settings import AccessKeys, EventHandler, HubSettings
from hubwire.runtime.traces import OFF, Traces, current

log = structlog.get_logger(__name__)

SettingsOf = Callable[[str], HubSettings]
KeysOf = Callable[[], AccessKeys]


class UpstreamService:
    """Event handlers of all hubs, for one gateway.

    `settings_of` gives a hub's settings now; `keys_of` the access keys now, and may raise Unavailable.
    `secret_of` resolves Key Vault references in URL templates. Counters are plain integers that metrics
    read: `delivered` by kind of event, `failures.counts` by category, `attempts`, `retries`.
    Call `close` in the end; what is under way then is its callers' to cancel before.
    """

    def __init__(
        self,
        settings_of: SettingsOf,
        keys_of: KeysOf,
        config: UpstreamConfig = UpstreamConfig(),  # noqa: B008 (an immutable tuple)
        clock: Clock | None = None,
        *,
        secret_of: SecretOf | None = None,
        lookup: Lookup = system_lookup,
        hubs_measured: int = 50,
        traces: Traces = OFF,
    ) -> None:
        self._traces = traces
        self.calls = CallTimes(hubs_measured)
        self._settings_of = settings_of
        self._keys_of = keys_of
        self._config = config
        self._clock = clock or SystemClock()
        self._secret_of = secret_of
        policy = AddressPolicy(allow_private=config.allow_private, allow=config.allow, deny=config.deny)
        self._exchanger = self._make_exchanger(policy, lookup)
        # The authorization server is the operator's own setting, often inside of the cluster.
        self._token_exchanger = self._make_exchanger(AddressPolicy(allow_private=True), lookup)
        self._tokens = token_source(config.identity, self._token_exchanger, self._clock)
        self._validator = Validator(
            lambda method, url, headers: self._exchanger.exchange(
                method, url, headers, answer_bytes=IGNORED_BYTES, ignore_body=True
            ),
            self._clock,
            seconds=config.validation_seconds,
            retry_seconds=config.retry_seconds,
        )
        self.client = UpstreamClient(config, self._clock, self._exchanger, self._validator, self._tokens)
        self.failures = FailureLog(config.failures_kept)
        self.delivered: Counter[str] = Counter()
        # Seeded here, since forked workers must not share it. Request ids are no secrets, and asking the
        # system for random bytes at every event is slow in some sandboxes.
        self._random = random.Random(os.urandom(16))

    def _make_exchanger(self, policy: AddressPolicy, lookup: Lookup) -> Exchanger:
        config = self._config
        return Exchanger(
            policy,
            self._clock,
            connect_seconds=config.connect_seconds,
            idle_seconds=config.idle_seconds,
            ca_file=config.ca_file,
            lookup=lookup,
        )

    async def close(self) -> None:
        """Ends validations under way and closes the connections."""
        self.client.close()
        await self._validator.close()
        await self._tokens.close()
        await self._exchanger.close()
        await self._token_exchanger.close()

    # -- events that the client waits for -------------------------------------------------------------------

    def wants(self, hub: str, event: HandlerEvent) -> bool:
        """Whether some handler of the hub is for this event, as the settings are now."""
        return self._handler(hub, event) is not None

    async def connect(self, context: ConnectContext) -> ConnectResult:
        """Ask the `connect` handler, if there is one, before the client is let in (3.10, 4.2).

        Takes up to `event_seconds`. When the client is accepted, `context.source` has its user id,
        subprotocol, state and cookies afterwards, also without a handler. Cancel it when the client leaves.
        """
        source = context.source
        handler = self._handler(source.hub, CONNECT)
        if handler is None:
            result: ConnectResult = accepted_without_handler(
                context.token, context.offered, reliable=context.reliable
            )
        else:
            result = await self._ask_connect(context, handler)
        if isinstance(result, ConnectAccepted):
            source.user_id = result.user_id
            source.subprotocol = result.negotiated.echo
        return result

    async def _ask_connect(self, context: ConnectContext, handler: EventHandler) -> ConnectResult:
        source = context.source

        def build(stamp: Stamp) -> EventRequest:
            return connect_request(
                source,
                handler,
                stamp,
                claims=context.claims,
                query=context.query,
                headers=context.headers,
                offered=context.offered,
                certificates=context.certificates,
            )

        outcome = await self._ask(source, handler, build)
        if isinstance(outcome, DeliveryFailure):
            self._failed(outcome, source, "connect", "HTTP 500")
            return refused_for_fault(BadAnswer(outcome.category, outcome.reason))
        request, answer = outcome
        result = read_connect_answer(answer, context.token, context.offered, reliable=context.reliable)
        if isinstance(result, ConnectRefused):
            # Also a plain "no" of the handler: whoever wonders why a client cannot connect looks here.
            fault = result.fault or BadAnswer("refused", f"The event handler answered {answer.status}.")
            self._failed(_failure(answer, request, fault), source, "connect", f"HTTP {result.status}")
            return result
        self._accepted(source, request, answer, result.state)
        return result

    async def user_event(self, context: EventContext) -> UserEventResult:
        """Ask the handler for a client's message; one at a time for one connection, as it is the caller who
        keeps the order (3.17). Cancel it when the client leaves: only what had failed by then is logged."""
        source = context.source
        handler = self._handler(source.hub, HandlerEvent("user", context.name))
        if handler is None:
            return EventUnhandled()

        def build(stamp: Stamp) -> EventRequest:
            return user_event_request(
                source,
                handler,
                stamp,
                context.event_id,
                context.name,
                context.data_type,
                context.data,
                context.metadata,
            )

        told = _told(context.closes, context.wants_ack)
        outcome = await self._ask(
            source,
            handler,
            build,
            given_up=lambda failure: self._failed(failure, source, context.name, "nothing, it has gone"),
        )
        if isinstance(outcome, DeliveryFailure):
            self._failed(outcome, source, context.name, told)
            return EventFailed(outcome)
        request, answer = outcome
        result = read_event_answer(answer, simple=context.simple)
        if isinstance(result, BadAnswer):
            failure = _failure(answer, request, result)
            self._failed(failure, source, context.name, told)
            return EventFailed(failure)
        self._accepted(source, request, answer, result.state)
        return EventAnswered(result.message)

    def unhandled(self, source: EventSource, name: str, *, closes: bool, wants_ack: bool) -> None:
        """Tell people of a client's event that nobody wants: no handler, and no listener (4.6). `closes`:
        its connection is closed for it."""
        reason = f"No event handler or listener of the hub is for the user event {name[:64]!r}."
        told = _told(closes, wants_ack)
        self._failed(DeliveryFailure("no_handler", None, reason, 0, 0.0, ""), source, name, told)

    # -- notifications --------------------------------------------------------------------------------------

    def notification(
        self, source: EventSource, event: HandlerEvent, event_id: int, reason: str | None = None
    ) -> NotificationContext:
        """The event as it is now, to be queued and given to `notify` by whoever gets it."""
        assert event.name in ("connected", "disconnected", "joined", "left")
        return NotificationContext(
            source.snapshot(),
            event.name,  # type: ignore[arg-type]
            event_id,
            self._clock.time(),
            self._request_id(),
            reason,
            event.group,
        )

    def notification_request(self, context: NotificationContext) -> EventRequest | None:
        """What would be sent for it now; None when no handler wants it. Raises UnsendableEvent, and
        Unavailable while the access keys are not known."""
        handler = self._handler(context.source.hub, context.handled)
        if handler is None:
            return None
        stamp = self._stamp(context.source, context.time, context.request_id)
        return context.request(handler, stamp)

    async def notify(self, context: NotificationContext) -> NotificationResult:
        """Deliver it now, with the repeats of 4.8. A failure is logged; `may_work_later` says whether
        keeping it makes sense. The body of the answer does not matter."""
        handler = self._handler(context.source.hub, context.handled)
        if handler is None:
            return NotificationUnwanted()
        outcome = await self._ask(
            context.source,
            handler,
            lambda stamp: context.request(handler, stamp),
            at=context.time,
            request_id=context.request_id,
        )
        if not isinstance(outcome, DeliveryFailure):
            request, answer = outcome
            if answer.success:
                self.delivered[request.event.kind] += 1
                return NotificationDelivered(request.url, tuple(answer.values("set-cookie")))
            outcome = failed_status(answer, request.shown)
        self._failed(outcome, context.source, context.name, "nothing")
        return outcome

    # -- for people -----------------------------------------------------------------------------------------

    async def validate(self, hub: str, handler: EventHandler, host: str, *, repeats: bool = True) -> Verdict:
        """Ask the upstream now whether it agrees to be called, as when the setting is saved (1.7). `host` is
        the Host header of whoever saves it, used when no public host is configured."""
        try:
            url = resolve_url(handler.url_template, hub, VALIDATE, self._secret_of)
        except UnusableUrl as error:
            return Verdict(False, "InvalidUrl", str(error), None, self._clock.time())
        origin = origin_of(self._config.public_host or host)
        return await self._validator.ask(url, origin, repeats=repeats)

    def validations(self) -> list[Validation]:
        return self._validator.latest()

    def upstreams(self) -> list[UpstreamStatus]:
        return self.client.upstreams()

    # -- common ---------------------------------------------------------------------------------------------

    def _handler(self, hub: str, event: HandlerEvent) -> EventHandler | None:
        return choose_handler(self._settings_of(hub), event)

    def _request_id(self) -> str:
        return str(uuid.UUID(int=self._random.getrandbits(128), version=4))

    def _stamp(self, source: Source, now: float, request_id: str) -> Stamp:
        keys = self._keys_of()
        origin = origin_of(self._config.public_host or source.host)
        return Stamp(origin, (keys.primary, keys.secondary), now, request_id, self._secret_of)

    async def _ask(
        self,
        source: Source,
        handler: EventHandler,
        build: Callable[[Stamp], EventRequest],
        *,
        at: float | None = None,
        request_id: str = "",
        given_up: Callable[[DeliveryFailure], None] | None = None,
    ) -> tuple[EventRequest, Answer] | DeliveryFailure:
        """Build and deliver."""
        try:
            now = self._clock.time() if at is None else at
            request = build(self._stamp(source, now, request_id or self._request_id()))
        except UnsendableEvent as error:
            return DeliveryFailure("unsendable", None, str(error), 0, 0.0, shown_url(handler.url_template))
        except Unavailable as error:
            reason = f"The access keys are not known, so nothing can be signed: {error}"
            return DeliveryFailure("not_ready", None, reason, 0, 0.0, shown_url(handler.url_template))
        span = self._traces.begin("event", current.get()) if self._traces.on else None
        if span is not None:
            request = request._replace(headers=(*request.headers, ("traceparent", span.traceparent)))
        answer = await self.client.deliver(request, given_up)
        if span is not None:
            failed = isinstance(answer, DeliveryFailure)
            span.end({"hub": source.hub}, name=f"event {request.event.kind}", failed=failed)
        self.calls.record(source.hub, request.event, answer)
        return answer if isinstance(answer, DeliveryFailure) else (request, answer)

    def _accepted(
        self, source: EventSource, request: EventRequest, answer: Answer, state: StateUpdate
    ) -> None:
        self.delivered[request.event.kind] += 1
        if state.value is not None:
            source.state = state.value
        if state.ignored:
            log.warning(
                "connection_state_ignored",
                hub=source.hub,
                connection_id=source.connection_id,
                url=request.shown,
                reason=state.ignored,
            )
        cookies = answer.values("set-cookie")
        if cookies:
            source.store_cookies(request.url, cookies, self._clock.time())

    def _failed(self, failure: DeliveryFailure, source: Source, event: str, told: str) -> None:
        self.failures.record(
            failure,
            at=self._clock.time(),
            hub=source.hub,
            event=event,
            connection_id=source.connection_id,
            told=told,
        )


def _told(closes: bool, wants_ack: bool) -> str:
    return "closed 1011" if closes else "failed ack" if wants_ack else "nothing"


def _failure(answer: Answer, request: EventRequest, fault: BadAnswer) -> DeliveryFailure:
    if fault.category == "status":
        return failed_status(answer, request.shown)
    return DeliveryFailure(
        fault.category, answer.status, fault.reason, answer.attempts, answer.seconds, request.shown
    )
