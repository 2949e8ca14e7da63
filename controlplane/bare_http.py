"""What is read and said of HTTP beside aiohttp: how long a body is, and answers
without a request of the application."""

from __future__ import annotations

import re

from aiohttp.http_exceptions import LineTooLong

from controlplane.problems import BAD_REQUEST, Problem, body_of, head_of

SERVER = "Hubwire"

_LENGTH = re.compile(rb"\n(?:content-length)[ \t]*:[ \t]*([^\r\n]*?)[ \t]*\r", re.IGNORECASE)
_ENCODED = re.compile(rb"\n(?:transfer-encoding|upgrade)[ \t]*:", re.IGNORECASE)


def raw_response(problem: Problem, more: str = "") -> bytes:
    """The bytes of an answer after which the connection ends, for where there is no request."""
    head = f"{head_of(problem)}{more}Server: {SERVER}\r\nConnection: close\r\n\r\n"
    return head.encode("latin-1", "replace") + body_of(problem)


def body_bytes_of(head: bytes) -> int | None:
    """How many bytes follow a head as its body; None where that is for aiohttp to find out or refuse."""
    if _ENCODED.search(head):
        return None
    lengths = _LENGTH.findall(head)
    if not lengths:
        return 0
    return int(lengths[0]) if len(lengths) == 1 and re.fullmatch(rb"[0-9]{1,15}", lengths[0]) else None


def refusal_of(status: int, exc: BaseException | None, message: str) -> Problem:
    """In our words, what aiohttp's parser refused; its `message` quotes the request."""
    if isinstance(exc, LineTooLong):
        return Problem(431, BAD_REQUEST, "A line of the request is too long.", "Request")
    if "content-length" in message.lower():
        return Problem(status, BAD_REQUEST, "Invalid Content-Length header.", "Request")
    return Problem(status, BAD_REQUEST, "The request is not one of HTTP/1.1.", "Request")
