"""A nats-server and a fleet of processes for each test of faults."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.nats import NatsServer
from support.processes import Fleet


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[NatsServer]:
    with NatsServer(tmp_path) as server:
        yield server


@pytest.fixture
def fleet(tmp_path: Path, nats: NatsServer) -> Iterator[Fleet]:
    with Fleet(tmp_path, [nats.url]) as fleet:
        yield fleet
        print(fleet.logs())  # shown when the test has failed
