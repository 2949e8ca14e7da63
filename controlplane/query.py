"""Query parameters: names without regard to case, values typed, faults in the service's own words.

Rules: rest-api.md 1.3, 3.2 and 3.3.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qsl

from controlplane.operations import Query
from controlplane.problems import Problem, Shape, invalid, invalid_value

_INTEGER = re.compile(r"[+-]?[0-9]{1,10}", re.ASCII)
MAX_TOKEN_CHARACTERS = 2048
MAX_PARAMETERS = 10_000


class QueryString:
    """The parsed query of one request."""

    def __init__(self, raw: str) -> None:
        self._values: dict[str, list[str]] = {}
        text = raw.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        try:
            pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_PARAMETERS)
        except ValueError:
            raise invalid("Request", f"There are more than {MAX_PARAMETERS} query parameters.") from None
        for name, value in pairs:
            self._values.setdefault(name.lower(), []).append(value)

    def all(self, name: str) -> list[str]:
        """All values of a repeatable parameter, in order."""
        return self._values.get(name.lower(), [])

    def one(self, name: str, *, shape: Shape = "problem") -> str | None:
        """The value of a parameter that may be given once; None when it is not there.

        Raises Problem (400) when it is repeated: to ignore one of two filters would reach too many.
        """
        values = self.all(name)
        if len(values) > 1:
            raise invalid_value(name, ",".join(values)[:200], shape=shape)
        return values[0] if values else None

    def integer(self, parameter: Query, *, shape: Shape = "problem") -> int | None:
        """A whole number within the parameter's bounds; None when it is not there. Raises Problem (400)."""
        text = self.one(parameter.name, shape=shape)
        if text is None:
            return None
        stripped = text.strip()
        number = int(stripped) if _INTEGER.fullmatch(stripped) else None
        low = -(2**31) if parameter.minimum is None else parameter.minimum
        high = 2**31 - 1 if parameter.maximum is None else parameter.maximum
        if number is None or not low <= number <= high:
            raise invalid_value(parameter.name, text[:200], shape=shape)
        return number


def problem_for_filter(message: str, target: str) -> Problem:
    """As recorded: `filter` from the query, `Filter` from a body, both as problem+json."""
    return invalid(target, message, shape="problem+json")
