"""`hubwire up` when one of its processes hangs, and when the disk is full for a while."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from support.up import Up
from websockets.sync.client import ClientConnection, connect

from hubwire.cli.rest import call_data
from hubwire.cli.target import parse_connection_string
from hubwire.model.errors import HubwireError

SECONDS = 40.0


def publish(up: Up, text: str) -> None:
    """To everybody in the hub. Raises HubwireError."""
    target = parse_connection_string(up.facts["connectionString"], "the test")
    call_data(target, "POST", "/api/hubs/chat/:send", body=text.encode(), content_type="text/plain")


def publish_when_possible(up: Up, text: str) -> None:
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            return publish(up, text)
        except HubwireError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def health(up: Up) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"{up.endpoint}/api/health", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refusal:
        return refusal.code, refusal.read().decode()


def health_becomes(up: Up, status: int) -> str:
    deadline = time.monotonic() + SECONDS
    while True:
        found, text = health(up)
        if found == status:
            return text
        assert time.monotonic() < deadline, (found, text)
        time.sleep(0.1)


def receives(client: ClientConnection, text: str) -> None:
    """In the end, after what was sent before."""
    deadline = time.monotonic() + SECONDS
    while client.recv(max(0.1, deadline - time.monotonic())) != text:
        pass


def pid_of(up: Up, child: str) -> int:
    return int(
        [told["pid"] for told in up.log if told["event"] == "child_started" and told["child"] == child][-1]
    )


@pytest.mark.parametrize("child", ["router", "gateway-1", "nats-server"])
def test_a_process_that_hangs_is_noticed_killed_and_started_again(tmp_path: Path, child: str) -> None:
    with Up(tmp_path, "--workers", "2", "--log-level", "debug") as up:
        hung = pid_of(up, child)
        os.kill(hung, signal.SIGSTOP)
        told = up.wait_event("child_hung", child=child, pid=hung)
        assert "for 10 seconds" in told["reason"]
        assert "hung" in up.wait_event("child_ended", child=child)["reason"]
        assert up.wait_event("child_ready", child=child)["pid"] != hung
        with connect(up.facts["clientUrl"]) as client:
            publish_when_possible(up, "after")
            receives(client, "after")
        assert health_becomes(up, 200) == ""
        assert [told["child"] for told in up.log if told["event"] == "child_hung"] == [child]


class SmallDisk:
    """A file system of a few megabytes that only `hubwire up` sees (a mount in a namespace of its own)."""

    def __init__(self, folder: Path, megabytes: int) -> None:
        self.data = folder / "disk"
        self.data.mkdir()
        self.prefix = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
        mount = 'mount -t tmpfs -o size="$1"m none "$2" && shift 2 && exec "$@"'
        self.prefix += ["sh", "-c", mount, "sh", str(megabytes), str(self.data)]
        self.pid = 0

    @property
    def usable(self) -> bool:
        if shutil.which("unshare") is None:
            return False
        return subprocess.run([*self.prefix, "true"], capture_output=True, check=False).returncode == 0

    @property
    def seen_from_here(self) -> Path:
        return Path(f"/proc/{self.pid}/root{self.data}")

    @property
    def _junk(self) -> Path:
        return self.seen_from_here / "junk"

    def fill(self) -> None:
        file = os.open(self._junk, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            while True:
                os.write(file, bytes(4096))
        except OSError:
            pass
        finally:
            os.close(file)

    def free(self) -> None:
        self._junk.unlink()


def doctor(up: Up, disk: SmallDisk) -> dict[str, dict[str, str]]:
    """What `hubwire doctor` finds, by check."""
    command = [
        sys.executable,
        "-m",
        "hubwire.cli.main",
        "doctor",
        "--json",
        "--data",
        str(disk.seen_from_here),
    ]
    done = subprocess.run(command, capture_output=True, cwd=up.folder, timeout=SECONDS, check=False)
    return {check["name"]: check for check in json.loads(done.stdout)["checks"]}


@pytest.fixture
def disk(tmp_path: Path) -> SmallDisk:
    disk = SmallDisk(tmp_path, 16)
    if not disk.usable:
        pytest.skip("this system does not let us mount a small disk")
    return disk


def test_a_disk_that_was_full_for_a_while_does_no_lasting_harm(tmp_path: Path, disk: SmallDisk) -> None:
    # A stream of JetStream whose file could not be written once stores nothing more, also when there is
    # room again; so no lease could be renewed, and every publish was answered with 503 for ever.
    up = Up(tmp_path, "--workers", "1", data=disk.data)
    up.command = [*disk.prefix, *up.command]
    with up, connect(up.facts["clientUrl"]) as client:
        disk.pid = up.process.pid
        publish(up, "before")
        receives(client, "before")
        disk.fill()
        told = up.wait_event("nats_disk_full")
        assert told["folder"] == str(disk.data)
        assert "it stores nothing" in health_becomes(up, 503)
        with pytest.raises(HubwireError):
            publish(up, "meanwhile")
        told = doctor(up, disk)
        assert told["JetStream"]["state"] == told[f"endpoint {up.endpoint}"]["state"] == "fail"
        assert "it stores nothing" in told["JetStream"]["found"]
        assert "disk" in told["JetStream"]["advice"]
        assert not [told for told in up.log if told["event"] == "child_hung"], "no restart makes room"
        disk.free()
        freed = time.monotonic()
        up.wait_event("child_hung", child="nats-server")
        up.wait_event("child_ready", child="nats-server")
        publish_when_possible(up, "after")
        print("seconds until it works again:", time.monotonic() - freed)
        receives(client, "after")
        assert health_becomes(up, 200) == ""
