"""Which addresses event handlers may be at, and the circuit of an upstream (server-events.md 4.10)."""

from __future__ import annotations

import asyncio
import threading

import pytest
from support.clock import FakeClock

from gateway.upstream.breaker import Breaker, Pass
from gateway.upstream.safety import REMEMBER_SECONDS, AddressPolicy, AddressRefused, SafeResolver, is_numeric

PUBLIC = ["93.184.216.34", "2606:2800:220:1::1", "::ffff:93.184.216.34", "64:ff9b::5db8:d822"]
PRIVATE = [
    "127.0.0.1",
    "127.8.8.8",
    "::1",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "fd00::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "64:ff9b::7f00:1",
    "2002:7f00:1::",
]
NEVER = [
    "169.254.169.254",
    "fe80::1",
    "fe80::1%eth0",
    "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "2002:a9fe:a9fe::",
    "0.0.0.0",
    "::",
    "224.0.0.1",
    "ff02::1",
    "255.255.255.255",
    "240.0.0.1",
]


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_called(address: str) -> None:
    assert AddressPolicy(allow_private=False).fault(address) is None
    assert AddressPolicy(allow_private=True).fault(address) is None


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses_are_called_only_when_that_is_allowed(address: str) -> None:
    assert "private" in (AddressPolicy(allow_private=False).fault(address) or "")
    assert AddressPolicy(allow_private=True).fault(address) is None


@pytest.mark.parametrize("address", NEVER)
def test_metadata_services_and_what_is_no_server_are_never_called_by_default(address: str) -> None:
    assert AddressPolicy(allow_private=False).fault(address) is not None
    assert AddressPolicy(allow_private=True).fault(address) is not None


def test_lists_allow_and_deny_and_deny_wins() -> None:
    policy = AddressPolicy(
        allow_private=False, allow=("10.1.0.0/16", "169.254.169.254/32"), deny=("10.1.2.0/24", "93.0.0.0/8")
    )
    assert policy.fault("10.1.1.1") is None
    assert policy.fault("::ffff:10.1.1.1") is None
    assert policy.fault("169.254.169.254") is None
    assert "denied" in (policy.fault("10.1.2.3") or "")
    assert "denied" in (policy.fault("93.184.216.34") or "")
    assert policy.fault("10.2.0.1") is not None
    with pytest.raises(ValueError, match="network"):
        AddressPolicy(allow_private=False, allow=("10.0.0.0/33",))


def test_numeric_hosts_are_told_from_names() -> None:
    assert all(map(is_numeric, PUBLIC + PRIVATE + NEVER))
    assert not any(map(is_numeric, ["a.example", "0x7f.1", "2130706433", "127.1", ""]))


# -- names -------------------------------------------------------------------------------------------------


class Names:
    """A DNS that answers in turn; the last answer is repeated."""

    def __init__(self, *answers: list[str] | OSError) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    def __call__(self, host: str) -> list[str]:
        self.asked.append(host)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, OSError):
            raise answer
        return answer


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def resolver(clock: FakeClock, names: Names, *, private: bool = False) -> SafeResolver:
    return SafeResolver(AddressPolicy(allow_private=private), clock, names)


async def addresses(resolver: SafeResolver, host: str = "a.example") -> list[str]:
    import socket

    return [each["host"] for each in await resolver.resolve(host, 80, socket.AF_UNSPEC)]


async def test_every_address_of_a_name_is_judged(clock: FakeClock) -> None:
    names = Names(["10.0.0.1", "93.184.216.34", "169.254.169.254", "2606:2800:220:1::1"])
    assert await addresses(resolver(clock, names)) == ["93.184.216.34", "2606:2800:220:1::1"]


@pytest.mark.parametrize("found", [["127.0.0.1"], ["169.254.169.254", "::1"]])
async def test_a_name_that_leads_only_inside_is_refused(clock: FakeClock, found: list[str]) -> None:
    with pytest.raises(AddressRefused):
        await addresses(resolver(clock, Names(found)))


