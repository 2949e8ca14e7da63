"""Event handler settings, from the tables of server-events.md section 1."""

from __future__ import annotations

from typing import Any

import pytest

from hubwire.model.event_handlers import (
    CONNECT,
    CONNECTED,
    HandlerEvent,
    UnusableUrl,
    choose_handler,
    matches_group,
    matches_user_event,
    resolve_url,
    shown_url,
    template_fault,
)
from hubwire.model.hub_rules import InvalidHubSettings, parse_hub_settings
from hubwire.model.settings import EventHandler, GroupPresenceEvents, HubSettings


def user(name: str) -> HandlerEvent:
    return HandlerEvent("user", name)


@pytest.mark.parametrize(
    ("template", "hub", "event", "url"),
    [
        # The table of 1.2.
        ("https://a.example/api/{hub}/{event}", "chat", "connect", "https://a.example/api/chat/connect"),
        ("https://a.example/api/{hub}/{event}", "chat", "validate", "https://a.example/api/chat/validate"),
        (
            "https://a.example/u/{event}?h={HUB}&code=x%2By",
            "chat",
            "order.created",
            "https://a.example/u/order.created?h=chat&code=x%2By",
        ),
        ("https://a.example/{event}", "chat", "my event", "https://a.example/my%20event"),
        ("https://a.example/{event}", "chat", "a/b", "https://a.example/a%2Fb"),
        ("https://a.example/fixed", "chat", "anything", "https://a.example/fixed"),
        # Its text.
        ("http://a.example:8080/{Hub}{EVENT}", "h", "e", "http://a.example:8080/he"),
        ("https://a.example?e={event}", "h", "a&b=c", "https://a.example?e=a%26b%3Dc"),
        ("https://a.example/{event}", "h", "用户", "https://a.example/%E7%94%A8%E6%88%B7"),
        ("https://a.example/{event}", "h", "a-b_c~d.e", "https://a.example/a-b_c~d.e"),
        ("HTTPS://A.Example/X", "h", "e", "https://a.example/X"),
        ("https://bücher.example/ü?ü", "h", "e", "https://xn--bcher-kva.example/%C3%BC?%C3%BC"),
        ("http://[::1]:8080/{event}", "h", "e", "http://[::1]:8080/e"),
        ("https://a.example/%7B{event}%7D", "h", "e", "https://a.example/%7Be%7D"),
        ("tunnel:///eventhandler/{event}", "h", "ping", "tunnel:///eventhandler/ping"),
        ("https://a.example/x.{event}", "h", ".", "https://a.example/x.."),
    ],
)
def test_a_template_becomes_the_url_of_an_event(template: str, hub: str, event: str, url: str) -> None:
    assert resolve_url(template, hub, event) == url


@pytest.mark.parametrize(
    ("template", "fault"),
    [
        ("https://{hub}.example/", "host part"),
        ("https://{event}/", "host part"),
        ("https://a.example:{hub}/", "host part|not a URL"),
        ("https://a.example/{name}", "%7B"),
        ("https://a.example/{", "%7B"),
        ("https://a.example/}", "%7B"),
        ("/relative", "begin with http"),
        ("ftp://a.example/", "begin with http"),
        ("{hub}://a.example/", "begin with http"),
        ("https://", "begin with http"),
        ("https:///path", "begin with http"),
        ("https://a.example:0/", "port"),
        ("https://a.example:99999/", "not a URL"),
        ("https://[::1/", "not a URL"),
        ("https://user:pw@a.example/", "password"),
        ("https://user@a.example/", "password"),
        ("https://a.example/#x", "fragment"),
        ("https://a.example/#", "fragment"),
        ("https://a.example/a b", "White space"),
        ("https://a.example/\r\nx", "White space"),
        ("https://good.example\\@evil.example/", "backslash"),
        ("https://a.example/x/../y", r"'\.\.'"),
        ("https://a.example/x/%2E%2e/y", r"'\.\.'"),
        ("https://a.example/./y", r"'\.'"),
        ("https://a,b.example/", "not a host name"),
        ("https://-a.example/", "not a host name"),
        ("https://a%2eexample/", "not a host name"),
        ("tunnel:///x/{event}", "no server tunnel"),
        ("", "begin with http"),
    ],
)
def test_a_template_that_cannot_work_is_refused_when_it_is_saved(template: str, fault: str) -> None:
    with pytest.raises(InvalidHubSettings, match=fault) as raised:
        parse_hub_settings({"eventHandlers": [{"urlTemplate": "http://ok"}, {"urlTemplate": template}]})
    assert raised.value.target == "eventHandlers[1].urlTemplate"


