"""What Hubwire costs, as ratios to a bare send() loop in the same run. Linux only; loopback only.

    python loadtest/ratio.py [--runs 5] [--members 1000] [--json]

1. broadcast: gateway CPU per delivered 200-byte message, 1,000 members of one group, one publish at a
   time, against bare_send.c (or its Python twin where there is no C compiler) sending equally long frames
   to as many sockets.
2. small groups: CPU of gateway, router and nats-server together per publish and its ten deliveries,
   100 groups of 10, clients publishing 2,000 a second in all, with latencies.
3. memory: PSS of the gateway per idle connection (json, user id, one group).

CPU is /proc/PID/task/*/schedstat. Ratios hold on a noisy machine; microseconds are said beside them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent.parent), str(Path(__file__).resolve().parent)]

from clients import MARK, Clients, client_frame, percentile  # noqa: E402

from hubwire.model.tokens import sign_client_token  # noqa: E402
from hubwire.runtime.nats_server import find_nats_server  # noqa: E402
from hubwire.runtime.process import ProcessConfig  # noqa: E402

KEY = "loadtest-access-key-of-no-secret-0123456789"
PAYLOAD_BYTES = 200
HUB = "bench"


def cpu_seconds(pid: int) -> float:
    """CPU time of all threads of a process so far."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def pss_kib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    raise RuntimeError(f"Process {pid} has no Pss.")


