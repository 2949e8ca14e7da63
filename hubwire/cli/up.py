"""`hubwire up`: everything on one machine and one port, behind the supervisor."""

from __future__ import annotations

import os
import secrets
import shlex
import shutil
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

from hubwire.cli.family import Family, admin_names, preload
from hubwire.cli.options import add_json, add_settings, settings_from
from hubwire.cli.output import Output
from hubwire.model.errors import InvalidRequest
from hubwire.model.settings import AccessKeys
from hubwire.model.tokens import sign_client_token
from hubwire.runtime import parsers as p
from hubwire.runtime.data_folder import (
    DEFAULT_FOLDER,
    DataFolder,
    open_data_folder,
    read_keys,
    unwritable,
)
from hubwire.runtime.limits import raise_open_files
from hubwire.runtime.listen import HeldPort, hold_listen_port, url_host
from hubwire.runtime.logs import configure_logs, get_logger
from hubwire.runtime.nats_server import NatsServerSettings, hold_port
from hubwire.runtime.process import ProcessConfig, Setting, settings_of
from hubwire.runtime.supervisor import Supervisor

_DEMO_HUB = "chat"
_BEGAN = time.monotonic()


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def up_settings() -> list[Setting]:
    """The settings of `hubwire up`: those of a gateway that make sense here, and its own."""
    defaults: dict[str, object] = {
        "admin_port": 0,  # several may run on this machine; `endpoint.json` has the ports
        "drain_seconds": 5.0,
        "log_level": "warning",
        "upstream_addresses": "any",  # an application server on this machine is what it is for
    }
    shared = [s._replace(default=defaults.get(s.name, s.default)) for s in settings_of("up")]

    def own(name: str, parse: object, help: str, default: object) -> Setting:
        return Setting(name, parse, help, default, frozenset(), False, True)  # type: ignore[arg-type]

    return [
        own("workers", p.integer(1, 256), "gateway worker processes; default: one a core", _cores()),
        own("data", str, "folder for keys and stored messages", DEFAULT_FOLDER),
        own("memory", p.boolean, "keep nothing: all is gone after a stop", False),
        own(
            "sync_interval",
            p.sync_interval,
            "how often what is stored is flushed to the disk, or always",
            "1s",
        ),
        *shared,
    ]


def configure(parser: ArgumentParser) -> None:
    add_json(parser)
    add_settings(parser, up_settings())


@dataclass(frozen=True, slots=True)
class Plan:
    """What is going to run."""

    config: ProcessConfig
    workers: int
    endpoint: str
    local_endpoint: str  # by which this machine itself reaches it, also when clients come by another way
    keys: AccessKeys
    folder: DataFolder
    sync_interval: str = "1s"
    admin_ports: Mapping[str, int] = field(default_factory=dict)

    @property
    def admin(self) -> dict[str, str]:
        """The admin listener of each child, as this machine reaches it."""
        host = url_host(self.config.admin_host)
        return {name: f"http://{host}:{port}" for name, port in self.admin_ports.items()}

    def connection_string(self, endpoint: str) -> str:
        return f"Endpoint={endpoint};AccessKey={self.keys.primary};Version=1.0;"


def run(args: Namespace, out: Output) -> int:
    """Returns 0 after an orderly stop. Whatever goes wrong, nothing is left running."""
    config, own = settings_from(args, "gateway", up_settings())
    configure_logs(config.log_level, config.log_format, process="supervisor")
    path = Path(cast(str, own["data"]))
    memory = bool(own["memory"])
    raise_open_files()
    folder = open_data_folder(path, memory=memory)
    try:
        held = hold_listen_port(config.host, config.port)
        with held.socket, ExitStack() as sockets:
            admin = _hold_admin_ports(config, cast(int, own["workers"]), sockets)
            in_file = config.file.seed_keys() if config.file is not None else None
            # Keys in the file are to begin with; those given to this start are in force from now on.
            ordered = bool(config.access_key) and (in_file is None or config.access_key != in_file.primary)
            try:
                keys = folder.keep_keys(
                    lambda: _first_keys(config),
                    primary=config.access_key if ordered else "",
                    secondary=config.secondary_access_key if ordered else "",
                )
            except OSError as fault:
                raise unwritable(path, fault) from fault
            config = config.replace(
                port=held.port,
                durability="memory" if memory else "local",
                sole_router=True,
                access_key=keys.primary,
                secondary_access_key=keys.secondary,
                access_key_salt=keys.salt,
                access_key_is_order=ordered,
                keys_file=str(folder.keys_file),
            )
            local = _local_endpoint(config, held.port)
            endpoint = config.public_endpoints[0] if config.public_endpoints else local
            plan = Plan(
                config,
                cast(int, own["workers"]),
                endpoint,
                local,
                keys,
                folder,
                cast(str, own["sync_interval"]),
                admin,
            )
            _supervise(plan, out)
    finally:
        folder.close()
    return 0


def _local_endpoint(config: ProcessConfig, port: int) -> str:
    """By what this machine reaches the service: with TLS, a name that the certificate has, if it can.
    Raises InvalidRequest when the certificate cannot be used."""
    host = url_host(config.host)
    if not config.tls_cert:
        return f"http://{host}:{port}"
    from hubwire.runtime.certificates import load_certificate

    names = load_certificate(config.tls_cert, config.tls_key).names
    known = [name for name in (host.strip("[]"), "localhost") if name in names]
    if not known and config.public_endpoints:
        return config.public_endpoints[0]
    return f"https://{url_host(known[0]) if known else host}:{port}"


