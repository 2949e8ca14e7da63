"""The words of a filter: text to tokens, and the syntax errors that Azure reports.

Azure reads filters with Microsoft's OData library and passes on that library's own complaint
(rest-api.md 7.6), so what is a token, where each error is noticed and which position it names follow
that library: a *syntax error* names the end of the token that does not fit (`invalid filter` fails at
14, the recorded answer), an *expected* error names its beginning, and an unterminated text the end of
everything. Positions count UTF-16 code units, as .NET does.

An integer may have either sign (rest-api.md 7.2, and the grammar that Azure documents). The library itself
knows only the minus; here what is documented wins, since `+5` can mean nothing else.

Pure; used by `hubwire.model.filter_syntax` only.
"""

from __future__ import annotations

import re
import unicodedata
from enum import Enum, auto
from typing import Final, NamedTuple

# What .NET's Char.IsWhiteSpace accepts. Python's isspace() adds U+001C to U+001F.
WHITE_SPACE: Final = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)

INT32_MIN: Final = -(2**31)
INT32_MAX: Final = 2**31 - 1


class FilterSyntaxError(Exception):
    """The text is no filter. `str()` is the detail alone, without the filter's "Invalid syntax for"."""


class Kind(Enum):
    IDENTIFIER = auto()
    STRING = auto()
    INTEGER = auto()  # fits 32 bits
    BOOLEAN = auto()
    NULL = auto()
    FOREIGN = auto()  # a literal that OData knows and filters do not: long, decimal, date, guid, ...
    ALIAS = auto()  # @name
    SET = auto()  # everything between the parentheses that follow `in`, unread
    SYMBOL = auto()
    END = auto()


class Token(NamedTuple):
    """`start` and `end` are indices into the Python text, not yet positions to report."""

    kind: Kind
    text: str
    start: int
    end: int


_WHITE = re.compile(f"[{WHITE_SPACE}]*")
_ASCII_WORD = re.compile(r"[A-Za-z_$][A-Za-z0-9_]*")
_STRING = re.compile(r"'[^']*(?:''[^']*)*'(?!')")  # (?!'): a doubled quote never closes
_HEX = re.compile(r"0[xX].?[0-9A-Fa-f]*", re.DOTALL)
_SET_STEP = re.compile(r"[^'()]*(?:'[^']*'|[()])")
_TO_DELIMITER = re.compile(r"[^,) ]*")
_DATE_TIME_OR_GUID = re.compile(
    r"[0-9A-Fa-f]{8}-(?:[0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12}"
    r"|-?\d{4,}-\d\d-\d\d(?:T\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:\d\d))?"
    r"|\d\d:\d\d(?::\d\d(?:\.\d+)?)?",
    re.ASCII,
)
_FOREIGN_WORDS: Final = frozenset({"NaN", "INF", "NaNF", "INFF"})
_FOREIGN_PREFIXES: Final = frozenset({"duration", "binary", "geography", "geometry"})
_SYMBOLS: Final = frozenset("(),-=/?.*:")
_START_CATEGORIES: Final = frozenset({"Lu", "Ll", "Lt", "Lm", "Lo", "Nl"})
_WORD_CATEGORIES: Final = _START_CATEGORIES | {"Nd", "Mn", "Mc", "Pc", "Cf"}


def utf16_length(text: str) -> int:
    """How many UTF-16 code units .NET would count."""
    return len(text) if text.isascii() else len(text) + sum(character > "\uffff" for character in text)


def _category(character: str) -> str:
    # The library looks at UTF-16 code units, so nothing beyond U+FFFF can be part of a word.
    return "Cs" if character > "\uffff" else unicodedata.category(character)


