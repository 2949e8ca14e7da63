"""Delivery of events to real HTTP servers on loopback, also to hostile ones (server-events.md 4.1, 4.8)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from structlog.testing import capture_logs
from support.clock import FakeClock
from support.upstreams import (
    LOCAL,
    AppServer,
    app_server,
    connecting,
    event,
    everything,
    hub,
    raw_server,
    service_for,
    source,
)

from gateway.upstream.answers import ConnectAccepted, ConnectRefused
from gateway.upstream.contexts import (
    EventAnswered,
    EventFailed,
    EventUnhandled,
    NotificationDelivered,
    NotificationUnwanted,
)
from gateway.upstream.outcome import DeliveryFailure
from gateway.upstream.requests import signature
from gateway.upstream.upstream import VALIDATIONS
from hubwire.model.event_handlers import CONNECTED, DISCONNECTED, HandlerEvent
from hubwire.model.message import DataType, Message
from hubwire.model.settings import EventHandler, GroupPresenceEvents, HubSettings

NO_RETRY = LOCAL._replace(retry_seconds=())


@pytest.fixture
async def app() -> AsyncIterator[AppServer]:
    async with app_server() as one:
        yield one


def status_answers(*statuses: int) -> Any:
    """Answers with one status after the other; the last one is repeated."""
    left = list(statuses)

    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=left.pop(0) if len(left) > 1 else left[0])

    return answer


def failure_of(result: Any) -> DeliveryFailure:
    assert isinstance(result, EventFailed), result
    return result.failure


# -- what arrives ------------------------------------------------------------------------------------------


async def test_an_event_arrives_with_its_headers_in_the_documented_casing_and_the_answer_comes_back(
    app: AppServer,
) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(text='{"ok":true}', content_type="application/json")

    app.answer = answer
    async with service_for(hub(everything(app.base))) as service:
        result = await service.user_event(event(source(user_id="用户"), data_type=DataType.JSON, data=b"[1]"))
    assert result == EventAnswered(Message(DataType.JSON, b'{"ok":true}'))
    (validation,), (seen,) = app.validations, app.seen
    assert validation.target == "/hooks/orders/validate?code=s3cr3t"
    assert validation.body == b""
    assert {name for name, _ in validation.headers} == {
        b"Host",
        b"User-Agent",
        b"WebHook-Request-Origin",
        b"ce-awpsversion",
    }
    assert validation.value("WebHook-Request-Origin") == b"awps.example"
    assert (seen.method, seen.target, seen.body) == ("POST", "/hooks/orders/ping?code=s3cr3t", b"[1]")
    assert [name.decode() for name, _ in seen.headers if name not in (b"Host", b"User-Agent")] == [
        "Content-Type",
        "WebHook-Request-Origin",
        "ce-specversion",
        "ce-awpsversion",
        "ce-type",
        "ce-source",
        "ce-id",
        "ce-time",
        "ce-signature",
        "ce-connectionId",
        "ce-hub",
        "ce-eventName",
        "ce-userId",
        "x-ms-client-request-id",
        "Content-Length",
    ]
    assert seen.value("ce-userId") == "用户".encode()
    assert seen.value("Content-Length") == b"3"


async def test_an_empty_body_has_a_content_length_too(app: AppServer) -> None:
    async with service_for(hub(everything(app.base))) as service:
        assert await service.user_event(event(data=b"")) == EventAnswered(None)
    assert app.seen[0].value("Content-Length") == b"0"


async def test_state_and_cookies_of_an_answer_come_with_the_next_event(app: AppServer) -> None:
    async def answer(request: web.Request) -> web.Response:
        response = web.Response(status=204)
        response.headers["ce-connectionState"] = "state-" + request.headers["ce-id"]
        response.headers["Set-Cookie"] = "sticky=" + request.headers["ce-id"] + "; Path=/"
        return response

    app.answer = answer
    client = source()
    async with service_for(hub(everything(app.base))) as service:
        await service.connect(connecting(client))
        await service.user_event(event(client))
        await service.user_event(event(client))
    assert [seen.value("ce-connectionState") for seen in app.seen] == [None, b"state-0", b"state-1"]
    assert [seen.value("Cookie") for seen in app.seen] == [None, b"sticky=0", b"sticky=1"]
    assert [seen.value("ce-id") for seen in app.seen] == [b"0", b"1", b"2"]


async def test_a_failed_answer_changes_neither_state_nor_cookies(app: AppServer) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=400, headers={"ce-connectionState": "new", "Set-Cookie": "a=1"})

    app.answer = answer
    client = source(state="old")
    async with service_for(hub(everything(app.base))) as service:
        assert failure_of(await service.user_event(event(client))).status == 400
    assert (client.state, client.cookies) == ("old", ())


async def test_a_change_of_the_settings_takes_effect_with_the_next_event(app: AppServer) -> None:
    settings = {"orders": hub(everything(app.base))}
    async with service_for(settings) as service:
        assert isinstance(await service.user_event(event()), EventAnswered)
        settings["orders"] = hub(EventHandler(app.base + "/new", "other"))
        assert isinstance(await service.user_event(event()), EventUnhandled)
        assert isinstance(await service.user_event(event(name="other")), EventAnswered)
    assert [seen.target for seen in app.seen] == ["/hooks/orders/ping?code=s3cr3t", "/new"]


async def test_the_origin_is_the_host_of_the_client_unless_one_is_configured(app: AppServer) -> None:
    async with service_for(hub(everything(app.base)), LOCAL._replace(public_host="")) as service:
        await service.user_event(event())
    assert app.seen[0].value("WebHook-Request-Origin") == b"client-saw.example"


# -- connect -----------------------------------------------------------------------------------------------


async def test_a_connect_handler_decides_who_the_client_is(app: AppServer) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.json_response({"userId": "bob", "groups": ["g2"], "subprotocol": "mine"})

    app.answer = answer
    client = source()
    async with service_for(hub(everything(app.base))) as service:
        result = await service.connect(connecting(client, offered=("mine",)))
    assert isinstance(result, ConnectAccepted)
    assert (result.user_id, result.groups, result.roles) == ("bob", ("g2",), ("r1",))
    assert (client.user_id, client.subprotocol) == ("bob", "mine")


@pytest.mark.parametrize(
    ("status", "told", "body", "category"),
    [(401, 401, b"nope", "refused"), (500, 500, b"", "status"), (302, 500, None, "status")],
)
async def test_a_refused_connect_is_told_to_the_client_and_kept(
    app: AppServer, status: int, told: int, body: bytes | None, category: str
) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status, text="nope", headers={"Location": app.base + "/elsewhere"})

    app.answer = answer
    async with service_for(hub(everything(app.base)), NO_RETRY) as service:
        result = await service.connect(connecting())
        (kept,) = service.failures.latest()
    assert isinstance(result, ConnectRefused)
    assert result.status == told
    assert body is None or result.body == body
    assert (kept.category, kept.status, kept.told, kept.event) == (
        category,
        status,
        f"HTTP {told}",
        "connect",
    )
    assert len(app.seen) == 1, "a redirect is not followed"


async def test_without_a_connect_handler_nobody_is_asked(app: AppServer) -> None:
    client = source()
    async with service_for(hub(EventHandler(app.base, "*"))) as service:
        result = await service.connect(connecting(client, offered=("json.webpubsub.azure.v1",)))
    assert isinstance(result, ConnectAccepted)
    assert (result.user_id, result.roles, client.subprotocol) == ("ada", ("r1",), "json.webpubsub.azure.v1")
    assert not app.validations


# -- notifications -----------------------------------------------------------------------------------------


async def test_notifications_are_sent_as_they_were_when_they_happened(app: AppServer) -> None:
    presence = GroupPresenceEvents(("joined",))
    client = source(state="s", subprotocol="mine")
    clock = FakeClock()
    async with service_for(hub(everything(app.base, group_presence_events=presence)), clock=clock) as service:
        connected = service.notification(client, CONNECTED, client.next_id())
        joined = service.notification(client, HandlerEvent("gp", "joined", "room"), client.next_id())
        left = service.notification(client, HandlerEvent("gp", "left", "room"), client.next_id())
        gone = service.notification(client, DISCONNECTED, client.next_id(), "bye")
        client.state = "later"
        clock.advance(3600)
        results = [await service.notify(each) for each in (connected, joined, left, gone, connected)]
    assert [type(result) for result in results] == [
        NotificationDelivered,
        NotificationDelivered,
        NotificationUnwanted,
        NotificationDelivered,
        NotificationDelivered,
    ]
    assert [seen.value("ce-type") for seen in app.seen] == [
        b"azure.webpubsub.sys.connected",
        b"azure.webpubsub.gp.joined",
        b"azure.webpubsub.sys.disconnected",
        b"azure.webpubsub.sys.connected",
    ]
    assert [seen.body for seen in app.seen[:3]] == [b"{}", b'{"group":"room"}', b'{"reason":"bye"}']
    assert {seen.value("ce-connectionState") for seen in app.seen} == {b"s"}
    assert {seen.value("ce-time") for seen in app.seen} == {b"2026-03-01T10:20:30Z"}
    assert app.seen[0].headers == app.seen[3].headers, "a repeat is identical"


async def test_the_answer_to_a_notification_is_ignored_but_for_its_cookies(app: AppServer) -> None:
    async def answer(_: web.Request) -> web.Response:
        headers = {"Set-Cookie": "a=1", "ce-connectionState": "x", "Content-Type": "application/nonsense"}
        return web.Response(body=b"x" * 200_000, headers=headers)

    app.answer = answer
    client = source()
    async with service_for(hub(everything(app.base))) as service:
        result = await service.notify(service.notification(client, CONNECTED, 1))
    assert isinstance(result, NotificationDelivered)
    client.store_cookies(result.url, result.set_cookies, 0)
    assert [cookie.name for cookie in client.cookies] == ["a"]
    assert client.state is None


async def test_a_failed_notification_says_so(app: AppServer) -> None:
    app.answer = status_answers(404)
    async with service_for(hub(everything(app.base))) as service:
        result = await service.notify(service.notification(source(), CONNECTED, 1))
        assert isinstance(result, DeliveryFailure)
        assert (result.category, result.status, result.may_work_later) == ("status", 404, False)
        assert service.failures.counts == {"status": 1}


# -- attempts (4.8) ----------------------------------------------------------------------------------------


async def test_after_two_503_the_third_identical_request_succeeds(app: AppServer) -> None:
    clock = FakeClock()
    app.answer = status_answers(503, 503, 200)
    async with service_for(hub(everything(app.base)), clock=clock) as service:
        assert await service.user_event(event()) == EventAnswered(None)
        assert (service.client.attempts, service.client.retries) == (3, 2)
    assert clock.slept == [1, 3], "the requests go out at 0, 1 and 4 seconds"
    assert app.seen[0] == app.seen[1] == app.seen[2]


@pytest.mark.parametrize(
    ("statuses", "attempts"),
    [((500,), 4), ((408, 200), 2), ((599, 200), 2), ((429,), 1), ((404,), 1), ((302,), 1), ((400,), 1)],
)
async def test_only_408_and_5xx_are_tried_again_and_four_times_at_most(
    app: AppServer, statuses: tuple[int, ...], attempts: int
) -> None:
    app.answer = status_answers(*statuses)
    async with service_for(hub(everything(app.base)), clock=FakeClock()) as service:
        result = await service.user_event(event())
    assert len(app.seen) == attempts
    if statuses[-1] != 200:
        failure = failure_of(result)
        assert (failure.category, failure.status, failure.attempts) == ("status", statuses[-1], attempts)


async def test_a_refused_connection_is_tried_four_times() -> None:
    clock = FakeClock()
    settings: dict[str, HubSettings] = {}
    async with service_for(settings, clock=clock) as service:
        async with app_server() as app:
            settings["orders"] = hub(everything(app.base))
            assert await service.user_event(event()) == EventAnswered(None)
        failure = failure_of(await service.user_event(event()))
    assert (failure.category, failure.seconds) == ("network", 9)
    assert clock.slept == [1, 3, 5]
    assert failure.attempts in (4, 5)  # one more if the loop had not yet seen the kept connection close
    assert "failed" in failure.reason


async def test_a_timeout_is_not_tried_again(app: AppServer) -> None:
    release = asyncio.Event()

    async def hang(_: web.Request) -> web.Response:
        await release.wait()
        return web.Response()

    app.answer = hang
    async with service_for(hub(everything(app.base)), LOCAL._replace(event_seconds=0.3)) as service:
        failure = failure_of(await service.user_event(event()))
        release.set()
    assert (failure.category, failure.attempts) == ("timeout", 1)
    assert failure.seconds >= 0.29
    assert len(app.seen) == 1


async def test_an_event_that_can_never_be_sent_is_not_attempted(app: AppServer) -> None:
    async with service_for(hub(everything(app.base))) as service:
        failure = failure_of(await service.user_event(event(source(user_id="a\r\nX-Admin: 1"))))
        assert (failure.category, failure.attempts) == ("unsendable", 0)
        result = await service.connect(connecting(source(user_id="a\r\nX-Admin: 1")))
        assert isinstance(result, ConnectRefused)
        assert result.status == 500
    assert not app.seen


async def test_a_tunnel_address_is_a_failure_of_its_own() -> None:
    async with service_for(hub(EventHandler("tunnel:///x/{event}", "*"))) as service:
        assert failure_of(await service.user_event(event())).category == "unsupported"


async def test_an_upstream_that_does_not_agree_gets_no_event(app: AppServer) -> None:
    app.allow = "other.example"
    async with service_for(hub(everything(app.base))) as service:
        failure = failure_of(await service.user_event(event()))
        assert failure.category == "validation"
        assert "other.example" in failure.reason
        refused = await service.connect(connecting())
        assert isinstance(refused, ConnectRefused)
        assert refused.status == 500
        (validation,) = service.validations()
        assert not validation.verdict.allowed
        verdict = await service.validate("orders", everything(app.base), "awps.example")
        assert "other.example" in verdict.reason
    assert not app.seen


# -- hostile answers ---------------------------------------------------------------------------------------


def http(head: str, body: bytes = b"") -> bytes:
    return head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body


HOSTILE: dict[str, tuple[bytes, bool, str, int]] = {
    # name: what is written, whether the connection is closed then, the category, attempts
    "garbage": (b"\x00\xff garbage\r\n\r\n", True, "bad_answer", 1),
    "nothing": (b"", True, "network", 5),  # the first over the connection of the validation, so it is free
    "half a head": (b"HTTP/1.1 200 OK\r\nContent-Ty", True, "network", 5),
    "closing in mid-body": (http("HTTP/1.1 200 OK\nContent-Length: 100", b"half"), True, "network", 1),
    "broken chunks": (http("HTTP/1.1 200 OK\nTransfer-Encoding: chunked", b"zz\r\n"), True, "bad_answer", 1),
    "one huge header": (http("HTTP/1.1 200 OK\nX: " + "x" * 100_000), False, "bad_answer", 1),
    "very many headers": (http("HTTP/1.1 200 OK" + "\nX: y" * 10_000), False, "bad_answer", 1),
    "compressed": (
        http("HTTP/1.1 200 OK\nContent-Encoding: gzip\nContent-Length: 3", b"abc"),
        False,
        "bad_answer",
        1,
    ),
    "too large by its word": (http("HTTP/1.1 200 OK\nContent-Length: 99999999999"), False, "too_large", 1),
    "a type that nobody knows": (
        http("HTTP/1.1 200 OK\nContent-Type: image/png\nContent-Length: 3", b"png"),
        False,
        "bad_answer",
        1,
    ),
    "a redirect to itself": (http("HTTP/1.1 307 X\nLocation: /\nContent-Length: 0"), False, "status", 1),
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_answer_is_a_failure_with_a_reason(name: str) -> None:
    content, closes, category, attempts = HOSTILE[name]

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter, __: bytes) -> None:
        writer.write(content)
        if closes:
            await writer.drain()
            writer.close()

    async with (
        raw_server(answer) as server,
        service_for(hub(everything(server.base)), clock=FakeClock()) as service,
    ):
        failure = failure_of(await service.user_event(event()))
        assert failure.category == category, failure
        assert failure.reason.endswith(".")
        assert len(server.requests) == attempts, "what has begun to answer has got the event"
        assert len(set(server.requests)) == 1
        assert "s3cr3t" not in repr(service.failures.latest())


async def test_an_answer_of_10_megabytes_is_taken_and_one_over_16_is_not(app: AppServer) -> None:
    sizes = [10 * 1024 * 1024, 17 * 1024 * 1024]

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        left = sizes.pop(0)
        try:
            while left:
                await response.write(b"x" * 65536)
                left -= 65536
        except ConnectionError:
            pass
        return response

    app.answer = answer
    async with service_for(hub(everything(app.base))) as service:
        result = await service.user_event(event())
        assert isinstance(result, EventAnswered)
        assert result.message is not None
        assert len(result.message.data) == 10 * 1024 * 1024
        assert failure_of(await service.user_event(event())).category == "too_large"


async def test_an_endless_answer_is_cut_off_at_the_limit() -> None:
    written = 0

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter, __: bytes) -> None:
        nonlocal written
        writer.write(http("HTTP/1.1 200 OK\nContent-Type: text/plain"))
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()
            written += 65536

    config = LOCAL._replace(answer_bytes=1_000_000)
    async with raw_server(answer) as server, service_for(hub(everything(server.base)), config) as service:
        assert failure_of(await service.user_event(event())).category == "too_large"
    assert written < 20_000_000


async def test_slow_headers_end_with_the_deadline_of_the_event() -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter, __: bytes) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        for number in range(1000):
            writer.write(b"X%d: y\r\n" % number)
            await writer.drain()
            await asyncio.sleep(0.02)

    config = LOCAL._replace(event_seconds=0.3)
    async with raw_server(answer) as server, service_for(hub(everything(server.base)), config) as service:
        failure = failure_of(await service.user_event(event()))
    assert (failure.category, failure.attempts) == ("timeout", 1)


async def test_a_connection_that_was_closed_while_idle_costs_no_attempt_and_no_pause() -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter, __: bytes) -> None:
        if len(server.requests) == 2:  # as if it had been closed just before: no answer at all
            writer.close()
            return
        writer.write(http("HTTP/1.1 204 OK"))

    clock = FakeClock()
    async with (
        raw_server(answer) as server,
        service_for(hub(everything(server.base)), clock=clock) as service,
    ):
        for _ in range(2):
            assert await service.user_event(event()) == EventAnswered(None)
        assert clock.slept == []
        assert server.connections == [2]


async def test_connections_are_kept_and_used_again(app: AppServer) -> None:
    peers = set()

    async def answer(request: web.Request) -> web.Response:
        assert request.transport is not None
        peers.add(request.transport.get_extra_info("peername"))
        return web.Response(text="x" * 1000)

    app.answer = answer
    async with service_for(hub(everything(app.base))) as service:
        for _ in range(20):
            await service.user_event(event())
    assert len(peers) == 1


async def test_a_signature_is_made_with_the_keys_of_the_moment(app: AppServer) -> None:
    from support.upstreams import KEYS

    async with service_for(hub(everything(app.base))) as service:
        await service.user_event(event())
    expected = signature((KEYS.primary, KEYS.secondary), "conn-0001")
    assert app.seen[0].value("ce-signature") == expected.encode()


# -- a slow or dead upstream delays only its own events ----------------------------------------------------


async def test_as_many_requests_as_connections_run_and_the_others_wait_their_turn(app: AppServer) -> None:
    async def answer(_: web.Request) -> web.Response:
        await asyncio.sleep(0.01)
        return web.Response(status=204)

    app.answer = answer
    async with service_for(hub(everything(app.base)), LOCAL._replace(connections=3)) as service:
        results = await asyncio.gather(*(service.user_event(event()) for _ in range(12)))
    assert set(results) == {EventAnswered(None)}
    assert app.most_running == 3


async def test_a_hanging_upstream_delays_nobody_else_and_is_bounded(app: AppServer) -> None:
    release = asyncio.Event()

    two_hang = asyncio.Event()

    async def hang(_: asyncio.StreamReader, writer: asyncio.StreamWriter, __: bytes) -> None:
        if len(slow.requests) == 2:
            two_hang.set()
        await release.wait()
        writer.write(http("HTTP/1.1 204 OK"))

    config = LOCAL._replace(connections=2, pending=5)
    async with raw_server(hang) as slow:
        settings = {"orders": hub(everything(slow.base)), "other": hub(everything(app.base))}
        async with service_for(settings, config) as service:
            waiting = [asyncio.create_task(service.user_event(event())) for _ in range(5)]
            await two_hang.wait()
            failure = failure_of(await service.user_event(event()))
            assert failure.category == "overloaded"
            assert failure.attempts == 0
            healthy = source()
            healthy.hub = "other"
            async with asyncio.timeout(2):
                assert await service.user_event(event(healthy)) == EventAnswered(None)
            shown = {status.hub: status for status in service.upstreams()}
            assert (shown["orders"].active, shown["orders"].pending) == (2, 5)
            release.set()
            assert set(await asyncio.gather(*waiting)) == {EventAnswered(None)}
            assert [(s.active, s.pending, s.pending_bytes) for s in service.upstreams()] == [(0, 0, 0)] * 2


async def test_what_waits_is_bounded_in_bytes_too(app: AppServer) -> None:
    config = LOCAL._replace(pending_bytes=100_000)
    async with service_for(hub(everything(app.base)), config) as service:
        big = [service.user_event(event(data=b"x" * 60_000)) for _ in range(3)]
        results = await asyncio.gather(*big)
        categories = [r.failure.category for r in results if isinstance(r, EventFailed)]
        assert categories == ["overloaded", "overloaded"]
        assert isinstance(await service.user_event(event(data=b"x" * 1_000_000)), EventAnswered)


async def test_a_client_that_leaves_takes_its_event_along(app: AppServer) -> None:
    arrived = asyncio.Event()

    async def hang(_: web.Request) -> web.Response:
        arrived.set()
        await asyncio.sleep(60)
        return web.Response()

    app.answer = hang
    async with service_for(hub(everything(app.base))) as service:
        task = asyncio.create_task(service.user_event(event()))
        await arrived.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        (status,) = service.upstreams()
        assert (status.active, status.pending, status.circuit) == (0, 0, "closed")
        assert not service.failures.latest()


async def test_what_had_failed_when_its_client_left_is_told_all_the_same(app: AppServer) -> None:
    """A person who sees no answer and leaves within nine seconds found no trace of the 500s."""
    app.answer = status_answers(500)
    waits = asyncio.Event()

    class Paused(FakeClock):
        async def sleep(self, seconds: float) -> None:
            waits.set()
            await asyncio.Event().wait()

    async with service_for(hub(everything(app.base)), clock=Paused()) as service:
        task = asyncio.create_task(service.user_event(event()))
        await waits.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        (failed,) = service.failures.latest()
        assert (failed.category, failed.status, failed.attempts) == ("status", 500, 1)
        assert failed.told == "nothing, it has gone"


async def test_a_dead_upstream_is_left_alone_and_used_again_when_it_lives() -> None:
    clock = FakeClock()
    config = NO_RETRY._replace(breaker_failures=3, breaker_seconds=5, breaker_max_seconds=20)
    dead = True

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter, __: bytes) -> None:
        if dead:
            writer.close()
        else:
            writer.write(http("HTTP/1.1 204 OK"))

    async with (
        raw_server(answer) as app,
        service_for(hub(everything(app.base)), config, clock=clock) as service,
    ):

        async def category() -> str:
            return failure_of(await service.user_event(event())).category

        assert [await category() for _ in range(8)] == ["network"] * 3 + ["circuit_open"] * 5
        assert len(app.requests) == 3, "nothing is sent while the circuit is open"
        assert service.upstreams()[0].circuit == "open"
        clock.advance(5)
        assert service.upstreams()[0].circuit == "half_open"
        assert [await category(), await category()] == ["network", "circuit_open"]
        clock.advance(9)
        assert await category() == "circuit_open"
        clock.advance(1)
        dead = False
        assert await service.user_event(event()) == EventAnswered(None)
        assert service.upstreams()[0].circuit == "closed"
        assert await service.user_event(event()) == EventAnswered(None)
        assert len(app.requests) == 6


@pytest.mark.parametrize("status", [500, 502, 503, 504])
async def test_an_application_that_answers_at_all_is_alive(app: AppServer, status: int) -> None:
    """One event that failed with 503 opened the circuit of all, so that clients could not even connect."""

    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=status if request.headers["ce-eventName"] == "broken" else 204)

    app.answer = answer
    async with service_for(hub(everything(app.base)), NO_RETRY._replace(breaker_failures=2)) as service:
        for _ in range(5):
            assert failure_of(await service.user_event(event(name="broken"))).status == status
        assert isinstance(await service.connect(connecting()), ConnectAccepted)
        assert await service.user_event(event(name="healthy")) == EventAnswered(None)


async def test_a_circuit_that_is_open_for_events_is_not_open_for_connect() -> None:
    """An event that is never answered must not shut clients out of a handler that lets them in."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        if b"ce-eventName: connect\r\n" in head:
            writer.write(http("HTTP/1.1 204 OK"))
        else:
            writer.close()

    config = NO_RETRY._replace(breaker_failures=2)
    async with raw_server(answer) as app, service_for(hub(everything(app.base)), config) as service:
        found = [failure_of(await service.user_event(event())).category for _ in range(3)]
        assert found == ["network", "network", "circuit_open"]
        assert isinstance(await service.connect(connecting()), ConnectAccepted)
        assert failure_of(await service.user_event(event())).category == "circuit_open"


