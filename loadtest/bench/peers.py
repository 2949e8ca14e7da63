"""The peers: other servers that do the like, where they are installed. None is needed.

`python -m loadtest.bench peers` says which are here and how the others are installed.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NamedTuple

from hubwire.runtime.nats_server import find_nats_server
from loadtest.bench.load_clients import Dialect
from loadtest.bench.measured_processes import Processes, free_port
from loadtest.bench.targets import ROOT, Missing, Target
from loadtest.clients import client_frame

PEERS = ROOT / "loadtest" / "peers"
CENTRIFUGE = ROOT / "loadtest" / "bin" / "centrifugepeer"
NCHAN_MODULE = "ngx_nchan_module.so"
PING_SECONDS = 300


def _program(name: str, package: str) -> str:
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if found is None:
        raise Missing(f"no {name}; on Debian: apt-get install {package}")
    return found


def _poster(path: str) -> Callable[[http.client.HTTPConnection, str, bytes], None]:
    def call(connection: http.client.HTTPConnection, group: str, data: bytes) -> None:
        connection.request("POST", path + group, data, {"Content-Type": "text/plain"})

    return call


def _said(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    return (done.stdout + done.stderr).strip()


# Centrifuge


def centrifuge_version() -> str:
    if not CENTRIFUGE.exists():
        raise Missing("not built; with Go: make bench-peers")
    for line in (PEERS / "centrifuge" / "go.mod").read_text().splitlines():
        if "centrifugal/centrifuge " in line:
            return line.split()[-1]
    return "unknown"


def _centrifuge_steps(number: int, group: str) -> list[tuple[bytes, bytes]]:
    both = b'{"id":1,"connect":{}}\n{"id":2,"subscribe":{"channel":"%s"}}' % group.encode()
    return [(b"", client_frame(both)), (b'"id":2,"subscribe"', b"")]


def _centrifuge_publish(number: int, group: str, data: bytes) -> bytes:
    return client_frame(b'{"id":3,"publish":{"channel":"%s","data":{"m":"%s"}}}' % (group.encode(), data))


def _centrifuge_call(connection: http.client.HTTPConnection, group: str, data: bytes) -> None:
    connection.request("POST", "/publish?channel=" + group, b'{"m":"%s"}' % data)


@contextmanager
def centrifuge(ping_seconds: int = PING_SECONDS) -> Iterator[Target]:
    """The library that Centrifugo is made of, in one process, without a token and without a bus."""
    centrifuge_version()
    with Processes() as running:
        port = free_port()
        running.start("centrifuge", [str(CENTRIFUGE), str(port), str(ping_seconds)])
        running.wait_for_port("centrifuge", port)
        dialect = Dialect(
            lambda number, group: "/ws",
            _centrifuge_publish,
            _centrifuge_steps,
            ping=b"\x81\x02{}",
            pong=client_frame(b"{}"),
        )
        yield Target("centrifuge", port, running, dialect, port, _centrifuge_call)


# nchan


def nchan_version() -> str:
    nginx = _program("nginx", "nginx libnginx-mod-nchan")
    _nchan_module()
    return _said(nginx, "-v").rpartition("/")[2]


def _nchan_module() -> Path:
    for folder in ("/usr/lib/nginx/modules", "/usr/lib64/nginx/modules", "/usr/local/nginx/modules"):
        if (found := Path(folder) / NCHAN_MODULE).exists():
            return found
    raise Missing("nginx has no nchan; on Debian: apt-get install libnginx-mod-nchan")


@contextmanager
def nchan() -> Iterator[Target]:
    """nginx with nchan: one worker, messages of a channel kept for a minute (its default is an hour)."""
    nginx = _program("nginx", "nginx libnginx-mod-nchan")
    module = _nchan_module()
    with Processes() as running:
        port, folder = free_port(), running.folder
        user = "user root;\n" if os.geteuid() == 0 else ""
        paths = "".join(
            f"  {kind}_temp_path {folder}/{kind};\n"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (folder / "nginx.conf").write_text(
            f"{user}load_module {module};\ndaemon off;\nworker_processes 1;\npid {folder}/nginx.pid;\n"
            f"error_log {folder}/error.log;\nworker_rlimit_nofile 20000;\n"
            "events {\n  worker_connections 19000;\n}\n"
            f"http {{\n  access_log off;\n{paths}  keepalive_requests 10000000;\n"
            f"  server {{\n  listen 127.0.0.1:{port} backlog=4096;\n"
            "  location = /ws { nchan_pubsub websocket; nchan_channel_id $arg_group;\n"
            "    nchan_message_timeout 60s; nchan_subscriber_first_message newest; }\n"
            "  location = /pub { nchan_publisher http; nchan_channel_id $arg_group;\n"
            "    nchan_message_timeout 60s; }\n  }\n}\n"
        )
        running.start("nginx", [nginx, "-e", f"{folder}/error.log", "-c", f"{folder}/nginx.conf"])
        running.wait_for_port("nginx", port)
        dialect = Dialect(
            lambda number, group: f"/ws?group={group}", lambda number, group, data: client_frame(data)
        )
        yield Target("nchan", port, running, dialect, port, _poster("/pub?group="))


# mosquitto


def mosquitto_version() -> str:
    return _said(_program("mosquitto", "mosquitto"), "-h").splitlines()[0].removeprefix("mosquitto version ")


def _mqtt_text(text: str) -> bytes:
    return len(text).to_bytes(2, "big") + text.encode()


def _mqtt_packet(kind: int, body: bytes) -> bytes:
    size, length = len(body), b""
    while True:
        size, low = divmod(size, 128)
        length += bytes((low | (0x80 if size else 0),))
        if not size:
            return client_frame(bytes((kind,)) + length + body, 0x2)


def _mqtt_steps(number: int, group: str) -> list[tuple[bytes, bytes]]:
    connect = _mqtt_text("MQTT") + b"\x04\x02\x00\x00" + _mqtt_text(f"bench{number}")
    subscribe = b"\x00\x01" + _mqtt_text(group) + b"\x00"
    return [
        (b"", _mqtt_packet(0x10, connect)),
        (b"\x20\x02\x00\x00", _mqtt_packet(0x82, subscribe)),
        (b"\x90\x03\x00\x01", b""),
    ]


@contextmanager
def mosquitto() -> Iterator[Target]:
    """MQTT 3.1.1 over WebSocket, QoS 0."""
    program = _program("mosquitto", "mosquitto")
    with Processes() as running:
        port, plain = free_port(), free_port()
        user = "user root\n" if os.geteuid() == 0 else ""
        (running.folder / "mosquitto.conf").write_text(
            # Some versions do not start with a WebSocket listener alone.
            f"{user}listener {plain} 127.0.0.1\nlistener {port}\nprotocol websockets\n"
            "allow_anonymous true\npersistence false\nlog_type error\n"
        )
        running.start("mosquitto", [program, "-c", str(running.folder / "mosquitto.conf")])
        running.wait_for_port("mosquitto", port)
        dialect = Dialect(
            lambda number, group: "/mqtt",
            lambda number, group, data: _mqtt_packet(0x30, _mqtt_text(group) + data),
            _mqtt_steps,
            subprotocol="mqtt",
        )
        yield Target("mosquitto", port, running, dialect)


# nats-server


def nats_version() -> str:
    return _said(find_nats_server(), "--version").rpartition("v")[2]


def _nats_steps(number: int, group: str) -> list[tuple[bytes, bytes]]:
    hello = b'CONNECT {"verbose":false,"pedantic":false,"echo":true}\r\nSUB %s 1\r\nPING\r\n' % group.encode()
    return [(b"INFO ", client_frame(hello, 0x2)), (b"PONG", b"")]


def _nats_publish(group: str, data: bytes) -> bytes:
    return b"PUB %s %d\r\n%s\r\n" % (group.encode(), len(data), data)


@contextmanager
def nats_websocket() -> Iterator[Target]:
    """nats-server's own WebSocket listener, without a Hubwire before it."""
    with Processes() as running:
        port, own = free_port(), free_port()
        (running.folder / "nats.conf").write_text(
            f'listen: "127.0.0.1:{own}"\nping_interval: "{PING_SECONDS}s"\n'
            f'websocket {{ listen: "127.0.0.1:{port}", no_tls: true }}\n'
        )
        running.start("nats-server", [find_nats_server(), "-c", str(running.folder / "nats.conf")])
        running.wait_for_port("nats-server", port)
        dialect = Dialect(
            lambda number, group: "/",
            lambda number, group, data: client_frame(
                b"PUB %s %d\r\n%s\r\n" % (group.encode(), len(data), data)
            ),
            _nats_steps,
        )
        yield Target("nats websocket", port, running, dialect)


