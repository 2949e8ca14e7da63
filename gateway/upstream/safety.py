"""Where the service may be led to: address policy, and names resolved once (server-events.md 4.10).

Handlers are configuration, but of whoever may set up a hub, who need not be whoever runs the cluster. A
name is resolved here, every address of the answer is judged, and the connection goes to an address that was
judged: what DNS says a moment later (rebinding) does not matter.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from aiohttp.abc import AbstractResolver, ResolveResult

from gateway.upstream.clock import Clock
from gateway.upstream.single_flight import SingleFlight

REMEMBER_SECONDS: Final = 30.0
"""How long the addresses of a name are used; connections that are open already outlive it."""
MAX_REMEMBERED: Final = 1000
MAX_LOOKUPS: Final = 16
"""Names that are being resolved at a time, each in a thread of its own."""

_NAT64 = IPv6Network("64:ff9b::/96")
Address = IPv4Address | IPv6Address
Lookup = Callable[[str], Sequence[str]]
"""From a host name to its addresses, blocking. Raises OSError."""


class AddressRefused(Exception):
    """The address policy forbids to connect there. No OSError, so that nobody takes it for the network's
    fault and tries again."""


class AddressPolicy:
    """Which addresses may be called; `UpstreamConfig` has the meaning of the arguments.

    Never, unless listed in `allow`: multicast, unspecified, reserved and link-local addresses, where
    clouds have their metadata services. Raises ValueError for what is no network.
    """

    def __init__(self, *, allow_private: bool, allow: Iterable[str] = (), deny: Iterable[str] = ()) -> None:
        self._allow_private = allow_private
        self._allow = tuple(ip_network(text) for text in allow)
        self._deny = tuple(ip_network(text) for text in deny)

    def fault(self, text: str) -> str | None:
        """Why `text`, a numeric address, is not called; None when it may be."""
        address = ip_address(text.partition("%")[0])
        for each in _meanings(address):
            fault = self._fault(each)
            if fault is not None:
                return f"The address {address} {fault}."
        return None

    def _fault(self, address: Address) -> str | None:
        if any(address in network for network in self._deny):
            return "is denied by the settings of the service"
        if any(address in network for network in self._allow):
            return None
        if address.is_link_local:
            return "is link-local, which event handlers may not be"
        if (
            address.is_multicast
            or address.is_unspecified
            or (address.is_reserved and not address.is_loopback)
        ):
            return "is no address of a server"
        if not address.is_global and not self._allow_private:
            return "is private; the settings of the service allow event handlers at public addresses only"
        return None


def _meanings(address: Address) -> list[Address]:
    """The address, and the IPv4 address inside when it is one in disguise."""
    if isinstance(address, IPv4Address):
        return [address]
    if address.ipv4_mapped is not None:
        return [address.ipv4_mapped]
    inner: list[Address] = [address]
    if address.sixtofour is not None:
        inner.append(address.sixtofour)
    if address.teredo is not None:
        inner.append(address.teredo[1])
    if address in _NAT64:
        return [IPv4Address(int(address) & 0xFFFFFFFF)]
    return inner


def is_numeric(host: str) -> bool:
    try:
        ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def system_lookup(host: str) -> list[str]:
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    return list(dict.fromkeys(str(each[4][0]) for each in found))


class SafeResolver(AbstractResolver):
    """Resolves names for aiohttp, to permitted addresses only.

    Addresses that are not permitted are left out; when none remains AddressRefused is raised. A name whose
    resolution hangs holds one thread and delays nobody but its own events, which give up by their own
    deadline. Threads are daemons: a hanging resolver does not keep the process from ending.
    """

    def __init__(self, policy: AddressPolicy, clock: Clock, lookup: Lookup = system_lookup) -> None:
        self._policy = policy
        self._clock = clock
        self._lookup = lookup
        self._threads = asyncio.Semaphore(MAX_LOOKUPS)
        self._flight: SingleFlight[str, list[str]] = SingleFlight()
        self._remembered: dict[str, tuple[float, list[str]]] = {}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        addresses = await self._addresses(host)
        faults = {address: self._policy.fault(address) for address in addresses}
        permitted = [address for address, fault in faults.items() if fault is None]
        if not permitted:
            raise AddressRefused(next(filter(None, faults.values()), f"{host} has no address."))
        results: list[ResolveResult] = []
        for address in permitted:
            kind = socket.AF_INET6 if ":" in address else socket.AF_INET
            if family in (socket.AF_UNSPEC, kind):
                results.append(
                    ResolveResult(
                        hostname=host,
                        host=address,
                        port=port,
                        family=kind,
                        proto=0,
                        flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
                    )
                )
        if not results:
            raise OSError(f"{host} has no address of this family")
        return results

    async def _addresses(self, host: str) -> list[str]:
        known = self._remembered.get(host)
        if known is not None and self._clock.monotonic() < known[0]:
            return known[1]
        return await self._flight.run(host, lambda: self._look_up(host))

    async def _look_up(self, host: str) -> list[str]:
        loop = asyncio.get_running_loop()
        async with self._threads:
            found: asyncio.Future[list[str]] = loop.create_future()

            def tell(result: list[str] | OSError) -> None:
                if found.done():
                    return
                if isinstance(result, OSError):
                    found.set_exception(result)
                else:
                    found.set_result(result)

            def look_up() -> None:
                result: list[str] | OSError
                try:
                    result = list(self._lookup(host))
                except OSError as error:
                    result = error
                except UnicodeError:
                    result = OSError(f"{host[:100]!r} is not a host name")
                try:
                    loop.call_soon_threadsafe(tell, result)
                except RuntimeError:
                    pass  # the loop has ended meanwhile

            threading.Thread(target=look_up, daemon=True, name="upstream-dns").start()
            addresses = await found
        while len(self._remembered) >= MAX_REMEMBERED:
            del self._remembered[next(iter(self._remembered))]
        self._remembered[host] = (self._clock.monotonic() + REMEMBER_SECONDS, addresses)
        return addresses

    async def close(self) -> None:
        await self._flight.close()
