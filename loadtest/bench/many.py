"""Row 8: very many clients on one machine. Linux only; loopback only.

    python -m loadtest.bench.many --clients 100000 --workers 6 --minutes 10 --keep

Starts `hubwire up --memory` with its workers, and client processes with an address each (a process has
20,000 descriptors here, an address some 28,000 ports). Each client is in a group of ten and in one of all.
Then: memory of all of Hubwire's processes; a broadcast to all, ten times, with the CPU of one send; small
groups alone, and while something goes to all; and minutes of keep-alive, after which all must be
connected and get what is published.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from loadtest.bench import machine, results
from loadtest.bench.floor import floor
from loadtest.bench.measured_processes import Processes, end_in_order, free_port
from loadtest.bench.targets import KEY, ROOT, Target, hubwire_dialect, until_served
from loadtest.bench.targets import client_paths as paths

HANDSHAKES = 64
ANSWER_SECONDS = 120.0


class ClientProcess:
    """One process of clients. RuntimeError when it does not do what it is told."""

    def __init__(self, port: int, number: int, first: int, count: int, at_once: int, seconds: float) -> None:
        self.count = count
        command = [sys.executable, "-m", "loadtest.bench.many_clients", "--port", str(port)]
        command += ["--first", str(first), "--count", str(count), "--at-once", str(at_once)]
        command += ["--source", f"127.0.0.{number + 2}", "--seconds", str(seconds)]
        self._process = subprocess.Popen(
            command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def tell(self, *words: object) -> None:
        assert self._process.stdin is not None
        print(*words, file=self._process.stdin, flush=True)

    def answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"A client process ended with {self._process.wait(20)}.")
        found: dict[str, Any] = json.loads(line)
        return found

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(20)


def ask(crowd: Sequence[ClientProcess], *words: object) -> list[dict[str, Any]]:
    """Tell all of them, then hear all of them."""
    for one in crowd:
        one.tell(*words)
    return [one.answer() for one in crowd]


def total(answers: Sequence[dict[str, Any]], name: str) -> int:
    return sum(int(one[name]) for one in answers)


def broadcast(crowd: Sequence[ClientProcess], wanted: int) -> float:
    """One publish to all; the seconds until everybody had it, to some 50 ms. TimeoutError."""
    ask(crowd, "forget")
    begun = time.monotonic()
    ask(crowd[:1], "broadcast")
    while total(ask(crowd, "state"), "broadcasts") < wanted:
        if time.monotonic() > begun + ANSWER_SECONDS:
            raise TimeoutError(f"Not everybody had a broadcast after {ANSWER_SECONDS} s.")
        time.sleep(0.05)
    return time.monotonic() - begun


def cpu_of_broadcasts(running: Processes, crowd: Sequence[ClientProcess], wanted: int, times: int) -> Any:
    broadcast(crowd, wanted)
    before = running.cpu()["up"]
    seconds = [broadcast(crowd, wanted) for _ in range(times)]
    return {
        "us_a_send": (running.cpu()["up"] - before) / (times * wanted) * 1e6,
        "seconds": sorted(seconds)[times // 2],
    }


def small_groups(
    running: Processes, crowd: Sequence[ClientProcess], rate: float, seconds: float, *, with_all: bool
) -> dict[str, float]:
    """All processes publish to small groups; the worst percentile of them. With `with_all` the first process
    sends something to all meanwhile instead, and does not count. `missing` is what did not come in a minute:
    publishes without an ack id are given up where there is too much to do."""
    busy = crowd[1:] if with_all else crowd
    before = running.cpu()["up"]
    for one in busy:
        one.tell("publish", rate / len(busy), seconds)
    if with_all:
        time.sleep(seconds / 4)
        ask(crowd[:1], "broadcast")
    answers = [one.answer() for one in busy]
    found = {
        "sent": float(total(answers, "sent")),
        "missing": float(total(answers, "missing")),
        "p50_ms": max(one["p50_ms"] for one in answers),
        "p99_ms": max(one["p99_ms"] for one in answers),
    }
    if not with_all:
        found["us_a_publish"] = (running.cpu()["up"] - before) / found["sent"] * 1e6
    return found


def measure(a: argparse.Namespace) -> dict[str, Any]:
    crowd: list[ClientProcess] = []
    with Processes() as running:
        try:
            port = free_port()
            command = [
                sys.executable,
                "-m",
                "hubwire.cli.main",
                "up",
                "--memory",
                "--workers",
                str(a.workers),
            ]
            running.start(
                "up", [*command, "--port", str(port)], env={"HUBWIRE_ACCESS_KEY": KEY}, cwd=running.folder
            )
            running.wait_for_port("up", port)
            until_served(Target("hubwire", port, running, hubwire_dialect(paths(port, 1))))
            empty = running.pss()["up"]
            begun, cpu = time.monotonic(), running.cpu()["up"]
            each = -(-a.clients // a.processes)
            for number in range(a.processes):
                count = min(each, a.clients - number * each)
                at_once = max(1, HANDSHAKES // a.processes)
                crowd.append(ClientProcess(port, number, number * each, count, at_once, a.connect_seconds))
            joined = [one.answer() for one in crowd]
            connected = time.monotonic() - begun
            found: dict[str, Any] = {
                "clients": total(joined, "connected"),
                "connect_seconds": connected,
                "connect_us": (running.cpu()["up"] - cpu) / a.clients * 1e6,
                "empty_mib": empty / 1024,
                "memory_gib": running.pss()["up"] / 2**20,
                "kib_a_client": (running.pss()["up"] - empty) / a.clients,
            }
            print(json.dumps(found), file=sys.stderr)
            found["broadcast"] = cpu_of_broadcasts(running, crowd, a.clients, a.broadcasts)
            found["small"] = small_groups(running, crowd, a.rate, a.seconds, with_all=False)
            found["small_meanwhile"] = small_groups(running, crowd, a.rate, a.seconds, with_all=True)
            print(json.dumps(found), file=sys.stderr)
            found |= hold(running, crowd, a)
            return found
        finally:
            for one in crowd:
                one.close()


def hold(running: Processes, crowd: Sequence[ClientProcess], a: argparse.Namespace) -> dict[str, Any]:
    """Keep-alive for so many minutes; then everybody must be there, and get something."""
    ask(crowd, "forget")
    cpu, begun = running.cpu()["up"], time.monotonic()
    while time.monotonic() < begun + a.minutes * 60:
        time.sleep(min(10.0, a.minutes * 60))
        closed = total(ask(crowd, "state"), "closed")
        if closed:
            print(f"{closed} clients were closed", file=sys.stderr)
    held = time.monotonic() - begun
    state = ask(crowd, "state")
    found = {
        "held_minutes": held / 60,
        "idle_core": (running.cpu()["up"] - cpu) / held,
        "pongs_per_s": total(state, "pongs") / held,
        "closed": total(state, "closed"),
        "memory_after_gib": running.pss()["up"] / 2**20,
    }
    if not found["closed"]:
        found["last_broadcast_seconds"] = broadcast(crowd, a.clients)
    return found


def head(title: str, value: float, reach: float, unit: str) -> dict[str, Any]:
    return {"title": title, "unit": unit, "reach": reach, "dream": None, "median": value, "runs": [value]}


def flat(found: dict[str, Any]) -> dict[str, float]:
    figures: dict[str, float] = {}
    for name, value in found.items():
        if isinstance(value, dict):
            figures |= {f"{name}_{key}": round(one, 3) for key, one in value.items()}
        else:
            figures[name] = round(value, 3)
    return figures


def all_kib(found: dict[str, float]) -> float:
    return round(found["memory_gib"] * 2**20 / found["clients"], 2)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=20_000, help="a multiple of ten times the processes")
    parser.add_argument("--workers", type=int, default=6)
    parser.add_argument("--processes", type=int, default=6, help="of clients")
    parser.add_argument("--minutes", type=float, default=1.0, help="of keep-alive")
    parser.add_argument("--broadcasts", type=int, default=10)
    parser.add_argument("--rate", type=float, default=1000.0, help="publishes a second to small groups")
    parser.add_argument("--seconds", type=float, default=5.0, help="of them")
    parser.add_argument("--connect-seconds", type=float, default=900.0, help="how long connecting may take")
    parser.add_argument("--keep", action="store_true", help="keep the result in loadtest/results")
    a = parser.parse_args()
    if a.clients % (10 * a.processes):
        parser.error(
            "--clients must be a multiple of ten times --processes: groups are not shared by processes"
        )
    end_in_order()
    load = machine.load()
    found = flat(measure(a))
    send = float(floor(1000, 100, 301)["us"])
    ratio = round(found["broadcast_us_a_send"] / send, 3)
    result = {
        "row": 8,
        "name": "many",
        "title": f"{a.clients:,} clients of {a.workers} workers, each in a group of ten and one of all",
        "heads": [
            # 1.5 GiB for 100,000 clients; with fewer, what is there anyhow weighs more.
            head("memory of all processes a client", all_kib(found), 15.7, "KiB"),
            head("a broadcast to all: CPU a delivery, in sends of the bare loop", ratio, 1.5, "times"),
            head("clients that lost their connection", found["closed"], 0, "clients"),
        ],
        "median": {"floor": {"broadcast_us_a_send": send}, "hubwire": found},
        "runs": [],
        "command": f"python -m loadtest.bench.many --clients {a.clients} --workers {a.workers} "
        f"--processes {a.processes} --minutes {a.minutes:g}",
        "load_before": [load],
        "machine": machine.facts(),
        "peers": {},
        "not_measured": {},
    }
    print(json.dumps(result, indent=1))
    if a.keep:
        results.write(result)


if __name__ == "__main__":
    main()
