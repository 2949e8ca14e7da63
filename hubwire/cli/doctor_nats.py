"""What `hubwire doctor` looks at in NATS: servers, JetStream, buckets, clock, leases, partitions."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from hubwire.bus.client import BusClient
from hubwire.bus.owners import OwnersStore
from hubwire.bus.subjects import LEASES_BUCKET, OWNERS_BUCKET, lease_key
from hubwire.cli.doctor_checks import Check, skew
from hubwire.model.errors import HubwireError, NotFound
from hubwire.runtime.leases import LeaseWatch, margin_of, read_leases
from hubwire.runtime.nats_options import nats_options
from hubwire.runtime.process import ProcessConfig
from hubwire.runtime.status import ask_status
from hubwire.runtime.store_check import try_store

_NATS_SECONDS = 5.0
_STORE_SECONDS = 3.0
_LISTEN_SECONDS = 1.0  # every holder renews at once when a newcomer asks
_LEAST_PAYLOAD = 2 * 1024 * 1024  # a message of 1 MiB and its envelope
_FULL = 0.9
UNREACHABLE_ISSUERS = "hubwire_oidc_issuers_unreachable"


async def examine_nats(config: ProcessConfig | None) -> list[Check]:
    """All that can be seen of NATS and of what Hubwire keeps there; skipped when it is not known."""
    if config is None:
        return [Check("NATS", "skip", "not known; name the servers with --nats to have them checked")]
    checks = [await _nats_server(config, url) for url in config.nats_servers]
    if not any(check.state == "ok" for check in checks):
        return checks
    try:
        async with _bus(config) as bus:
            checks.append(await _jetstream(bus, config))
            if checks[-1].state == "fail":
                return checks
            checks.append(_durability(config))
            checks += await _buckets(bus, config)
            checks.append(await _nats_clock(bus))
            checks += await _leases(bus, config)
            checks += await _issuers(bus)
    except (HubwireError, TimeoutError) as fault:
        checks.append(_nats_failure("NATS", fault))
    return checks


async def _issuers(bus: BusClient) -> list[Check]:
    """What the processes that take tokens of issuers say of those; nothing where none does."""
    told = [status["numbers"].get(UNREACHABLE_ISSUERS) for status in await ask_status(bus, _LISTEN_SECONDS)]
    known = [number for number in told if number is not None]
    if not known:
        return []
    bad = sum(number > 0 for number in known)
    if not bad:
        return [Check("issuers", "ok", f"their keys are known to {len(known)} processes")]
    found = f"{bad} of {len(known)} processes could not fetch the keys of an issuer"
    return [Check("issuers", "warn", found, "look for issuer_keys_not_fetched in their logs")]


@asynccontextmanager
async def _bus(config: ProcessConfig) -> AsyncIterator[BusClient]:
    options = {**nats_options(config, name="hubwire-doctor"), "max_reconnect_attempts": 2}
    async with asyncio.timeout(_NATS_SECONDS):
        bus = await BusClient.connect(options)
    try:
        yield bus
    finally:
        await bus.close()


async def _nats_server(config: ProcessConfig, url: str) -> Check:
    name = f"NATS {url}"
    try:
        options = nats_options(config.replace(nats_servers=(url,)))
    except OSError as fault:
        return Check(name, "fail", f"the TLS files cannot be used: {fault}", "check the nats_tls_* settings")
    began = time.monotonic()
    try:
        async with asyncio.timeout(_NATS_SECONDS):
            # First without NATS: its client goes on trying, and does not say what it was.
            _, writer = await asyncio.open_connection(*_address(url))
            writer.close()
            bus = await BusClient.connect({**options, "allow_reconnect": False})
    except (HubwireError, OSError) as fault:
        return _nats_failure(name, fault)
    try:
        async with asyncio.timeout(_NATS_SECONDS):
            await bus.nats.flush()
        took = (time.monotonic() - began) * 1000
        payload = bus.nats.max_payload
        version = str(bus.nats.connected_server_version).strip("<>").rpartition(" ")[2]
        if payload < _LEAST_PAYLOAD:
            return Check(
                name,
                "fail",
                f"max_payload is {payload} bytes",
                "set max_payload: 4MB in the server's configuration, or large messages cannot pass",
            )
        return Check(name, "ok", f"{version}, connected in {took:.0f} ms")
    except Exception as fault:
        return _nats_failure(name, fault)
    finally:
        await bus.close()


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or {"ws": 80, "wss": 443}.get(parts.scheme, 4222)


def _nats_failure(name: str, fault: Exception) -> Check:
    text = str(fault.__cause__ or fault) or type(fault).__name__
    lowered = text.lower()
    if "authorization" in lowered or "authentication" in lowered:
        return Check(
            name, "fail", "the credentials are refused", "check nats_user, nats_token or the creds file"
        )
    if isinstance(fault, TimeoutError):
        return Check(name, "fail", "no answer in time", "check the address, and firewalls in between")
    if isinstance(fault, ConnectionRefusedError) or "connect call failed" in lowered:
        return Check(name, "fail", "nothing listens there", "start nats-server, or correct nats_servers")
    if "certificate" in lowered or "ssl" in lowered or "tls" in lowered:
        return Check(name, "fail", f"TLS fails: {text}", "check nats_tls_ca and the server's certificate")
    return Check(name, "fail", f"cannot be reached: {text}", "check nats_servers")


async def _jetstream(bus: BusClient, config: ProcessConfig) -> Check:
    try:
        info = await bus.js.account_info()
    except Exception as fault:
        text = str(fault)
        return Check(
            "JetStream",
            "fail",
            f"not available: {text}",
            "enable it (`jetstream {}` in the server's configuration), or make room on its disk; in a "
            "cluster, a majority must run",
        )
    try:
        await try_store(bus, "doctor", _STORE_SECONDS)
    except NotFound:
        pass  # a finding of its own
    except HubwireError as fault:
        return Check(
            "JetStream",
            "fail",
            f"answers, but {fault}",
            "is its disk full? make room; `hubwire up` then restarts its NATS server by itself, your own you "
            "must restart",
        )
    limits = info.limits
    wanted = "memory" if config.in_memory else "storage"
    used = float(getattr(info, wanted) or 0)
    most = float(getattr(limits, f"max_{wanted}") or -1)
    shown = f"{int(info.streams)} streams, {used / 1e6:.0f} MB of {wanted} used"
    if most > 0 and used > most * _FULL:
        return Check("JetStream", "warn", f"{shown} of {most / 1e6:.0f} MB", "give the account more room")
    return Check("JetStream", "ok", shown)


async def _stream_info(bus: BusClient, stream: str) -> dict[str, Any]:
    """The raw answer: nats-py drops the server's time. Raises Unavailable or NotFound."""
    answer = await bus.ask(f"$JS.API.STREAM.INFO.{stream}", b"", _NATS_SECONDS)
    info: dict[str, Any] = json.loads(answer)
    if "error" in info:
        raise NotFound(str(info["error"].get("description", "not found")))
    return info


