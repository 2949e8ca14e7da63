"""What Azure has no API for: failed events, verdicts of handlers, dead letters. Below /hubwire, with the
credentials of the management API; its shapes may change between versions of this service.

    GET    /hubwire/events/failures?hub=&limit=         the latest failed events, of all gateways
    POST   /hubwire/hubs/{hub}/validate                 ask the hub's handlers whether they may be called
    GET    /hubwire/events/deadLetters?hub=&after=&limit=
    POST   /hubwire/events/deadLetters/{id}/retry
    DELETE /hubwire/events/deadLetters/{id}
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web

from controlplane.call import Services
from controlplane.endpoints import endpoint_of
from controlplane.events import EventsPort
from controlplane.management.errors import bad_content, json_response, not_found
from controlplane.query import QueryString
from hubwire.bus.dead_letters import KeptLetter
from hubwire.model.errors import Unavailable
from hubwire.model.event_handlers import shown_url
from hubwire.model.settings import EventHandler, HubSettings

MAX_LIMIT = 1000
_NAMES = {"connection_id": "connectionId", "gateway": "gateway"}


async def answer_own(
    services: Services, request: web.Request, segments: list[str], query: QueryString
) -> web.Response:
    """`segments` are those after /hubwire, unquoted. Raises ManagementProblem for what is not there."""
    match request.method, [segment.lower() for segment in segments]:
        case "GET", ["events", "failures"]:
            return await _failures(services, query)
        case "POST", ["hubs", _, "validate"]:
            return await _validate(services, request, segments[1])
        case "GET", ["events", "deadletters"]:
            return await _dead_letters(services, query)
        case "POST", ["events", "deadletters", _, "retry"]:
            await _events(services).dead_letters.retry(_number(segments[2]), now=services.clock())
            return web.Response(status=204)
        case "DELETE", ["events", "deadletters", _]:
            await _events(services).dead_letters.drop(_number(segments[2]))
            return web.Response(status=204)
    raise not_found("path", "/".join(("/hubwire", *segments)))


async def verdicts(
    services: Services, request: web.Request, hub: str, settings: HubSettings
) -> list[dict[str, Any]] | None:
    """What each handler of the settings answers to the validation request; None when nobody can ask."""
    handlers: Sequence[EventHandler] = settings.event_handlers
    if not handlers or services.events is None:
        return [] if not handlers else None
    host = urlsplit(endpoint_of(request, services.config.public_endpoints)).netloc
    answers = await services.events.validate(hub, handlers, host)
    if answers is None:
        return None
    return [
        {"url": shown_url(handler.url_template), **answer}
        for handler, answer in zip(handlers, answers, strict=True)
    ]


async def _validate(services: Services, request: web.Request, hub: str) -> web.Response:
    entry = services.settings.hub_entry(hub)
    if entry is None:
        raise not_found("hub", hub)
    found = await verdicts(services, request, *entry)
    if found is None:
        raise Unavailable("No gateway answers, and it is gateways that ask event handlers.")
    return json_response({"value": found})


async def _failures(services: Services, query: QueryString) -> web.Response:
    hub, limit = (query.one("hub") or "").lower(), _limit(query)
    found = await _events(services).failures(hub, limit)
    value = []
    for record in found.records:
        shown = {_NAMES.get(name, name): part for name, part in record.items() if name != "at"}
        value.append({"time": _time(record["at"]), **shown})
    return json_response({"value": value, "silentGateways": found.silent})


async def _dead_letters(services: Services, query: QueryString) -> web.Response:
    after = _number(query.one("after") or "0")
    letters = await _events(services).dead_letters.list(
        after=after, limit=_limit(query), hub=query.one("hub") or ""
    )
    return json_response({"value": [_letter(kept) for kept in letters]})


def _letter(kept: KeptLetter) -> dict[str, Any]:
    """Without the payload, which has the state and the cookies of the connection."""
    letter = kept.letter
    return {
        "id": kept.id,
        "hub": letter.hub,
        "event": letter.event,
        "connectionId": letter.connection_id,
        "userId": letter.user_id,
        "group": letter.group,
        "eventId": letter.number,
        "time": _time(letter.happened),
        "givenUp": _time(letter.given_up),
        "attempts": letter.attempts,
        "category": letter.category,
        "status": letter.status,
        "reason": letter.reason,
        "url": letter.url,
    }


def _events(services: Services) -> EventsPort:
    if services.events is None:
        raise Unavailable("This control plane cannot ask gateways.")
    return services.events


def _limit(query: QueryString) -> int:
    limit = _number(query.one("limit") or "100")
    if not 1 <= limit <= MAX_LIMIT:
        raise bad_content(f"limit must be a number from 1 to {MAX_LIMIT}.", "limit")
    return limit


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise bad_content(f"{text[:40]!r} is not a number.")
    return int(text)


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
