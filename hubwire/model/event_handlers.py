"""Event handler settings: the address of a handler, what it wants, and which one gets an event. Pure.

Rules: server-events.md section 1. A template is compiled once and remembered, since every event resolves
one; everything that can be wrong with it is told as one sentence when the setting is saved.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any, Final, Literal, NamedTuple, TypeAlias
from urllib.parse import quote, unquote, urlsplit

from hubwire.model.errors import InvalidRequest
from hubwire.model.limits import MAX_GROUP_CHARACTERS
from hubwire.model.settings import EventHandler, HubSettings

VALIDATE: Final = "validate"
"""What `{event}` becomes for abuse protection (1.2)."""
TUNNEL_PREFIX: Final = "tunnel:///"
KEY_VAULT_REFERENCE: Final = "@Microsoft.KeyVault("

EventKind: TypeAlias = Literal["sys", "user", "gp"]
"""As in `ce-type`: of the service, of a client's message, of a group's presence (3.3)."""
SecretOf: TypeAlias = Callable[[str], str | None]
"""From the URI in a Key Vault reference to the secret's text; None when there is none."""

Place = tuple[str | int, ...]

_PARAMETER = re.compile(r"\{(hub|event)\}", re.IGNORECASE)
# One documented sample has no braces around it, so both spellings are taken (1.2).
_REFERENCE = re.compile(r"\{?@Microsoft\.KeyVault\(SecretUri=([^)]*)\)\}?", re.IGNORECASE)
_FORBIDDEN = re.compile(r"[\x00-\x20\x7f-\xa0\\\u2028\u2029]")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9.])?|\[[0-9A-Fa-f:.]+\]")
_ASCII = "".join(map(chr, range(0x21, 0x7F)))


class UnusableUrl(InvalidRequest):
    """A template, or what it became, is no address that events can be sent to. The message never has
    the secret of a reference in it."""

    code = "unusable_url"


class HandlerEvent(NamedTuple):
    """What settings are matched with. `group` is given for kind "gp" only."""

    kind: EventKind
    name: str
    group: str = ""


CONNECT: Final = HandlerEvent("sys", "connect")
CONNECTED: Final = HandlerEvent("sys", "connected")
DISCONNECTED: Final = HandlerEvent("sys", "disconnected")


# -- addresses (1.2) -----------------------------------------------------------------------------------


class UrlTemplate(NamedTuple):
    """A legal template; get one from `compile_template`. `parts` are literal texts and, at odd places,
    the names of parameters in lower case."""

    parts: tuple[str, ...]

    def resolve(self, hub: str, event: str) -> str:
        """The URL in ASCII for one event. Raises UnusableUrl."""
        parts = self.parts
        if len(parts) == 1:
            return parts[0]
        try:
            values = {"hub": quote(hub, safe=""), "event": quote(event, safe="")}
        except UnicodeEncodeError:
            raise UnusableUrl("The name of the event has characters that UTF-8 cannot have.") from None
        url = "".join(values[part] if i % 2 else part for i, part in enumerate(parts))
        # A client chose the name of the event: it must not walk up the path of the handler (4.10).
        if "/." in url and _has_dot_segment(urlsplit(url).path):
            raise UnusableUrl("With this event the path of the URL has a segment that is '.' or '..'.")
        return url


@lru_cache(maxsize=4096)
def compile_template(template: str) -> UrlTemplate:
    """Raises UnusableUrl, whose message is a sentence for the author of the setting."""
    return _compile(template)


def resolve_url(template: str, hub: str, event: str, secret_of: SecretOf | None = None) -> str:
    """The address for one event, or for abuse protection with the event `validate`.

    A Key Vault reference is replaced first, as its secret may hold a whole template. One that cannot be
    resolved raises UnusableUrl, as does everything else that keeps this from being a usable URL.
    """
    if not _refers(template):
        return _resolve(template, hub, event)
    # Not through the caches, which would keep secrets.
    return _compile(_expand(template, secret_of)).resolve(hub, event)


def template_fault(template: str, *, tunnel: bool = False) -> str | None:
    """What is wrong with a template that is to be saved; None when it is usable.

    `tunnel` says whether this service has a server tunnel for `tunnel:///` addresses (1.6).
    """
    first = _REFERENCE.search(template)
    if first is not None:
        if first.start() == 0:
            return None  # the secret holds the beginning of the URL: judged when it is resolved
        template = _REFERENCE.sub("secret", template)
    if is_tunnel(template) and not tunnel:
        return "This service has no server tunnel for tunnel:/// addresses: give an http(s) URL."
    try:
        compile_template(template)
    except UnusableUrl as error:
        return str(error)
    return None


