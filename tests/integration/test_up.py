"""`hubwire up`, for real: ready, stopped, killed, started twice, in the way, misconfigured."""

from __future__ import annotations

import json
import os
import pty
import random
import signal
import socket
import stat
import sys
import time
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from support.up import Up, listening, processes_that_mention


def port_of(endpoint: str) -> int:
    port = urlsplit(endpoint).port
    assert port is not None
    return port


def healthy(endpoint: str, seconds: float = 10.0) -> bool:
    """Whether the service says that it is well, now or soon: after a restart of NATS it has to reconnect."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(f"{endpoint}/api/health", timeout=5) as response:
                return bool(response.status == 200)
        except OSError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)


def free_port() -> int:
    """A free port outside the range that the kernel gives to others meanwhile."""
    while True:
        port = random.randrange(15000, 30000)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port


def nothing_left(folder: Path) -> None:
    deadline = time.monotonic() + 10
    while processes_that_mention(str(folder)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert processes_that_mention(str(folder)) == []


def test_it_serves_says_where_and_keeps_its_keys_for_the_owner_alone(tmp_path: Path) -> None:
    port = free_port()
    with Up(tmp_path, "--workers", "2", port=str(port)) as up:
        assert up.endpoint == f"http://127.0.0.1:{port}"
        assert healthy(up.endpoint)
        assert up.facts["connectionString"].startswith(f"Endpoint={up.endpoint};AccessKey=")
        assert up.facts["clientUrl"].startswith(up.endpoint.replace("http", "ws") + "/client/hubs/")
        for name in ("keys.json", "endpoint.json", "nats.conf"):
            assert stat.S_IMODE((up.data / name).stat().st_mode) == 0o600, name
        first = up.facts["connectionString"]
        assert up.stop() == 0
    nothing_left(tmp_path)
    assert not listening(port)
    assert not (up.data / "endpoint.json").exists()
    with Up(tmp_path, port=str(port)) as again:
        assert again.facts["connectionString"] == first


def test_it_is_ready_in_two_seconds_of_a_free_machine(tmp_path: Path) -> None:
    # What is counted is processor time up to readiness, which a busy machine does not stretch.
    with Up(tmp_path, "--workers", "2") as up:
        ticks = os.sysconf("SC_CLK_TCK")
        spent = 0.0
        for pid in (up.process.pid, *up.children()):
            user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
            spent += (int(user) + int(system)) / ticks
        assert spent < 3.0  # of which half can run on a second core


def test_memory_mode_leaves_no_file(tmp_path: Path) -> None:
    with Up(tmp_path, "--memory") as up:
        assert healthy(up.endpoint)
        assert up.facts["data"] is None
    assert list(tmp_path.iterdir()) == []
    nothing_left(tmp_path)


def test_memory_mode_leaves_a_data_folder_as_it_was(tmp_path: Path) -> None:
    with Up(tmp_path) as up:
        kept = up.facts["connectionString"].partition(";")[2]
    before = sorted(path.name for path in up.data.iterdir())
    with Up(tmp_path, "--memory") as again:
        assert again.facts["connectionString"].partition(";")[2] == kept
    assert sorted(path.name for path in up.data.iterdir()) == before


def test_a_given_access_key_is_the_primary_key(tmp_path: Path) -> None:
    key = "a-key-of-my-own-which-is-long-enough-1234"
    with Up(tmp_path, "--access-key", key) as up:
        assert f"AccessKey={key};" in up.facts["connectionString"]
        assert json.loads((up.data / "keys.json").read_text())["primaryKey"] == key


def test_keys_of_the_config_file_are_to_begin_with(tmp_path: Path) -> None:
    key = "a-key-of-my-own-which-is-long-enough-1234"
    (tmp_path / "h.yaml").write_text(f"accessKeys: {{primary: {key}}}\n")
    with Up(tmp_path, "--config", "h.yaml") as up:
        assert f"AccessKey={key};" in up.facts["connectionString"]
    other = key + "-another"
    with Up(tmp_path, "--access-key", other) as up:
        assert f"AccessKey={other};" in up.facts["connectionString"]
    with Up(tmp_path, "--config", "h.yaml") as up:
        assert f"AccessKey={other};" in up.facts["connectionString"]


def test_a_public_endpoint_is_what_clients_are_told_and_not_what_this_machine_uses(tmp_path: Path) -> None:
    with Up(tmp_path, "--public-endpoints", "https://pubsub.example.com") as up:
        assert up.facts["connectionString"].startswith("Endpoint=https://pubsub.example.com;")
        assert up.facts["clientUrl"].startswith("wss://pubsub.example.com/client/hubs/")
        local = json.loads((up.data / "endpoint.json").read_text())["endpoint"]
        assert local.startswith("http://127.0.0.1:")
        assert healthy(local)


def test_ctrl_c_in_a_terminal_stops_it_in_order(tmp_path: Path) -> None:
    terminal, inside = pty.openpty()
    command = [sys.executable, "-m", "hubwire.cli.main", "up", "--port", "0", "--log-level", "info"]
    pid = os.fork()
    if pid == 0:
        os.login_tty(inside)  # a session of its own, with the terminal as the controlling one
        os.chdir(tmp_path)
        os.execv(command[0], command)
    os.close(inside)
    printed = b""
    with open(terminal, "rb", buffering=0) as screen:
        while b"Ctrl-C stops it" not in printed:
            printed += screen.read(4096)
        os.write(terminal, b"\x03")
        try:
            while chunk := screen.read(4096):
                printed += chunk
        except OSError:
            pass  # how a terminal ends
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert b"\x1b[1;32mHubwire is ready" in printed
    assert b"stop_requested" in printed
    assert b"child_ended" not in printed  # nobody but the supervisor heard the Ctrl-C
    assert b"Traceback" not in printed
    assert not (tmp_path / ".hubwire" / "endpoint.json").exists()


def test_the_end_of_its_terminal_stops_it_also_when_only_make_is_told(tmp_path: Path) -> None:
    # The session's leader is told and waits for its child, as make does; nobody tells the child.
    terminal, inside = pty.openpty()
    up = [sys.executable, "-m", "hubwire.cli.main", "up", "--json", "--port", "0"]
    leader = (
        "import signal, subprocess; signal.signal(signal.SIGHUP, lambda *_: None); "
        f"raise SystemExit(subprocess.Popen({up!r}).wait())"
    )
    pid = os.fork()
    if pid == 0:
        os.login_tty(inside)
        os.chdir(tmp_path)
        os.execv(sys.executable, [sys.executable, "-c", leader])
    os.close(inside)
    printed = b""
    with open(terminal, "rb", buffering=0) as screen:
        while b"readySeconds" not in printed:
            printed += screen.read(4096)
        time.sleep(1.5)  # by then it has seen itself in the foreground; that shows nowhere
    deadline = time.monotonic() + 20
    while os.waitpid(pid, os.WNOHANG)[0] == 0:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    nothing_left(tmp_path)
    assert not (tmp_path / ".hubwire" / "endpoint.json").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_no_process_and_no_socket(tmp_path: Path, number: signal.Signals) -> None:
    with Up(tmp_path) as up:
        port = port_of(up.endpoint)
        up.signal(number)
        assert up.end() == 0
    nothing_left(tmp_path)
    assert not listening(port)


def test_a_signal_at_any_moment_of_the_start_leaves_nothing(tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    moments = random.Random(seed)
    for attempt in range(8):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        up = Up(folder).launch()
        time.sleep(moments.uniform(0.0, 1.2))
        number = moments.choice((signal.SIGINT, signal.SIGTERM))
        up.signal(number)
        # The last two, and its own fatal error: the interpreter was still starting, before any line of ours.
        code = up.end()
        fatal = code == 1 and any(line.startswith("Fatal Python error: init_") for line in up.printed)
        assert code in (0, 130, -signal.SIGINT, -signal.SIGTERM) or fatal, (code, up.printed)
        nothing_left(folder)
        assert not (up.data / "endpoint.json").exists()


@pytest.mark.parametrize("name", ["router", "gateway-0", "nats-server"])
def test_a_killed_child_comes_back_with_a_reason_in_the_log_and_the_rest_goes_on(
    tmp_path: Path, name: str
) -> None:
    with Up(tmp_path, "--workers", "2", "--log-level", "debug") as up:
        started = {told["child"]: told["pid"] for told in up.log if told["event"] == "child_started"}
        before = up.children()
        os.kill(started[name], signal.SIGKILL)
        ended = up.wait_event("child_ended", child=name)
        assert "killed by SIGKILL" in ended["reason"]
        again = up.wait_event("child_ready", child=name)
        assert again["pid"] != started[name]
        assert healthy(up.endpoint)
        assert set(before) - {started[name]} <= set(up.children())
    nothing_left(tmp_path)


def test_nothing_outlives_a_supervisor_that_is_killed_and_the_folder_can_be_used_at_once(
    tmp_path: Path,
) -> None:
    port = free_port()
    with Up(tmp_path, port=str(port)) as up:
        up.signal(signal.SIGKILL)
        up.end()
        with Up(tmp_path, port=str(port)) as again:
            assert healthy(again.endpoint)
    nothing_left(tmp_path)


def test_an_occupied_port_is_one_sentence(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        up = Up(tmp_path, port=str(port)).launch()
        assert up.end() == 1
    assert up.errors() == [
        f"Port {port} on 127.0.0.1 is in use; stop the program that has it, or choose another with --port."
    ]
    nothing_left(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_port_of_another_hubwire_is_occupied_although_workers_share_theirs(tmp_path: Path) -> None:
    with Up(tmp_path) as first:
        second = Up(tmp_path, data=tmp_path / "other", port=str(port_of(first.endpoint))).launch()
        assert second.end() == 1
        assert "in use" in second.errors()[0]
        assert healthy(first.endpoint)


def test_a_second_instance_on_the_folder_is_one_sentence_and_the_first_goes_on(tmp_path: Path) -> None:
    with Up(tmp_path) as first:
        second = Up(tmp_path).launch()
        assert second.end() == 1
        assert second.errors() == [
            f"Another hubwire (process {first.process.pid}) runs on the data folder {first.data}; "
            "stop it, or choose another folder with --data DIR."
        ]
        assert healthy(first.endpoint)
        assert (first.data / "endpoint.json").exists()


@pytest.mark.parametrize(
    ("data", "why"), [("file/data", "Not a directory"), ("file", "a file is in its place")]
)
def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path, data: str, why: str) -> None:
    (tmp_path / "file").write_text("not a folder")
    up = Up(tmp_path, data=tmp_path / data).launch()
    assert up.end() == 2
    (sentence,) = up.errors()
    assert f"cannot be written ({why})" in sentence
    assert "--data DIR" in sentence
    nothing_left(tmp_path)


def test_a_store_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    data = tmp_path / ".hubwire"
    data.mkdir()
    (data / "nats").write_text("not a folder")
    up = Up(tmp_path).launch()
    assert up.end() == 2
    (sentence,) = up.errors()
    assert f"The data folder {data / 'nats'} cannot be written" in sentence
    nothing_left(tmp_path)


def test_keys_that_cannot_be_read_are_not_replaced_in_silence(tmp_path: Path) -> None:
    data = tmp_path / ".hubwire"
    data.mkdir()
    (data / "keys.json").write_text("{}")
    up = Up(tmp_path).launch()
    assert up.end() == 2
    assert "keys.json cannot be read" in up.errors()[0]
    assert (data / "keys.json").read_text() == "{}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hubs: [", "hubwire.yaml:1: This is not valid YAML"),
        ("- hubs", "hubwire.yaml:1: "),
        ("hub: {}", "hubwire.yaml:1: hub is not a setting; did you mean 'hubs'?"),
        ("hubs:\n  chat: {eventHandlers: [{}]}", "hubwire.yaml:2: hubs.chat.eventHandlers[0].urlTemplate"),
    ],
)
def test_a_broken_config_file_is_one_sentence(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "hubwire.yaml").write_text(text)
    up = Up(tmp_path, "--config", "hubwire.yaml").launch()
    assert up.end() == 2
    (sentence,) = up.errors()
    assert said in sentence
    nothing_left(tmp_path)


def test_a_config_file_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    up = Up(tmp_path, "--config", "none.yaml").launch()
    assert up.end() == 2
    (sentence,) = up.errors()
    assert "none.yaml" in sentence
    assert "cannot be read" in sentence


def test_all_faults_of_flags_and_config_file_are_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "hubwire.yaml").write_text("hub: {}\naccessKeys: {primary: short}\n")
    up = Up(tmp_path, "--config", "hubwire.yaml", "--drain-seconds", "soon").launch()
    assert up.end() == 2
    assert len(up.errors()) == 3
    assert "short" not in "".join(up.errors())
