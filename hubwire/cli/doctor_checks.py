"""The checks of `hubwire doctor`: what a finding is, and the order. None raises, none waits for ever."""

from __future__ import annotations

import resource
from typing import Literal, NamedTuple

_SKEW_WARN_SECONDS = 5.0
_SKEW_FAIL_SECONDS = 60.0  # tokens bear five minutes, but logs and short tokens do not
_FEW_FILES = 4096

State = Literal["ok", "warn", "fail", "skip"]


class Check(NamedTuple):
    """One finding. `advice` says what to do, when something is to be done."""

    name: str
    state: State
    found: str
    advice: str = ""


def open_files() -> Check:
    """A connection is an open file."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < _FEW_FILES:
        advice = "raise the limit (ulimit -Hn): a connection is one file"
        return Check("open files", "warn", f"at most {hard} here", advice)
    return Check("open files", "ok", f"up to {'any number' if hard == resource.RLIM_INFINITY else hard}")


def skew(name: str, seconds: float) -> Check:
    """How far another clock is from ours."""
    shown = f"{abs(seconds):.1f} s {'ahead of' if seconds > 0 else 'behind'} this machine"
    advice = "set both clocks by NTP"
    if abs(seconds) > _SKEW_FAIL_SECONDS:
        return Check(name, "fail", shown, f"{advice}: tokens are refused when clocks differ by minutes")
    if abs(seconds) > _SKEW_WARN_SECONDS:
        return Check(name, "warn", shown, advice)
    return Check(name, "ok", shown)
