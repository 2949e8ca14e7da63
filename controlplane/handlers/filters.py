"""The `filter` of an operation: checked before the body is read and before anything happens (7.5)."""

from __future__ import annotations

from controlplane.call import Call
from controlplane.query import problem_for_filter
from hubwire.model.filters import InvalidFilter, parse_filter


def checked_filter(text: str | None, target: str) -> str | None:
    """The filter as it travels, or None for everybody: an absent one and an empty one are the same.

    Raises Problem (400) with the service's own sentence. One of white space only is refused.
    """
    if not text:
        return None
    try:
        parse_filter(text)
    except InvalidFilter as error:
        raise problem_for_filter(str(error), target) from None
    return text


def filter_from_query(call: Call) -> str | None:
    return checked_filter(call.query.one("filter"), "filter")
