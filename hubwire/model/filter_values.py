"""What a compiled part of a filter is, and how it refuses (rest-api.md 7.5).

At run time a value is a bool, an int, a str (in the units of `filter_text`), the connection's groups, or
None. None is the untyped null, or a string that is null; only a bare identifier gives the latter, so the
static types tell the two apart. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from enum import Flag, auto
from typing import Final, NamedTuple, TypeAlias

from hubwire.model.filter_syntax import Node

# connection id, user id, groups, protocol -> value
Evaluate: TypeAlias = Callable[[str, str | None, Collection[str], str | None], object]


class Types(Flag):
    """The types that a value can turn out to have."""

    NULL = auto()
    BOOL = auto()
    INT = auto()
    STRING = auto()
    COLLECTION = auto()


class Code(NamedTuple):
    """A compiled node. `safe` means that `evaluate` cannot raise, on whatever connection."""

    evaluate: Evaluate
    types: Types
    safe: bool

    def is_safely(self, types: Types) -> bool:
        return self.safe and self.types in types

    def type_of(self, value: object) -> str:
        """The type of a value of this code, as error messages name it."""
        match value:
            case None:
                return "string" if self.types is Types.STRING else "null"
            case bool():
                return "bool"
            case int():
                return "int"
            case str():
                return "string"
            case _:
                return "collection"


class Refusal(Exception):
    """An expression met a value of the wrong type, or is not supported at all.

    `node` is what the message quotes: cut after `operands` operands when it is a chain, or the smallest
    operation around it when `around` is set, which is where Azure notices what it does not support.
    `names_node` puts the quoted node in place of the `*` of `detail`.
    """

    def __init__(
        self,
        node: Node,
        detail: str,
        *,
        operands: int | None = None,
        around: bool = False,
        names_node: bool = False,
    ) -> None:
        super().__init__(detail)
        self.node = node
        self.detail = detail
        self.operands = operands
        self.around = around
        self.names_node = names_node


def mismatch(node: Node, code: Code, value: object, expected: str, operands: int | None = None) -> Refusal:
    return Refusal(node, f"Type '{code.type_of(value)}', expect '{expected}'.", operands=operands)


def invalid_token(node: Node) -> Refusal:
    """A call with the wrong number or kind of arguments."""
    return Refusal(node, "Invalid token '*'.", names_node=True)


def not_supported(node: Node, token: str | None = None) -> Refusal:
    """Something that filters do not know: `token` inside an operation, or the call `node` itself."""
    if token is None:
        return Refusal(node, "Token '*' is not supported.", names_node=True)
    return Refusal(node, f"Token '{token}' is not supported.", around=True)


class _EmptyModelGroups(tuple[str, ...]):
    __slots__ = ()


# The groups of the empty model against which every filter is checked before it is used. Functions know
# it by identity: there, `substring` gives "" whatever its range (rest-api.md 7.5, emulator tests).
EMPTY_MODEL_GROUPS: Final = _EmptyModelGroups()
