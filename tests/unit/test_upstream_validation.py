"""Abuse protection (server-events.md section 2): the request, the verdicts, the cache; the clock is moved."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

import pytest
from support.clock import FakeClock

from gateway.upstream.exchange import ExchangeFailed
from gateway.upstream.outcome import Answer
from gateway.upstream.requests import Origin
from gateway.upstream.validation import MAX_REMEMBERED, Validator, judge

ORIGIN = Origin("awps.example", "awps.example:8080")
URL = "https://a.example/hooks/chat/validate?code=s3cr3t"
YES = Answer(200, (("webhook-allowed-origin", "*"),), b"")
NO = Answer(403, (), b"")


class Upstream:
    """Answers in turn with what it is given; the last answer is repeated."""

    def __init__(self, clock: FakeClock, *answers: Answer | Exception) -> None:
        self.clock = clock
        self.answers = list(answers)
        self.calls: list[tuple[float, str, str, tuple[tuple[str, str], ...]]] = []
        self.open = asyncio.Event()
        self.open.set()

    async def send(self, method: str, url: str, headers: Sequence[tuple[str, str]]) -> Answer:
        self.calls.append((self.clock.monotonic(), method, url, tuple(headers)))
        await self.open.wait()
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    @property
    def times(self) -> list[float]:
        return [at for at, *_ in self.calls]


Make = Callable[..., tuple[Validator, Upstream, FakeClock]]


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    made: list[Validator] = []

    def one(*answers: Answer | Exception, seconds: float = 10) -> tuple[Validator, Upstream, FakeClock]:
        clock = FakeClock()
        upstream = Upstream(clock, *answers)
        validator = Validator(upstream.send, clock, seconds=seconds, retry_seconds=(1, 3, 5))
        made.append(validator)
        return validator, upstream, clock

    yield one
    for validator in made:
        await validator.close()


def answer(status: int, *allowed: str) -> Answer:
    return Answer(status, tuple(("webhook-allowed-origin", value) for value in allowed), b"")


@pytest.mark.parametrize(
    ("given", "allowed", "code"),
    [
        # The table of 2.2.
        (answer(200, "*"), True, ""),
        (answer(200, "awps.example"), True, ""),
        (answer(200, "AWPS.Example"), True, ""),
        (answer(200, "other.example", "awps.example"), True, ""),
        (answer(200, "other.example", "*"), True, ""),
        (answer(200, "x.example, awps.example"), True, ""),
        (answer(200, "awps.example:8080"), True, ""),
        (answer(200, "awps.example:9090"), False, "AbuseProtectionResponseMissingAllowedOrigin"),
        (answer(200), False, "AbuseProtectionResponseMissingAllowedOrigin"),
        (answer(200, "other.example"), False, "AbuseProtectionResponseMissingAllowedOrigin"),
        (answer(200, "*.example"), False, "AbuseProtectionResponseMissingAllowedOrigin"),
        (answer(204, "*"), True, ""),
        (answer(302, "*"), False, "AbuseProtectionResponseInvalidStatusCode"),
        (answer(401, "*"), False, "AbuseProtectionResponseInvalidStatusCode"),
        (answer(403, "*"), False, "AbuseProtectionResponseInvalidStatusCode"),
        (answer(405, "*"), False, "AbuseProtectionResponseInvalidStatusCode"),
    ],
)
def test_an_upstream_allows_by_a_success_and_our_origin(given: Answer, allowed: bool, code: str) -> None:
    verdict = judge(given, ORIGIN, 7.0)
    assert (verdict.allowed, verdict.code, verdict.status, verdict.at) == (allowed, code, given.status, 7.0)
    assert bool(verdict.reason) is not allowed


async def test_the_request_is_options_with_two_headers(make: Make) -> None:
    validator, upstream, _ = make(YES)
    assert (await validator.check(URL, ORIGIN)).allowed
    headers = (("WebHook-Request-Origin", "awps.example"), ("ce-awpsversion", "1.0"))
    assert upstream.calls == [(0.0, "OPTIONS", URL, headers)]


async def test_after_404_the_same_is_asked_with_get(make: Make) -> None:
    validator, upstream, _ = make(answer(404), YES)
    assert (await validator.check(URL, ORIGIN)).allowed
    assert [method for _, method, _, _ in upstream.calls] == ["OPTIONS", "GET"]
    assert upstream.calls[0][2:] == upstream.calls[1][2:]
    validator, upstream, _ = make(answer(404))
    assert (await validator.check(URL, ORIGIN)).status == 404
    assert [method for _, method, _, _ in upstream.calls] == ["OPTIONS", "GET"]


async def test_a_success_is_good_for_60_seconds_then_refreshed_in_the_background(make: Make) -> None:
    validator, upstream, clock = make(YES, YES, NO)
    await validator.check(URL, ORIGIN)
    clock.advance(59.9)
    assert (await validator.check(URL, ORIGIN)).allowed
    assert len(upstream.calls) == 1
    clock.advance(0.2)
    upstream.open.clear()
    assert (await validator.check(URL, ORIGIN)).allowed, "the last known verdict is used meanwhile"
    assert (await validator.check(URL, ORIGIN)).allowed
    await asyncio.sleep(0)
    assert len(upstream.calls) == 2, "one refresh at a time"
    upstream.open.set()
    await validator.ask(URL, ORIGIN)  # joins the refresh
    clock.advance(61)
    assert (await validator.check(URL, ORIGIN)).allowed
    assert not (await validator.ask(URL, ORIGIN)).allowed
    assert not (await validator.check(URL, ORIGIN)).allowed, "a refresh that fails takes effect"
    assert len(upstream.calls) == 3


async def test_failures_are_asked_again_after_1_2_4_and_at_most_60_seconds(make: Make) -> None:
    validator, upstream, clock = make(NO)
    for pause in (1, 2, 4, 8, 16, 32, 60, 60):
        assert not (await validator.check(URL, ORIGIN)).allowed
        asked = len(upstream.calls)
        clock.advance(pause - 0.1)
        assert not (await validator.check(URL, ORIGIN)).allowed
        assert len(upstream.calls) == asked, "the cached verdict counts meanwhile"
        clock.advance(0.2)
    assert len(upstream.calls) == 8


async def test_a_success_resets_the_back_off(make: Make) -> None:
    validator, upstream, clock = make(NO, NO, YES, NO, NO)
    for pause in (1, 2):
        await validator.check(URL, ORIGIN)
        clock.advance(pause)
    assert (await validator.check(URL, ORIGIN)).allowed
    assert not (await validator.ask(URL, ORIGIN)).allowed
    clock.advance(1)
    assert not (await validator.check(URL, ORIGIN)).allowed
    assert len(upstream.calls) == 5, "after a success the first pause is one second again"


async def test_concurrent_first_uses_share_one_validation(make: Make) -> None:
    validator, upstream, _ = make(YES)
    upstream.open.clear()
    waiting = [asyncio.create_task(validator.check(URL, ORIGIN)) for _ in range(10)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    waiting[0].cancel()
    upstream.open.set()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert all(not isinstance(result, BaseException) and result.allowed for result in results[1:])
    assert len(upstream.calls) == 1


async def test_other_addresses_and_other_origins_are_asked_for_themselves(make: Make) -> None:
    validator, upstream, _ = make(YES)
    await validator.check(URL, ORIGIN)
    await validator.check(URL + "x", ORIGIN)
    await validator.check(URL, Origin("other.example", "other.example"))
    assert len(upstream.calls) == 3


NETWORK = ExchangeFailed("network", "The connection failed: refused.", retryable=True)


async def test_network_errors_408_and_5xx_are_tried_again_after_1_3_5_seconds(make: Make) -> None:
    validator, upstream, _ = make(NETWORK, Answer(503, (), b""), Answer(408, (), b""), YES)
    assert (await validator.check(URL, ORIGIN)).allowed
    assert upstream.times == [0, 1, 4, 9]


async def test_after_four_attempts_the_last_answer_counts(make: Make) -> None:
    validator, upstream, _ = make(Answer(500, (), b""))
    verdict = await validator.check(URL, ORIGIN)
    assert (verdict.code, verdict.status) == ("AbuseProtectionResponseInvalidStatusCode", 500)
    validator, upstream, _ = make(NETWORK)
    verdict = await validator.check(URL, ORIGIN)
    assert verdict.code == "AbuseProtectionResponseFailed"
    assert "refused" in verdict.reason
    assert len(upstream.calls) == 4


async def test_what_cannot_work_is_not_tried_again(make: Make) -> None:
    validator, upstream, _ = make(ExchangeFailed("address_refused", "It is private."))
    verdict = await validator.check(URL, ORIGIN)
    assert verdict.reason == "The validation failed: It is private."
    assert len(upstream.calls) == 1


async def test_a_validation_that_hangs_is_refused_by_its_deadline_and_not_repeated(make: Make) -> None:
    validator, upstream, _ = make(YES, seconds=0.05)
    upstream.open.clear()
    verdict = await validator.check(URL, ORIGIN)
    assert verdict.code == "AbuseProtectionResponseFailed"
    assert "0.05 s" in verdict.reason
    assert len(upstream.calls) == 1


async def test_the_reason_of_a_refusal_can_be_read_without_the_secret_of_the_url(make: Make) -> None:
    validator, _, _ = make(answer(200, "other.example"))
    await validator.check(URL, ORIGIN)
    (shown,) = validator.latest()
    assert shown.url == "https://a.example/hooks/chat/validate?code=***"
    assert shown.origin == "awps.example:8080"
    assert "other.example" in shown.verdict.reason
    assert "s3cr3t" not in repr(shown)


async def test_what_is_remembered_is_bounded_whatever_hosts_clients_name(make: Make) -> None:
    validator, _, _ = make(YES)
    for number in range(MAX_REMEMBERED + 10):
        await validator.check(URL, Origin(f"h{number}", f"h{number}"))
    assert len(validator.latest()) == MAX_REMEMBERED
    assert validator.latest()[-1].origin == f"h{MAX_REMEMBERED + 9}"
