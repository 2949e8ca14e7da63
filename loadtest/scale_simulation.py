"""One router of a cluster of 1,000 gateways, by the real ring, map and router code. Nothing is sent.

    python loadtest/scale_simulation.py [--gateways 100,300,1000] [--keep]

20,000 connections a gateway, each with a user of its own and in two groups; a group for every four
connections; one router for every twenty gateways. With 1,000 gateways: 20 million connections, 5 million
groups of eight, 50 routers.

- The ring places all partitions on all routers, as it is, and again without one of them.
- One router is simulated in whole: the one with the most partitions, and its share of all keys. The real
  `RouterService` gets every gateway's snapshot as bytes, and publishes as bytes; what it sends is counted
  where the bus would be. Keys of the other routers are not made: their number is the ring's.
- Which partition a key belongs to is not computed for the share; that keys are spread evenly is checked
  on a million of them.

CPU is this process's, so it holds roughly on a busy machine. With `--keep` the result is written to
loadtest/results/scale.json, from which docs/scale.md is made.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, cast

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from hubwire.bus.client import BusClient  # noqa: E402
from hubwire.bus.digest import digest_of  # noqa: E402
from hubwire.bus.envelopes import PUBLISH, SNAPSHOT, batch_to_router, pack_body, split_keys  # noqa: E402
from hubwire.bus.keys import PARTITIONS, group_key, hub_key, partition_of, user_key  # noqa: E402
from hubwire.bus.owners import (  # noqa: E402
    EMPTY_TABLE,
    LOOK_SECONDS,
    OwnersStore,
    OwnersView,
    pack_table,
)
from hubwire.model.message import DataType, Message  # noqa: E402
from hubwire.runtime.leases import Lease, LeaseWatch  # noqa: E402
from hubwire.runtime.logs import configure_logs  # noqa: E402
from hubwire.runtime.process import ProcessConfig  # noqa: E402
from loadtest.bench import machine  # noqa: E402
from router.ownership import Ownership  # noqa: E402
from router.ring import placement  # noqa: E402
from router.service import RouterService  # noqa: E402

RESULT = ROOT / "loadtest" / "results" / "scale.json"
CONNECTIONS = 20_000
GROUPS_EACH = 2
CONNECTIONS_A_GROUP = 4
GATEWAYS_A_ROUTER = 20
HUB = "scale"
PUBLISHES = 5000
SECONDS_A_PUBLISH = 100.0
"""How seldom a connection publishes: 20 million make 200,000 publishes a second."""


class Bus:
    """Where the bus would be: counts what the router would send."""

    max_payload = 4 * 1024 * 1024
    connected = True

    def __init__(self) -> None:
        self.sent: Counter[str] = Counter()
        self.bytes = 0

    def publish(self, subject: str, data: bytes, reply: str = "") -> None:
        self.sent[subject.rpartition(".")[0]] += 1
        self.bytes += len(data)

    def forget(self) -> None:
        self.sent.clear()
        self.bytes = 0

    def on_disconnect(self, listener: Callable[[], None]) -> None: ...

    def on_reconnect(self, listener: Callable[[], None]) -> None: ...


class Alive:
    """What a LeaseWatch knows when nobody has ended."""

    complete = True

    def __init__(self, names: list[str]) -> None:
        self.alive = set(names)
        self.changed: list[Callable[[str, bool], None]] = []

    def on_change(self, listener: Callable[[str, bool], None]) -> None:
        self.changed.append(listener)

    def certainly_ended(self, name: str) -> bool:
        return name not in self.alive

    def ends(self, name: str) -> None:
        self.alive.discard(name)
        for listener in self.changed:
            listener(name, False)


class OwnLease:
    """A lease that is good."""

    valid = True

    def __init__(self, name: str) -> None:
        self.name = name


def rss_kib() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1])
    raise RuntimeError("This system does not say how much memory a process has.")


class Router:
    """The real service of one router that owns `partitions`, in a cluster of `gateways`."""

    def __init__(self, gateways: list[str], partitions: list[int]) -> None:
        self.bus = Bus()
        bus = cast(BusClient, self.bus)
        self.alive = Alive(gateways)
        watch = cast(LeaseWatch, self.alive)
        store = OwnersStore(bus, memory=True, replicas=1)
        owners = OwnersView(bus, store)
        lease = cast(Lease, OwnLease("this-router"))
        routers = cast(LeaseWatch, Alive(["this-router"]))
        self.ownership = Ownership(bus, lease, owners, store, routers, watch)
        self.service = RouterService(bus, lease, self.ownership, watch)
        owners.offer(EMPTY_TABLE.with_changes(dict.fromkeys(partitions, "this-router"), 1_800_000_000_000))
        for owned in self.ownership.partitions.values():
            owned.listed = True
        self._number = 0

    def request(self, data: bytes) -> None:
        self.service._requested("hw.router.this-router", "_INBOX.answer", data)

    def snapshot(self, gateway: str, keys: dict[int, list[str]]) -> list[bytes]:
        """A gateway's answer to being asked, as the batches that come."""
        batches = []
        for partition, mine in keys.items():
            digest = 0
            for key in mine:
                digest ^= digest_of(key)
            parts = split_keys(mine)
            epoch = self.ownership.partitions[partition].epoch
            for number, part in enumerate(parts):
                entry = [SNAPSHOT, partition, 1, digest, part, number, len(parts)]
                batches.append(batch_to_router(gateway, [(partition, epoch, [entry])]))
        return batches

    def publish(self, gateway: str, partition: int, key: str) -> bytes:
        self._number += 1
        epoch = self.ownership.partitions[partition].epoch
        body = pack_body(Message(DataType.TEXT, b"x" * 200))
        return batch_to_router(gateway, [(partition, epoch, [[PUBLISH, partition, key, self._number, body]])])


