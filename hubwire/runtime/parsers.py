"""From the text of a setting to its value. Each raises ValueError with the rest of a sentence that
begins with the name and the value: "... must be a number between 1 and 120"."""

from __future__ import annotations

import difflib
import importlib.util
import ipaddress
import os
import re
from collections.abc import Callable, Iterable
from urllib.parse import unquote, urlsplit

MINIMUM_KEY_BYTES = 32  # rest-api.md 2.1


def did_you_mean(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def has_module(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def choice(*allowed: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.lower() not in allowed:
            raise ValueError(f"must be one of {', '.join(allowed)}")
        return text.lower()

    return parse


def number(low: float, high: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise ValueError(f"must be a number between {low:g} and {high:g}")
        return value

    return parse


def integer(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise ValueError(f"must be a whole number between {low} and {high}")
        return value

    return parse


port = integer(0, 65535)


def sync_interval(text: str) -> str:
    """`always`, or a number with a unit that nats-server takes (`500ms`, `1s`, `2m`)."""
    if text == "always" or re.fullmatch(r"[1-9][0-9]{0,5}(ms|s|m)", text):
        return text
    raise ValueError("must be 'always' or a time such as 500ms, 1s or 2m")


def boolean(text: str) -> bool:
    if text.lower() not in ("true", "false", "1", "0", "yes", "no", "on", "off"):
        raise ValueError("must be true or false")
    return text.lower() in ("true", "1", "yes", "on")


def host(text: str) -> str:
    bare = text.strip("[]")
    if not bare or any(character in bare for character in " /@"):
        raise ValueError("must be a host name or an address, without scheme, port or path")
    return bare


def readable_file(text: str) -> str:
    if not os.path.isfile(text) or not os.access(text, os.R_OK):
        raise ValueError("must name a file that this user can read")
    return os.path.abspath(text)


def access_key(text: str) -> str:
    if len(text.encode()) < MINIMUM_KEY_BYTES:
        raise ValueError(
            f"must have at least {MINIMUM_KEY_BYTES} bytes; make one with: openssl rand -base64 33"
        )
    if ";" in text or any(character.isspace() for character in text):
        raise ValueError("must have no white space and no semicolon, as it stands in connection strings")
    return text


def _items(text: str) -> list[str]:
    items = [item.strip() for item in text.split(",") if item.strip()]
    if not items:
        raise ValueError("must name at least one")
    return items


def nats_urls(text: str) -> tuple[str, ...]:
    urls = []
    for item in _items(text):
        url = item if "://" in item else f"nats://{item}"
        parts = urlsplit(url)
        if parts.scheme not in ("nats", "tls", "ws", "wss") or not parts.hostname or not _has_port(url):
            raise ValueError("must be URLs like nats://host:4222 or tls://host:4222, comma separated")
        urls.append(url)
    return tuple(urls)


def http_urls(text: str) -> tuple[str, ...]:
    urls = []
    for item in _items(text):
        parts = urlsplit(item)
        if parts.scheme not in ("http", "https") or not parts.hostname or not _has_port(item):
            raise ValueError("must be URLs like https://host, comma separated")
        if parts.query or parts.fragment or parts.username:
            raise ValueError("must have no query, fragment or user name")
        urls.append(item.rstrip("/"))
    return tuple(urls)


def https_url(text: str) -> str:
    """One URL that a secret is sent to; without TLS only on this machine."""
    parts = urlsplit(text)
    local = parts.hostname in ("localhost", "127.0.0.1", "::1")
    if not parts.hostname or not _has_port(text) or parts.scheme not in ("https", *(("http",) * local)):
        raise ValueError("must be a URL like https://login.example.com/token")
    if parts.username or parts.fragment:
        raise ValueError("must have no user name and no fragment")
    return text


def issuers(text: str) -> tuple[str, ...]:
    """URLs as they stand in `iss`, with or without a slash at the end: they are compared as they are."""
    urls = tuple(https_url(item) for item in _items(text))
    if any(urlsplit(url).query for url in urls):
        raise ValueError("must have no query")
    return urls


def words(text: str) -> tuple[str, ...]:
    """Anything without a comma."""
    return tuple(_items(text))


def claims(text: str) -> tuple[str, ...]:
    """CLAIM=VALUE, comma separated."""
    items = _items(text)
    if any(not item.partition("=")[0].strip() or not item.partition("=")[2].strip() for item in items):
        raise ValueError("must be claims like roles=Web PubSub Service Owner, comma separated")
    return tuple(items)


def authority(text: str) -> str:
    """host or host:port."""
    parts = urlsplit(f"//{text}")
    if not parts.hostname or not _has_port(f"//{text}") or text != parts.netloc or parts.username:
        raise ValueError("must be a host name, with or without a port")
    if any(character.isspace() for character in text):
        raise ValueError("must have no white space")
    return text


def networks(text: str) -> tuple[str, ...]:
    try:
        return tuple(str(ipaddress.ip_network(item, strict=False)) for item in _items(text))
    except ValueError:
        raise ValueError("must be networks like 10.1.0.0/16 or fd00::/8, comma separated") from None


def _has_port(url: str) -> bool:
    """Whether the port is absent or a number in range (urlsplit finds out only when asked)."""
    try:
        return urlsplit(url).port != 0
    except ValueError:
        return False


def split_credentials(url: str) -> tuple[str, str, str]:
    """A NATS URL without its credentials, the user, the password; empty where there is none."""
    parts = urlsplit(url)
    if "@" not in parts.netloc:
        return url, "", ""
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    return bare, unquote(parts.username or ""), unquote(parts.password or "")