class Lexer:
    """Reads tokens on demand: an error is raised when a parser first looks at the faulty token.

    `current` is the token to be read next; `peek()` is the one behind it. All raise `FilterSyntaxError`.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._peeked: Token | None = None
        self.current = self._read(0, previous="")

    def peek(self) -> Token:
        if self._peeked is None:
            self._peeked = self._read(self.current.end, previous=self.current.text)
        return self._peeked

    def advance(self) -> Token:
        """Moves on by one token, and returns the one that was current."""
        token = self.current
        self.current = self.peek()
        self._peeked = None
        return token

    def error(self, sentence: str, index: int) -> FilterSyntaxError:
        """`sentence` at a position, in the library's wording."""
        return FilterSyntaxError(
            f"{sentence} at position {utf16_length(self.text[:index])} in '{self.text}'."
        )

    def syntax_error(self) -> FilterSyntaxError:
        """The current token fits nowhere. The position is its end."""
        return self.error("Syntax error", self.current.end)

    def expected(self, what: str) -> FilterSyntaxError:
        """Something else should stand where the current token begins."""
        return self.error(f"{what} expected", self.current.start)

    def _read(self, index: int, previous: str) -> Token:
        match = _WHITE.match(self.text, index)
        start = match.end() if match else index
        if start == len(self.text):
            return Token(Kind.END, "", start, start)
        first = self.text[start]
        if first == "'":
            return self._string(start)
        if first == "(" and previous == "in":
            return self._set(start)
        if first == "-":
            return self._minus(start)
        if first == "+" and _category(self.text[start + 1 : start + 2] or " ") == "Nd":
            return self._number(start)
        if first in _SYMBOLS:
            return Token(Kind.SYMBOL, first, start, start + 1)
        category = _category(first)
        if category in _START_CATEGORIES or first in "_$":
            return self._word(start)
        if category == "Nd":
            return self._number(start)
        if first in "{[":
            return self._bracketed(start, first, "}" if first == "{" else "]")
        if first == "@":
            return self._alias(start)
        raise self._invalid_character(start)

    def _invalid_character(self, index: int) -> FilterSyntaxError:
        return self.error(f"Syntax error: character '{self.text[index]}' is not valid", index)

    def _string(self, start: int) -> Token:
        match = _STRING.match(self.text, start)
        if match is None:
            raise self.error("There is an unterminated string literal", len(self.text))
        return Token(Kind.STRING, match.group(), start, match.end())

    def _set(self, start: int) -> Token:
        """The whole parenthesis after `in`; its items are read later, each as a filter of its own."""
        depth = 1
        index = start + 1
        while depth:
            match = _SET_STEP.match(self.text, index)
            if match is None:
                raise FilterSyntaxError("Found an unbalanced bracket expression.")
            index = match.end()
            depth += {"(": 1, ")": -1}.get(self.text[index - 1], 0)
        return Token(Kind.SET, self.text[start:index], start, index)

    def _bracketed(self, start: int, opening: str, closing: str) -> Token:
        """JSON-like text that OData takes as one literal; no filter function knows what to do with it."""
        depth = 0
        index = start
        while index < len(self.text):
            character = self.text[index]
            if character == "'":
                index = self.text.find("'", index + 1)
                if index < 0:
                    break
            elif character == opening:
                depth += 1
            elif character == closing:
                depth -= 1
                if depth == 0:
                    return Token(Kind.FOREIGN, self.text[start : index + 1], start, index + 1)
            index += 1
        raise FilterSyntaxError("Found an unbalanced bracket expression.")

    def _alias(self, start: int) -> Token:
        if start + 1 == len(self.text):
            raise self.error("Syntax error", start + 1)
        if _category(self.text[start + 1]) not in _START_CATEGORIES and self.text[start + 1] not in "_$":
            raise self._invalid_character(start + 1)
        end = self._word_end(start + 1)
        return Token(Kind.ALIAS, self.text[start:end], start, end)

    def _word_end(self, start: int) -> int:
        match = _ASCII_WORD.match(self.text, start)
        index = match.end() if match else start + 1
        while index < len(self.text) and _category(self.text[index]) in _WORD_CATEGORIES:
            index += 1
        return index

    def _word(self, start: int) -> Token:
        end = self._word_end(start)
        text = self.text[start:end]
        following = self.text[end : end + 1]
        if following == "-":
            foreign = self._date_time_or_guid(start)
            if foreign is not None:
                return foreign
        if following == "'":
            return self._prefixed(start, end)
        if text in ("true", "false"):
            return Token(Kind.BOOLEAN, text, start, end)
        if text == "null":
            return Token(Kind.NULL, text, start, end)
        kind = Kind.FOREIGN if text in _FOREIGN_WORDS else Kind.IDENTIFIER
        return Token(kind, text, start, end)

    def _prefixed(self, start: int, quote: int) -> Token:
        prefix = self.text[start:quote].lower()
        if prefix == "null":
            raise self.error("Syntax error", quote)
        match = _STRING.match(self.text, quote)
        if match is None:
            raise self.error("There is an unterminated literal", len(self.text))
        literal = self.text[start : match.end()]
        if prefix not in _FOREIGN_PREFIXES:
            position = utf16_length(self.text[:start])
            raise FilterSyntaxError(
                f"Unrecognized 'Edm.String' literal '{literal}' at '{position}' in '{self.text}'."
            )
        return Token(Kind.FOREIGN, literal, start, match.end())

    def _minus(self, start: int) -> Token:
        following = self.text[start + 1 : start + 2]
        if following and _category(following) == "Nd":
            return self._number(start)
        if following == "I":
            end = self._word_end(start + 1)
            if self.text[start + 1 : end] in _FOREIGN_WORDS:
                return Token(Kind.FOREIGN, self.text[start:end], start, end)
        return Token(Kind.SYMBOL, "-", start, start + 1)

    def _date_time_or_guid(self, start: int) -> Token | None:
        match = _TO_DELIMITER.match(self.text, start)
        if match is None or _DATE_TIME_OR_GUID.fullmatch(match.group()) is None:
            return None
        return Token(Kind.FOREIGN, match.group(), start, match.end())

    def _digits_end(self, index: int) -> int:
        while index < len(self.text) and _category(self.text[index]) == "Nd":
            index += 1
        return index

    def _required_digits_end(self, index: int) -> int:
        end = self._digits_end(index)
        if end == index:
            raise self.error("A digit was expected", index)
        return end

    def _number(self, start: int) -> Token:
        """A number, or what begins like one. Only 32-bit integers are of use in a filter."""
        if (match := _HEX.match(self.text, start)) is not None:
            return Token(Kind.FOREIGN, match.group(), start, match.end())
        end = self._digits_end(start + 1)
        following = self.text[end : end + 1]
        if following and (following in "-:" or following.isalpha()):
            foreign = self._date_time_or_guid(start)
            if foreign is not None:
                return foreign
        kind = Kind.INTEGER
        if following == ".":
            kind = Kind.FOREIGN
            end = self._required_digits_end(end + 1)
        if self.text[end : end + 1] in ("e", "E"):
            kind = Kind.FOREIGN
            sign = self.text[end + 1 : end + 2] in ("+", "-")
            end = self._required_digits_end(end + 1 + sign)
        if self.text[end : end + 1] in tuple("MmDdLlFf"):
            return Token(Kind.FOREIGN, self.text[start : end + 1], start, end + 1)
        text = self.text[start:end]
        if not text.isascii():
            raise FilterSyntaxError(f"Numeric string '{text}' is not a valid Int32/Int64/Double/Decimal.")
        if kind is Kind.INTEGER and int32_of(text) is None:
            kind = Kind.FOREIGN
        return Token(kind, text, start, end)


def int32_of(text: str) -> int | None:
    """The value of ASCII digits with an optional sign; None when it does not fit 32 bits."""
    digits = text.lstrip("+-").lstrip("0")
    if len(digits) > 10:  # int() of very many digits is slow, then refused
        return None
    value = int(digits or "0") * (-1 if text.startswith("-") else 1)
    return value if INT32_MIN <= value <= INT32_MAX else None
