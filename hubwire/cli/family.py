"""The processes that `hubwire up` supervises: nats-server, one router, the gateway workers."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping

from hubwire.runtime.child import ChildContext, ChildSpec, exec_with_parent
from hubwire.runtime.data_folder import DataFolder
from hubwire.runtime.logs import configure_logs, get_logger
from hubwire.runtime.nats_probe import NatsProbes
from hubwire.runtime.nats_server import NatsOutput, NatsServerSettings, nats_command
from hubwire.runtime.process import ProcessConfig

_NATS_START_SECONDS = 120.0  # it reads its whole store first
_NATS_STOP_SECONDS = 15.0
_START_SECONDS = 60.0
_STOP_SECONDS = 10.0
_HEAVY = ("uvloop", "nats", "aiohttp.web", "hubwire.runtime.exporter", "hubwire.cli.worker", "router.app")


def preload() -> None:
    """Import once, before forking, what every child needs."""
    for name in _HEAVY:
        importlib.import_module(name)


def admin_names(workers: int) -> list[str]:
    """The children that have an admin listener, in the order of its ports."""
    return [*(f"gateway-{number}" for number in range(workers)), "router"]


class Family:
    """`nats_port` is known once nats-server serves: it is read in the children, which are forked later."""

    def __init__(
        self,
        config: ProcessConfig,
        workers: int,
        nats: NatsServerSettings,
        folder: DataFolder,
        admin_ports: Mapping[str, int],
    ) -> None:
        """`admin_ports` by the name of the child, from `admin_names`; whoever makes this holds them."""
        self._config = config
        self._workers = workers
        self._folder = folder
        self._admin_ports = admin_ports
        self.nats = nats
        self.nats_port = nats.port
        # Also finds out now, before anything runs, when there is no nats-server on this machine.
        self._command = nats_command(folder.nats_config)

    def specs(self) -> list[ChildSpec]:
        nats = ChildSpec(
            name="nats-server",
            run=self._run_nats,
            stage=0,
            stop_rank=2,
            start_seconds=_NATS_START_SECONDS,
            stop_seconds=_NATS_STOP_SECONDS,
            watch=lambda: _NatsWatch(self._learn_port),
            probes=NatsProbes(lambda: self.nats, self._folder.path).questions,
        )
        router = ChildSpec(
            name="router",
            run=self._run_router,
            stage=1,
            stop_rank=1,
            start_seconds=_START_SECONDS,
            stop_seconds=_STOP_SECONDS,
            beats=True,
        )
        return [nats, router, *(self._gateway(number) for number in range(self._workers))]

    def _gateway(self, number: int) -> ChildSpec:
        def run(context: ChildContext) -> None:
            from hubwire.cli.worker import run_worker

            run_worker(self._told(context).replace(worker=number))

        return ChildSpec(
            name=f"gateway-{number}",
            run=run,
            stage=1,
            stop_rank=0,
            start_seconds=_START_SECONDS,
            stop_seconds=self._config.drain_seconds + _STOP_SECONDS,
            beats=True,
        )

    def _run_router(self, context: ChildContext) -> None:
        from router.app import run

        run(self._told(context).replace(role="router"))

    def _run_nats(self, context: ChildContext) -> None:
        # The descriptor of the lock stays open in it: as long as it writes, nobody else may.
        exec_with_parent(self._command, context, keep_fds=[self._folder.lock_fd])

    def _told(self, context: ChildContext) -> ProcessConfig:
        """The configuration of one child."""
        configure_logs(self._config.log_level, self._config.log_format, process=context.name)
        return self._config.replace(
            name=context.name,
            ready_fd=context.ready_fd,
            admin_port=self._admin_ports[context.name],
            admin_held=True,
            nats_servers=(f"nats://{self.nats.host}:{self.nats_port}",),
            nats_user=self.nats.user,
            nats_password=self.nats.password,
        )

    def write_nats_config(self) -> None:
        self.nats.write(self._folder.nats_config)

    def _learn_port(self, port: int) -> None:
        """Where no port could be held, the server has picked one; a restart must get the same."""
        if self.nats_port != port:
            import dataclasses

            self.nats_port = port
            self.nats = dataclasses.replace(self.nats, port=port)
            self.write_nats_config()


class _NatsWatch:
    """Puts nats-server's output into our log, and reads from it whether it serves and why it ended."""

    def __init__(self, learn_port: Callable[[int], None]) -> None:
        self._output = NatsOutput()
        self._learn_port = learn_port
        self._log = get_logger("nats-server")

    def feed(self, chunk: bytes) -> bool:
        for line in self._output.feed(chunk):
            getattr(self._log, line.level)("nats_server_log", message=line.text)
        if self._output.ready and self._output.port:
            self._learn_port(self._output.port)
        return self._output.ready

    def reason(self) -> str:
        return self._output.reason()
