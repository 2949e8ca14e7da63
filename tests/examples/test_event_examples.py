"""The examples whose server gets events, run as their READMEs say, against a real `hubwire up` and a
cluster behind one address."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from support.balancer import Balancer
from support.browser import Chromium, Page, find_chromium
from support.examples import EXAMPLES, SECONDS, environment, hubwire, install, node, serving
from support.topology import HubwireCluster, HubwireUp


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubwireUp]:
    with HubwireUp(tmp_path_factory.mktemp("up")) as one:
        yield one


@pytest.fixture(scope="module")
def connection_string(up: HubwireUp) -> str:
    return f"Endpoint={up.up.endpoint};AccessKey={up.key};Version=1.0;"


@contextmanager
def chat(connection_string: str, hub: str, command: list[str], folder: Path) -> Iterator[str]:
    """A chat server with its hub set up as the README says: the URL of its page."""
    with serving(command, folder, connection_string, PORT="0") as line:
        url = line.split(" ")[4].rstrip(",")
        path = line.rpartition(" ")[2]
        said = hubwire(
            connection_string, "hubs", "set", hub, "--event-handler", f"url={url.rstrip('/')}{path}",
            "events=say", "system=connect,connected,disconnected",
        )  # fmt: skip
        assert "agrees to be called" in said
        yield url


def example(kind: str) -> tuple[str, list[str], Path]:
    """Hub, command and folder of a chat."""
    if kind == "express":
        return "chat", [node(), "server.mjs"], install("chat-express")
    return "chat_python", [sys.executable, "server.py"], EXAMPLES / "chat-python"


@pytest.fixture(params=["express", "python"])
def url(request: pytest.FixtureRequest, connection_string: str) -> Iterator[str]:
    with chat(connection_string, *example(request.param)) as one:
        yield one


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubwireCluster]:
    with HubwireCluster(tmp_path_factory.mktemp("cluster"), gateways=2) as one:
        yield one


@pytest.fixture(scope="module")
def balancer(cluster: HubwireCluster) -> Iterator[Balancer]:
    with Balancer(cluster) as one:
        yield one


@pytest.fixture
def chromium(tmp_path: Path) -> Iterator[Chromium]:
    if find_chromium() is None:
        pytest.skip("there is no Chromium on this machine")
    with Chromium(tmp_path) as browser:
        yield browser


def enter(chromium: Chromium, url: str, user: str) -> Page:
    page = chromium.open(url)
    page.fill("#enter input", user)
    page.press_enter()
    return page


def wait_for_lines(page: Page, lines: list[list[str]]) -> None:
    items = "[...document.querySelectorAll('#messages li')]"
    shown = f"{items}.map(li => [...li.childNodes].map(node => node.textContent))"
    page.wait(f"JSON.stringify({shown}) === JSON.stringify({json.dumps(lines)})")


def wait_for_present(page: Page, *names: str) -> None:
    page.wait(f"document.getElementById('present').textContent === 'Here: {', '.join(names)}'")


def wait_for_state(page: Page, text: str) -> None:
    page.wait(f"document.getElementById('state').textContent.includes({json.dumps(text)})")


def test_people_sign_in_join_talk_and_see_who_leaves(url: str, chromium: Chromium) -> None:
    talk(chromium, url)


@pytest.mark.parametrize("kind", ["express", "python"])
def test_they_do_so_too_where_each_is_on_a_gateway_of_its_own(
    kind: str, cluster: HubwireCluster, balancer: Balancer, chromium: Chromium
) -> None:
    connection_string = f"Endpoint={balancer.endpoint};AccessKey={cluster.key};Version=1.0;"
    balancer.reached.clear()
    with chat(connection_string, *example(kind)) as url:
        talk(chromium, url)
    assert len(balancer.reached & set(cluster.gateways)) == 2
    assert balancer.reached & set(cluster.control_planes)


def talk(chromium: Chromium, url: str) -> None:
    ada = enter(chromium, url, "Ada")
    wait_for_state(ada, "Connected as Ada.")
    wait_for_present(ada, "Ada")
    bob = enter(chromium, url, "Bob")
    wait_for_present(ada, "Ada", "Bob")
    wait_for_present(bob, "Ada", "Bob")
    bob.fill("#say input", "Hello, <b>Ada</b>")
    bob.press_enter()
    wait_for_lines(ada, [["Ada", "joined"], ["Bob", "joined"], ["Bob", "Hello, <b>Ada</b>"]])
    bob.command("Page.close")  # as somebody leaves: without a word
    wait_for_lines(ada, [["Ada", "joined"], ["Bob", "joined"], ["Bob", "Hello, <b>Ada</b>"], ["Bob", "left"]])
    wait_for_present(ada, "Ada")
    assert ada.errors == []


def test_a_name_that_the_server_refuses_does_not_get_in(url: str, chromium: Chromium) -> None:
    page = enter(chromium, url, "admin")
    # A browser does not tell a page why a handshake failed.
    page.wait("document.getElementById('say').hidden")
    page.wait("!/^(Choose|Connecting|Connected)/.test(document.getElementById('state').textContent)")


def test_what_is_not_signed_is_refused_by_the_server_in_python(connection_string: str) -> None:
    with chat(connection_string, *example("python")) as url:
        forged = {
            "ce-connectionId": "x",
            "ce-signature": "sha256=00",
            "ce-type": "azure.webpubsub.sys.connect",
        }
        with pytest.raises(HTTPError, match="401") as refused:
            urlopen(Request(f"{url}events", data=b"{}", headers=forged, method="POST"), timeout=SECONDS)
        refused.value.close()


def test_the_consumer_reads_each_event_once_also_after_a_break(up: HubwireUp, connection_string: str) -> None:
    words = ("events=*", "system=connected,disconnected", "stream=CONSUMED", "prefix=consumed")
    hubwire(connection_string, "hubs", "set", "consumed", "--event-listener", *words)
    nats = json.loads((up.up.data / "endpoint.json").read_text())["nats"]

    def say(text: str) -> None:
        command = [sys.executable, "-m", "hubwire.cli.main", "connect", "consumed", "--user", "ada"]
        done = subprocess.run(
            [*command, "--data", str(up.up.data)],
            input=f"event order {text}\n", capture_output=True, text=True, timeout=SECONDS, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    def consumed() -> list[str]:
        done = subprocess.run(
            [sys.executable, str(EXAMPLES / "event-consumer" / "consume.py")],
            env=environment(
                connection_string,
                NATS_URL=nats["url"],
                NATS_USER=nats["user"],
                NATS_PASSWORD=nats["password"],
                STREAM="CONSUMED",
                SECONDS="3",
            ),
            capture_output=True, text=True, timeout=SECONDS, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return sorted(done.stdout.splitlines())

    say("7")
    assert consumed() == [
        "consumed connected ada {}",
        'consumed disconnected ada {"reason":null}',
        "consumed order ada 7",
    ]
    say("8")
    assert "consumed order ada 8" in (second := consumed())
    assert len(second) == 3


def test_the_consumer_may_be_started_before_the_first_event(up: HubwireUp, connection_string: str) -> None:
    """Nothing is there to read before: the stream is made with the first event."""
    words = ("events=*", "stream=EARLY", "prefix=early")
    hubwire(connection_string, "hubs", "set", "early", "--event-listener", *words)
    nats = json.loads((up.up.data / "endpoint.json").read_text())["nats"]
    places = {f"NATS_{name.upper()}": value for name, value in nats.items()}
    with subprocess.Popen(
        [sys.executable, str(EXAMPLES / "event-consumer" / "consume.py")],
        env=environment(connection_string, **places, STREAM="EARLY", SECONDS="3"),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as consumer:  # fmt: skip
        assert consumer.stdout is not None
        assert "waiting for it" in consumer.stdout.readline()
        said = typed_by_a_client(connection_string, "early", "event order 7")
        assert "ok: event order" in said
        rest, _ = consumer.communicate(timeout=SECONDS)
    assert rest.splitlines()[-1] == "early order ada 7"


def test_what_the_chat_in_python_cannot_read_is_refused_at_once(connection_string: str) -> None:
    """An exception would be a 500, which is tried again for nine seconds."""
    with chat(connection_string, *example("python")):
        for text in ("event say hi", "event say [1]", 'event say {"txt": 1}'):
            assert "failed: event say" in typed_by_a_client(connection_string, "chat_python", text)
        told = json.loads(hubwire(connection_string, "events", "failures", "chat_python", "--json"))["value"]
        # The hub is named by the example, so refusals of other tests' clients are in the list as well.
        said = [(each["status"], each["attempts"]) for each in told if each["event"] == "say"]
        assert said == [(400, 1)] * 3


def typed_by_a_client(connection_string: str, hub: str, text: str) -> str:
    """What `hubwire connect` prints when a person types that and leaves."""
    done = subprocess.run(
        [sys.executable, "-m", "hubwire.cli.main", "connect", hub, "--user", "ada"],
        env=environment(connection_string),
        input=f"{text}\n", capture_output=True, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip
    return done.stdout + done.stderr
