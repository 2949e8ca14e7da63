"""The chart in a real cluster, from install to uninstall, while people talk over it.

    cd tests && python -m kube.rolling --image hubwire:dev --other-image hubwire:dev2

It needs kubectl and helm for the cluster, the images in it, and a way to its Services: run it where their
names resolve, or give addresses with --clients and --rest. `make kube-test` is this with the images built.

Reliable clients must lose nothing and get nothing twice, also those of the vendors. Plain ones lose only what
fell between two of their connections. REST fails by connection resets at most. The exit code is 1 when that
is not so.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlencode

import aiohttp
import yarl
from support.chaos import Rig
from support.crowd import API_VERSION, GROUPS, HUB, Crowd, publishes, stays
from support.dialects import JSON_PLAIN, JSON_RELIABLE, PROTOBUF_RELIABLE
from support.history import History, Span, interruption
from support.judge import judge
from support.kubernetes import CHART, Release
from support.processes import KEY
from support.topology import new_key
from support.vendor_clients import VendorClient, vendor_client

from hubwire.model.tokens import sign_client_token, sign_rest_token

REST_SECONDS = 30.0
CALM_SECONDS = 5.0
"""Talk before and after each step, so that what it does shows."""
MARGIN_SECONDS = 10.0


@dataclass
class Rest:
    """What became of the calls."""

    statuses: Counter[int] = field(default_factory=Counter)
    resets: int = 0
    failures: list[str] = field(default_factory=list)


class ClusterCrowd(Crowd):
    """A crowd that knows two addresses, behind which Kubernetes chooses."""

    asks = ()

    def __init__(self, clients: str, rest: str, history: History, chance: random.Random) -> None:
        super().__init__(cast(Rig, None), history, chance, rate=40.0)
        self._clients = clients
        self._rest = rest
        self.calls = Rest()

    def address(self) -> str:
        return self._clients

    async def rest(self, method: str, path: str, body: str | None = None) -> int | None:
        """As an application calls: keep-alive; a connection that was closed under a request is no answer."""
        url = f"{self._rest}/api/hubs/{HUB}/{path}?api-version={API_VERSION}"
        headers = {"Authorization": f"Bearer {sign_rest_token(KEY, url, time.time())}"}
        headers |= {"Content-Type": "text/plain"} if body is not None else {}
        if self._http is None:
            self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(REST_SECONDS))
        try:
            target = yarl.URL(url, encoded=True)
            async with self._http.request(method, target, headers=headers, data=body) as answer:
                self.calls.statuses[answer.status] += 1
                if answer.status >= 400:
                    self.calls.failures.append(f"{answer.status} {(await answer.text())[:200]}")
                return answer.status
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
            self.calls.resets += 1
            if isinstance(error, aiohttp.ClientConnectorError):
                self.calls.failures.append(repr(error))
        except (aiohttp.ClientError, TimeoutError) as error:
            self.calls.failures.append(repr(error))
        return None

    def gather(self) -> None:
        kinds = (JSON_RELIABLE, PROTOBUF_RELIABLE)
        for number in range(4):
            self.add(f"publisher-{number}", publishes, kinds[number % 2])
        for number in range(12):
            self.add(f"reliable-{number}", stays, kinds[number % 2])
        for number in range(12):
            self.add(f"plain-{number}", stays, JSON_PLAIN)
        self._tasks.append(asyncio.create_task(self._publish_rest()))


@dataclass
class Step:
    name: str
    span: Span
    calls: int
    resets: int
    failed: int


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
        calls = self.crowd.calls
        before = (calls.statuses.total(), calls.resets, len(calls.failures))
        print(f"{name} ...", flush=True)
        begin = time.monotonic()
        await asyncio.to_thread(act)
        await asyncio.sleep(CALM_SECONDS)
        span = Span(begin, time.monotonic())
        excused = Span(begin - 1.0, span.end + MARGIN_SECONDS)
        if owners:
            self.crowd.history.owner_changes.append(excused)
        if cut:
            self.crowd.history.cuts.append(excused)
        after = (calls.statuses.total(), calls.resets, len(calls.failures))
        self.steps.append(Step(name, span, *(b - a for a, b in zip(before, after, strict=True))))

    def table(self) -> str:
        rows = [
            "| step | s | lost sockets | back after, median / longest, s | REST calls | resets | failed |"
        ]
        rows.append("|---|---|---|---|---|---|---|")
        for step in self.steps:
            gaps = sorted(self._gaps(step.span))
            shown = f"{gaps[len(gaps) // 2]:.2f} / {gaps[-1]:.2f}" if gaps else ""
            seconds = step.span.end - step.span.begin
            rows.append(
                f"| {step.name} | {seconds:.0f} | {len(gaps)} | {shown} | {step.calls} | {step.resets} | "
                f"{step.failed} |"
            )
        return "\n".join(rows)

    def _gaps(self, span: Span) -> list[float]:
        """Interruptions of reliable clients that began then."""
        return [
            interruption(before, after)
            for session in self.crowd.history.sessions
            for before, after in pairwise(session.sockets)
            if span.holds(before.lost_at)
        ]


async def everything(run: Run, images: tuple[str, str]) -> None:
    release = run.release
    repository, _, other = images[1].rpartition(":")
    assert repository == images[0].rpartition(":")[0], "both images must be of one repository"
    for role in ("gateway", "router", "controlplane"):
        await run.step(f"rolling restart: {role}", partial(release.restart, role), owners=True)
    await run.step("rolling restart: nats", lambda: release.restart("nats"), owners=True, cut=True)
    await run.step(
        "upgrade of chart and image", lambda: release.apply(CHART, image__tag=other), owners=True, cut=True
    )
    await run.step("gateways: 3 to 6", lambda: release.apply(CHART, gateway__replicas=6))
    await run.step("gateways: 6 to 2", lambda: release.apply(CHART, gateway__replicas=2))
    for role in ("gateway", "router", "controlplane"):
        await run.step(f"delete a pod: {role}", partial(release.delete_pod, role), owners=True)
    if len(release.nodes()) > 1:
        await run.step("cordon and drain a node", release.drain_node, owners=True, cut=True)
    else:
        print("There is one node: none is drained.")
    await run.step(
        "kill -9 a NATS server", lambda: release.kill("nats", "nats-server"), owners=True, cut=True
    )
    await run.step("rollback", release.rollback, owners=True, cut=True)


async def vendors(stack: AsyncExitStack, crowd: ClusterCrowd) -> dict[str, VendorClient]:
    """The vendors' reliable clients, members of one group."""
    found = {}
    for kind in ("python", "python-aio", "javascript"):
        endpoint = crowd.address()
        token = sign_client_token(
            KEY,
            endpoint=endpoint,
            hub=HUB,
            user_id=kind,
            roles=["webpubsub.joinLeaveGroup"],
            now=time.time(),
            minutes=600,
        )
        url = f"{endpoint.replace('http', 'ws', 1)}/client/hubs/{HUB}?{urlencode({'access_token': token})}"
        try:
            found[kind] = await stack.enter_async_context(vendor_client(kind, url))
        except FileNotFoundError:
            print(f"There is no Node here: no {kind} client.")
            continue
        await found[kind].join(GROUPS[0])
    return found