def is_tunnel(url: str) -> bool:
    return url[: len(TUNNEL_PREFIX)].lower() == TUNNEL_PREFIX


def shown_url(url: str) -> str:
    """A resolved URL, or a template, for people: the values of its query are secrets (`?code=`), so is
    who logs in. What is no URL is not shown at all."""
    if KEY_VAULT_REFERENCE.lower() in url.lower():
        return "(a Key Vault reference)"
    base, mark, query = url.partition("?")
    scheme, slashes, rest = base.partition("://")
    if not slashes:
        return "(not a URL)"
    authority, slash, path = rest.partition("/")
    base = f"{scheme}://{authority.rpartition('@')[2]}{slash}{path.partition('#')[0]}"
    if not mark:
        return base
    fields = (field.partition("=") for field in query.partition("#")[0].split("&"))
    return base + "?" + "&".join(f"{name}=***" if equals else "***" for name, equals, _ in fields)


@lru_cache(maxsize=4096)
def _refers(template: str) -> bool:
    return KEY_VAULT_REFERENCE.lower() in template.lower()


@lru_cache(maxsize=4096)
def _resolve(template: str, hub: str, event: str) -> str:
    return compile_template(template).resolve(hub, event)


def _compile(template: str) -> UrlTemplate:
    _check(template)
    text = _to_ascii(template)
    parts = _PARAMETER.split(text)
    return UrlTemplate(tuple(part.lower() if i % 2 else part for i, part in enumerate(parts)))


def _check(template: str) -> None:
    if _FORBIDDEN.search(template):
        raise UnusableUrl("White space, control characters and backslashes cannot stand in the URL.")
    rest = _PARAMETER.sub("p", template)
    if "{" in rest or "}" in rest:
        raise UnusableUrl(
            "Only {hub} and {event} can stand in braces; write braces that are part of the URL as %7B, %7D."
        )
    try:
        url = urlsplit(template)
        host, port = url.hostname, url.port
    except ValueError:
        raise UnusableUrl("This is not a URL.") from None
    if is_tunnel(template):
        if url.fragment:
            raise UnusableUrl("A fragment (#...) is never sent; leave it out.")
    elif url.scheme not in ("http", "https") or not host:
        raise UnusableUrl("The URL must begin with http:// or https:// and name a host.")
    if "{" in url.netloc:
        raise UnusableUrl("{hub} and {event} cannot stand in the host part of the URL.")
    if "@" in url.netloc:
        raise UnusableUrl(
            "A user name or password cannot stand in the URL; use the auth of the event handler, or a "
            "secret in the query."
        )
    if port == 0:
        raise UnusableUrl("The port cannot be 0.")
    if url.fragment or template.endswith("#"):
        raise UnusableUrl("A fragment (#...) is never sent; leave it out.")
    if _has_dot_segment(url.path):
        raise UnusableUrl("The path of the URL has a segment that is '.' or '..'; write where it leads.")


def _to_ascii(template: str) -> str:
    """The same URL as it travels: IDNA in the host, UTF-8 percent-encoded elsewhere."""
    if is_tunnel(template):
        return TUNNEL_PREFIX + quote(template[len(TUNNEL_PREFIX) :], safe=_ASCII)
    scheme, _, rest = template.partition("://")
    at = min((rest.index(mark) for mark in "/?" if mark in rest), default=len(rest))
    authority, path = rest[:at], rest[at:]
    if not authority.isascii():
        try:
            authority = authority.encode("idna").decode("ascii")
        except UnicodeError:
            raise UnusableUrl("The host of the URL is not a host name.") from None
    host = re.sub(r":\d*$", "", authority)
    # Strict, so that no two readers of the URL see different hosts in it.
    if _HOST.fullmatch(host) is None:
        raise UnusableUrl("The host of the URL is not a host name or an address.")
    try:
        return f"{scheme.lower()}://{authority.lower()}{quote(path, safe=_ASCII)}"
    except UnicodeEncodeError:
        raise UnusableUrl("The URL has characters that UTF-8 cannot have.") from None


def _has_dot_segment(path: str) -> bool:
    return any(unquote(segment) in (".", "..") for segment in path.split("/"))


def _expand(template: str, secret_of: SecretOf | None) -> str:
    def secret(reference: re.Match[str]) -> str:
        text = secret_of(reference[1]) if secret_of is not None else None
        if not text:  # an empty string would call another address than the author meant
            raise UnusableUrl("The Key Vault reference in the URL cannot be resolved.")
        return text

    expanded = _REFERENCE.sub(secret, template)
    if KEY_VAULT_REFERENCE.lower() in expanded.lower():
        raise UnusableUrl("The Key Vault reference must be written @Microsoft.KeyVault(SecretUri=...).")
    return expanded


