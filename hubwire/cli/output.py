"""What commands print: text for people, with colours only on a terminal, or JSON for programs.

Results go to standard output; faults and hints go to standard error, one sentence each.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TextIO

_STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


def wants_colour(stream: TextIO) -> bool:
    """On a terminal that can, unless the user said no (NO_COLOR, by any value)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


class Output:
    """One command's output. With `as_json`, everything on standard output is JSON, one value a line."""

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json
        self._colour_out = wants_colour(sys.stdout)
        self._colour_err = wants_colour(sys.stderr)

    def style(self, text: str, *names: str) -> str:
        """`text` in a style, for standard output."""
        return _styled(text, names) if self._colour_out else text

    def result(self, facts: object, text: str | None = None) -> None:
        """The result: `facts` as JSON, else `text` (nothing when that is None)."""
        if self.as_json:
            print(json.dumps(facts, ensure_ascii=False), flush=True)
        elif text is not None:
            print(text, flush=True)

    def hint(self, text: str) -> None:
        """Something to know that is no result: to standard error, and not with JSON."""
        if not self.as_json:
            print(_styled(text, ("dim",)) if self._colour_err else text, file=sys.stderr, flush=True)

    def fail(self, sentences: Sequence[str]) -> None:
        """What went wrong."""
        if self.as_json:
            print(json.dumps({"error": list(sentences)}, ensure_ascii=False), file=sys.stderr, flush=True)
            return
        name = _styled("hubwire:", ("red", "bold")) if self._colour_err else "hubwire:"
        for sentence in sentences:
            print(f"{name} {sentence}", file=sys.stderr, flush=True)


def open_closed_streams() -> None:
    """Put the null device where we were started without standard input, output or error (`>&-`).

    Python has None there, which nothing expects; and the first socket or file would get the free number,
    so that what is meant for people would be written into it.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)  # takes the lowest number, so that of the stream
            os.set_inheritable(null, null == number)
            setattr(sys, name, os.fdopen(null, mode, closefd=False))


def drop_output() -> None:
    """Whoever read standard output has gone: what is still buffered goes nowhere, or Python would complain
    of it at the end, with an exit code of its own."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def table(rows: Sequence[Sequence[str]], head: Sequence[str] = ()) -> str:
    """Aligned columns; the last one as long as it is."""
    every = [head, *rows] if head else list(rows)
    widths = [max(len(row[column]) for row in every) for column in range(len(every[0]))] if every else []
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in every
    )


def facts_table(facts: Mapping[str, str]) -> str:
    return table([(f"{name}:", value) for name, value in facts.items()])


def _styled(text: str, names: Sequence[str]) -> str:
    return f"\x1b[{';'.join(_STYLES[name] for name in names)}m{text}\x1b[0m"
