"""Which metrics and labels an expression of PromQL asks for: enough of it for our dashboards and alerts.

asked("sum by (hub) (rate(a_total{hub=~\"$hub\"}[5m])) / b") .metrics == {"a_total", "b"}
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

_TOKEN = re.compile(
    r"""(?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
      | (?P<range>\[[^\]]*\])
      | (?P<number>\d[\w.]*)
      | (?P<name>[a-zA-Z_:][\w:]*)
      | (?P<sign>=~|!~|!=|==|>=|<=|[-+*/%^<>=(){},$])""",
    re.VERBOSE,
)
_GROUPING = {"by", "without", "on", "ignoring", "group_left", "group_right"}
_WORDS = {"and", "or", "unless", "bool", "offset"}


class Asked(NamedTuple):
    """The metrics, the labels that one of them must have, and the labels of the result."""

    metrics: set[str]
    matched: set[tuple[str, str]]
    grouped: set[str]


def _tokens(expression: str) -> Iterator[tuple[str, str]]:
    at = 0
    while at < len(expression):
        if expression[at].isspace():
            at += 1
            continue
        found = _TOKEN.match(expression, at)
        if found is None:
            raise ValueError(f"not PromQL at {at}: {expression[at : at + 30]!r}")
        yield str(found.lastgroup), found.group()
        at = found.end()


def asked(expression: str) -> Asked:
    """Raises ValueError for what cannot be read."""
    tokens = [*_tokens(expression), ("end", "")]
    found = Asked(set(), set(), set())
    grouping, selected = False, ""
    for at, (kind, text) in enumerate(tokens[:-1]):
        following = tokens[at + 1][1]
        if text == "{" or (selected and text == ","):
            continue
        if text == "}":
            selected = ""
        elif grouping:
            if text == ")":
                grouping = False
            elif kind == "name":
                found.grouped.add(text)
        elif kind == "name" and selected:
            found.matched.add((selected, text))
        elif kind == "name" and text in _GROUPING:
            grouping = following == "("
        elif kind == "name" and text not in _WORDS and following not in ("(", "by", "without"):
            found.metrics.add(text)
            if following == "{":
                selected = text
    if grouping or selected:
        raise ValueError(f"not closed: {expression}")
    return found
