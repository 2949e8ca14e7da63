"""The settings store against a real nats-server: agreement, liveness, and survival of restarts."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import nats
import pytest
from nats.aio.client import Client

from hubwire.bus.settings import BUCKET, SettingsStore, new_access_keys
from hubwire.bus.settings_records import decode_stored, encode_stored, hub_key
from hubwire.model.cluster_settings import ClusterSettings, RestLimits, changed, overlaid
from hubwire.model.errors import Conflict, InternalError, InvalidRequest, Unauthenticated, Unavailable
from hubwire.model.reconnection import check_reconnection_token, issue_reconnection_token
from hubwire.model.settings import AccessKeys, EventHandler, HubLimits, HubSettings
from hubwire.runtime.key_age import keep_reconnection_keys_young
from hubwire.runtime.service import end_tasks

SERVER = Path(sys.executable).with_name("nats-server")
ODD_HUB = "My`hub,[1].x_"


class Server:
    """A nats-server on a port of its own that can be stopped and started again on the same store."""

    def __init__(self, directory: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.directory = directory
        self.generation = 0
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def start(self, *, empty: bool = False) -> None:
        """`empty` is what a restart in memory mode comes to: the streams are gone."""
        self.generation += empty
        store = self.directory / f"store{self.generation}"
        log = (self.directory / "log").open("ab")
        self.process = subprocess.Popen(
            [SERVER, "-a", "127.0.0.1", "-p", str(self.port), "-js", "-sd", store], stdout=log, stderr=log
        )
        log.close()

    def stop(self) -> None:
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.wait()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    server.start()
    yield server
    server.stop()


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@asynccontextmanager
async def connected(server: Server) -> AsyncIterator[Client]:
    async with asyncio.timeout(10):
        while True:
            try:
                client = await nats.connect(
                    server.url,
                    reconnect_time_wait=0.05,
                    max_reconnect_attempts=-1,
                    allow_reconnect=True,
                    error_cb=_ignore,
                )
                break
            except (nats.errors.Error, OSError):
                await asyncio.sleep(0.05)
    try:
        yield client
    finally:
        await client.close()


async def _ignore(_: Exception) -> None:
    """Lost connections are what these tests are about."""


@asynccontextmanager
async def a_store(server: Server, *, check_seconds: float = 10.0) -> AsyncIterator[SettingsStore]:
    async with connected(server) as client:
        store = await SettingsStore.open(client.jetstream(), check_seconds=check_seconds)
        try:
            yield store
        finally:
            await store.close()


async def test_a_hub_put_in_one_process_is_seen_in_another_and_calls_its_listeners(server: Server) -> None:
    async with a_store(server) as one, a_store(server) as other:
        calls: list[HubSettings] = []
        remove = other.add_listener(lambda: calls.append(other.hub(ODD_HUB)))
        settings = HubSettings(
            event_handlers=(EventHandler(url_template="http://127.0.0.1/{event}", user_event_pattern="*"),),
            anonymous_connect_policy="allow",
        )
        await one.put_hub(ODD_HUB, settings)
        assert one.hub(ODD_HUB) == settings
        await until(lambda: bool(calls))
        assert calls == [settings]
        assert other.hub(ODD_HUB.upper()) == settings
        assert other.hubs() == {ODD_HUB: settings}
        assert (await one.delete_hub(ODD_HUB.lower())) is True
        await until(lambda: len(calls) == 2)
        assert other.hubs() == {}
        assert other.hub(ODD_HUB) == HubSettings()
        remove()
        await one.put_hub("chat", settings)
        await until(lambda: other.hub("chat") == settings)
        assert len(calls) == 2


async def test_the_clusters_settings_are_seen_everywhere_and_lie_under_each_hubs_own(server: Server) -> None:
    async with a_store(server) as one, a_store(server) as other:
        assert other.cluster == ClusterSettings()
        common = HubLimits(messages_per_second=5, max_message_bytes=10)
        assert await one.change_cluster(lambda now: overlaid(now, ClusterSettings(hub_limits=common)))
        await until(lambda: other.limits("anything") == common)
        await one.put_hub("Chat", HubSettings(limits=HubLimits(max_message_bytes=20)))
        await until(lambda: other.limits("chat") == HubLimits(messages_per_second=5, max_message_bytes=20))
        revision = one._records["cluster"].revision
        assert not await one.change_cluster(lambda now: now)
        assert one._records["cluster"].revision == revision


async def test_two_changes_of_the_clusters_settings_at_once_are_both_kept(server: Server) -> None:
    async with a_store(server) as one, a_store(server) as other:
        changes = ({"corsOrigins": ["https://a"]}, {"limits": {"maxBodyBytes": 5}})
        await asyncio.gather(
            *(
                store.change_cluster(lambda now, change=change: changed(now, change))  # type: ignore[misc]
                for store, change in zip((one, other), changes, strict=True)
            )
        )
        both = ClusterSettings(cors_origins=("https://a",), limits=RestLimits(max_body_bytes=5))
        await until(lambda: one.cluster == other.cluster == both)


async def test_a_change_of_a_hub_is_made_of_what_is_there_then(server: Server) -> None:
    async with a_store(server) as one, a_store(server) as other:
        limits = HubLimits(max_message_bytes=20)
        await one.put_hub("chat", HubSettings(limits=limits))

        def change(present: HubSettings | None) -> HubSettings:
            kept = present.limits if present is not None else HubLimits()
            return HubSettings(anonymous_connect_policy="allow", limits=kept)

        made = await other.change_hub("chat", change)
        assert made == HubSettings(anonymous_connect_policy="allow", limits=limits)
        await until(lambda: one.hub("chat") == made)


async def test_deleting_a_hub_without_settings_says_so(server: Server) -> None:
    async with a_store(server) as store:
        assert await store.delete_hub("chat") is False
        assert store.hub_entry("chat") is None


async def test_the_name_keeps_its_case_and_is_one_hub(server: Server) -> None:
    async with a_store(server) as store:
        await store.put_hub("myHub", HubSettings())
        await store.put_hub("MYHUB", HubSettings(anonymous_connect_policy="allow"))
        assert store.hubs() == {"MYHUB": HubSettings(anonymous_connect_policy="allow")}
        entry = store.hub_entry("myhub")
        assert entry is not None
        assert entry.name == "MYHUB"


async def test_processes_that_start_at_once_agree_on_the_keys(server: Server) -> None:
    async with a_store(server) as a, a_store(server) as b, a_store(server) as c:
        keys = await asyncio.gather(*(store.ensure_keys() for store in (a, b, c)))
        ids = await asyncio.gather(
            *(s.ensure("cluster_id", lambda: new_access_keys().salt) for s in (a, b, c))
        )
        assert keys[0] == keys[1] == keys[2] == a.keys
        assert ids[0] == ids[1] == ids[2] == c.cluster_id
        assert await a.ensure_keys(lambda: AccessKeys("x", "y")) == keys[0]


async def test_keys_are_unavailable_before_somebody_made_them(server: Server) -> None:
    async with a_store(server) as store:
        with pytest.raises(Unavailable):
            _ = store.keys
        with pytest.raises(Unavailable):
            await store.regenerate("Primary")


@pytest.mark.parametrize("key_type", ["Primary", "secondary", "SALT"])
async def test_regenerating_changes_one_key_everywhere(server: Server, key_type: str) -> None:
    async with a_store(server) as one, a_store(server) as other:
        before = await one.ensure_keys()
        after = await one.regenerate(key_type)
        await until(lambda: other.keys == after)
        changed = [f for f in ("primary", "secondary", "salt") if getattr(before, f) != getattr(after, f)]
        assert changed == [key_type.lower()]


async def test_two_regenerations_at_once_are_both_kept(server: Server) -> None:
    async with a_store(server) as one, a_store(server) as other:
        before = await one.ensure_keys()
        await until(lambda: other.get("x") is None and other._records != {})
        await asyncio.gather(one.regenerate("Primary"), other.regenerate("Secondary"))
        await until(lambda: one.keys == other.keys)
        assert one.keys.primary != before.primary
        assert one.keys.secondary != before.secondary


async def test_an_unknown_key_type_is_an_invalid_request(server: Server) -> None:
    async with a_store(server) as store:
        await store.ensure_keys()
        with pytest.raises(InvalidRequest, match="tertiary"):
            await store.regenerate("tertiary")


async def test_a_new_process_finds_everything(server: Server) -> None:
    async with a_store(server) as store:
        keys = await store.ensure_keys()
        for n in range(30):
            await store.put_hub(f"hub{n}", HubSettings(web_socket_keep_alive_interval_in_seconds=n + 1))
        await store.put("partitions", 256)
    async with a_store(server) as store:
        assert store.keys == keys
        assert store.get("partitions") == 256
        assert store.hub("hub29").web_socket_keep_alive_interval_in_seconds == 30
        assert len(store.hubs()) == 30


async def test_settings_survive_a_restart_and_the_watch_goes_on(server: Server) -> None:
    async with a_store(server) as one, a_store(server) as other:
        keys = await one.ensure_keys()
        await until(lambda: "keys" in other._records)
        server.stop()
        with pytest.raises(Unavailable):
            async with asyncio.timeout(8):
                await one.put_hub("chat", HubSettings())
        assert one.keys == keys  # reads go on
        server.start()
        settings = HubSettings(anonymous_connect_policy="allow")
        await until(lambda: one._nc.is_connected and other._nc.is_connected)
        await one.put_hub("chat", settings)
        await until(lambda: other.hub("chat") == settings)
        assert other.keys == keys


async def test_a_server_that_lost_the_bucket_gets_back_what_the_processes_know(server: Server) -> None:
    async with a_store(server) as one, a_store(server) as other:
        keys = await one.ensure_keys()
        await one.put_hub("chat", HubSettings(anonymous_connect_policy="allow"))
        await one.put_hub("gone", HubSettings())
        await one.delete_hub("gone")
        await until(lambda: other.hubs().keys() == {"chat"} and "keys" in other._records)
        server.stop()
        server.start(empty=True)
        async with connected(server) as client:
            await until(lambda: one._nc.is_connected and other._nc.is_connected)
            kv_stream = f"KV_{BUCKET}"
            async with asyncio.timeout(10):
                while True:
                    try:
                        if (await client.jetstream().stream_info(kv_stream)).state.messages == 3:
                            break
                    except nats.js.errors.NotFoundError:
                        pass
                    await asyncio.sleep(0.02)
        async with a_store(server) as fresh:
            assert fresh.keys == keys == one.keys == other.keys
            assert fresh.hubs().keys() == {"chat"}
            await fresh.put_hub("later", HubSettings())
            await until(lambda: {"chat", "later"} == one.hubs().keys() == other.hubs().keys())


async def test_the_newest_version_wins_when_a_stale_process_restores_first(server: Server) -> None:
    """A process that missed the last changes puts its old keys into the new bucket before the others."""
    async with a_store(server) as one:
        await one.ensure_keys()
        newest = await one.regenerate("Primary")
        version = one._records["keys"].stored.version
        server.stop()
        server.start(empty=True)
        async with connected(server) as client:
            js = client.jetstream()
            try:
                kv = await js.create_key_value(bucket=BUCKET)
                await kv.create("keys", encode_stored(version - 1, "", AccessKeys("old", "old", "old")))
            except nats.js.errors.Error:
                pass  # the other way round it is not a race at all
            await until(lambda: one._nc.is_connected)

            async def stored() -> AccessKeys:
                entry = await (await js.key_value(BUCKET)).get("keys")
                value = decode_stored("keys", 1, entry.value or b"").value
                assert isinstance(value, AccessKeys)
                return value

            async with asyncio.timeout(10):
                while await stored() != newest:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
        assert one.keys == newest


async def test_a_watch_that_fell_silent_is_noticed(server: Server) -> None:
    async with a_store(server) as one, a_store(server, check_seconds=0.1) as other:
        assert other._watch is not None
        subscription = other._watch._subscription
        assert subscription is not None
        # The subscription is gone at the server, and nobody told the store.
        await other._nc._send_unsubscribe(subscription._id)
        await one.put_hub("chat", HubSettings(anonymous_connect_policy="allow"))
        await until(lambda: other.hub("chat").anonymous_connect_policy == "allow")


async def test_what_nats_tools_delete_is_deleted_here_too(server: Server) -> None:
    async with a_store(server) as store, connected(server) as client:
        await store.put_hub("chat", HubSettings())
        kv = await client.jetstream().key_value(BUCKET)
        await kv.delete(hub_key("chat"))
        await until(lambda: store.hub_entry("chat") is None)
        await store.put_hub("chat", HubSettings())
        assert store.hubs().keys() == {"chat"}


async def test_what_cannot_be_read_leaves_the_setting_as_it_was(server: Server) -> None:
    async with a_store(server) as store, connected(server) as client:
        await store.put_hub("chat", HubSettings(anonymous_connect_policy="allow"))
        kv = await client.jetstream().key_value(BUCKET)
        await kv.put(hub_key("chat"), b"{not json")
        await store.put_hub("other", HubSettings())
        assert store.hub("chat").anonymous_connect_policy == "allow"
        await store.put_hub("chat", HubSettings())
        assert store.hub("chat") == HubSettings()


async def test_opening_without_a_server_ends_with_unavailable(server: Server) -> None:
    async with connected(server) as client:
        server.stop()
        with pytest.raises(Unavailable):
            async with asyncio.timeout(5):
                await SettingsStore.open(client.jetstream(), deadline_seconds=0.5)


def test_reading_foreign_bytes_is_an_error_of_ours() -> None:
    with pytest.raises(InternalError, match="hub"):
        decode_stored(
            hub_key("chat"), 1, encode_stored(1, "chat", {"webSocketKeepAliveIntervalInSeconds": 0})
        )


async def test_reconnection_keys_are_agreed_on_rotate_and_outlive_a_change_of_access_keys(
    server: Server,
) -> None:
    now, month = 1_700_000_000.0, 30 * 24 * 3600
    async with a_store(server) as one, a_store(server) as other, a_store(server) as third:
        with pytest.raises(Unavailable):
            _ = one.reconnection_keys
        made = await asyncio.gather(*(s.ensure_reconnection_keys(now) for s in (one, other, third)))
        assert made[0] == made[1] == made[2]
        await one.ensure_keys()
        await one.regenerate("Primary")
        assert await one.ensure_reconnection_keys(now + month - 1) == made[0]
        turned = await asyncio.gather(*(s.ensure_reconnection_keys(now + month) for s in (one, other, third)))
        assert turned[0] == turned[1] == turned[2]
        assert turned[0].both[1:] == (made[0].current,)
        await until(lambda: third.reconnection_keys == turned[0])


async def test_a_new_reconnection_key_can_be_asked_for_and_tokens_of_the_one_before_hold_until_they_expire(
    server: Server,
) -> None:
    now, week = 1_700_000_000.0, 7 * 24 * 3600
    async with a_store(server) as store:
        first = await store.ensure_reconnection_keys(now)
        token = issue_reconnection_token(first.current, connection_id="c1", hub="chat", now=now)

        def check(at: float) -> None:
            keys = store.reconnection_keys.both
            check_reconnection_token(token, keys=keys, connection_id="c1", hub="chat", now=at)

        second = await store.rotate_reconnection_key(now)
        assert second.both == (second.current, first.current)
        check(now + week - 1)
        with pytest.raises(Unauthenticated):
            check(now + week + 3600)
        with pytest.raises(Conflict, match="7 more days"):
            await store.rotate_reconnection_key(now + 1)
        check(now + 1)
        third = await store.rotate_reconnection_key(now + 1, force=True)
        assert third.both == (third.current, second.current)
        with pytest.raises(Unauthenticated):
            check(now + 1)
        assert (await store.rotate_reconnection_key(now + 1 + week)).both[1:] == (third.current,)


async def test_a_process_that_runs_for_long_makes_the_next_reconnection_key(server: Server) -> None:
    now, month = 1_700_000_000.0, 30 * 24 * 3600
    async with a_store(server) as store:
        first = await store.ensure_reconnection_keys(now)
        keeping = asyncio.create_task(keep_reconnection_keys_young(store, lambda: now + month, 0.0))
        try:
            await until(lambda: store.reconnection_keys != first)
            assert store.reconnection_keys.both[1:] == (first.current,)
        finally:
            await end_tasks([keeping])
