"""Random faults for as long as one asks, and the table of what became of everybody's messages.

    python -m support.chaos_run --minutes 15 [--seed 7] [--rate 60]     (in tests/; or: make chaos MINUTES=15)

One fault after the other, so that "the death of any one process" is what is tried, while clients lose their
own networks all the time. The exit code is 1 when the judge finds anything, and logs and history stay. A seed
decides which faults come and what people do, not the timing, so a run that failed is repeated in kind, not in
every detail.
"""

from __future__ import annotations

import argparse
import asyncio
import pickle
import random
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple

from support import chaos
from support.chaos import Rig
from support.crowd import HUB, Crowd, TimedApplication, gathered, sleeps, stays
from support.history import History, Limits, interruption
from support.judge import Verdict, judge
from support.notified import behind, handler_at

SETTLE_SECONDS: Final = 60.0


class Fault(NamedTuple):
    """A kind of fault: how often it comes among the others, and what happens, start to end."""

    weight: int
    happen: Callable[[Rig, random.Random], Awaitable[None]]


def _lasting(
    make: Callable[[Rig, random.Random], Awaitable[AbstractAsyncContextManager[None]]],
    low: float,
    high: float,
) -> Callable[[Rig, random.Random], Awaitable[None]]:
    """The fault, for some seconds between the two."""

    async def happen(rig: Rig, chance: random.Random) -> None:
        async with await make(rig, chance):
            await asyncio.sleep(chance.uniform(low, high))  # the fault itself

    return happen


def _of(
    fault: Callable[..., AbstractAsyncContextManager[None]], role: str, *more: float
) -> Callable[[Rig, random.Random], Awaitable[AbstractAsyncContextManager[None]]]:
    async def make(rig: Rig, chance: random.Random) -> AbstractAsyncContextManager[None]:
        victims = rig.of(role)  # type: ignore[arg-type]
        return fault(rig, chance.choice(victims), *(chance.choice((-one, one)) for one in more))

    return make


def _node(
    fault: Callable[..., AbstractAsyncContextManager[None]],
) -> Callable[[Rig, random.Random], Awaitable[AbstractAsyncContextManager[None]]]:
    async def make(rig: Rig, chance: random.Random) -> AbstractAsyncContextManager[None]:
        leads = chance.random() < 0.5
        return fault(rig, await rig.leader() if leads else chance.choice(rig.nats.nodes))

    return make


async def _roll_gateways(rig: Rig, _chance: random.Random) -> None:
    await chaos.restarted_in_turn(rig, rig.gateways)


async def _roll_routers(rig: Rig, _chance: random.Random) -> None:
    await chaos.restarted_in_turn(rig, rig.routers)


async def _kill_router_that_waits(rig: Rig, chance: random.Random) -> None:
    """While NATS is slow much is on its way to inboxes: what was acked too early is lost with the router."""
    async with chaos.slow(rig, await rig.leader()):
        await asyncio.sleep(chance.uniform(1.0, 2.0))  # the fault itself
        async with chaos.killed(rig, chance.choice(rig.routers)):
            pass


# Pauses are longer than a lease (3 s) more often than not.
FAULTS: Final = {
    "kill gateway": Fault(5, _lasting(_of(chaos.killed, "gateway"), 0.0, 8.0)),
    "kill router": Fault(4, _lasting(_of(chaos.killed, "router"), 0.0, 6.0)),
    "kill control plane": Fault(1, _lasting(_of(chaos.killed, "controlplane"), 0.0, 2.0)),
    "pause gateway": Fault(3, _lasting(_of(chaos.paused, "gateway"), 1.0, 12.0)),
    "pause router": Fault(3, _lasting(_of(chaos.paused, "router"), 1.0, 8.0)),
    "cut gateway": Fault(3, _lasting(_of(chaos.cut_off, "gateway"), 1.0, 10.0)),
    "cut router": Fault(3, _lasting(_of(chaos.cut_off, "router"), 1.0, 8.0)),
    "stop gateway": Fault(2, _lasting(_of(chaos.stopped, "gateway"), 0.0, 4.0)),
    "stop router": Fault(2, _lasting(_of(chaos.stopped, "router"), 0.0, 4.0)),
    "kill nats": Fault(3, _lasting(_node(chaos.node_killed), 0.0, 8.0)),
    "hang nats": Fault(2, _lasting(_node(chaos.hung), 1.0, 8.0)),
    "slow nats": Fault(1, _lasting(_node(chaos.slow), 3.0, 8.0)),
    "kill router that waits": Fault(2, _kill_router_that_waits),
    "move gateway's clock": Fault(1, _lasting(_of(chaos.clock_moved, "gateway", 90.0), 2.0, 6.0)),
    "move router's clock": Fault(1, _lasting(_of(chaos.clock_moved, "router", 90.0), 2.0, 6.0)),
    "roll gateways": Fault(1, _roll_gateways),
    "roll routers": Fault(1, _roll_routers),
}


class Outcome(NamedTuple):
    """What a run came to."""

    seed: int
    history: History
    verdict: Verdict
    rig: Rig
    missing: list[str]

    @property
    def good(self) -> bool:
        return not self.verdict.violations and not self.missing


def chosen(chance: random.Random, names: list[str] | None) -> str:
    if names is not None:
        return names.pop(0)
    kinds = list(FAULTS)
    return chance.choices(kinds, [FAULTS[name].weight for name in kinds])[0]


