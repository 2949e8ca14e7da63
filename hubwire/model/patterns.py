"""The pattern language of the roles `webpubsub.joinLeaveGroups.<pattern>` and `webpubsub.sendToGroups.<...>`.

Client-protocols.md 2.5. Clients choose the group names that are matched, up to 1024 characters, so the time
must be linear in them: a regular expression with five wildcards is not.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from hubwire.model.limits import MAX_PATTERN_CHARACTERS, MAX_PATTERN_WILDCARDS

_ONE: Final = "?"
_RUN: Final = "*"
_ANY: Final = "**"

# A token is a wildcard (True, one of the three above) or an ordinary character (False, the character).
_Token = tuple[bool, str]


class Pattern:
    """A legal pattern, compiled; immutable. Get one from `compile_pattern`.

    `literal` is the one group that a pattern without wildcards matches, else None. `everything` says that
    every group matches. `text` is what it was compiled from.
    """

    __slots__ = (
        "_any",
        "_characters",
        "_end",
        "_one",
        "_prefix",
        "_rest",
        "_run",
        "everything",
        "literal",
        "text",
    )

    def __init__(self, text: str, tokens: list[_Token]) -> None:
        self.text: Final = text
        wildcard_at = [i for i, (is_wildcard, _) in enumerate(tokens) if is_wildcard]
        self.literal: Final = None if wildcard_at else "".join(c for _, c in tokens)
        self.everything: Final = tokens == [(True, _ANY)]
        first = wildcard_at[0] if wildcard_at else len(tokens)
        self._prefix: Final = "".join(c for _, c in tokens[:first])
        # Most patterns are a prefix and one run at the end, which needs no automaton.
        self._rest: Final = tokens[first][1] if wildcard_at == [len(tokens) - 1] else ""
        # One bit a token: bit i of the state is set when the text so far matches the tokens before token i.
        self._characters: Final[dict[str, int]] = {}
        one = run = anything = 0
        for i, (is_wildcard, c) in enumerate(tokens):
            bit = 1 << i
            if not is_wildcard:
                self._characters[c] = self._characters.get(c, 0) | bit
            elif c == _ONE:
                one |= bit
            elif c == _RUN:
                run |= bit
            else:
                anything |= bit
        self._one: Final = one
        self._run: Final = run
        self._any: Final = anything
        self._end: Final = 1 << len(tokens)

    def matches(self, group: str) -> bool:
        """Whether the whole name matches, case-sensitively."""
        if not group.startswith(self._prefix):
            return False
        if self._rest == _ANY:
            return True
        if self._rest == _RUN:
            return group.find(".", len(self._prefix)) < 0
        return self._walk(group)

    def _walk(self, group: str) -> bool:
        skippable = self._run | self._any
        characters, one, anything = self._characters, self._one, self._any
        state = 1 | (1 & skippable) << 1
        for c in group:
            if c == ".":
                stay, step = anything, characters.get(c, 0)
            else:
                stay, step = skippable, characters.get(c, 0) | one
            state = (state & step) << 1 | state & stay
            state |= (state & skippable) << 1
            if not state:
                return False
        return state & self._end != 0


@lru_cache(maxsize=4096)
def compile_pattern(text: str) -> Pattern | None:
    """None when the pattern is not legal: a stray backslash, too long, too many wildcards.

    Remembered, because many connections come with the same few patterns.
    """
    if not 1 <= len(text) <= MAX_PATTERN_CHARACTERS:
        return None
    tokens: list[_Token] = []
    asterisks = elements = 0
    i = 0
    while i < len(text):
        c = text[i]
        i += 1
        if c == "\\":
            if i == len(text) or text[i] not in "\\*?":
                return None
            tokens.append((False, text[i]))
            i += 1
        elif c == "*":
            start = i - 1
            while i < len(text) and text[i] == "*":
                i += 1
            asterisks += i - start
            elements += 1
            tokens.append((True, _RUN if i - start == 1 else _ANY))
        elif c == "?":
            elements += 1
            tokens.append((True, _ONE))
        else:
            tokens.append((False, c))
    if max(asterisks, elements) > MAX_PATTERN_WILDCARDS:
        return None
    return Pattern(text, tokens)
