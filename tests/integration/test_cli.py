"""The command line against a running service."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.nats import NatsServer
from support.up import Up

from hubwire.bus.client import BusClient
from hubwire.model.settings import AccessKeys
from hubwire.runtime.nats_options import nats_options
from hubwire.runtime.process import ProcessConfig
from hubwire.runtime.seeding import open_settings
from hubwire.runtime.service import Stop


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with Up(tmp_path_factory.mktemp("up"), "--workers", "1") as running:
        yield running


def command(up: Up, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "hubwire.cli.main", *arguments]


def hubwire(
    up: Up, *arguments: str, typed: str = "", fails: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run a command in the folder of the service, which it has to find by itself."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HUBWIRE_")}
    done = subprocess.run(
        command(up, *arguments),
        cwd=up.folder,
        env=environment,
        input=typed,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode != 0) is fails, done
    assert "Traceback" not in done.stderr
    return done


def result(up: Up, *arguments: str, typed: str = "") -> Any:
    return json.loads(hubwire(up, *arguments, "--json", typed=typed).stdout)


class Listener:
    """`hubwire connect` in the background: its frames as they come."""

    def __init__(self, up: Up, *arguments: str) -> None:
        self._process = subprocess.Popen(
            command(up, "connect", "chat", "--json", *arguments),
            cwd=up.folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def frame(self, **facts: object) -> dict[str, Any]:
        """The next frame that has these members."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            content = json.loads(line)
            if facts.items() <= content.items():
                return dict(content)
        raise AssertionError(f"the client ended without {facts}")

    def close(self) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.read()
        self._process.stdout.close()
        return self._process.wait(20)


@pytest.mark.parametrize("whom", ["all", "group", "user", "connection"])
def test_a_published_message_reaches_a_connected_client(up: Up, whom: str) -> None:
    client = Listener(up, "--user", "bob", "--join", "room")
    connection = client.frame(event="connected")["connectionId"]
    client.frame(type="ack", success=True)
    options = {"all": [], "group": ["--group", "room"], "user": ["--user", "bob"]}
    sent = result(up, "publish", "chat", whom, *options.get(whom, ["--connection", connection]))
    assert sent["bytes"] == len(whom)
    got = client.frame(type="message")
    assert (got["data"], got["dataType"]) == (whom, "text")
    assert client.close() == 0


def test_a_script_of_commands_is_carried_out_and_answered(up: Up) -> None:
    script = 'join a\nsend a hello\njson a {"n": 1}\nleave a\n'
    printed = hubwire(up, "connect", "chat", "--json", typed=script).stdout
    frames = [json.loads(line) for line in printed.splitlines()]
    assert [frame["ackId"] for frame in frames if frame["type"] == "ack"] == [1, 2, 3, 4]
    assert [frame["data"] for frame in frames if frame["type"] == "message"] == ["hello", {"n": 1}]


def test_frames_are_shown_to_people_in_words(up: Up) -> None:
    options = ["--user", "ann", "--join", "a", "--count", "1"]
    printed = hubwire(up, "connect", "chat", *options, typed="send a hi\n").stdout
    assert "connected as ann" in printed
    assert "[a] ann: hi" in printed
    assert "\x1b" not in printed


def test_a_role_that_is_missing_is_told(up: Up) -> None:
    printed = hubwire(up, "connect", "chat", "--role", "sendToGroup", "--join", "a", typed="").stdout
    assert "failed: join a: Forbidden" in printed


def test_a_line_that_is_no_command_ends_a_script(up: Up) -> None:
    failed = hubwire(up, "connect", "chat", typed="dance\n", fails=True)
    assert failed.stderr == "hubwire: 'dance' is no command; `help` lists them.\n"


def test_a_client_url_made_elsewhere_serves(up: Up) -> None:
    url = result(up, "token", "chat", "--user", "eve")["url"]
    assert "connected as eve" in hubwire(up, "connect", "chat", "--url", url).stdout
    failed = hubwire(up, "connect", "chat", "--url", url[:-3], fails=True)
    assert "does not accept the token" in failed.stderr


def test_hub_settings_are_set_shown_changed_and_removed(up: Up) -> None:
    handler = ["--event-handler", "url=http://127.0.0.1:9/{event}", "events=*", "system=connected"]
    made = result(up, "hubs", "set", "Shop", *handler, "--anonymous", "allow")
    assert made["name"] == "Shop"
    changed = result(up, "hubs", "set", "shop", "--keep-alive", "30")["properties"]
    assert changed["anonymousConnectPolicy"] == "allow"
    assert changed["eventHandlers"][0]["systemEvents"] == ["connected"]
    assert changed == result(up, "hubs", "show", "SHOP")["properties"]
    assert "http://127.0.0.1:9/{event}" in hubwire(up, "hubs", "list").stdout
    words = ("--limit", "maxMessageBytes=1000", "--limit", "messagesPerSecond=5")
    limited = result(up, "hubs", "set", "shop", *words)["properties"]
    assert limited == {**changed, "limits": {"maxMessageBytes": 1000, "messagesPerSecond": 5}}
    one_less = result(up, "hubs", "set", "shop", "--limit", "messagesPerSecond=")["properties"]
    assert one_less["limits"] == {"maxMessageBytes": 1000}
    assert result(up, "hubs", "set", "shop", "--no-limits")["properties"] == changed
    closing = result(up, "hubs", "set", "shop", "--on-event-failure", "close")["properties"]
    assert closing == {**changed, "closeOnEventFailure": True}
    assert result(up, "hubs", "set", "shop", "--on-event-failure", "stay")["properties"] == changed
    again = result(up, "hubs", "set", "shop", "--file", "-", typed=json.dumps({"properties": changed}))
    assert again["properties"] == changed
    assert result(up, "hubs", "remove", "shop")["removed"] is True
    assert result(up, "hubs", "list") == []
    assert hubwire(up, "hubs", "show", "shop", fails=True).returncode == 1


