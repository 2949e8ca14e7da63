"""What reliable clients cost beside plain ones, and how fast they come back. Linux only; loopback only.

    python loadtest/reliable.py [--runs 3] [--only broadcast,small,memory,recovery,growth] [--json]

1. broadcast: gateway CPU per delivered 200-byte message, 1,000 members of one group, one publish at a time:
   reliable, plain, and a bare send() loop of C; and what the frame with the sequence id is of that.
2. small groups: CPU of gateway, router and nats-server together per publish and its ten deliveries, 100
   groups of 10, clients publishing 2,000 a second in all, with latencies: reliable and plain.
3. memory: PSS of the gateway per idle session of 5,000, in one group, with a user each.
4. recovery: the gateway of 5,000 sessions is killed; the seconds until all are connected to the others and
   have again what they had not acknowledged, for how long each was without a socket, how many times over
   the inbox was read for that, and how many attempts were told to try again.
5. growth: bytes of the inbox over a minute of 1,000 messages a second, when clients ack and when they never
   do.

Both subprotocols are measured with the same clients in the same run. Reliable clients ack once a second.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent.parent), str(Path(__file__).resolve().parent)]

from clients import PROTOCOL, percentile  # noqa: E402
from ratio import HUB, Stack, bare, cpu_seconds, join, pss_kib, publish, stack  # noqa: E402
from sessions import RELIABLE, Counting, Sessions, Tolerant  # noqa: E402

from gateway.frames import TEXT, frame  # noqa: E402
from gateway.protocol.json_reliable_v1 import JSON_RELIABLE_V1  # noqa: E402
from hubwire.model.message import DataType, Message  # noqa: E402

Result = dict[str, float]


def frame_seconds(times: int) -> float:
    """CPU seconds to number one delivery of a 200-byte message."""
    shared = JSON_RELIABLE_V1.numbered(Message(DataType.TEXT, b"x" * 200, group="all"))
    begun = time.process_time()
    for number in range(times):
        frame(TEXT, JSON_RELIABLE_V1.frame_with_id(shared, number))
    return (time.process_time() - begun) / times


def _broadcast(run: Stack, protocol: str, members: int, rounds: int) -> float:
    clients, publishers = Counting(protocol), Counting(PROTOCOL)
    try:
        clients.connect(run.port, members, lambda i: run.path(f"user-{i}"), lambda i: join("all"))
        publishers.connect(run.port, 1, lambda i: run.path("publisher"), lambda i: b"")
        publisher = publishers.sockets[0]
        begun = 0.0
        for number in range(-20, rounds):
            if number == 0:
                begun = cpu_seconds(run.gateway)
            clients.deliveries = 0
            publisher.sendall(publish("all"))
            clients.read_deliveries(members, 10)
        return (cpu_seconds(run.gateway) - begun) / (rounds * members)
    finally:
        publishers.close()
        clients.close()


def broadcast(a: argparse.Namespace) -> Result:
    found = {}
    for name, protocol in (("plain", PROTOCOL), ("reliable", RELIABLE)):
        with stack() as run:
            found[name] = _broadcast(run, protocol, a.members, a.rounds)
    floor, _ = bare(a.members, a.rounds, 320)
    return {
        "broadcast_reliable_us": found["reliable"] * 1e6,
        "broadcast_plain_us": found["plain"] * 1e6,
        "broadcast_floor_us": floor * 1e6,
        "broadcast_times_plain": found["reliable"] / found["plain"],
        "broadcast_times_floor": found["reliable"] / floor,
        "frame_us": frame_seconds(100_000) * 1e6,
    }


def _small(run: Stack, protocol: str, rate: int, seconds: float) -> Result:
    clients = Counting(protocol)
    try:
        clients.connect(run.port, 1000, lambda i: run.path(f"u{i}"), lambda i: join(f"g{i % 100}"))
        clients.forget()
        pids = {"gateway": run.gateway, "router": run.router, "nats": run.nats.pid}
        before = {name: cpu_seconds(pid) for name, pid in pids.items()}
        begun = time.monotonic()
        sent = 0
        while (now := time.monotonic() - begun) < seconds:
            due = min(int(now * rate), int(seconds * rate))
            while sent < due:
                number = (sent * 7919) % 1000
                clients.sockets[number].send(publish(f"g{number % 100}"))
                sent += 1
            clients.read(0.0005, stamps=True)
        clients.read_deliveries(sent * 10, 30, stamps=True)
        costs = {f"{name}_us": (cpu_seconds(pid) - before[name]) / sent * 1e6 for name, pid in pids.items()}
        return {
            "us": sum(costs.values()),
            **costs,
            "p50_ms": percentile(clients.latencies, 0.5),
            "p99_ms": percentile(clients.latencies, 0.99),
        }
    finally:
        clients.close()


def small(a: argparse.Namespace) -> Result:
    found: Result = {}
    for name, protocol in (("plain", PROTOCOL), ("reliable", RELIABLE)):
        with stack() as run:
            costs = _small(run, protocol, a.rate, a.seconds)
        found |= {f"small_{name}_{which}": value for which, value in costs.items()}
    found["small_times_plain"] = found["small_reliable_us"] / found["small_plain_us"]
    return found


def memory(a: argparse.Namespace) -> Result:
    found: Result = {}
    for name, protocol in (("plain", PROTOCOL), ("reliable", RELIABLE)):
        with stack() as run:
            clients = Counting(protocol)
            try:
                clients.connect(run.port, 50, lambda i: run.path(f"first-{i}"), lambda i: join("all"))
                before = pss_kib(run.gateway)  # all that is there once is there by now
                clients.connect(run.port, a.sessions, lambda i: run.path(f"user-{i}"), lambda i: join("all"))
                time.sleep(1)
                found[f"memory_{name}_kib"] = (pss_kib(run.gateway) - before) / a.sessions
            finally:
                clients.close()
    found["memory_times_plain"] = found["memory_reliable_kib"] / found["memory_plain_kib"]
    return found


def _monitor(run: Stack, what: str) -> Any:
    with urllib.request.urlopen(f"http://127.0.0.1:{run.monitor_port}/{what}", timeout=10) as answer:
        return json.load(answer)


def inbox_bytes(run: Stack) -> int:
    """What JetStream holds of all inboxes."""
    details = _monitor(run, "jsz?streams=true")["account_details"]
    streams = [one for account in details for one in account.get("stream_detail", [])]
    return sum(one["state"]["bytes"] for one in streams if one["name"].startswith("hw_inbox_"))


def recovery(a: argparse.Namespace) -> Result:
    with stack(gateways=3) as run:
        sessions, publishers = Sessions(HUB), Counting(PROTOCOL)
        try:
            sessions.ports = run.ports[:1]
            sessions.open(a.sessions, lambda i: run.path(f"user-{i}"), "all")
            port = run.ports[1]
            publishers.connect(port, 1, lambda i: run.path("publisher", port), lambda i: b"")
            for _ in range(a.unacked):
                publishers.sockets[0].sendall(publish("all"))
            sessions.all_have(a.unacked, 60)
            held, before = inbox_bytes(run), _monitor(run, "varz")["out_bytes"]
            cpu = [cpu_seconds(pid) for pid in (*run.gateways[1:], run.router, run.nats.pid)]
            for one in sessions.all:
                one.last = 0  # all that was had must come again
            sessions.ports = run.ports[1:]
            killed = time.monotonic()
            os.kill(run.gateways[0], signal.SIGKILL)
            whole = sessions.come_back(120) - killed
            sessions.all_have(a.unacked, 60)
            again = time.monotonic() - killed
            spent = [
                cpu_seconds(pid) - then
                for pid, then in zip((*run.gateways[1:], run.router, run.nats.pid), cpu, strict=True)
            ]
            read = _monitor(run, "varz")["out_bytes"] - before
            publishers.sockets[0].sendall(publish("all"))
            sessions.all_have(a.unacked + 1, 60)  # what is published now reaches all of them
            if sessions.wrong:
                raise RuntimeError(f"{sessions.wrong} sessions were not continued.")
            return {
                "recovery_seconds": whole,
                "recovery_replayed_seconds": again,
                "recovery_interruption_p50_seconds": percentile(sessions.interruptions, 0.5),
                "recovery_interruption_p99_seconds": percentile(sessions.interruptions, 0.99),
                "recovery_refused": sessions.refused,
                "recovery_inbox_kib": held / 1024,
                "recovery_nats_out_kib": read / 1024,
                "recovery_gateways_cpu_seconds": sum(spent[:2]),
                "recovery_router_cpu_seconds": spent[2],
                "recovery_nats_cpu_seconds": spent[3],
            }
        finally:
            publishers.close()
            sessions.close()
            os.kill(
                run.gateways[0], signal.SIGKILL
            )  # no harm to one that is killed: it is not waited for yet
            os.waitpid(run.gateways.pop(0), 0)


def _growth(run: Stack, acks: bool, seconds: float) -> Result:
    """30 groups of 10: who never acks has its limit of 1,000 messages after half a minute."""
    clients, publishers = Tolerant(RELIABLE, acks=acks), Counting(PROTOCOL)
    try:
        clients.connect(run.port, 300, lambda i: run.path(f"u{i}"), lambda i: join(f"g{i % 30}"))
        publishers.connect(run.port, 1, lambda i: run.path("publisher"), lambda i: b"")
        begun = time.monotonic()
        sent = 0
        sizes: list[int] = []
        while (now := time.monotonic() - begun) < seconds:
            while sent < int(now * 1000):
                publishers.sockets[0].send(publish(f"g{sent % 30}"))
                sent += 1
            clients.read(0.001)
            if now > len(sizes):
                sizes.append(inbox_bytes(run))
        return {"most_kib": max(sizes) / 1024, "last_kib": sizes[-1] / 1024, "closed": clients.closed}
    finally:
        publishers.close()
        clients.close()


def growth(a: argparse.Namespace) -> Result:
    found: Result = {}
    for name, acks in (("acked", True), ("never", False)):
        with stack() as run:
            found |= {f"growth_{name}_{k}": v for k, v in _growth(run, acks, a.growth_seconds).items()}
    return found


PARTS: dict[str, Callable[[argparse.Namespace], Result]] = {
    "broadcast": broadcast,
    "small": small,
    "memory": memory,
    "recovery": recovery,
    "growth": growth,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--members", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--rate", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--sessions", type=int, default=5000)
    parser.add_argument("--unacked", type=int, default=3, help="messages before the gateway is killed")
    parser.add_argument("--growth-seconds", type=float, default=60.0)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    runs: list[Result] = []
    for _ in range(arguments.runs):
        runs.append({})
        for name in arguments.only.split(","):
            runs[-1] |= PARTS[name](arguments)
    median = {name: round(statistics.median(one[name] for one in runs), 3) for name in runs[0]}
    if arguments.json:
        print(json.dumps({"runs": runs, "median": median}))
        return
    print(f"medians of {len(runs)} runs")
    for name, value in median.items():
        print(f"{name:34} {value:10.2f}   ({', '.join(f'{one[name]:.2f}' for one in runs)})")


if __name__ == "__main__":
    main()