def free_port() -> int:
    import socket

    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Stack:
    """nats-server, a router and gateway workers, each a process of its own. `more` are settings of both."""

    def __init__(self, folder: Path, *, gateways: int = 1, **more: Any) -> None:
        self.nats_port, self.monitor_port = free_port(), free_port()
        self.ports = [free_port() for _ in range(gateways)]
        self.port = self.ports[0]
        conf = folder / "nats.conf"
        conf.write_text(
            f'listen: "127.0.0.1:{self.nats_port}"\nhttp: "127.0.0.1:{self.monitor_port}"\n'
            f'max_payload: 4MB\njetstream {{ store_dir: "{folder}" }}\n'
        )
        self.nats = subprocess.Popen(
            [find_nats_server(), "-c", str(conf)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        config = ProcessConfig(
            nats_servers=(f"nats://127.0.0.1:{self.nats_port}",),
            durability="memory",
            access_key=KEY,
            secondary_access_key=KEY + "-2",
            log_level="warning",
            drain_seconds=1,
            admin_port=0,
            **more,
        )
        self.router = self._fork("router", config)
        self.gateways = [self._fork("gateway", config.replace(port=port)) for port in self.ports]
        self.gateway = self.gateways[0]
        self._wait()

    @staticmethod
    def _fork(role: str, config: ProcessConfig) -> int:
        pid = os.fork()
        if pid:
            return pid
        try:
            from hubwire.runtime.logs import configure_logs

            configure_logs(config.log_level, "text")
            if role == "router":
                from router.app import run
            else:
                from gateway.app import run
            run(config)
        finally:
            os._exit(0)

    def _wait(self) -> None:
        import socket

        waiting = [*self.ports]
        for _ in range(800):
            with socket.socket() as sock:
                if sock.connect_ex(("127.0.0.1", waiting[-1])) == 0:
                    waiting.pop()
            if not waiting:
                time.sleep(0.5)
                return
            time.sleep(0.05)
        raise RuntimeError("A gateway did not come up within 40 s.")

    def path(self, user: str, port: int | None = None) -> str:
        token = sign_client_token(
            KEY,
            endpoint=f"http://127.0.0.1:{port or self.port}",
            hub=HUB,
            user_id=user,
            roles=["webpubsub.joinLeaveGroup", "webpubsub.sendToGroup"],
            now=time.time(),
        )
        return f"/client/hubs/{HUB}?access_token={token}"

    def close(self) -> None:
        for pid in (*self.gateways, self.router):
            os.kill(pid, signal.SIGTERM)
        for pid in (*self.gateways, self.router):
            os.waitpid(pid, 0)
        self.nats.terminate()
        self.nats.wait(10)


@contextmanager
def stack(**more: Any) -> Iterator[Stack]:
    """One that is stopped and taken away afterwards; see `Stack`."""
    folder = Path(tempfile.mkdtemp(prefix="hubwire-ratio-"))
    running = Stack(folder, **more)
    try:
        yield running
    finally:
        running.close()
        shutil.rmtree(folder, ignore_errors=True)


def join(group: str) -> bytes:
    return json.dumps({"type": "joinGroup", "group": group, "ackId": 1}).encode()


def publish(group: str) -> bytes:
    """A frame whose data is 200 bytes of text with the time in it."""
    stamp = MARK.decode() + f"{time.time_ns():019d}"
    data = stamp + "x" * (PAYLOAD_BYTES - len(stamp))
    body = f'{{"type":"sendToGroup","group":"{group}","dataType":"text","noEcho":false,"data":"{data}"}}'
    return client_frame(body.encode())


def delivered_bytes(clients: Clients, publisher: Any, group: str, members: int) -> int:
    """Send once and see how long the frame is that each member gets."""
    clients.forget()
    publisher.sendall(publish(group))
    end = time.monotonic() + 5
    while time.monotonic() < end and clients.received_bytes < members * PAYLOAD_BYTES:
        clients.read(0.05)
    while clients.read(0.2):
        pass
    if clients.received_bytes % members:
        raise RuntimeError("Not every member got the first message.")
    return clients.received_bytes // members


def broadcast(run: Stack, members: int, rounds: int) -> tuple[float, float, int]:
    """Gateway CPU seconds per delivery, one publish at a time; PSS in KiB per connection; frame bytes."""
    before = pss_kib(run.gateway)
    clients, publishers = Clients(), Clients()
    try:
        clients.connect(run.port, members, lambda i: run.path(f"user-{i}"), lambda i: join("all"))
        memory = (pss_kib(run.gateway) - before) / members
        publishers.connect(run.port, 1, lambda i: run.path("publisher"), lambda i: b"")
        publisher = publishers.sockets[0]
        publisher.setblocking(True)
        size = delivered_bytes(clients, publisher, "all", members)
        for _ in range(20):
            clients.received_bytes = 0
            publisher.sendall(publish("all"))
            clients.read_bytes(members * size, 10)
        begun = cpu_seconds(run.gateway)
        for _ in range(rounds):
            clients.received_bytes = 0
            publisher.sendall(publish("all"))
            clients.read_bytes(members * size, 10)
        return (cpu_seconds(run.gateway) - begun) / (rounds * members), memory, size
    finally:
        publishers.close()
        clients.close()


def bare(members: int, rounds: int, size: int) -> tuple[float, str]:
    """CPU seconds per send() of a program that does nothing else, and what it is."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    here = Path(__file__).resolve().parent
    if compiler is None:
        command = [sys.executable, str(here / "bare_send.py")]
        kind = "Python"
    else:
        binary = Path(tempfile.gettempdir()) / f"hubwire-bare-send-{os.getpid()}"
        subprocess.run([compiler, "-O2", "-o", str(binary), str(here / "bare_send.c")], check=True)
        command, kind = [str(binary)], "C"
    server = subprocess.Popen(
        [*command, str(members), str(rounds), str(size)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    assert server.stdin is not None
    clients = Clients()
    try:
        port = int(server.stdout.readline().split()[1])
        clients.connect_raw(port, members)
        server.stdin.write("go\n")
        server.stdin.flush()
        clients.read_bytes(members * rounds * size, 60)
        return float(server.stdout.readline().split()[1]) / 1e9, kind
    finally:
        server.kill()
        server.wait()
        clients.close()
        if compiler is not None:
            binary.unlink(missing_ok=True)


def small_groups(run: Stack, rate: int, seconds: float) -> dict[str, float]:
    """Total CPU per publish of 1,000 clients in 100 groups of 10, and latencies in milliseconds."""
    clients = Clients()
    try:
        clients.connect(run.port, 1000, lambda i: run.path(f"u{i}"), lambda i: join(f"g{i % 100}"))
        size = delivered_bytes(clients, _Blocking(clients, 0), "g0", 10)
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
        expected = sent * 10 * size
        clients.read_bytes(expected, 30, stamps=True)
        costs = {f"{name}_us": (cpu_seconds(pid) - before[name]) / sent * 1e6 for name, pid in pids.items()}
        return {
            "publishes": sent,
            "total_us": sum(costs.values()),
            **costs,
            "p50_ms": percentile(clients.latencies, 0.5),
            "p99_ms": percentile(clients.latencies, 0.99),
        }
    finally:
        clients.close()


class _Blocking:
    def __init__(self, clients: Clients, number: int) -> None:
        self._socket = clients.sockets[number]

    def sendall(self, data: bytes) -> None:
        self._socket.send(data)


def report(results: list[dict[str, Any]], as_json: bool, say: Callable[[str], None]) -> None:
    def median(name: str) -> float:
        return statistics.median(result[name] for result in results)

    summary = {name: round(median(name), 3) for name in results[0] if name != "floor"}
    summary["floor"] = results[0]["floor"]
    if as_json:
        say(json.dumps({"runs": results, "median": summary}))
        return
    say(f"medians of {len(results)} runs; the floor is a bare send() loop in {summary['floor']}")
    say(
        f"broadcast      {summary['broadcast_ratio']:.2f} times the floor "
        f"({summary['broadcast_us']:.2f} us a delivery; floor {summary['floor_us']:.2f} us)"
    )
    say(
        f"small groups   {summary['small_us']:.0f} us a publish and its 10 deliveries = "
        f"{summary['small_floors']:.1f} floor sends (gateway {summary['small_gateway_us']:.0f}, router "
        f"{summary['small_router_us']:.0f}, nats-server {summary['small_nats_us']:.0f}); "
        f"p50 {summary['small_p50_ms']:.1f} ms, p99 {summary['small_p99_ms']:.1f} ms"
    )
    say(f"memory         {summary['kib_per_connection']:.1f} KiB PSS of the gateway per idle connection")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--members", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--rate", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    results: list[dict[str, Any]] = []
    for _ in range(arguments.runs):
        with stack() as run:
            delivery, memory, size = broadcast(run, arguments.members, arguments.rounds)
            floor, kind = bare(arguments.members, arguments.rounds, size)
            small = small_groups(run, arguments.rate, arguments.seconds)
        results.append(
            {
                "floor": kind,
                "floor_us": floor * 1e6,
                "broadcast_us": delivery * 1e6,
                "broadcast_ratio": delivery / floor,
                "small_us": small["total_us"],
                "small_floors": small["total_us"] / (floor * 1e6),
                "small_gateway_us": small["gateway_us"],
                "small_router_us": small["router_us"],
                "small_nats_us": small["nats_us"],
                "small_p50_ms": small["p50_ms"],
                "small_p99_ms": small["p99_ms"],
                "kib_per_connection": memory,
            }
        )
    report(results, arguments.json, print)


if __name__ == "__main__":
    main()