# -- which events (1.3) ----------------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def _names(pattern: str) -> frozenset[str] | None:
    """The names in a pattern, in lower case; None when it takes every event."""
    items = frozenset(item.strip().lower() for item in pattern.split(",")) - {""}
    return None if "*" in items else items


def matches_user_event(pattern: str | None, name: str) -> bool:
    """Whether a user event is wanted. No other wildcard than a lone `*`; letter case does not matter."""
    if not pattern:
        return False
    names = _names(pattern)
    return names is None or name.lower() in names


def matches_group(filters: tuple[str, ...], group: str) -> bool:
    """Whether the presence in a group is wanted; without filters, of every group (1.1, preview).

    `*` in a filter stands for any characters; the documents show only `team*`, so nothing else is
    special. Case-sensitive like group names. Takes time in proportion to the two lengths: no
    backtracking, since clients choose the names of groups.
    """
    return not filters or any(_glob(text, group) for text in filters)


def _glob(pattern: str, text: str) -> bool:
    first, *rest = pattern.split("*")
    if not rest:
        return text == first
    last = rest.pop()
    if len(text) < len(first) + len(last) or not text.startswith(first) or not text.endswith(last):
        return False
    at, end = len(first), len(text) - len(last)
    for piece in rest:
        found = text.find(piece, at, end)
        if found < 0:
            return False
        at = found + len(piece)
    return True


# -- which handler (1.4) ---------------------------------------------------------------------------------


def handles(handler: EventHandler, event: HandlerEvent) -> bool:
    """Whether this handler, taken alone, wants the event."""
    if event.kind == "user":
        return matches_user_event(handler.user_event_pattern, event.name)
    if event.kind == "sys":
        return any(name.lower() == event.name for name in handler.system_events)
    presence = handler.group_presence_events
    return (
        presence is not None
        and any(name.lower() == event.name for name in presence.event_names)
        and matches_group(presence.group_filters, event.group)
    )


def choose_handler(settings: HubSettings, event: HandlerEvent) -> EventHandler | None:
    """The one handler that gets the event: the first in order that matches, and no other, also when it
    fails (1.4). A user event that is called `connected` is matched by the pattern for user events."""
    for handler in settings.event_handlers:
        if handles(handler, event):
            return handler
    return None


# -- what can be saved (1.7) -----------------------------------------------------------------------------


def pattern_fault(pattern: str) -> str | None:
    """What is wrong with a `userEventPattern`; None when it is usable."""
    wrong = next((i for i in pattern.split(",") if "*" in i and i.strip() != "*"), None)
    if wrong is not None:
        return (
            f"{wrong.strip()[:64]!r} matches no event: there is no other wildcard than '*' alone. Write "
            "'*', one name, or names with commas between them."
        )
    return None


def handler_faults(handler: Mapping[str, Any]) -> Iterator[tuple[Place, str]]:
    """What is wrong with one entry of `eventHandlers`, and where in it, beyond the types. `handler` has
    Azure's property names, no nulls, and values of any type: those of a wrong type are passed over."""
    url = handler.get("urlTemplate")
    text = template_fault(url) if isinstance(url, str) else None
    if text is not None:
        yield ("urlTemplate",), text
    pattern = handler.get("userEventPattern")
    text = pattern_fault(pattern) if isinstance(pattern, str) else None
    if text is not None:
        yield ("userEventPattern",), text
    presence = handler.get("groupPresenceEvents")
    filters = presence.get("groupFilters") if isinstance(presence, dict) else None
    for index, each in enumerate(filters if isinstance(filters, list) else ()):
        if isinstance(each, str) and (not each.strip() or len(each) > MAX_GROUP_CHARACTERS):
            place = ("groupPresenceEvents", "groupFilters", index)
            yield place, f"A filter has 1 to {MAX_GROUP_CHARACTERS} characters that are not all white space."


def with_lower_case_events(handler: Mapping[str, Any]) -> dict[str, Any]:
    """The same entry with the names of its system and presence events in lower case: Azure compares them
    without regard to it (1.3)."""
    changed = dict(handler)
    if isinstance(changed.get("systemEvents"), list):
        changed["systemEvents"] = [_lower(name) for name in changed["systemEvents"]]
    presence = changed.get("groupPresenceEvents")
    if isinstance(presence, dict) and isinstance(presence.get("eventNames"), list):
        changed["groupPresenceEvents"] = {
            **presence,
            "eventNames": [_lower(n) for n in presence["eventNames"]],
        }
    return changed


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value