def make_keys(
    gateways: list[str], partitions: list[int], random: Random
) -> tuple[dict[str, dict[int, list[str]]], list[tuple[int, str]]]:
    """The keys of these partitions: by gateway, and the groups, to be published to."""
    share = len(partitions) / PARTITIONS
    keys: dict[str, dict[int, list[str]]] = {g: {p: [] for p in partitions} for g in gateways}
    groups = []
    for number in range(int(len(gateways) * CONNECTIONS / CONNECTIONS_A_GROUP * share)):
        partition, key = random.choice(partitions), group_key(HUB, f"room-{number:08d}")
        groups.append((partition, key))
        # Its members are anywhere; two of them on one gateway are one key there.
        for gateway in {random.choice(gateways) for _ in range(CONNECTIONS_A_GROUP * GROUPS_EACH)}:
            keys[gateway][partition].append(key)
    for gateway in gateways:
        for number in range(int(CONNECTIONS * share)):
            keys[gateway][random.choice(partitions)].append(user_key(HUB, f"user-{gateway}-{number:08d}"))
        keys[gateway][partitions[0]].append(hub_key(HUB))
    return keys, groups


def cpu_of(work: Callable[[], Any]) -> float:
    begun = time.process_time()
    work()
    return time.process_time() - begun


def publish_costs(router: Router, what: list[tuple[int, str]], gateways: list[str]) -> dict[str, float]:
    """A publish each: messages, bytes and CPU of one, answers not counted."""
    batches = [router.publish(gateways[number % len(gateways)], *one) for number, one in enumerate(what)]
    router.bus.forget()
    seconds = cpu_of(lambda: [router.request(batch) for batch in batches])
    return {
        "messages": router.bus.sent["hw.gw"] / len(batches),
        "bytes": router.bus.bytes / len(batches),
        "us": seconds / len(batches) * 1e6,
    }


