"""What every process measures of itself: its event loop, processor time, memory and files."""

from __future__ import annotations

import asyncio
import os
import resource
import sys
import time

from hubwire.model.buckets import SHORT_SECONDS, Buckets
from hubwire.runtime.health import Health
from hubwire.runtime.limits import open_files_limit
from hubwire.runtime.meters import Meter, Readers

EVERY_SECONDS = 0.25

READY = Meter(
    "hubwire.process.ready", "gauge", "1", "1 when the process may get traffic (as /readyz says), else 0."
)
STARTED = Meter(
    "hubwire.process.start.time", "gauge", "s", "When the process began to serve, in seconds since 1970."
)
LOOP_LAG = Meter(
    "hubwire.loop.lag",
    "histogram",
    "s",
    f"How late the event loop came to a timer that is due every {EVERY_SECONDS:g} s: what everybody waits.",
)
CPU = Meter("process.cpu.time", "counter", "s", "Processor time used, of the system too.")
LOAD = Meter(
    "webpubsub.server.utilization",
    "gauge",
    "1",
    "Part of one core that the process used lately, 0 to 1 (more with extra threads).",
    azure="ServerLoad",
)
MEMORY = Meter("process.memory.usage", "updown", "By", "Resident memory.")
OPEN_FILES = Meter("hubwire.process.open_files", "updown", "{file}", "Open descriptors, sockets included.")
MAX_FILES = Meter(
    "hubwire.process.open_files.limit", "updown", "{file}", "How many descriptors the process may have."
)
METERS = (READY, STARTED, LOOP_LAG, CPU, LOAD, MEMORY, OPEN_FILES, MAX_FILES)

_PAGE_BYTES = resource.getpagesize()


class LoopWatch:
    """Looks at the event loop four times a second, from a task of it. `run()` until cancelled."""

    def __init__(self, health: Health) -> None:
        self._health = health
        self._lag = Buckets(SHORT_SECONDS)
        self._began = time.time()
        self._load = 0.0
        self.readers: Readers = {
            READY: lambda: 0 if health.problems() else 1,
            STARTED: lambda: self._began,
            LOOP_LAG: lambda: self._lag,
            CPU: _cpu_seconds,
            LOAD: lambda: self._load,
            MEMORY: _resident_bytes,
            OPEN_FILES: _open_files,
            MAX_FILES: open_files_limit,
        }

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        since, used, turn = loop.time(), _cpu_seconds(), 0
        while True:
            due = loop.time() + EVERY_SECONDS
            await asyncio.sleep(EVERY_SECONDS)
            now = loop.time()
            self._lag.record(max(0.0, now - due))
            turn += 1
            if turn == 20:  # five seconds
                cpu = _cpu_seconds()
                self._load = (cpu - used) / max(1e-3, now - since)
                since, used, turn = now, cpu, 0


def _cpu_seconds() -> float:
    return time.process_time()


def _resident_bytes() -> int:
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE_BYTES
    except OSError:  # no Linux: the highest so far, in bytes on macOS and in KiB elsewhere
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def _open_files() -> int | None:
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return None
