"""What the documentation says is done: its commands are run, its tables are compared with the code."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.examples import environment, serving
from support.topology import HubwireUp
from support.world import World

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PROGRAMS = Path(sys.executable).parent
SECONDS = 60.0


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubwireUp]:
    with HubwireUp(tmp_path_factory.mktemp("up")) as one:
        yield one


def connection_string(up: HubwireUp) -> str:
    return f"Endpoint={up.up.endpoint};AccessKey={up.key};Version=1.0;"


def commands(path: Path) -> str:
    """All ```sh blocks of a page in one script, with this test run's Python in place of .venv."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", path.read_text(), re.DOTALL | re.MULTILINE)
    return "set -eu\n" + "\n".join(blocks).replace(".venv/bin/", f"{PROGRAMS}/")


def run_commands(path: Path, up: HubwireUp) -> str:
    done = subprocess.run(
        ["bash", "-c", commands(path)],
        cwd=ROOT,
        env=environment(connection_string(up)),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, f"{path.name}: {done.stdout}\n{done.stderr}"
    return done.stdout


async def test_the_commands_of_the_page_about_rest_work(up: HubwireUp) -> None:
    async with World(up, "chat") as world:
        ada = await world.json("ada", groups=["news and views"])
        bot = await world.json("bot 7", groups=["news and views"])
        printed = await asyncio.to_thread(run_commands, DOCS / "rest.md", up)
        assert [await ada.data() for _ in range(3)] == [
            {"text": "Hello, everybody"},
            "Hello, group",
            "Hello, ada",
        ]
        # The bot is told by the next message to all that it was left out of the group's.
        assert await bot.data() == {"text": "Hello, everybody"}
        await world.rest("POST", "/:send", data=b"last", headers={"Content-Type": "text/plain"})
        assert await bot.data() == "last"
    assert "200\n" in printed
    assert '"anonymousConnectPolicy":"allow"' in printed.replace(" ", "")
    assert "access_token=" in printed


def section(path: Path, title: str) -> str:
    """The text below a heading, up to the next one of its level."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)^## ", path.read_text(), re.DOTALL | re.MULTILINE)
    assert found, f"{path.name} has no section {title!r}"
    return found[1]


def test_the_handler_in_five_minutes_works_as_the_page_says(up: HubwireUp, tmp_path: Path) -> None:
    page = section(DOCS / "event-handlers.md", "A handler in five minutes")
    (program,) = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    (tell,) = re.findall(r"^    (\S+ hubs set .*\\\n.*)$", page, re.MULTILINE)
    (be_client, event), *_ = re.findall(r"^    (\S+ connect .*)\n    (.*)$", page, re.MULTILINE)
    assert program.count("port=9000") == 1
    (tmp_path / "app.py").write_text(program.replace("port=9000", "port=0"))
    told = connection_string(up)
    with serving([sys.executable, "app.py"], tmp_path, told) as line:
        address = re.findall(r"http://127\.0\.0\.1:\d+", line)[0]

        def shell(command: str, typed: str = "") -> str:
            command = command.replace(".venv/bin/", f"{PROGRAMS}/").replace("http://127.0.0.1:9000", address)
            done = subprocess.run(
                ["bash", "-c", command],
                env=environment(told),
                input=typed,
                capture_output=True,
                text=True,
                timeout=SECONDS,
            )
            assert done.returncode == 0, f"{command}: {done.stdout}\n{done.stderr}"
            return done.stdout

        assert f"{address}/events agrees to be called" in shell(tell)
        try:
            assert "[server] You said: Hello" in shell(be_client, f"{event}\n")
        finally:
            shell(".venv/bin/hubwire hubs set chat --no-event-handlers")


def test_every_check_of_doctor_is_explained(up: HubwireUp) -> None:
    done = subprocess.run(
        [str(PROGRAMS / "hubwire"), "doctor", "--json", "--data", str(up.up.data)],
        env={name: value for name, value in os.environ.items() if not name.startswith("HUBWIRE_")},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    checks = json.loads(done.stdout)["checks"]
    assert len(checks) > 8
    page = (DOCS / "operations.md").read_text()
    families = {re.sub(r"^(NATS|endpoint) \S*:.*|^(bucket) .*", r"\1\2", check["name"]) for check in checks}
    assert {name for name in families if f"| {name} |" not in page} == set()