def test_a_tunnel_address_is_legal_where_there_is_a_tunnel() -> None:
    assert template_fault("tunnel:///x/{event}", tunnel=True) is None
    assert template_fault("TUNNEL:///x", tunnel=True) is None
    assert template_fault("tunnel:///x/{name}", tunnel=True) is not None


@pytest.mark.parametrize("event", [".", ".."])
def test_a_client_cannot_walk_up_the_path_with_the_name_of_its_event(event: str) -> None:
    with pytest.raises(UnusableUrl, match="segment"):
        resolve_url("https://a.example/hooks/{event}", "chat", event)
    with pytest.raises(UnusableUrl, match="segment"):
        resolve_url("https://a.example/hooks/.{event}/x", "chat", ".")
    assert resolve_url("https://a.example/hooks?e={event}", "chat", event).endswith(event)


def test_a_secret_is_put_in_before_the_parameters() -> None:
    secrets = {"https://v/secrets/url": "https://a.example/{event}?code=s", "https://v/secrets/code": "s3c"}
    reference = "@Microsoft.KeyVault(SecretUri=https://v/secrets/{})"
    whole = reference.format("url")
    for template in (whole, "{" + whole + "}"):
        assert template_fault(template) is None
        assert resolve_url(template, "h", "ping", secrets.get) == "https://a.example/ping?code=s"
    part = "https://a.example/{event}?code={" + reference.format("code") + "}"
    assert template_fault(part) is None
    assert resolve_url(part, "h", "ping", secrets.get) == "https://a.example/ping?code=s3c"


@pytest.mark.parametrize("secret_of", [None, {}.get, lambda _: "", lambda _: "https://{hub}.example/"])
def test_a_reference_that_cannot_be_used_is_a_failure_and_never_an_empty_text(secret_of: Any) -> None:
    with pytest.raises(UnusableUrl):
        resolve_url("{@Microsoft.KeyVault(SecretUri=https://v/s)}", "h", "e", secret_of)


def test_a_reference_does_not_excuse_the_rest_of_the_template() -> None:
    assert template_fault("https://{hub}.x/?code={@Microsoft.KeyVault(SecretUri=https://v/s)}") is not None


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://a.example/x?code=s3cr3t&h=chat", "https://a.example/x?code=***&h=***"),
        ("https://a.example/x?s3cr3t", "https://a.example/x?***"),
        ("https://u:s3cr3t@a.example/x", "https://a.example/x"),
        ("https://a.example/{event}", "https://a.example/{event}"),
        ("https://a.example/x#s3cr3t", "https://a.example/x"),
        ("s3cr3t", "(not a URL)"),
        ("{@Microsoft.KeyVault(SecretUri=https://v/s3cr3t)}", "(a Key Vault reference)"),
    ],
)
def test_a_url_is_shown_without_its_secrets(url: str, shown: str) -> None:
    assert shown_url(url) == shown


@pytest.mark.parametrize(
    ("pattern", "name", "wanted"),
    [
        ("*", "anything", True),
        ("ping", "ping", True),
        ("ping", "PING", True),
        ("ping, PONG", "pong", True),
        ("ping,pong", "pin", False),
        (" ping ,", "ping", True),
        ("ping,*", "x", True),
        ("ping, * ", "x", True),
        ("", "ping", False),
        (None, "ping", False),
        (",", "", False),
        ("room.*", "room.a", False),
    ],
)
def test_a_pattern_is_everything_a_name_or_a_list(pattern: str | None, name: str, wanted: bool) -> None:
    assert matches_user_event(pattern, name) is wanted


def handler(url: str, pattern: str | None = None, *system: Any) -> EventHandler:
    return EventHandler(url, pattern, system)