async def test_a_name_without_addresses_is_an_error_of_the_network(clock: FakeClock) -> None:
    with pytest.raises(OSError, match="unknown"):
        await addresses(resolver(clock, Names(OSError("unknown"))))


async def test_a_name_is_resolved_once_for_a_while_and_judged_again_after_that(clock: FakeClock) -> None:
    names = Names(["93.184.216.34"], ["127.0.0.1"])
    one = resolver(clock, names)
    for _ in range(3):
        assert await addresses(one) == ["93.184.216.34"]
    assert names.asked == ["a.example"]
    clock.advance(REMEMBER_SECONDS)
    with pytest.raises(AddressRefused):
        await addresses(one)


async def test_a_name_that_hangs_is_asked_for_once_and_holds_up_no_other(clock: FakeClock) -> None:
    release = threading.Event()
    asked: list[str] = []

    def names(host: str) -> list[str]:
        asked.append(host)
        if host == "slow.example":
            release.wait(10)
        return ["93.184.216.34"]

    one = SafeResolver(AddressPolicy(allow_private=False), clock, names)
    slow = [asyncio.create_task(addresses(one, "slow.example")) for _ in range(50)]
    await asyncio.sleep(0)
    slow[0].cancel()
    async with asyncio.timeout(5):
        assert await addresses(one, "fast.example") == ["93.184.216.34"]
    release.set()
    assert await asyncio.gather(*slow[1:]) == [["93.184.216.34"]] * 49
    assert sorted(asked) == ["fast.example", "slow.example"]


# -- the circuit -------------------------------------------------------------------------------------------


def given(breaker: Breaker, now: float) -> Pass:
    permission = breaker.admit(now)
    assert permission is not None
    return permission


def opened(now: float = 0) -> Breaker:
    breaker = Breaker(3, 5, 30)
    for _ in range(3):
        breaker.failed(given(breaker, now), now)
    return breaker


def test_a_circuit_opens_after_failures_in_a_row_and_a_success_between_resets() -> None:
    breaker = Breaker(3, 5, 30)
    for _ in range(2):
        breaker.failed(given(breaker, 0), 0)
    breaker.succeeded(0)
    for _ in range(2):
        breaker.failed(given(breaker, 0), 0)
    assert breaker.state(0) == "closed"
    breaker.failed(given(breaker, 0), 0)
    assert breaker.state(0) == "open"
    assert breaker.admit(4.9) is None


def test_an_open_circuit_lets_one_probe_through_at_a_time() -> None:
    breaker = opened()
    assert breaker.state(5) == "half_open"
    assert given(breaker, 5).probe
    assert breaker.admit(5) is None
    assert given(breaker, 10).probe, "a probe that hangs does not keep the next one back"


def test_a_probe_that_succeeds_closes_and_one_that_fails_doubles_the_pause_up_to_the_bound() -> None:
    breaker = opened()
    now = 5.0
    for pause in (10, 20, 30, 30):
        breaker.failed(given(breaker, now), now)
        assert breaker.admit(now + pause - 0.1) is None
        now += pause
    breaker.succeeded(now)
    assert not given(breaker, now).probe
    assert breaker.state(now) == "closed"


def test_what_was_under_way_when_it_opened_does_not_prolong_it() -> None:
    breaker = Breaker(1, 5, 30)
    first, second = given(breaker, 0), given(breaker, 0)
    breaker.failed(first, 0)
    breaker.failed(second, 4)
    assert breaker.state(5) == "half_open"


def test_a_probe_that_tells_nothing_gives_its_turn_back() -> None:
    breaker = opened()
    breaker.unknown(given(breaker, 5), 5)
    assert given(breaker, 5).probe


def test_a_call_that_fails_while_others_succeed_says_nothing_of_the_upstream() -> None:
    breaker = Breaker(1, 5, 30)
    slow = given(breaker, 0)
    breaker.succeeded(50)
    breaker.failed(slow, 100)
    assert breaker.state(100) == "closed"
    breaker.failed(given(breaker, 100), 200)
    assert breaker.state(200) == "open"
