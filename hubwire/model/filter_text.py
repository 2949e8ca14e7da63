"""Strings as .NET sees them, for filters: lengths, offsets and letter case (rest-api.md 7.4).

.NET strings are sequences of UTF-16 code units. Here such a sequence is a Python string in which a
character beyond U+FFFF is written as its two surrogates ("units"). Two texts are equal when their units
are, and for texts without such characters the units are the text itself: the fast case. Pure.
"""

from __future__ import annotations

from functools import lru_cache


def to_units(text: str) -> str:
    """One Python character for each UTF-16 code unit."""
    if text.isascii() or max(text) <= "\uffff":
        return text
    raw = text.encode("utf-16-le", "surrogatepass")
    return "".join(chr(raw[index] | raw[index + 1] << 8) for index in range(0, len(raw), 2))


def from_units(units: str) -> str:
    """The text again: surrogates that make a pair become one character, lone ones stay."""
    if units.isascii():
        return units
    return units.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def to_lower(units: str) -> str:
    """.NET's ToLowerInvariant: every character by itself, one for one."""
    if units.isascii():
        return units.lower()
    return to_units("".join(map(_lower_character, from_units(units))))


def to_upper(units: str) -> str:
    """.NET's ToUpperInvariant: every character by itself, one for one, so "ß" stays."""
    if units.isascii():
        return units.upper()
    return to_units("".join(map(_upper_character, from_units(units))))


@lru_cache(maxsize=4096)
def _lower_character(character: str) -> str:
    lower = character.lower()
    # Only U+0130 becomes two characters in Python; .NET leaves it alone in the invariant culture.
    return lower if len(lower) == 1 else character


@lru_cache(maxsize=4096)
def _upper_character(character: str) -> str:
    if character == "\u0131":  # dotless i stays in the invariant culture
        return character
    upper = character.upper()
    if len(upper) == 1:
        return upper
    # Python expands by SpecialCasing.txt; the simple mapping, where there is one (Greek with iota
    # subscript), is then the title case.
    title = character.title()
    return title if len(title) == 1 else character