async def run(
    folder: Path,
    seed: int,
    seconds: float,
    *,
    rate: float = 60.0,
    faults: list[str] | None = None,
    plain_only: bool = False,
    asks: tuple[str, ...] = Crowd.asks,
    told: Callable[[str], None] = print,
) -> Outcome:
    """Faults for so many seconds (or those named, one after the other), then peace, then the verdict."""
    chance = random.Random(seed)
    history = History(watched=not plain_only, limits=Limits(answer_seconds=45.0))
    app = TimedApplication(history)
    await app.start()
    try:
        async with Rig(folder, history) as rig:
            async with behind(rig.fleet.config) as cluster:
                await cluster.settings.put_hub(HUB, handler_at(app.url))
            async with gathered(rig, history, chance, rate=rate) as crowd:
                crowd.asks = asks
                crowd.add_all(plain_only=plain_only)
                if not plain_only and seconds > 120:
                    crowd.add("sleeper", sleeps)
                    crowd.add("hoarder", stays, acks=False)
                await _flows(history, 100)
                await _break(rig, crowd, chance, seconds, faults, told)
                await _flows(history, 100)
                missing = await crowd.settle(SETTLE_SECONDS)
                for session in history.sessions[-200:] if "connection" in asks else ():
                    await crowd.ask_about("connection", session.connection_id)
                history.ended_at = time.monotonic()
                verdict = judge(history)
                if verdict.violations or missing:
                    (folder / "history.pickle").write_bytes(pickle.dumps(history))
                return Outcome(seed, history, verdict, rig, missing)
    finally:
        await app.stop()


async def _break(
    rig: Rig,
    crowd: Crowd,
    chance: random.Random,
    seconds: float,
    faults: list[str] | None,
    told: Callable[[str], None],
) -> None:
    begin = time.monotonic()
    while faults if faults is not None else time.monotonic() - begin < seconds:
        name = chosen(chance, faults)
        told(f"{time.monotonic() - begin:7.1f} {name}")
        await FAULTS[name].happen(rig, chance)
        await crowd.pause(0.5, 6.0)


async def _flows(history: History, messages: int, seconds: float = 60.0) -> None:
    """Until so many more publishes have been acked."""

    def acked() -> int:
        return sum(one.executed for _, one in history.publishes())

    goal, deadline = acked() + messages, time.monotonic() + seconds
    while acked() < goal:
        assert time.monotonic() < deadline, "messages do not flow"
        await asyncio.sleep(0.2)


def table(outcome: Outcome) -> str:
    """As `make chaos` prints it."""
    history, verdict = outcome.history, outcome.verdict
    gone: dict[str, list[float]] = defaultdict(list)
    for session in history.sessions:
        for before, after in pairwise(session.sockets):
            for happened in outcome.rig.happened:
                if happened.span.holds(before.lost_at):
                    gone[happened.name].append(interruption(before, after))
    names = sorted({one.name for one in outcome.rig.happened})
    lines = [f"{'fault':<34} {'times':>5} {'recoveries':>10} {'longest, s':>10}"]
    for name in names:
        times = sum(one.name == name for one in outcome.rig.happened)
        lines.append(f"{name:<34} {times:>5} {len(gone[name]):>10} {max(gone[name], default=0.0):>10.2f}")
    lines += [
        "",
        f"{'seed':<34} {outcome.seed:>10}",
        f"{'faults':<34} {len(outcome.rig.happened):>10}",
        f"{'sessions':<34} {verdict.sessions:>10}",
        f"{'recoveries':<34} {verdict.recoveries:>10}",
        f"{'publishes acked':<34} {verdict.acked:>10}",
        f"{'deliveries checked':<34} {verdict.checked:>10}",
        f"{'lost':<34} {verdict.count('lost'):>10}",
        f"{'twice':<34} {verdict.count('twice'):>10}",
        f"{'other broken promises':<34} {len(verdict.violations) - verdict.count('lost', 'twice'):>10}",
        f"{'longest interruption, s':<34} {verdict.longest_interruption:>10.2f}",
        f"{'longest wait for an ack, s':<34} {verdict.longest_ack:>10.2f}",
    ]
    by_rule: dict[str, list[str]] = defaultdict(list)
    for one in verdict.violations:
        by_rule[one.rule].append(one.facts)
    for rule, facts in by_rule.items():
        lines += ["", f"{rule} ({len(facts)}):", *(f"  {one}" for one in facts[:5])]
    lines += [f"at the end: {one}" for one in outcome.missing]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description="Random faults, and what became of everybody's messages.")
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--rate", type=float, default=60.0, help="publishes a second")
    parser.add_argument("--faults", default="", help="these and no others, comma separated")
    parser.add_argument("--asks", default=",".join(Crowd.asks), help="what REST is asked about")
    parser.add_argument("--plain", action="store_true", help="plain clients only")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10**6)
    names = [one for one in options.faults.split(",") if one] or None
    folder = Path(tempfile.mkdtemp(prefix="hubwire-chaos-"))
    print(f"seed {seed}; logs in {folder}")
    outcome = asyncio.run(
        run(
            folder,
            seed,
            options.minutes * 60,
            rate=options.rate,
            faults=names,
            plain_only=options.plain,
            asks=tuple(options.asks.split(",")),
            told=lambda line: print(line, flush=True),
        )
    )
    print(table(outcome))
    if outcome.good:
        shutil.rmtree(folder)
    return 0 if outcome.good else 1


if __name__ == "__main__":
    sys.exit(main())
