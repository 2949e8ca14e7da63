"""The system's limits on a process that holds many connections."""

from __future__ import annotations

import resource

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
