"""One run of each row of the table of performance (loadtest/bench/table.py).

A run is a dict: target -> figures, with the floor of a bare send() loop among the targets. CPU is of all
processes of a target, unless `fan_out_us` says that it is of the gateway's alone.
"""

from __future__ import annotations

import contextlib
import http.client
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

from loadtest.bench import peers
from loadtest.bench.floor import floor
from loadtest.bench.load_clients import LoadClients, stamped
from loadtest.bench.profile import profiled
from loadtest.bench.targets import Missing, Target, hubwire

Figures = dict[str, float]
Run = dict[str, Figures]


@dataclass
class Options:
    """How much of everything; `short` halves no ratio, only how sure one can be of it."""

    members: int = 1000
    rounds: int = 200
    clients: int = 10_000
    seconds: float = 5.0
    idle_seconds: float = 60.0
    calls: int = 1500
    peers: tuple[str, ...] = tuple(peer.name for peer in peers.ALL)
    profile: bool = False
    samples: dict[str, Counter[str]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def measured(self, target: Target) -> Iterator[dict[str, float]]:
        """CPU seconds by process from here to the end of the block, filled in at its end."""
        found: dict[str, float] = {}
        spy = self.profile and target.name.startswith("hubwire")
        with profiled(target.processes, self.samples) if spy else contextlib.nullcontext():
            before = target.processes.cpu()
            yield found
            found.update(target.processes.cpu_since(before))


Measure = Callable[[Options, Target], Figures]
Start = Callable[[], AbstractContextManager[Target]]


def _each(options: Options, starts: Sequence[tuple[str, Start]], measure: Measure) -> Run:
    """One target after the other. A peer that is missing or fails is noted; ours must not."""
    run: Run = {}
    for name, start in starts:
        ours = name.startswith("hubwire")
        if not ours and name not in options.peers:
            continue
        try:
            with start() as target:
                try:
                    run[name] = {key: round(value, 3) for key, value in measure(options, target).items()}
                except (OSError, RuntimeError):
                    print(target.processes.last_words(), file=sys.stderr)
                    raise
        except Missing as why:
            options.missing[name] = str(why)
        except (OSError, RuntimeError) as fault:
            if ours:
                raise
            options.missing[name] = f"failed: {fault}"
            print(f"{name} failed: {fault}", file=sys.stderr)
    return run


def _peers(*names: str) -> list[tuple[str, Start]]:
    return [(peer.name, peer.start) for peer in peers.ALL if peer.name in names or not names]


def _us(cpu: dict[str, float], count: float, target: Target) -> Figures:
    """CPU microseconds of each process, and of all, by what was done so often."""
    parts = {f"{name}_us": seconds / count * 1e6 for name, seconds in cpu.items()} if len(cpu) > 1 else {}
    found = {"us": sum(cpu.values()) / count * 1e6, **parts}
    if target.fan_out:
        found["fan_out_us"] = sum(cpu[name] for name in target.fan_out) / count * 1e6
    return found


# 1. broadcast


def _gathered(options: Options, target: Target) -> LoadClients:
    clients = target.clients()
    clients.connect(options.members, lambda number: "all")
    clients.quiet()
    return clients


def _one_at_a_time(options: Options, target: Target) -> Figures:
    clients = _gathered(options, target)
    try:
        for _ in range(20):
            _publish_and_wait(clients, options.members)
        size = clients.received_bytes / clients.deliveries
        with options.measured(target) as cpu:
            for _ in range(options.rounds):
                _publish_and_wait(clients, options.members)
        return {**_us(cpu, options.rounds * options.members, target), "frame_bytes": size}
    finally:
        clients.close()


def _publish_and_wait(clients: LoadClients, members: int) -> None:
    clients.forget()
    clients.publish(0)
    clients.read_deliveries(members, 30)


def broadcast(options: Options) -> Run:
    run = _each(options, [("hubwire", hubwire), *_peers()], _one_at_a_time)
    size = round(run["hubwire"]["frame_bytes"])
    return {"floor": {"us": float(floor(options.members, options.rounds, size)["us"])}, **run}


# 2. overload

OVERLOAD = 400
"""Publishes a second to 1,000 members: more than a bare send() loop can send here."""


def _too_fast(options: Options, target: Target) -> Figures:
    clients = _gathered(options, target)
    try:
        _publish_and_wait(clients, options.members)
        clients.quiet()
        begun = time.monotonic()
        with options.measured(target) as cpu:
            rate = OVERLOAD * 1000 / options.members
            sent = 0
            for _ in range(int(rate * options.seconds / 2)):
                while sent > (time.monotonic() - begun) * rate:
                    clients.read(0.001)
                clients.publish(0)
                sent += 1
            clients.read_deliveries(sent * options.members, 120)
        delivered = sent * options.members
        per_second = delivered / (time.monotonic() - begun)
        return {**_us(cpu, delivered, target), "deliveries_per_s": per_second}
    finally:
        clients.close()


def overload(options: Options) -> Run:
    run = _each(options, [("hubwire", hubwire), *_peers("centrifuge", "nats websocket", "ws")], _too_fast)
    return {"floor": {"us": float(floor(options.members, options.rounds, 320)["us"])}, **run}


# 3. small groups


def _small_groups(options: Options, target: Target) -> Figures:
    clients = target.clients()
    found: Figures = {}
    try:
        groups = options.members // 10
        clients.connect(options.members, lambda number: f"g{number % groups}")
        for rate in (2000, 4000):
            clients.publish_at(200, 0.5, options.members)  # what a first publish brings about is not measured
            clients.quiet()
            with options.measured(target) as cpu:
                sent = clients.publish_at(rate, options.seconds, options.members)
                clients.read_deliveries(sent * 10, 60, stamps=True)
            found |= {f"{name}_at_{rate}": value for name, value in _us(cpu, sent, target).items()}
            found |= {f"p50_ms_at_{rate}": clients.p(0.5), f"p99_ms_at_{rate}": clients.p(0.99)}
        return found
    finally:
        clients.close()


def small(options: Options) -> Run:
    run = _each(options, [("hubwire", hubwire), *_peers("centrifuge")], _small_groups)
    return {"floor": {"us": float(floor(options.members, options.rounds, 320)["us"])}, **run}


# 4 and 5. connecting, memory


def _connect(options: Options, target: Target) -> Figures:
    clients = target.clients()
    try:
        clients.connect(50, lambda number: f"g{number // 10}")  # what is there once is there by now
        clients.quiet()
        before = target.processes.pss()
        with options.measured(target) as cpu:
            seconds = clients.connect(options.clients, lambda number: f"g{number // 10}", first=50)
            clients.quiet(0.5)
        after = target.processes.pss()
        grown = {name: (after[name] - before[name]) / options.clients for name in after}
        parts = {f"{name}_kib": value for name, value in grown.items()} if len(grown) > 1 else {}
        return {
            **_us(cpu, options.clients, target),
            "seconds": seconds,
            "kib": sum(grown.values()),
            **parts,
            "all_kib": sum(after.values()) / options.clients,
        }
    finally:
        clients.close()


def _many_tokens(options: Options) -> tuple[str, Start]:
    return ("hubwire", lambda: hubwire(options.clients + 50))


def connect(options: Options) -> Run:
    run = _each(options, [_many_tokens(options), *_peers("centrifuge")], _connect)
    return {"floor": {"us": float(floor(options.members, options.rounds, 320)["us"])}, **run}


def memory(options: Options) -> Run:
    """The same work as `connect`, with every peer: what is judged is memory."""
    return _each(options, [_many_tokens(options), *_peers()], _connect)


# 6. REST

IN_FLIGHT = 16


def _calls(options: Options, target: Target) -> Figures:
    clients = target.clients()
    assert target.call is not None
    connections = [
        http.client.HTTPConnection("127.0.0.1", target.http_port, timeout=30) for _ in range(IN_FLIGHT)
    ]
    # A client alone in a group of its own is what peers have for a user.
    to = "user-0" if target.name.startswith("hubwire") else "alone"
    try:
        clients.connect(1, lambda number: "alone")
        _send(target, connections, to, IN_FLIGHT * 5)
        clients.quiet()
        with options.measured(target) as cpu:
            _send(target, connections[:1], to, options.calls)
            clients.read_deliveries(options.calls, 30)
        found = _us(cpu, options.calls, target)
        clients.quiet()
        count = options.calls // IN_FLIGHT * IN_FLIGHT * 2
        begun = time.monotonic()
        with options.measured(target) as cpu:
            _send(target, connections, to, count)
            clients.read_deliveries(count, 30)
        taken = time.monotonic() - begun
        found |= {f"{name}_of_{IN_FLIGHT}": value for name, value in _us(cpu, count, target).items()}
        return {**found, "calls_per_s": count / taken}
    finally:
        clients.close()
        for connection in connections:
            connection.close()


def _send(target: Target, connections: list[http.client.HTTPConnection], to: str, count: int) -> None:
    assert target.call is not None
    for _ in range(count // len(connections)):
        for connection in connections:
            target.call(connection, to, stamped())
        for connection in connections:
            answer = connection.getresponse()
            answer.read()
            if answer.status >= 300:
                raise RuntimeError(f"{target.name} answered {answer.status}.")


def rest(options: Options) -> Run:
    starts = [("hubwire", lambda: hubwire(rest=True)), *_peers("centrifuge", "nchan", "socket.io")]
    run = _each(options, starts, _calls)
    return {"floor": {"us": float(floor(options.members, options.rounds, 320)["us"])}, **run}


# 7. reliable


def reliable(options: Options) -> Run:
    starts: list[tuple[str, Start]] = [
        ("hubwire", hubwire),
        ("hubwire reliable", lambda: hubwire(reliable=True)),
    ]
    one, small = _each(options, starts, _one_at_a_time), _each(options, starts, _small_groups)
    run = {name: {**one[name], **small[name]} for name in one}
    return {"floor": {"us": float(floor(options.members, options.rounds, 320)["us"])}, **run}


# 9. idle

PING_SECONDS = 20
"""Hubwire's default; the peer is told the same."""


def _idle(options: Options, target: Target) -> Figures:
    clients = target.clients()
    try:
        clients.connect(options.clients, lambda number: f"g{number // 10}")
        _for_seconds(clients, 2)
        clients.pongs = 0
        with options.measured(target) as cpu:
            _for_seconds(clients, options.idle_seconds)
        parts = {f"{name}_core": value / options.idle_seconds for name, value in cpu.items()}
        return {
            "core": sum(cpu.values()) / options.idle_seconds,
            **(parts if len(parts) > 1 else {}),
            "pongs_per_s": clients.pongs / options.idle_seconds,
        }
    finally:
        clients.close()


def _for_seconds(clients: LoadClients, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        clients.read(0.05)


def idle(options: Options) -> Run:
    start: Start = lambda: peers.centrifuge(PING_SECONDS)  # noqa: E731
    return _each(options, [_many_tokens(options), ("centrifuge", start)], _idle)