def _hold_admin_ports(config: ProcessConfig, workers: int, sockets: ExitStack) -> dict[str, int]:
    """A port for the admin listener of each child: the one that was given and those that follow, or free
    ones. Held as long as `sockets`, so that a child that is started again has its own."""
    ports: dict[str, int] = {}
    for number, name in enumerate(admin_names(workers)):
        port = config.admin_port + number if config.admin_port else 0
        if port > 65535:
            raise InvalidRequest(
                f"--admin-port {config.admin_port} leaves no port for {name}; choose a lower one."
            )
        held: HeldPort = hold_listen_port(config.admin_host, port, flag="--admin-port")
        sockets.enter_context(held.socket)
        ports[name] = held.port
    return ports


def _first_keys(config: ProcessConfig) -> AccessKeys:
    given = (config.access_key, config.secondary_access_key, "")
    return AccessKeys(*(key or secrets.token_urlsafe(33) for key in given))


def _supervise(plan: Plan, out: Output) -> None:
    holder, nats_port = hold_port()
    nats = NatsServerSettings(
        store_dir=plan.folder.store,
        port=nats_port,
        user="hubwire",
        password=secrets.token_urlsafe(24),
        system_password=secrets.token_urlsafe(24),
        sync_interval=plan.sync_interval,
    )
    children = Family(plan.config, plan.workers, nats, plan.folder, plan.admin_ports)

    def on_ready() -> None:
        try:
            _announce(plan, children, out)
        except BrokenPipeError:
            pass  # nobody reads what we print; that is no reason not to serve

    plan.folder.prepare_store()
    try:
        children.write_nats_config()
    except OSError as fault:
        raise unwritable(plan.folder.path, fault) from fault
    supervisor = Supervisor(children.specs(), on_ready=on_ready, while_starting=preload)
    try:
        supervisor.run()
    finally:
        if holder is not None:
            holder.close()
    get_logger("supervisor").info("stopped")


def _announce(plan: Plan, children: Family, out: Output) -> None:
    """Everything serves: write endpoint.json, print what one needs to begin."""
    if not plan.folder.memory:  # keys regenerated in an earlier run are the ones in force
        plan = replace(plan, keys=read_keys(Path(plan.config.keys_file)))
    now = time.time()
    token = sign_client_token(
        plan.keys.primary,
        endpoint=plan.endpoint,
        hub=_DEMO_HUB,
        user_id="me",
        roles=("webpubsub.joinLeaveGroup", "webpubsub.sendToGroup"),
        now=now,
    )
    client_url = f"{plan.endpoint.replace('http', 'ws', 1)}/client/hubs/{_DEMO_HUB}?access_token={token}"
    facts: dict[str, object] = {
        "endpoint": plan.endpoint,
        "connectionString": plan.connection_string(plan.endpoint),
        "clientUrl": client_url,
        "pid": os.getpid(),
        "workers": plan.workers,
        "data": None if plan.folder.memory else str(plan.folder.path),
        "admin": plan.admin,
        "readySeconds": round(time.monotonic() - _BEGAN, 2),
    }
    plan.folder.announce(
        {
            "endpoint": plan.local_endpoint,
            "connectionString": plan.connection_string(plan.local_endpoint),
            "nats": {
                "url": f"nats://127.0.0.1:{children.nats_port}",
                "user": children.nats.user,
                "password": children.nats.password,
            },
            "durability": plan.config.durability,
            "admin": plan.admin,
        }
    )
    out.result(facts, _banner(plan, client_url, cast(float, facts["readySeconds"]), out))


def _banner(plan: Plan, client_url: str, seconds: float, out: Output) -> str:
    where = "nothing is kept" if plan.folder.memory else f"data in {shown_path(plan.folder.path)}"
    workers = f"{plan.workers} gateway worker{'s' if plan.workers > 1 else ''}"
    folder = (
        ""
        if plan.folder.path == Path(DEFAULT_FOLDER).absolute()
        else f" --data {shown_path(plan.folder.path)}"
    )
    label = out.style("{}", "dim")
    hubwire = own_command()
    return f"""
{out.style("Hubwire is ready", "bold", "green")} in {seconds:.1f} s: {workers}, {where}.

  {label.format("Endpoint         ")}  {plan.endpoint}
  {label.format("Connection string")}  {plan.connection_string(plan.endpoint)}
  {label.format("Client URL (60 min)")}
  {client_url}

Try it, in two more terminals:

  {out.style(f"{hubwire} connect {_DEMO_HUB} --join room{folder}", "cyan")}
  {out.style(f"{hubwire} publish {_DEMO_HUB} 'Hello, everybody'{folder}", "cyan")}
  {out.style(f"{hubwire} publish {_DEMO_HUB} 'Hello, room' --group room{folder}", "cyan")}

Ctrl-C stops it."""


def own_command() -> str:
    """How this command line is called from here: its name alone only when a shell would find it."""
    this = Path(sys.argv[0])
    if this.name != "hubwire":
        return f"{shlex.quote(sys.executable)} -m hubwire.cli.main"
    found = shutil.which("hubwire")
    if found and Path(found).resolve() == this.resolve():
        return "hubwire"
    return shown_path(this.absolute()).removeprefix("./")


def shown_path(path: Path) -> str:
    """A path as short as it can be said from here."""
    try:
        return f"./{path.relative_to(Path.cwd())}"
    except ValueError:
        return shlex.quote(str(path))
