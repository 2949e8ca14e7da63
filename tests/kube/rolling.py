"""The chart in a real cluster, from install to uninstall, while people talk over it.

    cd tests && python -m kube.rolling --image hubwire:b --previous-image hubwire:a --previous-chart FOLDER

It installs the previous version, chart and image, and upgrades to this one. It needs kubectl and helm for the
cluster, the images in it, and a way to its Services: run it where their names resolve, or give addresses with
--clients and --rest. `make kube-test` is this with the images built.

Reliable clients must lose nothing and get nothing twice, also those of the vendors. Plain ones lose only what
fell between two of their connections. REST fails by connection resets at most. The exit code is 1 when that
is not so.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any, Final

from kube.costs import Step, by_client, table
from kube.people import ClusterCrowd, vendor_faults, vendors
from support.crowd import GROUPS
from support.history import History, Span
from support.judge import judge
from support.kubernetes import CHART, ROLES, Release
from support.processes import KEY
from support.topology import new_key

CALM_SECONDS: Final = 5.0
"""Talk before and after each step, so that what it does shows."""
MARGIN_SECONDS: Final = 10.0


class Run:
    """Does the steps, one after the other, and notes when."""

    def __init__(self, release: Release, crowd: ClusterCrowd, only: str) -> None:
        self.release = release
        self.crowd = crowd
        self.only = only
        self.steps: list[Step] = []

    async def step(
        self, name: str, act: Callable[[], Any], *, owners: bool = False, cut: bool = False
    ) -> None:
        """`owners`: partitions change owners. `cut`: connections to NATS are lost, on which plain messages
        travel at most once."""
        if self.only not in name:
            return
        print(f"{time.strftime('%H:%M:%S')} {name} ...", flush=True)
        begin = time.monotonic()
        self.crowd.during, self.crowd.since = name, begin
        await asyncio.to_thread(act)
        await asyncio.sleep(CALM_SECONDS)
        span = Span(begin, time.monotonic())
        excused = Span(begin - 1.0, span.end + MARGIN_SECONDS)
        if owners:
            self.crowd.history.owner_changes.append(excused)
        if cut:
            self.crowd.history.cuts.append(excused)
        self.steps.append(Step(name, span))


async def everything(run: Run, previous: Path, image: dict[str, str]) -> None:
    release = run.release
    versions = f"{release.version(previous)} to {release.version(CHART)}"
    upgrade = partial(release.apply, CHART, image=image, gateway__replicas=3)
    await run.step(f"upgrade of chart and image, {versions}", upgrade, owners=True, cut=True)
    for role in ROLES:
        name = f"rolling restart: {role}"
        await run.step(name, partial(release.restart, role), owners=True, cut=role == "nats")
    await run.step("gateways: 3 to 6", partial(release.apply, CHART, gateway__replicas=6))
    await run.step("gateways: 6 to 2", partial(release.apply, CHART, gateway__replicas=2))
    for role in ROLES:
        name = f"delete a pod: {role}"
        await run.step(name, partial(release.delete_pod, role), owners=True, cut=role == "nats")
    if len(release.nodes()) > 1:
        await run.step("cordon and drain a node", release.drain_node, owners=True, cut=True)
    else:
        print("There is one node: none is drained.")
    await run.step(
        "kill -9 a NATS server", partial(release.kill, "nats", "nats-server"), owners=True, cut=True
    )
    await run.step("rollback to the previous version", partial(release.rollback, 1), owners=True, cut=True)
    await run.step("upgrade again", upgrade, owners=True, cut=True)


async def talk(release: Release, arguments: argparse.Namespace) -> int:
    history = History()
    crowd = ClusterCrowd(arguments.clients, arguments.rest, history, random.Random(arguments.seed))
    run = Run(release, crowd, arguments.only)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(crowd.leave)
        crowd.gather()
        clients = await vendors(stack, crowd)
        since = time.monotonic()
        await asyncio.sleep(CALM_SECONDS)
        await everything(run, arguments.previous_chart, parsed(arguments.image))
        faults = await crowd.settle(120.0)
        last = next(
            r.text for s, r in history.publishes() if r.text.startswith("last") and r.group == GROUPS[0]
        )
        for kind, client in clients.items():
            try:
                await client.seen.until_it_has(last, 60.0)
            except TimeoutError:
                faults.append(f"the vendor's client {kind} lacks the last message")
        faults += vendor_faults(crowd, clients, since)
    verdict = judge(history)
    print(table(run.steps, history, crowd.calls))
    print(by_client(history))
    print(
        f"{verdict.acked} publishes acked, {verdict.checked} deliveries looked at, {verdict.recoveries} "
        f"recoveries, longest {verdict.longest_interruption:.1f} s; longest ack {verdict.longest_ack:.1f} s; "
        f"REST {dict(Counter(call.outcome for call in crowd.calls))}"
    )
    faults += [str(one) for one in verdict.violations]
    faults += [f"REST: {call}" for call in crowd.calls if call.failed] + history.errors
    for fault in faults[:40]:
        print(f"FAULT {fault}")
    return len(faults)


def parsed(image: str) -> dict[str, str]:
    repository, _, tag = image.rpartition(":")
    return {"repository": repository, "tag": tag}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image", required=True, help="repository:tag, in the cluster already")
    parser.add_argument("--previous-image", required=True, help="the one that is upgraded from")
    parser.add_argument("--previous-chart", required=True, type=Path, help="its chart")
    parser.add_argument("--namespace", default="hubwire-test")
    parser.add_argument("--clients", help="where clients reach the Service; default: its name")
    parser.add_argument("--rest", help="the same for REST")
    parser.add_argument("--only", default="", help="only the steps with this in their name")
    parser.add_argument("--logs", type=Path, help="a folder for the last lines of all pods, before the end")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    values = {
        "image": parsed(arguments.previous_image),
        "accessKeys": {"existingSecret": "test-keys"},
        "gateway": {"drainSeconds": 10},
        "nats": {"storage": {"size": "4Gi"}, "maxFileStore": "8GB"},
    }
    release = Release("t", arguments.namespace, values)
    arguments.clients = arguments.clients or f"http://{release.full}.{arguments.namespace}.svc"
    arguments.rest = arguments.rest or f"http://{release.full}-rest.{arguments.namespace}.svc"
    logging.getLogger("azure").setLevel(logging.ERROR)  # that it connects again is what it is here for
    release.prepare({"primary": KEY, "secondary": new_key()})
    begun = time.monotonic()
    release.apply(arguments.previous_chart)
    version = release.version(arguments.previous_chart)
    print(f"installed {version} in {time.monotonic() - begun:.0f} s", flush=True)
    release.test()
    print("helm test passed", flush=True)
    faults = asyncio.run(talk(release, arguments))
    release.test()
    print("helm test passed again", flush=True)
    if arguments.logs:
        release.save_logs(arguments.logs)
    left = release.uninstall()
    print(f"left after uninstall: {left or 'nothing'}")
    release.remove_namespace()
    print("PASSED" if not faults and not left else "FAILED")
    return int(bool(faults or left))


if __name__ == "__main__":
    sys.exit(main())
