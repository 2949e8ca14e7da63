"""The nats-server we start: it serves, keeps its port and its store, and says why it ended."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path

import nats
import pytest
from nats.errors import Error as NatsError
from nats.js.api import StreamConfig
from support.nats import NatsCluster, NatsServer

from hubwire.runtime.nats_options import nats_options
from hubwire.runtime.process import ProcessConfig


async def test_messages_stored_before_a_kill_are_there_after_a_restart_on_the_same_port(
    tmp_path: Path,
) -> None:
    with NatsServer(tmp_path) as server:
        port = server.port
        back = asyncio.Event()

        async def reconnected() -> None:
            back.set()

        options = nats_options(ProcessConfig(nats_servers=(server.url,)))
        client = await nats.connect(**options, reconnected_cb=reconnected)
        js = client.jetstream()
        await js.add_stream(StreamConfig(name="kept", subjects=["kept"]))
        await js.publish("kept", b"one")
        server.kill()
        server.start()
        assert server.port == port
        async with asyncio.timeout(20):
            await back.wait()
            message = await js.get_msg("kept", 1)
        assert message.data == b"one"
        await client.close()


async def test_a_client_without_the_password_is_turned_away(tmp_path: Path) -> None:
    with NatsServer(tmp_path, user="hubwire", password="right-one") as server:
        good = ProcessConfig(
            nats_servers=(f"nats://127.0.0.1:{server.port}",), nats_user="hubwire", nats_password="right-one"
        )
        client = await nats.connect(**nats_options(good))
        assert client.max_payload == 4 * 1024 * 1024
        await client.close()
        bad = nats_options(good.replace(nats_password="wrong")) | {"allow_reconnect": False}
        with pytest.raises(NatsError, match="Authorization Violation"):
            await nats.connect(**bad)


def test_the_file_with_the_password_is_the_owners_alone(tmp_path: Path) -> None:
    with NatsServer(tmp_path, user="hubwire", password="secret") as server:
        config = server.folder / "nats.conf"
        assert stat.S_IMODE(config.stat().st_mode) == 0o600
        assert not any("secret" in line.text for line in server.lines)


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "nats-store").write_text("a file where the store's folder should be")
    server = NatsServer(tmp_path)
    with pytest.raises(RuntimeError, match=r"(?i)storage|directory|jetstream"):
        server.start()
    assert not server.running
    server.close()


async def test_a_replicated_stream_outlives_the_loss_of_one_node_of_three(tmp_path: Path) -> None:
    with NatsCluster(tmp_path) as cluster:
        client = await nats.connect(**nats_options(ProcessConfig(nats_servers=tuple(cluster.urls))))
        js = client.jetstream()
        async with asyncio.timeout(40):
            while True:
                try:
                    await js.add_stream(StreamConfig(name="safe", subjects=["safe"], num_replicas=3))
                    break
                except NatsError:
                    await asyncio.sleep(0.1)
            await js.publish("safe", b"one")
            cluster.nodes[0].kill()
            while True:
                try:
                    await js.publish("safe", b"two")
                    break
                except (NatsError, OSError):
                    await asyncio.sleep(0.1)
            cluster.nodes[0].start()
        await client.close()