async def test_events_that_hang_leave_connect_its_own_connections(app: AppServer) -> None:
    release = asyncio.Event()
    all_hang = asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        if request.headers["ce-eventName"] != "connect":
            if app.running == 3:
                all_hang.set()
            await release.wait()
        return web.Response(status=204)

    app.answer = answer
    config = LOCAL._replace(connections=3, pending=4)
    async with service_for(hub(everything(app.base)), config) as service:
        waiting = [asyncio.create_task(service.user_event(event())) for _ in range(4)]
        await all_hang.wait()
        async with asyncio.timeout(5):
            assert isinstance(await service.connect(connecting()), ConnectAccepted)
        release.set()
        assert set(await asyncio.gather(*waiting)) == {EventAnswered(None)}


async def test_connect_has_its_bound_too(app: AppServer) -> None:
    async def answer(_: web.Request) -> web.Response:
        await asyncio.sleep(0.02)
        return web.Response(status=204)

    app.answer = answer
    config = LOCAL._replace(connect_connections=2, pending=6)
    async with service_for(hub(everything(app.base)), config) as service:
        results = await asyncio.gather(*(service.connect(connecting(source())) for _ in range(9)))
    assert sum(isinstance(each, ConnectAccepted) for each in results) == 6
    assert app.most_running == 2


