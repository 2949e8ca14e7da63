"""What a cluster begins with: two keys, however many were given; and what its first file says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from structlog.testing import capture_logs
from support.nats import NatsServer

from hubwire.bus.client import BusClient
from hubwire.bus.settings import SettingsStore
from hubwire.cli.settings_follow import KeysFollower, apply_orders
from hubwire.model.cluster_settings import ClusterSettings, RestLimits, hash_of_token
from hubwire.model.settings import HubLimits
from hubwire.runtime.config_file import parse_config
from hubwire.runtime.data_folder import read_keys
from hubwire.runtime.nats_options import nats_options
from hubwire.runtime.process import ProcessConfig
from hubwire.runtime.seeding import open_settings
from hubwire.runtime.service import Stop

GIVEN = "given-access-key-0123456789-0123456789"


async def test_a_cluster_that_is_given_one_key_makes_the_other_and_all_agree(tmp_path: Path) -> None:
    with NatsServer(tmp_path) as nats:
        config = ProcessConfig(nats_servers=(nats.url,), durability="memory", access_key=GIVEN)
        buses = [await BusClient.connect(nats_options(config, name=f"seeding-{n}")) for n in range(3)]
        try:
            stores = await asyncio.gather(*(open_settings(bus, config, Stop()) for bus in buses))
            assert {store.keys.primary for store in stores} == {GIVEN}
            assert len({store.keys for store in stores}) == 1
            assert len(stores[0].keys.secondary) >= 32
            assert stores[0].keys.salt
            for store in stores:
                await store.close()
        finally:
            for bus in buses:
                await bus.close()


TOKEN = "a-static-token-of-an-operator"


def told(nats: NatsServer, text: str) -> ProcessConfig:
    """A process with this config file."""
    return ProcessConfig(nats_servers=(nats.url,), durability="memory", file=parse_config(text))


@asynccontextmanager
async def opened(config: ProcessConfig) -> AsyncIterator[SettingsStore]:
    bus = await BusClient.connect(nats_options(config, name="seeding"))
    try:
        store = await open_settings(bus, config, Stop())
        yield store
        await store.close()
    finally:
        await bus.close()


async def test_the_first_file_says_what_the_cluster_shares_and_later_ones_only_what_is_open(
    tmp_path: Path,
) -> None:
    first = f"corsOrigins: [https://a]\nlimits: {{maxBodyBytes: 5}}\nmanagement: {{adminToken: {TOKEN}}}\n"
    later = (
        "corsOrigins: [https://b]\nlimits: {maxBodyBytes: 6, requestSeconds: 7}\nhubLimits: {outboxBytes: 8}"
    )
    with NatsServer(tmp_path) as nats:
        async with opened(told(nats, first)) as one:
            assert one.cluster.cors_origins == ("https://a",)
            assert one.cluster.management.admin_token_sha256 == hash_of_token(TOKEN)
            async with opened(told(nats, later)) as other:
                assert other.cluster == ClusterSettings(
                    cors_origins=("https://a",),
                    limits=RestLimits(max_body_bytes=5, request_seconds=7.0),
                    hub_limits=HubLimits(outbox_bytes=8),
                    management=one.cluster.management,
                )
                async with opened(told(nats, "")) as third:
                    assert third.cluster == other.cluster


async def test_a_process_without_a_file_leaves_the_record_to_one_that_has_one(tmp_path: Path) -> None:
    with NatsServer(tmp_path) as nats:
        async with opened(told(nats, "")) as one:
            assert "cluster" not in one._records
            async with opened(told(nats, "corsOrigins: []")) as other:
                assert other.cluster.cors_origins == ()


async def test_under_hubwire_up_the_file_of_this_start_wins_over_that_of_the_last(tmp_path: Path) -> None:
    with NatsServer(tmp_path) as nats:
        async with opened(told(nats, "corsOrigins: [https://a]\nlimits: {maxBodyBytes: 5}")) as store:
            await apply_orders(store, told(nats, "corsOrigins: [https://b]\nlimits: {requestSeconds: 7}"))
            assert store.cluster == ClusterSettings(
                cors_origins=("https://b",), limits=RestLimits(max_body_bytes=5, request_seconds=7.0)
            )


async def test_who_makes_keys_says_so_and_how_to_read_them_but_not_the_keys(tmp_path: Path) -> None:
    with NatsServer(tmp_path) as nats:
        config = ProcessConfig(nats_servers=(nats.url,), durability="memory")
        with capture_logs() as logged:
            async with opened(config) as store, opened(config):
                pass
        (made,) = (line for line in logged if line["event"] == "access_keys_made")
        assert (made["which"], "hubwire keys show" in made["read_with"]) == ("both", True)
        assert not {store.keys.primary, store.keys.secondary, store.keys.salt} & {
            str(v) for v in made.values()
        }


async def test_keys_that_were_given_are_not_said_to_be_made(tmp_path: Path) -> None:
    with NatsServer(tmp_path) as nats, capture_logs() as logged:
        given = {"access_key": GIVEN, "secondary_access_key": f"{GIVEN}2"}
        async with opened(ProcessConfig(nats_servers=(nats.url,), durability="memory", **given)):
            pass
        assert [line for line in logged if line["event"] == "access_keys_made"] == []


async def test_a_process_whose_keys_are_not_in_force_says_so(tmp_path: Path) -> None:
    with NatsServer(tmp_path) as nats, capture_logs() as logged:
        for primary, secondary in ((GIVEN, None), (GIVEN, "a-second"), ("another", GIVEN), ("another", None)):
            keys = {"access_key": primary, "secondary_access_key": secondary}
            async with opened(ProcessConfig(nats_servers=(nats.url,), durability="memory", **keys)):
                pass
            said = [line["log_level"] for line in logged if line["event"] == "access_keys_differ"]
            assert said == (["warning"] if (primary, secondary) == ("another", None) else [])


async def test_a_role_is_warned_when_less_is_kept_than_it_was_told(tmp_path: Path) -> None:
    with NatsServer(tmp_path) as nats, capture_logs() as logged:
        for durability in ("memory", "memory", "local"):
            async with opened(ProcessConfig(nats_servers=(nats.url,), durability=durability)):
                pass
        (said,) = (line for line in logged if line["event"] == "durability_differs")
        assert (said["told"], said["copies"], said["log_level"]) == ("local", "1 in memory", "warning")


async def test_a_key_that_could_not_be_written_down_is_written_when_there_is_room(tmp_path: Path) -> None:
    file = tmp_path / "data" / "keys.json"  # there is no such folder yet
    with NatsServer(tmp_path) as nats, capture_logs() as logged:
        async with opened(ProcessConfig(nats_servers=(nats.url,), durability="memory")) as store:
            follower = KeysFollower(store, file, keep=True, retry_seconds=(0.01,))
            assert [line["event"] for line in logged].count("access_keys_not_written") == 1
            assert not follower.up_to_date.is_set()
            running = asyncio.create_task(follower.run())
            try:
                file.parent.mkdir()
                await asyncio.wait_for(follower.up_to_date.wait(), 20)
                assert read_keys(file) == store.keys
                file.parent.rename(tmp_path / "away")
                fresh = await store.regenerate("primary")
                assert not follower.up_to_date.is_set()
                file.parent.mkdir()
                await asyncio.wait_for(follower.up_to_date.wait(), 20)
                assert read_keys(file) == fresh
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)


async def test_all_agree_on_the_keys_of_reconnection_tokens_and_no_log_has_them(tmp_path: Path) -> None:
    with NatsServer(tmp_path) as nats, capture_logs() as lines:
        config = ProcessConfig(nats_servers=(nats.url,), durability="memory", access_key=GIVEN)
        async with opened(config) as one, opened(config) as other:
            keys = one.reconnection_keys
            assert other.reconnection_keys == keys
            assert not set(keys.both) & {one.keys.primary, one.keys.secondary, one.keys.salt}
            await other.regenerate("Primary")
            async with opened(config) as later:
                assert later.reconnection_keys == keys
        assert keys.current not in repr(lines)
