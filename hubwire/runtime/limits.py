"""The system's limits on a process that holds many connections."""

from __future__ import annotations

import asyncio
import resource
import time

import structlog

_log = structlog.get_logger(__name__)

TOLD_EVERY_SECONDS = 10.0
_ENOUGH = 1_048_576  # what Linux allows at most by default; macOS refuses "unlimited" here


def raise_open_files() -> int:
    """Raise the number of open files as far as the hard limit lets us; children inherit it. Returns it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _ENOUGH if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):
            return soft
        return wanted
    return soft


def open_files_limit() -> int:
    """How many files this process may have open now."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return _ENOUGH if soft == resource.RLIM_INFINITY else min(soft, _ENOUGH)


def max_plain_sockets() -> int:
    """How many sockets of one process may be no client's connection: not decided upon, or plain HTTP."""
    return min(10_000, open_files_limit() // 4)


class Reserve:
    """Keeps the last descriptors of a process from being taken by accepted sockets.

    With none left, accepting fails in ways that depend on the event loop (uvloop may close the listening
    socket for good), and neither the bus nor a file could be opened again.
    """

    def __init__(self) -> None:
        limit = open_files_limit()
        self._last = limit - min(64, limit // 10)
        self._told = float("-inf")
        self._refused = 0

    def admits(self, transport: asyncio.Transport) -> bool:
        """Whether an accepted socket may stay. When not, that is logged, but only now and then."""
        sock = transport.get_extra_info("socket")
        # The lowest free number is given out, so the number tells how many are in use.
        if sock is None or sock.fileno() < self._last:
            return True
        self._refused += 1
        now = time.monotonic()
        if now - self._told >= TOLD_EVERY_SECONDS:
            _log.error("descriptors_used_up", limit=open_files_limit(), refused=self._refused)
            self._told, self._refused = now, 0
        return False