# Node


def _node_package(name: str) -> str:
    _program("node", "nodejs")
    found = PEERS / "node" / "node_modules" / name / "package.json"
    if not found.exists():
        raise Missing(f"no {name}; with npm: make bench-peers")
    return f"{json.loads(found.read_text())['version']}, Node {_said('node', '--version').lstrip('v')}"


def _in_order(data: bytes) -> bytes:
    return client_frame(b'42["m","%s"]' % data)


def _node(name: str, script: str, dialect: Dialect, *more: str) -> Iterator[Target]:
    _node_package(name)
    with Processes() as running:
        port = free_port()
        running.start(name, ["node", str(PEERS / "node" / script), str(port), *more])
        running.wait_for_port(name, port)
        call = _poster("/publish?group=") if name == "socket.io" else None
        yield Target(name, port, running, dialect, port, call)


@contextmanager
def ws() -> Iterator[Target]:
    """The package ws with the smallest group server on it."""
    dialect = Dialect(
        lambda number, group: f"/?group={group}", lambda number, group, data: client_frame(data)
    )
    yield from _node("ws", "ws.js", dialect)


@contextmanager
def socketio() -> Iterator[Target]:
    """Socket.IO with rooms, WebSocket only, no compression."""
    dialect = Dialect(
        lambda number, group: f"/socket.io/?EIO=4&transport=websocket&group={group}",
        lambda number, group, data: _in_order(data),
        lambda number, group: [(b"0{", client_frame(b"40")), (b'42["joined"]', b"")],
        ping=b"\x81\x012",
        pong=client_frame(b"3"),
    )
    yield from _node("socket.io", "socketio.js", dialect, str(PING_SECONDS))


class Peer(NamedTuple):
    name: str
    version: Callable[[], str]
    start: Callable[[], AbstractContextManager[Target]]


ALL = (
    Peer("centrifuge", centrifuge_version, centrifuge),
    Peer("nchan", nchan_version, nchan),
    Peer("nats websocket", nats_version, nats_websocket),
    Peer("mosquitto", mosquitto_version, mosquitto),
    Peer("ws", lambda: _node_package("ws"), ws),
    Peer("socket.io", lambda: _node_package("socket.io"), socketio),
)
