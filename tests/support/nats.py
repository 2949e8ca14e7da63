"""A real nats-server, or three of them, under a test's control.

with NatsServer(tmp_path) as nats:
    client = await connect(nats.url)
    nats.kill(); nats.start()        # same port, same store

with NatsCluster(tmp_path) as cluster:
    cluster.nodes[0].kill()
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from hubwire.runtime.nats_server import (
    LogLine,
    NatsOutput,
    NatsServerSettings,
    find_nats_server,
    hold_port,
)
from hubwire.runtime.nats_server import NatsCluster as ClusterSettings

START_SECONDS = 20.0
# The server goes when the test process does, however that ends.
_DIE_WITH_PARENT = (
    "import ctypes,os,sys;"
    "sys.platform=='linux' and ctypes.CDLL(None).prctl(1,9);"
    "os.getppid()==int(sys.argv[1]) and os.execv(sys.argv[2],sys.argv[2:])"
)


def _thread_states(pid: int) -> list[str]:
    """Of each thread, as Linux tells it ("T" is stopped); nothing where there is no /proc."""
    stats = Path(f"/proc/{pid}/task").glob("*/stat")
    return [stat.read_text().rpartition(")")[2].split()[0] for stat in stats]


class NatsServer:
    """One server. `folder` holds its store and config; a second server there would share the store.

    The port is held for the whole life of this object, so `kill` then `start` gets the same one.
    """

    def __init__(
        self,
        folder: Path,
        *,
        name: str = "nats",
        user: str = "",
        password: str = "",
        sync_interval: str = "1s",
        cluster: ClusterSettings | None = None,
        more: str = "",
    ) -> None:
        self.folder = Path(folder)
        self._holder, self.port = hold_port()
        self.user = user
        self.password = password
        self.settings = NatsServerSettings(
            store_dir=self.folder / f"{name}-store",
            name=name,
            port=self.port,
            user=user,
            password=password,
            sync_interval=sync_interval,
            cluster=cluster,
            more=more,
        )
        self.lines: list[LogLine] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None
        self._output = NatsOutput()
        self._news = threading.Condition()

    @property
    def url(self) -> str:
        """nats://[user:password@]127.0.0.1:port"""
        who = f"{self.user}:{self.password}@" if self.user else ""
        return f"nats://{who}127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server does not run"
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def launch(self) -> None:
        """Start the process without waiting for it to serve."""
        assert not self.running, "the server runs already"
        self.folder.mkdir(parents=True, exist_ok=True)
        config = self.folder / f"{self.settings.name}.conf"
        self.settings.write(config)
        self._output = NatsOutput()
        shim = [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid())]
        self._process = subprocess.Popen(
            [*shim, find_nats_server(), "--config", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, args=(self._process, self._output), daemon=True)
        self._reader.start()

    def _read(self, process: subprocess.Popen[bytes], output: NatsOutput) -> None:
        assert process.stdout is not None
        while chunk := os.read(process.stdout.fileno(), 65536):
            with self._news:
                self.lines += output.feed(chunk)
                if output.port:
                    self.port = output.port
                self._news.notify_all()
        process.stdout.close()
        with self._news:
            self._news.notify_all()

    def wait_ready(self, seconds: float = START_SECONDS) -> None:
        """Until the server's own log says that it serves."""
        process, output, reader = self._process, self._output, self._reader
        assert process is not None
        assert reader is not None
        with self._news:
            served = self._news.wait_for(lambda: output.ready or not reader.is_alive(), seconds)
        if not output.ready:
            why = output.reason()
            self.kill()
            raise RuntimeError(f"nats-server {'ended' if served else 'is not ready in time'}: {why}")

    def start(self) -> None:
        self.launch()
        self.wait_ready()

    def stop(self) -> None:
        """An orderly shutdown (SIGTERM)."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """kill -9: nothing is flushed, nothing is said."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop in order and start again: same port, same store."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """SIGSTOP: connections stay open, nothing is answered. Returns when none of its threads runs."""
        os.kill(self.pid, signal.SIGSTOP)
        end = time.monotonic() + 5
        while any(state not in "tT" for state in _thread_states(self.pid)) and time.monotonic() < end:
            time.sleep(0.001)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def lame_duck(self) -> None:
        """Ask the server to let its clients go, over at least two minutes' default time."""
        os.kill(self.pid, signal.SIGUSR2)

    def _end(self, how: signal.Signals) -> None:
        process, reader = self._process, self._reader
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(how)
            if how is not signal.SIGKILL:
                process.send_signal(signal.SIGCONT)  # a paused server cannot stop
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if reader is not None:
            reader.join(5)
        self._process = None

    def close(self) -> None:
        self.kill()
        if self._holder is not None:
            self._holder.close()

    def __enter__(self) -> NatsServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class NatsCluster:
    """Three servers (or `size`) that form one JetStream cluster. `urls` are their client URLs in order."""

    def __init__(self, folder: Path, *, size: int = 3, name: str = "test", sync_interval: str = "1s") -> None:
        held = [hold_port() for _ in range(size)]
        self._holders: list[socket.socket | None] = [holder for holder, _ in held]
        routes = tuple(f"nats-route://127.0.0.1:{port}" for _, port in held)
        self.nodes = [
            NatsServer(
                Path(folder) / f"n{index}",
                name=f"n{index}",
                sync_interval=sync_interval,
                cluster=ClusterSettings(name=name, port=port, routes=routes),
            )
            for index, (_, port) in enumerate(held)
        ]

    @property
    def urls(self) -> list[str]:
        return [node.url for node in self.nodes]

    def start(self, seconds: float = 40.0) -> None:
        for node in self.nodes:
            node.launch()
        deadline = time.monotonic() + seconds
        for node in self.nodes:
            node.wait_ready(max(0.1, deadline - time.monotonic()))

    def close(self) -> None:
        for node in self.nodes:
            node.close()
        for holder in self._holders:
            if holder is not None:
                holder.close()

    def __enter__(self) -> NatsCluster:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def running_urls(nodes: Sequence[NatsServer]) -> list[str]:
    """The client URLs of those nodes that run now."""
    return [node.url for node in nodes if node.running]
