"""The port that gateway workers share: checked, held, and opened once by each.

Each worker opens its own listening socket with SO_REUSEPORT; the kernel spreads connections over them.
"""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass

from hubwire.model.errors import Conflict, InvalidRequest

BACKLOG = 4096


@dataclass(frozen=True, slots=True)
class HeldPort:
    """A port that stays ours while workers come and go. `socket` is bound and does not listen."""

    host: str
    port: int
    socket: socket.socket


def hold_listen_port(host: str, port: int, *, flag: str = "--port", shared: bool = False) -> HeldPort:
    """Make sure that nobody else has the port, and hold it; port 0 picks a free one.

    `flag` is by what another port is chosen. `shared`: the supervisor holds the port already.
    Raises Conflict when it is taken, InvalidRequest when the address cannot be listened on at all.
    """
    family, address = _resolve(host, port, flag)
    try:
        if not shared:
            # SO_REUSEPORT would let us join another program's port, so the first look is without it.
            with socket.socket(family) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                _both_versions(probe)
                probe.bind(address)
        holder = _bound(family, address)
    except OSError as fault:
        raise _explained(fault, host, port, flag) from fault
    return HeldPort(host, holder.getsockname()[1], holder)


def open_listener(host: str, port: int) -> socket.socket:
    """A listening, non-blocking socket on a port that `hold_listen_port` holds, for one worker.

    Raises as `hold_listen_port`.
    """
    family, address = _resolve(host, port)
    try:
        listener = _bound(family, address)
        # Connections inherit it. Those that we close first stay in TIME-WAIT for a minute, and without it
        # they would keep the next start from passing its probe.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.listen(BACKLOG)
    except OSError as fault:
        raise _explained(fault, host, port) from fault
    listener.setblocking(False)
    return listener


def url_host(host: str) -> str:
    """The host for a URL by which this machine itself reaches what listens on `host`."""
    if host in ("0.0.0.0", "::", ""):
        host = "127.0.0.1" if host != "::" else "::1"
    return f"[{host}]" if ":" in host else host


def _resolve(
    host: str, port: int, flag: str = "--port"
) -> tuple[socket.AddressFamily, tuple[str, int] | tuple[str, int, int, int]]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as fault:
        raise InvalidRequest(
            f"The host name {host!r} cannot be resolved ({fault.strerror}); give an address with "
            f"{_host_flag(flag)}."
        ) from fault
    found.sort(key=lambda one: one[0] != socket.AF_INET)  # localhost is 127.0.0.1 for most who type it
    family, _, _, _, address = found[0]
    return family, address  # type: ignore[return-value]


def _bound(family: socket.AddressFamily, address: object) -> socket.socket:
    """Bound with SO_REUSEPORT and without SO_REUSEADDR, which would let a second probe pass beside us;
    with it after all when connections of an earlier program still fade away on the port (TIME_WAIT)."""
    for reuse_address in (0, 1):
        bound = socket.socket(family)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse_address)
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            _both_versions(bound)
            bound.bind(address)  # type: ignore[arg-type]
        except OSError as fault:
            bound.close()
            if reuse_address or fault.errno != errno.EADDRINUSE:
                raise
        else:
            break
    return bound


def _both_versions(one: socket.socket) -> None:
    if one.family == socket.AF_INET6:
        one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)


def _explained(fault: OSError, host: str, port: int, flag: str = "--port") -> Conflict | InvalidRequest:
    if fault.errno == errno.EADDRINUSE:
        return Conflict(
            f"Port {port} on {host} is in use; stop the program that has it, or choose another with {flag}."
        )
    if fault.errno in (errno.EACCES, errno.EPERM):
        return InvalidRequest(
            f"Port {port} may not be opened by this user; choose one above 1023 with {flag}."
        )
    if fault.errno == errno.EADDRNOTAVAIL:
        return InvalidRequest(
            f"{host} is not an address of this machine; give one with {_host_flag(flag)} (0.0.0.0 for all)."
        )
    return InvalidRequest(f"{host}:{port} cannot be listened on: {fault.strerror}.")


def _host_flag(flag: str) -> str:
    return flag.replace("port", "host")