def test_settings_that_the_service_refuses_are_a_sentence(up: Up) -> None:
    failed = hubwire(up, "hubs", "set", "shop", "--keep-alive", "500", fails=True)
    assert failed.returncode == 2
    assert failed.stderr.count("\n") == 1


def test_what_all_processes_share_is_set_shown_and_taken_away(up: Up) -> None:
    assert result(up, "settings", "show") == {}
    made = result(up, "settings", "set", "corsOrigins=https://a.example", "limits.requestSeconds=20")
    assert made == {"corsOrigins": ["https://a.example"], "limits": {"requestSeconds": 20}}
    typed = json.dumps({"management": {"adminToken": "a-token-that-is-long-enough"}})
    result(up, "settings", "set", "--file", "-", typed=typed)
    assert result(up, "settings", "show") == {**made, "management": {"adminToken": "***"}}
    for words, said in (
        (("corsOrigin=x",), "corsOrigin is not a setting"),
        (("limits.maxBodyBytes=many",), "limits.maxBodyBytes"),
        (("limits",), "write NAME=VALUE"),
        ((), "There is nothing to set"),
    ):
        failed = hubwire(up, "settings", "set", *words, fails=True)
        assert (failed.returncode, failed.stderr.count("\n")) == (2, 1)
        assert said in failed.stderr
    assert result(up, "settings", "set", "corsOrigins=", "limits=", "management=") == {}
    assert "Nothing has been set" in hubwire(up, "settings", "show").stderr


def test_a_regenerated_key_is_in_force_at_once_and_after_a_restart(tmp_path: Path) -> None:
    with Up(tmp_path, "--workers", "1") as up:
        old = up.facts["connectionString"]
        keys = result(up, "keys", "regenerate", "primary")
        assert keys["primaryConnectionString"] != old
        assert result(up, "publish", "chat", "x")["bytes"] == 1
        refused = hubwire(up, "publish", "chat", "x", "--connection-string", old, fails=True)
        assert "does not accept the access key" in refused.stderr
    with Up(tmp_path, "--workers", "1") as up:
        assert f"AccessKey={keys['primaryKey']};" in up.facts["connectionString"]
        shown = result(up, "keys", "show")
        assert (shown["primaryKey"], shown["secondaryKey"]) == (keys["primaryKey"], keys["secondaryKey"])


def test_what_the_config_file_says_is_in_force_also_when_it_changes(tmp_path: Path) -> None:
    for policy, limits in (
        ("allow", "{maxBodyBytes: 5, requestSeconds: 7}"),
        ("deny", "{maxBodyBytes: 500}"),
    ):
        text = f"hubs:\n  chat:\n    anonymousConnectPolicy: {policy}\nlimits: {limits}\n"
        (tmp_path / "h.yaml").write_text(text)
        with Up(tmp_path, "--config", "h.yaml", "--workers", "1") as up:
            properties = result(up, "hubs", "show", "chat")["properties"]
            assert properties["anonymousConnectPolicy"] == policy
            sent = hubwire(up, "publish", "chat", "longer", fails=policy == "allow")
            assert ("over the limit of 5 bytes" in sent.stderr) is (policy == "allow")
            shown = result(up, "settings", "show")
    assert shown == {"limits": {"maxBodyBytes": 500, "requestSeconds": 7.0}}


def test_the_doctor_finds_nothing_wrong_with_a_good_service(up: Up) -> None:
    found = result(up, "doctor")
    assert found["ok"] is True
    names = {check["name"].split()[0] for check in found["checks"]}
    assert {
        "NATS",
        "JetStream",
        "clock",
        "routers",
        "gateways",
        "partitions",
        "endpoint",
        "WebSocket",
    } <= names