# -- what a person sees ------------------------------------------------------------------------------------


async def test_each_failure_is_one_line_one_count_and_one_record_without_secrets(app: AppServer) -> None:
    app.answer = status_answers(404)
    config = LOCAL._replace(failures_kept=3)
    async with service_for(hub(everything(app.base)), config) as service:
        with capture_logs() as lines:
            for closes, wants_ack in ((True, False), (False, True), (False, False)):
                await service.user_event(event(data=b"PAYLOAD", closes=closes, wants_ack=wants_ack))
            await service.connect(connecting())
        assert [line["event"] for line in lines] == ["event_failed"] * 3 + ["connect_refused"]
        assert [line["told"] for line in lines] == ["closed 1011", "failed ack", "nothing", "HTTP 404"]
        line = lines[0]
        assert line["url"] == f"{app.base}/hooks/orders/ping?code=***"
        assert (line["hub"], line["upstream_event"], line["status"], line["attempts"]) == (
            "orders",
            "ping",
            404,
            1,
        )
        assert "s3cr3t" not in repr(lines)
        assert "PAYLOAD" not in repr(lines)
        assert service.failures.counts == {"status": 3, "refused": 1}
        assert [record.told for record in service.failures.latest()] == ["HTTP 404", "nothing", "failed ack"]
        app.answer = status_answers(204)
        await service.user_event(event())
        assert service.delivered == {"user": 1}


