"""`hubwire events` and what `hubwire hubs` says of event handlers, against a real `hubwire up`."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from aiohttp import web
from support.up import Up
from support.upstreams import AppServer, app_server

SECONDS = 30.0


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with Up(tmp_path_factory.mktemp("events"), "--memory") as one:
        yield one


@pytest.fixture
async def app() -> AsyncIterator[AppServer]:
    async with app_server() as one:
        yield one


async def start(up: Up, *words: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "hubwire.cli.main",
        *words,
        "--data",
        str(up.data),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def cli(up: Up, *words: str, code: int = 0) -> str:
    """What the command prints; it must end with this exit code."""
    process = await start(up, *words)
    async with asyncio.timeout(SECONDS):
        out, err = await process.communicate()
    assert process.returncode == code, (out, err)
    return out.decode() or err.decode()


async def raise_event(up: Up, hub: str, name: str, text: str) -> str:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "hubwire.cli.main", "connect", hub, "--json", "--user", "ada", "--data", str(up.data)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(SECONDS):
        out, _ = await process.communicate(f"event {name} {text}\n".encode())
    return out.decode()


async def test_saving_a_handler_says_whether_it_agrees_and_show_says_why_not(up: Up, app: AppServer) -> None:
    good, gone = f"url={app.base}/h/{{event}}", "url=http://127.0.0.1:9/h?code=s3cr3t"
    shown = await cli(
        up, *("hubs", "set", "verdicts"), *("--event-handler", good), *("--event-handler", gone, "events=*")
    )
    assert f"{app.base}/h/{{event}} agrees to be called" in shown
    assert "FAIL  http://127.0.0.1:9/h?code=***: The validation failed:" in shown
    app.allow = "elsewhere.example"
    first, second = json.loads(await cli(up, "hubs", "show", "verdicts", "--json"))["validation"]
    assert first["allowed"] is False
    assert first["code"] == "AbuseProtectionResponseMissingAllowedOrigin"
    assert "s3cr3t" not in json.dumps(second)


@pytest.mark.parametrize(
    ("status", "answer", "said"),
    [
        (500, web.Response(text="no JSON"), "`hubwire events failures HUB` says why"),
        (401, web.Response(status=401), "An event handler of the hub may have said so"),
        (403, web.Response(status=403), "Where the hub has a `connect` handler, it may have said so"),
    ],
)
async def test_connect_says_where_to_look_when_a_handler_keeps_it_out(
    up: Up, app: AppServer, status: int, answer: web.Response, said: str
) -> None:
    async def keep_out(_: web.Request) -> web.Response:
        return answer

    app.answer = keep_out
    handler = f"url={app.base}/h/{{event}}"
    await cli(up, "hubs", "set", "shut", "--event-handler", handler, "events=*", "system=connect")
    shown = await raise_event(up, "shut", "tea", "please")
    assert f"({status})" in shown
    assert said in shown


async def test_failed_events_of_all_gateways_are_listed_with_their_reasons(up: Up, app: AppServer) -> None:
    async def refuse(_: web.Request) -> web.Response:
        return web.Response(status=418)

    app.answer = refuse
    handler = f"url={app.base}/h/{{event}}?code=s3cr3t"
    await cli(up, "hubs", "set", "failing", "--event-handler", handler, "events=*")
    assert '"success":false' in (await raise_event(up, "failing", "tea", "please")).replace(" ", "")
    listed = await cli(up, "events", "failures", "failing")
    assert "status 418  failing  tea" in listed
    assert "the client was told: failed ack" in listed
    assert "s3cr3t" not in listed
    (one,) = json.loads(await cli(up, "events", "failures", "FAILING", "--json"))["value"]
    assert (one["status"], one["category"], one["attempts"]) == (418, "status", 1)
    assert json.loads(await cli(up, "events", "failures", "other", "--json"))["value"] == []


async def test_what_a_listener_gets_is_in_the_stream_and_tail_shows_it(up: Up) -> None:
    words = ("events=*", "system=connected,disconnected", "stream=HEARD", "prefix=heard")
    await cli(up, "hubs", "set", "heard", "--event-listener", *words)
    tail = await start(up, "events", "tail", "heard", "--json", "--count", "1")
    assert tail.stderr is not None
    # Nobody handles the event, but somebody listens: a success (5.1).
    assert '"success":true' in (await raise_event(up, "heard", "order.created", "7")).replace(" ", "")
    shown = json.loads(
        (await cli(up, "events", "tail", "heard", "--json", "--all", "--count", "1")).splitlines()[0]
    )
    assert (shown["hub"], shown["userid"]) == ("heard", "ada")
    async with asyncio.timeout(SECONDS):
        while tail.returncode is None:  # until it has subscribed and sees one
            await raise_event(up, "heard", "again", "8")
            try:
                await asyncio.wait_for(tail.wait(), 0.1)
            except TimeoutError:
                pass
    assert tail.stdout is not None
    assert json.loads(await tail.stdout.readline())["hub"] == "heard"


async def test_a_listener_hears_the_life_of_a_connection_with_its_events_counted(up: Up) -> None:
    words = ("events=*", "system=connected,disconnected", "stream=LIFE", "prefix=life")
    await cli(up, "hubs", "set", "life", "--event-listener", *words)
    await raise_event(up, "life", "order", "7")
    shown = await cli(up, "events", "tail", "life", "--json", "--all", "--count", "3")
    events = [json.loads(line) for line in shown.splitlines()]
    assert sorted((event["id"], event["eventname"]) for event in events) == [
        ("1", "connected"),
        ("2", "order"),
        ("3", "disconnected"),
    ]
    assert len({event["connectionid"] for event in events}) == 1


async def test_tail_says_how_to_make_a_listener_where_there_is_none(up: Up) -> None:
    assert "--event-listener" in await cli(up, "events", "tail", "nobody", code=1)


async def test_a_handler_is_tested_with_every_event_of_a_client(up: Up, app: AppServer) -> None:
    async def answer(request: web.Request) -> web.Response:
        if request.path.endswith("/connect"):
            return web.json_response({"userId": "ada2", "groups": ["g"]})
        if request.path.endswith("/shout"):
            return web.Response(text=(await request.text()).upper())
        return web.Response()

    app.answer = answer
    url = f"{app.base}/h/{{hub}}/{{event}}"
    shown = await cli(up, "events", "test", "orders", url, "--event", "shout", "--text", "hi")
    assert "agrees to be called" in shown
    assert "The client is let in: user id 'ada2'; groups g." in shown
    assert "The client gets a message (text), then its ack: 'HI'." in shown
    assert [seen.target.rpartition("/")[2] for seen in app.seen] == [
        "connect",
        "connected",
        "shout",
        "disconnected",
    ]
    assert all(seen.value("ce-signature") for seen in app.seen)
    report = json.loads(await cli(up, "events", "test", "orders", url, "--json"))
    assert report["ok"]
    assert report["signed"]


@pytest.mark.parametrize(
    ("allow", "status", "said"),
    [
        ("elsewhere", 200, "WebHook-Allowed-Origin"),
        ("*", 404, "nothing is at this path for POST"),
        ("*", 302, "redirects are not followed"),
        ("*", 401, "The handler turns the client away: it gets HTTP 401"),
    ],
)
async def test_what_is_wrong_with_a_handler_is_explained(
    up: Up, app: AppServer, allow: str, status: int, said: str
) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status)

    app.allow, app.answer = allow, answer
    url = f"{app.base}/h/{{event}}"
    code = 0 if status == 401 else 1
    assert said in await cli(up, "events", "test", "orders", url, "--seconds", "5", code=code)


async def test_a_server_that_is_not_there_is_told_from_one_that_says_no(up: Up) -> None:
    shown = await cli(up, "events", "test", "orders", "http://127.0.0.1:9/h", code=1)
    assert "FAIL  validation" in shown
    assert "is the application running" in shown


async def test_a_url_that_cannot_be_is_a_fault_of_the_caller(up: Up) -> None:
    assert "{hub} and {event}" in await cli(up, "events", "test", "orders", "http://x/{name}", code=2)


async def test_without_dead_letters_the_list_is_empty(up: Up) -> None:
    found: list[Any] = json.loads(await cli(up, "events", "dead-letters", "list", "--json"))
    assert found == []
    assert "404" in await cli(up, "events", "dead-letters", "drop", "1", code=1)
    assert "--all" in await cli(up, "events", "dead-letters", "retry", code=2)