def vendor_faults(crowd: ClusterCrowd, clients: dict[str, VendorClient], since: float) -> list[str]:
    """What they lack or have twice, of what was acked after all of them had joined."""
    owed = {
        one.text
        for _, one in crowd.history.publishes()
        if one.group == GROUPS[0] and one.executed and one.sent[0] > since
    }
    faults = []
    for kind, client in clients.items():
        got = Counter(text for _, text in client.seen.messages)
        lost = len(owed - set(got))
        twice = sum(count > 1 for count in got.values())
        print(
            f"vendor's client {kind}: {len(owed)} owed, {lost} lost, {twice} twice, "
            f"{len(client.seen.connected)} times connected, {client.seen.disconnected} ended"
        )
        if lost or twice or client.seen.disconnected:
            faults.append(f"{kind}: {lost} lost, {twice} twice, {client.seen.disconnected} sessions ended")
    return faults


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
        await everything(run, (arguments.image, arguments.other_image))
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
    print(run.table())
    print(
        f"{verdict.acked} publishes acked, {verdict.checked} deliveries looked at, {verdict.recoveries} "
        f"recoveries, longest {verdict.longest_interruption:.1f} s; longest ack {verdict.longest_ack:.1f} s; "
        f"REST {dict(crowd.calls.statuses)}, {crowd.calls.resets} resets"
    )
    faults += [str(one) for one in verdict.violations] + crowd.calls.failures + history.errors
    for fault in faults[:40]:
        print(f"FAULT {fault}")
    return len(faults)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image", required=True, help="repository:tag, in the cluster already")
    parser.add_argument("--other-image", required=True, help="the same repository with another tag")
    parser.add_argument("--namespace", default="hubwire-test")
    parser.add_argument("--clients", help="where clients reach the Service; default: its name")
    parser.add_argument("--rest", help="the same for REST")
    parser.add_argument("--only", default="", help="only the steps with this in their name")
    parser.add_argument("--logs", type=Path, help="a folder for the last lines of all pods, before the end")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    repository, _, tag = arguments.image.rpartition(":")
    values = {
        "image": {"repository": repository, "tag": tag},
        "accessKeys": {"existingSecret": "test-keys"},
        "gateway": {"drainSeconds": 10},
        "nats": {"storage": {"size": "4Gi"}, "maxFileStore": "8GB"},
    }
    release = Release("t", arguments.namespace, values)
    arguments.clients = arguments.clients or f"http://{release.full}.{arguments.namespace}.svc"
    arguments.rest = arguments.rest or f"http://{release.full}-rest.{arguments.namespace}.svc"
    with tempfile.TemporaryDirectory() as folder:
        release.prepare({"primary": KEY, "secondary": new_key()})
        old_chart = release.package(Path(folder), "0.0.9")
        begun = time.monotonic()
        release.apply(old_chart)
        print(f"installed in {time.monotonic() - begun:.0f} s", flush=True)
        release.test()
        print("helm test passed", flush=True)
        faults = asyncio.run(talk(release, arguments))
        release.test()
        if arguments.logs:
            release.save_logs(arguments.logs)
        left = release.uninstall()
        print(f"left after uninstall: {left or 'nothing'}")
        release.remove_namespace()
    print("PASSED" if not faults and not left else "FAILED")
    return int(bool(faults or left))


if __name__ == "__main__":
    sys.exit(main())