def test_the_doctor_says_what_is_wrong(tmp_path: Path) -> None:
    with NatsServer(tmp_path, user="u", password="right") as nats, Up(tmp_path) as up:
        address = f"127.0.0.1:{nats.port}"
        done = hubwire(up, "doctor", "--nats", f"nats://u:wrong@{address}", fails=True)
        assert "credentials are refused" in done.stdout
        done = hubwire(up, "doctor", "--nats", f"nats://u:right@{address}", fails=True)
        assert "bucket hw_settings  " in done.stdout
        assert "not there" in done.stdout
        nats.kill()
        done = hubwire(up, "doctor", "--nats", f"nats://u:right@{address}", fails=True)
        assert "nothing listens there" in done.stdout
        other = f"Endpoint={up.endpoint};AccessKey=not-the-key-of-this-service-1234567890;"
        done = hubwire(up, "doctor", "--connection-string", other, fails=True)
        assert "FAIL  access key" in done.stdout


def test_the_doctor_without_a_service_says_so(tmp_path: Path) -> None:
    done = hubwire(Up(tmp_path), "doctor", fails=True)
    assert done.returncode == 1
    assert "start `hubwire up`" in done.stdout


def test_one_role_each_against_a_nats_server_make_a_service(tmp_path: Path) -> None:
    with NatsServer(tmp_path, user="u", password="p") as nats:
        key = "a-key-which-is-long-enough-for-this-123456"
        environment = {
            **os.environ,
            "HUBWIRE_NATS_SERVERS": f"nats://127.0.0.1:{nats.port}",
            "HUBWIRE_NATS_USER": "u",
            "HUBWIRE_NATS_PASSWORD": "p",
            "HUBWIRE_ACCESS_KEY": key,
            "HUBWIRE_LOG_FORMAT": "json",
            "HUBWIRE_DRAIN_SECONDS": "0.5",
            "HUBWIRE_ADMIN_PORT": "0",
        }
        roles = {}
        ports: dict[str, int] = {}
        try:
            for role in ("router", "gateway", "controlplane"):
                roles[role] = subprocess.Popen(
                    [
                        sys.executable,
                        "-m",
                        "hubwire.cli.main",
                        role,
                        *([] if role == "router" else ["--port", "0"]),
                    ],
                    env=environment,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            for role in ("gateway", "controlplane"):
                stderr = roles[role].stderr
                assert stderr is not None
                for line in stderr:
                    told = json.loads(line)
                    if told["event"] == f"{role}_listening":
                        ports[role] = told["port"]
                        break
            rest = f"Endpoint=http://127.0.0.1:{ports['controlplane']};AccessKey={key};"
            clients = f"Endpoint=http://127.0.0.1:{ports['gateway']};AccessKey={key};"
            here = Up(tmp_path)
            client = Listener(here, "--connection-string", clients, "--join", "room")
            client.frame(type="ack", success=True)
            deadline = time.monotonic() + 20
            while True:
                done = subprocess.run(
                    command(here, "publish", "chat", "hi", "--group", "room", "--connection-string", rest),
                    capture_output=True,
                    check=False,
                )
                if done.returncode == 0 or time.monotonic() > deadline:
                    break
            assert client.frame(type="message")["data"] == "hi"
            assert client.close() == 0
        finally:
            for process in roles.values():
                process.terminate()
            codes = []
            for process in roles.values():
                process.communicate(timeout=30)
                codes.append(process.returncode)
        assert codes == [0, 0, 0]


def test_keys_that_a_cluster_made_itself_are_read_and_replaced_in_its_nats(tmp_path: Path) -> None:
    here = Up(tmp_path)
    with NatsServer(tmp_path, user="u", password="p") as nats:
        given = ("--nats", f"127.0.0.1:{nats.port}", "--nats-user", "u", "--nats-password", "p")
        nothing = hubwire(here, "keys", "show", *given, fails=True)
        assert (nothing.returncode, "has nothing of Hubwire's" in nothing.stderr) == (1, True)
        refused = hubwire(here, "keys", "show", *given[:4], "--nats-password", "wrong", fails=True)
        assert "NATS cannot be reached" in refused.stderr
        made = asyncio.run(_make_keys(nats))
        shown = result(here, "keys", "show", *given, "--endpoint", "https://a.example/")
        assert (shown["primaryKey"], shown["secondaryKey"]) == (made.primary, made.secondary)
        expected = f"Endpoint=https://a.example;AccessKey={made.primary};Version=1.0;"
        assert shown["primaryConnectionString"] == expected
        changed = result(here, "keys", "regenerate", "secondary", *given)
        assert changed["primaryKey"] == made.primary
        assert result(here, "keys", "rotate-reconnection", *given) == {"rotated": True}
        soon = hubwire(here, "keys", "rotate-reconnection", *given, fails=True)
        assert "more days" in soon.stderr
        assert result(here, "keys", "rotate-reconnection", "--force", *given) == {"rotated": True}
        assert changed["secondaryKey"] not in (made.secondary, "")
        assert result(here, "keys", "show", *given) == changed


async def _make_keys(nats: NatsServer) -> AccessKeys:
    """What the first role of a cluster does."""
    config = ProcessConfig(nats_servers=(f"nats://127.0.0.1:{nats.port}",), nats_user="u", nats_password="p")
    bus = await BusClient.connect(nats_options(config))
    store = await open_settings(bus, config, Stop())
    await store.close()
    await bus.close()
    return store.keys
