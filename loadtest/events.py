"""What an event costs: a client raises it, the event handler answers, the client gets the answer. Linux only.

    python loadtest/events.py [--runs 3] [--seconds 5] [--json]

CPU of the gateway per event beside the CPU of a bare aiohttp client that posts the same body with the same
headers to the same server, in the same run; events a second with p50 and p99, for 1 and for 64 connections of
which each raises its next event when it has the answer to the last. CPU is /proc/PID/task/*/schedstat.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import socket
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent.parent), str(Path(__file__).resolve().parent)]

import aiohttp  # noqa: E402
from clients import PROTOCOL, percentile  # noqa: E402
from ratio import HUB, KEY, Stack, cpu_seconds, stack  # noqa: E402

from gateway.upstream.requests import Stamp, origin_of, user_event_request  # noqa: E402
from gateway.upstream.source import EventSource  # noqa: E402
from hubwire.bus.client import BusClient  # noqa: E402
from hubwire.bus.settings import SettingsStore  # noqa: E402
from hubwire.model.message import DataType  # noqa: E402
from hubwire.model.settings import EventHandler, HubSettings  # noqa: E402

TEXT = "x" * 200
CONNECTIONS = (1, 64)


async def _serve(sock: socket.socket) -> None:
    """An upstream that costs little: it agrees to be called and sends every body back."""
    ok = b"HTTP/1.1 200 OK\r\nWebHook-Allowed-Origin: *\r\nContent-Length: 0\r\n\r\n"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if head.startswith(b"OPTIONS"):
                    writer.write(ok)
                    continue
                at = head.lower().index(b"content-length:") + 15
                body = await reader.readexactly(int(head[at : head.index(b"\r", at)]))
                length = b"Content-Length: %d\r\n\r\n" % len(body)
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\n" + length + body
                )
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(serve, sock=sock)
    await server.serve_forever()


@contextmanager
def upstream() -> Iterator[int]:
    """Its port; it runs in a process of its own."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen(256)
        port = int(sock.getsockname()[1])
        pid = os.fork()
        if not pid:
            try:
                asyncio.run(_serve(sock))
            finally:
                os._exit(0)
    try:
        yield port
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def handler_at(port: int) -> EventHandler:
    return EventHandler(f"http://127.0.0.1:{port}/events/{{event}}", user_event_pattern="*")


async def set_up(run: Stack, port: int) -> None:
    bus = await BusClient.connect({"servers": [f"nats://127.0.0.1:{run.nats_port}"]})
    store = await SettingsStore.open(bus.js, storage="memory")
    await store.put_hub(HUB, HubSettings(event_handlers=(handler_at(port),)))
    await store.close()
    await bus.close()


async def echo(run: Stack, connections: int, seconds: float) -> dict[str, float]:
    """Closed loops over the gateway, after a warm-up of a fifth of the time."""
    latencies: list[float] = []
    measuring = False
    end = float("inf")

    async def client(session: aiohttp.ClientSession, number: int) -> None:
        url = f"ws://127.0.0.1:{run.port}{run.path(f'user-{number}')}"
        async with session.ws_connect(url, protocols=(PROTOCOL,)) as ws:
            await ws.receive()
            ack = 0
            while time.monotonic() < end:
                ack += 1
                frame = {"type": "event", "event": "echo", "dataType": "text", "data": TEXT, "ackId": ack}
                begun = time.perf_counter()
                await ws.send_str(json.dumps(frame))
                answer = json.loads(await ws.receive_str())
                if answer.get("data") != TEXT:
                    raise RuntimeError(f"Not the answer of the handler: {answer}")
                if measuring:
                    latencies.append((time.perf_counter() - begun) * 1e3)
                if not json.loads(await ws.receive_str()).get("success"):
                    raise RuntimeError("The event failed.")

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session, asyncio.TaskGroup() as tasks:
        for number in range(connections):
            tasks.create_task(client(session, number))
        await asyncio.sleep(seconds / 5 + 0.5)
        measuring, cpu, begun = True, cpu_seconds(run.gateway), time.monotonic()
        await asyncio.sleep(seconds)
        measuring, spent, took = False, cpu_seconds(run.gateway) - cpu, time.monotonic() - begun
        end = 0.0
    return {
        "events_per_second": len(latencies) / took,
        "p50_ms": percentile(latencies, 0.5),
        "p99_ms": percentile(latencies, 0.99),
        "gateway_us": spent / len(latencies) * 1e6,
    }


async def _bare(port: int, connections: int, seconds: float) -> float:
    """CPU microseconds of a call with aiohttp's client, everything ready made."""
    source = EventSource(HUB, "A" * 22 + "0" * 9, "user-0", "127.0.0.1")
    source.subprotocol = PROTOCOL
    stamp = Stamp(origin_of("127.0.0.1"), (KEY, KEY + "-2"), time.time(), "0" * 36)
    request = user_event_request(
        source, handler_at(port), stamp, 1, "echo", DataType.TEXT, TEXT.encode(), None
    )
    headers = dict(request.headers)
    calls, end = 0, float("inf")

    async def caller(session: aiohttp.ClientSession) -> None:
        nonlocal calls
        while time.monotonic() < end:
            async with session.post(request.url, data=request.body, headers=headers) as answer:
                await answer.read()
            calls += 1

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session, asyncio.TaskGroup() as tasks:
        for _ in range(connections):
            tasks.create_task(caller(session))
        await asyncio.sleep(seconds / 5)
        before, cpu = calls, time.process_time()
        await asyncio.sleep(seconds)
        made, spent = calls - before, time.process_time() - cpu
        end = 0.0
    return spent / made * 1e6


def bare(port: int, connections: int, seconds: float) -> float:
    """In a process and on uvloop, as the gateway is."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            import uvloop

            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                os.write(writing, str(runner.run(_bare(port, connections, seconds))).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    os.waitpid(pid, 0)
    return float(said)


def measure(seconds: float) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    with upstream() as port, stack(upstream_addresses="any") as run:
        asyncio.run(set_up(run, port))
        for connections in CONNECTIONS:
            figures = asyncio.run(echo(run, connections, seconds))
            figures["bare_us"] = bare(port, connections, seconds)
            figures["ratio"] = figures["gateway_us"] / figures["bare_us"]
            found[str(connections)] = figures
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="for each measurement (default: 5)")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    runs = [measure(args.seconds) for _ in range(args.runs)]
    median: dict[str, Any] = {
        connections: {name: statistics.median(run[connections][name] for run in runs) for name in figures}
        for connections, figures in runs[0].items()
    }
    if args.json:
        print(json.dumps({"median": median, "runs": runs}))
        return
    for connections, figures in median.items():
        print(
            f"{connections:>3} connections: {figures['events_per_second']:6.0f} events/s, "
            f"p50 {figures['p50_ms']:.2f} ms, p99 {figures['p99_ms']:.2f} ms"
        )
        print(
            f"     CPU per event {figures['gateway_us']:.0f} us, of a bare aiohttp call "
            f"{figures['bare_us']:.0f} us: {figures['ratio']:.2f} times"
        )


if __name__ == "__main__":
    main()