async def _buckets(bus: BusClient, config: ProcessConfig) -> Sequence[Check]:
    checks = []
    replicas = config.replicas
    for bucket in ("hw_settings", OWNERS_BUCKET, LEASES_BUCKET):
        try:
            info = await _stream_info(bus, f"KV_{bucket}")
        except NotFound:
            checks.append(Check(f"bucket {bucket}", "fail", "not there", "start a router and a gateway"))
            continue
        except HubwireError as fault:
            checks.append(
                Check(f"bucket {bucket}", "fail", f"no answer: {fault}", "see that a majority of NATS runs")
            )
            continue
        copies = int(info["config"].get("num_replicas", 1))
        lagging = [
            peer["name"]
            for peer in (info.get("cluster") or {}).get("replicas") or []
            if peer.get("offline") or not peer.get("current")
        ]
        if copies < replicas:
            checks.append(
                Check(
                    f"bucket {bucket}",
                    "fail",
                    f"{copies} of {replicas} copies",
                    f"it was made in another durability mode; raise it: nats stream edit KV_{bucket} "
                    f"--replicas {replicas}",
                )
            )
        elif lagging:
            checks.append(
                Check(
                    f"bucket {bucket}",
                    "warn",
                    f"behind or away: {', '.join(lagging)}",
                    "look at these servers",
                )
            )
        else:
            checks.append(Check(f"bucket {bucket}", "ok", f"{copies} cop{'y' if copies == 1 else 'ies'}"))
    return checks