async def test_failures_that_cost_no_attempt_do_not_flood_the_log(app: AppServer) -> None:
    app.allow = "other.example"
    clock = FakeClock()
    async with service_for(hub(everything(app.base)), clock=clock) as service:
        with capture_logs() as lines:
            for _ in range(25):
                await service.user_event(event())
            clock.advance(0.5)
            await service.user_event(event())
            clock.advance(0.5)
            await service.user_event(event())
        assert len(lines) == 11
        assert lines[-1]["suppressed"] == 16
        assert service.failures.counts == {"validation": 27}
        assert len(service.failures.latest()) == 27


async def test_events_that_nobody_wants_do_not_push_other_failures_out_of_sight(app: AppServer) -> None:
    app.answer = status_answers(404)
    async with service_for(hub(everything(app.base)), NO_RETRY._replace(failures_kept=3)) as service:
        await service.user_event(event())
        for _ in range(10):
            service.unhandled(source(), "typo", closes=False, wants_ack=False)
        found = service.failures.latest()
        assert [each.category for each in found] == ["no_handler"] * 3 + ["status"]
        assert "'typo'" in found[0].reason
        assert service.failures.counts == {"status": 1, "no_handler": 10}


async def test_first_validations_of_many_origins_are_few_at_a_time() -> None:
    """Where no public host is configured the origin is what a client says that it connected to."""
    release = asyncio.Event()
    asked = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                asked += 1
                await release.wait()
                writer.write(http("HTTP/1.1 403 No"))
        except asyncio.IncompleteReadError:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    base = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        async with service_for(hub(everything(base)), NO_RETRY._replace(public_host="")) as service:
            sources = [source(host=f"h{number}.example") for number in range(20)]
            events = [asyncio.create_task(service.user_event(event(each))) for each in sources]
            async with asyncio.timeout(5):
                while asked < VALIDATIONS:  # noqa: ASYNC110 (a turn of the loop)
                    await asyncio.sleep(0)
            for _ in range(100):  # others would have come by now
                await asyncio.sleep(0)
            assert asked == VALIDATIONS
            release.set()
            results = await asyncio.gather(*events)
            assert {failure_of(each).category for each in results} == {"validation"}
            assert asked == len(sources)
    finally:
        server.close()
