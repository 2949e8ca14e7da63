"""The reliable example, behind one address, while every gateway of its cluster is killed and comes back."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

from support.balancer import Balancer
from support.examples import EXAMPLES, environment, hubwire
from support.topology import HubwireCluster

ORDERS_OF_A_ROUND = 5
LIMIT_SECONDS = 120.0


def test_orders_arrive_once_and_in_order_though_every_gateway_is_killed(tmp_path: Path) -> None:
    with HubwireCluster(tmp_path, gateways=2, control_planes=1) as cluster, Balancer(cluster) as balancer:
        connection_string = f"Endpoint={balancer.endpoint};AccessKey={cluster.key};Version=1.0;"
        sent: list[str] = []

        def order(text: str) -> None:
            hubwire(connection_string, "publish", "orders", text, "--group", "orders")
            sent.append(f"{len(sent) + 1}: {text}")

        listener = subprocess.Popen(
            [sys.executable, str(EXAMPLES / "reliable-orders" / "listen.py")],
            env=environment(connection_string),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        limit = threading.Timer(LIMIT_SECONDS, listener.kill)
        limit.start()
        try:
            assert listener.stdout is not None
            assert listener.stdout.readline() == "connected\n"
            for gateway in cluster.gateway_services:
                for number in range(ORDERS_OF_A_ROUND):
                    order(f"{gateway.name} lives, {number}")
                gateway.kill()
                for number in range(ORDERS_OF_A_ROUND):
                    order(f"{gateway.name} is dead, {number}")
                gateway.start()
            for line in sent:
                assert listener.stdout.readline() == f"{line}\n"
            order("closed")
            assert listener.stdout.read() == ""
            assert listener.wait(LIMIT_SECONDS) == 0
        finally:
            limit.cancel()
            listener.kill()
            listener.wait()
            if listener.stdout is not None:
                listener.stdout.close()
