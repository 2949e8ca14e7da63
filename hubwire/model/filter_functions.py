"""The functions that a filter may call, with their null rules (rest-api.md 7.4). Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Final, NamedTuple

from hubwire.model.filter_lexer import WHITE_SPACE
from hubwire.model.filter_syntax import Node
from hubwire.model.filter_text import to_lower, to_upper
from hubwire.model.filter_values import EMPTY_MODEL_GROUPS, Code, Types, invalid_token, mismatch

_STRING_OR_NULL: Final = Types.STRING | Types.NULL

_Groups = Collection[str]
_Compile = Callable[[Node, Sequence[Code]], Code]


class FilterFunction(NamedTuple):
    """`compile` makes the code of a call, given its node and arguments, of which there may be `arity`."""

    arity: frozenset[int]
    compile: _Compile


def _mapping(change: Callable[[str], str]) -> FilterFunction:
    """A function of one string; null stays null."""

    def compile_call(node: Node, arguments: Sequence[Code]) -> Code:
        (text,) = arguments
        evaluate = text.evaluate

        def call(connection: str, user: str | None, groups: _Groups, protocol: str | None) -> str | None:
            value = evaluate(connection, user, groups, protocol)
            if type(value) is str:
                return change(value)
            if value is None:
                return None
            raise mismatch(node, text, value, "string")

        return Code(call, _STRING_OR_NULL, text.is_safely(_STRING_OR_NULL))

    return FilterFunction(frozenset({1}), compile_call)


def _search(
    find: Callable[[str, str], bool] | Callable[[str, str], int], when_null: bool | int, result: Types
) -> FilterFunction:
    """A function that looks for one string in another; `when_null` if either is null, whatever the other."""

    def compile_call(node: Node, arguments: Sequence[Code]) -> Code:
        text, sought = arguments
        evaluate_text, evaluate_sought = text.evaluate, sought.evaluate

        def call(connection: str, user: str | None, groups: _Groups, protocol: str | None) -> bool | int:
            value = evaluate_text(connection, user, groups, protocol)
            part = evaluate_sought(connection, user, groups, protocol)
            if value is None or part is None:
                return when_null
            if type(value) is not str:
                raise mismatch(node, text, value, "string")
            if type(part) is not str:
                raise mismatch(node, sought, part, "string")
            return find(value, part)

        safe = text.is_safely(_STRING_OR_NULL) and sought.is_safely(_STRING_OR_NULL)
        return Code(call, result, safe)

    return FilterFunction(frozenset({2}), compile_call)


def _compile_concat(node: Node, arguments: Sequence[Code]) -> Code:
    left, right = arguments
    evaluate_left, evaluate_right = left.evaluate, right.evaluate

    def call(connection: str, user: str | None, groups: _Groups, protocol: str | None) -> object:
        first = evaluate_left(connection, user, groups, protocol)
        second = evaluate_right(connection, user, groups, protocol)
        if type(first) is str and type(second) is str:
            return first + second
        if second is None and (first is None or type(first) is str):
            return first
        if first is None and type(second) is str:
            return second
        if left.type_of(first) != "string":
            raise mismatch(node, left, first, "string")
        raise mismatch(node, right, second, "string")

    safe = left.is_safely(_STRING_OR_NULL) and right.is_safely(_STRING_OR_NULL)
    return Code(call, _STRING_OR_NULL, safe)


def _compile_substring(node: Node, arguments: Sequence[Code]) -> Code:
    text, *range_codes = arguments
    evaluate_text = text.evaluate

    def call(connection: str, user: str | None, groups: _Groups, protocol: str | None) -> str | None:
        value = evaluate_text(connection, user, groups, protocol)
        numbers: list[int] = []
        for code in range_codes:
            number = code.evaluate(connection, user, groups, protocol)
            if type(number) is not int:
                raise mismatch(node, code, number, "int")
            numbers.append(number)
        if value is None:
            return None
        if type(value) is not str:
            raise mismatch(node, text, value, "string")
        if groups is EMPTY_MODEL_GROUPS:
            return ""
        start = numbers[0]
        end = start + numbers[1] if len(numbers) == 2 else len(value)
        return value[start:end] if 0 <= start <= end <= len(value) else None

    safe = text.is_safely(_STRING_OR_NULL) and all(code.is_safely(Types.INT) for code in range_codes)
    return Code(call, _STRING_OR_NULL, safe)


def _compile_length(node: Node, arguments: Sequence[Code]) -> Code:
    (of,) = arguments
    evaluate = of.evaluate
    if of.types is Types.COLLECTION:  # only the identifier `groups` is one

        def count(connection: str, user: str | None, groups: _Groups, protocol: str | None) -> int:
            return len(groups)

        return Code(count, Types.INT, safe=True)

    def call(connection: str, user: str | None, groups: _Groups, protocol: str | None) -> int | None:
        value = evaluate(connection, user, groups, protocol)
        if type(value) is str:
            return len(value)
        if value is None:
            return None
        raise invalid_token(node)

    return Code(call, Types.INT | Types.NULL, of.is_safely(_STRING_OR_NULL))


FUNCTIONS: Final = {
    "tolower": _mapping(to_lower),
    "toupper": _mapping(to_upper),
    "trim": _mapping(lambda text: text.strip(WHITE_SPACE)),
    # Ordinal throughout. The emulator compares three of these by culture, which differs for ignorable
    # and composed characters only (rest-api.md 7.4).
    "contains": _search(lambda text, part: part in text, when_null=False, result=Types.BOOL),
    "startswith": _search(str.startswith, when_null=False, result=Types.BOOL),
    "endswith": _search(str.endswith, when_null=False, result=Types.BOOL),
    "indexof": _search(str.find, when_null=-1, result=Types.INT),
    "concat": FilterFunction(frozenset({2}), _compile_concat),
    "substring": FilterFunction(frozenset({2, 3}), _compile_substring),
    "length": FilterFunction(frozenset({1}), _compile_length),
}