async def _simulate(gateway_count: int, partitions: list[int]) -> dict[str, Any]:
    random = Random(gateway_count)
    gateways = [f"gateway-{number:012d}" for number in range(gateway_count)]
    router = Router(gateways, partitions)
    asked = router.bus.sent["hw.gw"]
    keys, groups = make_keys(gateways, partitions, random)
    entries = sum(len(mine) for by_partition in keys.values() for mine in by_partition.values())
    targets = [random.choice(groups) for _ in range(PUBLISHES)]
    broad = publish_costs(router, targets[: PUBLISHES // 50], gateways)
    before = rss_kib()
    rebuild, taken, snapshots = 0.0, 0, 0
    for gateway, mine in keys.items():
        batches = router.snapshot(gateway, mine)
        snapshots += len(batches)
        taken += sum(map(len, batches))
        mine.clear()  # the gateway's own copy
        rebuild += cpu_of(lambda batches=batches: [router.request(batch) for batch in batches])
    unsynced = sum(len(owned.members.unsynced) for owned in router.ownership.partitions.values())
    if unsynced:
        raise RuntimeError(f"{unsynced} views have not been built.")
    memory = rss_kib() - before
    found = {
        "gateways": gateway_count,
        "partitions": len(partitions),
        "entries": entries,
        "memory_mib": memory / 1024,
        "bytes_an_entry": memory * 1024 / entries,
        "publish": publish_costs(router, targets, gateways),
        "hub": publish_costs(router, [(partitions[0], hub_key(HUB))] * 100, gateways),
        "publish_while_unknown": broad,
        "asked": asked,
        "snapshots": snapshots,
        "snapshot_mib": taken / 2**20,
        "rebuild_cpu_seconds": rebuild,
    }
    found["gateway_lost_cpu_ms"] = cpu_of(lambda: router.alive.ends(gateways[-1])) * 1000
    return found


def simulate(gateway_count: int, partitions: list[int]) -> dict[str, Any]:
    configure_logs("warning", "text")
    return asyncio.run(_simulate(gateway_count, partitions))


def ring(routers: int) -> dict[str, Any]:
    """How the partitions are spread, and what moves when a router is lost."""
    names = [f"router-{number:012d}" for number in range(routers)]
    before = placement(names)
    counts = Counter(dict.fromkeys(names, 0))
    counts.update(before)
    moved, gainers = [], []
    for lost in names:
        after = placement([name for name in names if name != lost])
        changed = [p for p in range(PARTITIONS) if before[p] != after[p]]
        moved.append(len(changed))
        gainers.append(len({after[p] for p in changed}))
    biggest = max(counts, key=lambda name: counts[name])
    return {
        "routers": routers,
        "least": min(counts.values()),
        "mean": PARTITIONS / routers,
        "most": max(counts.values()),
        "counts": sorted(counts.values()),
        "moved_mean": statistics.mean(moved),
        "moved_most": max(moved),
        "gainers_most": max(gainers),
        "partitions_of_biggest": [p for p in range(PARTITIONS) if before[p] == biggest],
    }


def spread(random: Random) -> dict[str, float]:
    """How evenly a million keys of groups fall on the partitions, to the mean."""
    counts = Counter(partition_of(group_key(HUB, f"room-{random.randrange(10**9)}")) for _ in range(10**6))
    mean = 10**6 / PARTITIONS
    return {"least": min(counts.values()) / mean, "most": max(counts.values()) / mean}


def background(gateways: int, routers: int) -> dict[str, float]:
    """What goes on while nobody does anything, from the constants of the code: not simulated."""
    renewals = gateways / (ProcessConfig().lease_seconds / 4)
    table = EMPTY_TABLE.with_changes(
        {p: f"router-{p % routers:012d}" for p in range(PARTITIONS)}, 1_800_000_000_000
    )
    return {
        "lease_messages_a_router": renewals,
        "lease_messages_in_all": renewals * routers,
        "table_reads": (gateways + routers) / LOOK_SECONDS + routers,
        "table_bytes": len(pack_table(table)),
        "publishes": gateways * CONNECTIONS / SECONDS_A_PUBLISH,
    }


def run(counts: list[int]) -> dict[str, Any]:
    sizes = []
    context = multiprocessing.get_context("spawn")
    for count in counts:
        routers = max(2, count // GATEWAYS_A_ROUTER)
        placed = ring(routers)
        partitions = placed.pop("partitions_of_biggest")
        with context.Pool(1) as pool:  # a process each: what one has freed is no memory of the next
            found = pool.apply(simulate, (count, partitions))
        sizes.append({**found, "ring": placed, "background": background(count, routers)})
        print(f"{count} gateways: done", file=sys.stderr)
    return {
        "name": "scale",
        "connections_a_gateway": CONNECTIONS,
        "spread": spread(Random(1)),
        "sizes": sizes,
        "machine": machine.facts(),
        "command": f"python loadtest/scale_simulation.py --gateways {','.join(map(str, counts))}",
    }


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [rounded(one) for one in value]
    return round(value, 3) if isinstance(value, float) else value


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gateways", default="100,300,1000", help="sizes of cluster, comma separated")
    parser.add_argument("--keep", action="store_true", help="write loadtest/results/scale.json")
    arguments = parser.parse_args()
    found = rounded(run([int(one) for one in arguments.gateways.split(",")]))
    text = json.dumps(found, indent=1)
    print(text)
    if arguments.keep:
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text(text + "\n")


if __name__ == "__main__":
    main()