@pytest.mark.parametrize(
    ("handlers", "event", "called"),
    [
        # The table of 1.4.
        ([handler("A", "*"), handler("B", "ping")], user("ping"), "A"),
        ([handler("A", "ping, PONG"), handler("B", "*")], user("pong"), "A"),
        ([handler("A", ""), handler("B", None)], user("ping"), None),
        ([handler("A", None, "connected"), handler("B", "connected")], CONNECTED, "A"),
        ([handler("A", None, "connected"), handler("B", "connected")], user("connected"), "B"),
        ([handler("A", "*")], CONNECT, None),
        ([handler("A", None, "connected"), handler("B", "*", "connect")], CONNECT, "B"),
        ([], user("ping"), None),
    ],
)
def test_the_first_handler_that_matches_gets_the_event(
    handlers: list[EventHandler], event: HandlerEvent, called: str | None
) -> None:
    chosen = choose_handler(HubSettings(event_handlers=tuple(handlers)), event)
    assert (chosen.url_template if chosen else None) == called


@pytest.mark.parametrize(
    ("filters", "group", "wanted"),
    [
        ((), "any", True),
        (("room1",), "room1", True),
        (("room1",), "Room1", False),
        (("room1",), "room10", False),
        (("team*",), "team", True),
        (("team*",), "team.a/b", True),
        (("team*",), "ateam", False),
        (("x", "*end"), "the end", True),
        (("a*b*a",), "aba", True),
        (("a*b*a",), "aa", False),
        (("ab*ba",), "aba", False),
        (("*",), "x", True),
        (("a**c",), "abc", True),
        (("a?",), "ab", False),
    ],
)
def test_group_filters_take_names_and_asterisks(filters: tuple[str, ...], group: str, wanted: bool) -> None:
    assert matches_group(filters, group) is wanted


def test_presence_is_sent_only_for_the_events_and_groups_that_are_asked_for() -> None:
    presence = GroupPresenceEvents(("joined",), ("room*",))
    settings = HubSettings(event_handlers=(EventHandler("A", "*", group_presence_events=presence),))
    assert choose_handler(settings, HandlerEvent("gp", "joined", "room1")) is not None
    assert choose_handler(settings, HandlerEvent("gp", "left", "room1")) is None
    assert choose_handler(settings, HandlerEvent("gp", "joined", "other")) is None
    assert (
        choose_handler(HubSettings(event_handlers=(handler("A", "*"),)), HandlerEvent("gp", "joined")) is None
    )


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"userEventPattern": "room.*"}, "eventHandlers[0].userEventPattern"),
        ({"userEventPattern": "a,b*"}, "eventHandlers[0].userEventPattern"),
        (
            {"groupPresenceEvents": {"eventNames": ["joined"], "groupFilters": ["a", " "]}},
            "eventHandlers[0].groupPresenceEvents.groupFilters[1]",
        ),
        ({"groupPresenceEvents": {"eventNames": ["moved"]}}, "eventHandlers[0].groupPresenceEvents"),
        ({"systemEvents": ["connecting"]}, "eventHandlers[0].systemEvents[0]"),
        ({"auth": {"type": "Basic"}}, "eventHandlers[0].auth.type"),
        ({"urlTemplate": 7}, "eventHandlers[0].urlTemplate"),
        ({"groupPresenceEvents": {"groupFilters": 7}}, "eventHandlers[0].groupPresenceEvents.groupFilters"),
    ],
)
def test_a_setting_that_cannot_work_is_named_with_its_place(change: dict[str, Any], place: str) -> None:
    with pytest.raises(InvalidHubSettings) as raised:
        parse_hub_settings({"eventHandlers": [{"urlTemplate": "http://a", **change}]})
    assert str(raised.value.target).startswith(place)


def test_names_of_events_are_taken_in_any_letter_case() -> None:
    settings = parse_hub_settings(
        {
            "eventHandlers": [
                {
                    "urlTemplate": "http://a",
                    "systemEvents": ["Connect", "DISCONNECTED"],
                    "groupPresenceEvents": {"eventNames": ["Joined"]},
                }
            ]
        }
    )
    assert settings.event_handlers[0].system_events == ("connect", "disconnected")
    assert choose_handler(settings, HandlerEvent("gp", "joined", "g")) is not None
