"""Routers, gateways and control planes as real processes, to be killed, paused and started again.

with NatsServer(tmp_path) as nats, Fleet(tmp_path, [nats.url]) as fleet:
    router, gateway = fleet.start("router"), fleet.start("gateway")
    router.kill()                # SIGKILL; also pause, resume, stop

A fork server that has imported everything forks them, so a start takes milliseconds. They die with the
test process, however that ends.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol, Self

from hubwire.runtime.child import BEAT
from hubwire.runtime.listen import HeldPort, hold_listen_port
from hubwire.runtime.process import ProcessConfig

KEY = "chaos-access-key-0123456789abcdef0123456789abcdef"
START_SECONDS = 30.0
Role = Literal["router", "gateway", "controlplane"]

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["router.app", "gateway.app", "controlplane.service", "uvloop"])


def _run(role: Role, config: ProcessConfig, log: str, ready: Connection, clock: Clock) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    real = time.time
    time.time = lambda: real() + clock.value
    from hubwire.runtime.logs import configure_logs

    configure_logs("info", "json")
    run: Callable[[ProcessConfig], None]
    if role == "router":
        from router.app import run
    elif role == "gateway":
        from gateway.app import run
    else:
        from controlplane.service import run
    run(config.replace(ready_fd=ready.fileno()))


class Clock(Protocol):
    """A number that two processes see."""

    value: float


class Service:
    """One process. `start` after it has ended begins a new run, on the same port."""

    def __init__(self, role: Role, config: ProcessConfig, log: Path, held: HeldPort | None) -> None:
        self.role = role
        self.config = config
        self.log = log
        self._held = held
        self._clock: Clock = _context.Value("d", 0.0, lock=False)
        self._process: multiprocessing.process.BaseProcess | None = None
        self._ready: Connection | None = None

    @property
    def port(self) -> int:
        return self.config.port

    @property
    def pid(self) -> int:
        assert self._process is not None
        assert self._process.pid is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.is_alive()

    def launch(self) -> Service:
        """Start without waiting."""
        assert not self.running, "it runs already"
        self._ready, theirs = Pipe(duplex=False)
        self._process = _context.Process(
            target=_run, args=(self.role, self.config, str(self.log), theirs, self._clock)
        )
        self._process.start()
        theirs.close()
        return self

    def wait_ready(self, seconds: float = START_SECONDS) -> Service:
        """Until it tells the supervisor that it serves."""
        assert self._ready is not None
        end = time.monotonic() + seconds
        while self._ready.poll(max(0.0, end - time.monotonic())):
            told = os.read(self._ready.fileno(), 1)
            if told == b"r":
                return self
            if told != BEAT:
                break
        raise RuntimeError(f"the {self.role} is not ready:\n{self.tail()}")

    def start(self) -> Service:
        return self.launch().wait_ready()

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self.join()

    def stop(self, seconds: float = 15.0) -> int | None:
        """SIGTERM, and wait for the end; the exit status."""
        self.terminate()
        return self.join(seconds)

    def terminate(self) -> None:
        os.kill(self.pid, signal.SIGTERM)

    def pause(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def move_clock(self, seconds: float) -> None:
        """How far its wall clock (time.time, which is all that we ask) is from the right one, from now on."""
        self._clock.value = seconds

    def join(self, seconds: float = 10.0) -> int | None:
        assert self._process is not None
        self._process.join(seconds)
        assert not self._process.is_alive(), f"the {self.role} has not ended:\n{self.tail()}"
        code = self._process.exitcode
        self._process.close()
        self._process = None
        if self._ready is not None:
            self._ready.close()
            self._ready = None
        return code

    def end(self) -> None:
        if self.running:
            self.resume()
            self.kill()
        elif self._process is not None:
            self.join()
        if self._held is not None:
            self._held.socket.close()

    def lines(self) -> list[str]:
        return self.log.read_text(errors="replace").splitlines() if self.log.exists() else []

    def tail(self, count: int = 30) -> str:
        return "\n".join(self.lines()[-count:])


class Fleet:
    """The processes of one cluster. All that still run are killed at the end."""

    def __init__(
        self,
        folder: Path,
        nats: Sequence[str],
        *,
        durability: Literal["memory", "local", "replicated"] = "local",
        lease_seconds: float = 3.0,
    ) -> None:
        self.folder = folder
        self.config = ProcessConfig(
            nats_servers=tuple(nats),
            durability=durability,
            lease_seconds=lease_seconds,
            drain_seconds=1.0,
            admin_port=0,
            access_key=KEY,
            secondary_access_key=KEY[::-1],
        )
        self.services: list[Service] = []

    def make(self, role: Role) -> Service:
        """A process that is not started yet."""
        held = None if role == "router" else hold_listen_port("127.0.0.1", 0)
        port = held.port if held is not None else 0
        log = self.folder / f"{role}-{len(self.services)}.log"
        service = Service(role, self.config.replace(role=role, port=port), log, held)
        self.services.append(service)
        return service

    def start(self, role: Role) -> Service:
        return self.make(role).start()

    def start_all(self, *roles: Role) -> list[Service]:
        """Several at once, in any order."""
        services = [self.make(role).launch() for role in roles]
        for service in services:
            service.wait_ready()
        return services

    def logs(self, count: int = 40) -> str:
        """What a failed test prints."""
        return "\n".join(f"--- {one.log.name}\n{one.tail(count)}" for one in self.services)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for service in self.services:
            service.end()
        if value is not None:
            print(self.logs())


def eventually(condition: Callable[[], object], seconds: float = 10.0, what: str = "") -> None:
    """Wait, without an event loop, until something is so."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not so within {seconds} s: {what}"
        time.sleep(0.02)
