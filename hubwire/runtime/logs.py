"""Logs: events with keys, to standard error. JSON, one object a line; readable text on a terminal.

The event is a fixed snake_case name; facts are keys (`connection_id`, `hub`, `group`, `gateway_id`,
`partition`, `error_code`). Info: lifecycle. Warning: someone must look. Error: a bug or lost data, with
its traceback. Payloads and tokens are never passed to a logger; what looks like one all the same is
blanked here, as a second line of defence.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog

from hubwire.runtime.process import LogFormat

_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
_SECRET_KEYS = frozenset(
    (
        "access_key",
        "access_token",
        "authorization",
        "connection_string",
        "data",
        "password",
        "payload",
        "reconnection_token",
        "secret",
        "signature",
        "token",
    )
)
# Secrets inside text: in URLs, in connection strings, and any JWT.
_SECRET_TEXT = re.compile(
    r"(?i)((?:access_token|awps_reconnection_token)=|AccessKey=|Bearer )[^&\s;\"']+"
    r"|eyJ[\w-]+\.[\w-]+\.[\w-]+"
    r"|(?<=://)[^/@\s]+:[^/@\s]+(?=@)"
)


def redact(text: str) -> str:
    """`text` without access tokens, keys and passwords in URLs."""
    return _SECRET_TEXT.sub(lambda found: f"{found[1] or ''}***", text)


def configure_logs(level: str, format: LogFormat, *, stream: TextIO | None = None, **bound: object) -> None:
    """Set up structlog, and the standard library's logging with it. Call once a process, and again in a
    forked child with other `bound` keys (`process="router"`), which every line then carries.

    Lines go out in one write each, so those of several processes on one pipe do not mix.
    """
    out = stream or sys.stderr
    as_text = format == "text" or (format == "auto" and out.isatty())
    threshold = _LEVELS[level]
    shared: list[Any] = [
        _bind(bound),
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="%H:%M:%S" if as_text else "iso", utc=not as_text),
        structlog.processors.format_exc_info,  # before the blanking: exceptions quote URLs
        _blank_secrets,
    ]
    render: Any
    if as_text:
        colours = out.isatty() and "NO_COLOR" not in os.environ
        render = structlog.dev.ConsoleRenderer(colors=colours, pad_event_to=32)
    else:
        render = structlog.processors.JSONRenderer(_to_json)
    structlog.configure(
        processors=[*shared, render],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=lambda *_: _OneWrite(out),
        # Not cached on first use: loggers made at import time must follow a child's own settings.
        cache_logger_on_first_use=False,
    )
    handler = _ToStructlog(threshold)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(threshold)
    # asyncio tells of slow callbacks at warning only in debug mode; nats-py logs every lost connection
    # as an error, which our own reconnection events say better.
    logging.getLogger("nats").setLevel(logging.CRITICAL)
    logging.getLogger("aiohttp.access").setLevel(logging.CRITICAL)


def get_logger(component: str) -> Any:
    """A logger whose lines carry `component`. Methods: debug, info, warning, error, exception, bind."""
    return structlog.get_logger(component=component)


class _OneWrite:
    """The sink: one line, one write."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def msg(self, message: str) -> None:
        try:
            self._out.write(message + "\n")
            self._out.flush()
        except (OSError, ValueError):
            pass  # a reader that has gone must not stop a service

    debug = info = warning = error = critical = exception = log = msg


class _ToStructlog(logging.Handler):
    """Sends the libraries' records the same way as our own events."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            structlog.get_logger(component=record.name).log(
                record.levelno, "library_log", message=record.getMessage(), exc_info=record.exc_info
            )
        except Exception:
            self.handleError(record)


def _bind(bound: dict[str, object]) -> Any:
    def bind(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        for key, value in bound.items():
            event.setdefault(key, value)
        return event

    return bind


def _blank_secrets(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in event.items():
        if key in _SECRET_KEYS and value is not None:
            event[key] = "***"
        elif isinstance(value, str):
            event[key] = redact(value)
    return event


def _to_json(value: object, **_: Any) -> str:
    import msgspec

    return msgspec.json.encode(value, enc_hook=repr).decode()