_PROMISES = {
    "memory": "nothing outlives nats-server; the sessions of reliable clients end with it",
    "local": "one copy in files; a crash of the machine loses what was not flushed (sync_interval)",
    "replicated": "three copies in files; power lost on all loses what was not flushed (sync_interval)",
}


def _durability(config: ProcessConfig) -> Check:
    """The mode that is meant; whether the buckets are like that is the next checks' business."""
    return Check("durability", "ok", f"{config.durability}: {_PROMISES[config.durability]}")


async def _nats_clock(bus: BusClient) -> Check:
    try:
        before = time.time()
        info = await _stream_info(bus, f"KV_{LEASES_BUCKET}")
        after = time.time()
        theirs = datetime.fromisoformat(str(info["ts"])[:26].rstrip("Z") + "+00:00").timestamp()
    except (HubwireError, KeyError, ValueError) as fault:
        return Check("clock of NATS", "skip", f"not told ({fault})")
    return skew("clock of NATS", theirs - (before + after) / 2)


async def _leases(bus: BusClient, config: ProcessConfig) -> list[Check]:
    watches = {
        role: LeaseWatch(bus, role, default_ttl=config.lease_seconds) for role in ("router", "gateway")
    }
    tasks = [asyncio.create_task(watch.run()) for watch in watches.values()]
    await asyncio.sleep(_LISTEN_SECONDS)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    checks = []
    try:
        known = await read_leases(bus)
    except HubwireError as fault:
        return [Check("leases", "fail", f"cannot be read: {fault}", "see that a majority of NATS runs")]
    for role, watch in watches.items():
        alive = len(watch.alive)
        # Attempts to renew are heard too; only what is stored is a lease.
        unstored = [name for name in watch.alive if not _fresh(known.get(lease_key(role, name)))]
        silent = [
            key
            for key, lease in known.items()
            if key.startswith(f"{role}.")
            and lease["ttl_seconds"] > 0
            and key.partition(".")[2] not in watch.alive
        ]
        if not alive:
            checks.append(
                Check(
                    f"{role}s",
                    "fail",
                    "none holds a lease",
                    f"start one (hubwire {role}), or see why it ended",
                )
            )
        elif unstored:
            found = f"{alive} alive, {len(unstored)} without a lease that is stored"
            advice = "does JetStream store? else see its log: lease_not_renewed, lease_lost"
            checks.append(Check(f"{role}s", "fail", found, advice))
        elif silent:
            found = f"{alive} alive, {len(silent)} did not answer"
            checks.append(Check(f"{role}s", "warn", found, "was one killed just now? if not, see its log"))
        else:
            checks.append(Check(f"{role}s", "ok", f"{alive} alive"))
    checks.append(await _owners(bus, config, watches["router"].alive))
    return checks


def _fresh(lease: dict[str, Any] | None) -> bool:
    return lease is not None and lease["age_seconds"] <= lease["ttl_seconds"] + margin_of(
        lease["ttl_seconds"]
    )


async def _owners(bus: BusClient, config: ProcessConfig, alive: set[str]) -> Check:
    store = OwnersStore(bus, memory=config.in_memory, replicas=1)
    try:
        table, _ = await store.read()
    except HubwireError as fault:
        return Check("partitions", "fail", str(fault), "start a router")
    unowned = sum(owner is None for owner in table.owners)
    lost = Counter(owner.router for owner in table.owners if owner is not None and owner.router not in alive)
    if unowned or lost:
        return Check(
            "partitions",
            "fail",
            f"{unowned + sum(lost.values())} of {len(table.owners)} have no living owner",
            "routers take them over within seconds; if this stays, see the routers' logs",
        )
    return Check("partitions", "ok", f"all {len(table.owners)} owned")
