"""Filters against a slow and obvious evaluator, and against arbitrary text (rest-api.md section 7)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from hubwire.model.filters import Filter, InvalidFilter, compile_filter, parse_filter


class Connection(NamedTuple):
    connection_id: str
    user_id: str | None
    groups: frozenset[str]
    protocol: str | None


# Letters whose case mapping is written out below, and characters that trip quoting, trimming and UTF-16.
UPPER_OF = {"a": "A", "b": "B", "é": "É", "σ": "Σ", "𐐨": "𐐀"}
LOWER_OF = {upper: lower for lower, upper in UPPER_OF.items()}
ALPHABET = "".join(UPPER_OF) + "".join(LOWER_OF) + "ßıİ'(),1 \u3000😀"

texts = st.text(ALPHABET, max_size=6)
connections = st.builds(
    Connection, texts, st.none() | texts, st.frozensets(texts, max_size=4), st.none() | texts
)


# Generated expressions: how they are written, and what they mean. Strings are lists of UTF-16 units here.

Value = bool | int | list[bytes] | None


class Expression(NamedTuple):
    text: str
    meaning: Callable[[Connection], Value]


def units(text: str | None) -> list[bytes] | None:
    if text is None:
        return None
    raw = text.encode("utf-16-le")
    return [raw[index : index + 2] for index in range(0, len(raw), 2)]


def text_of(value: list[bytes]) -> str:
    return b"".join(value).decode("utf-16-le", "surrogatepass")


def find(value: list[bytes], part: list[bytes]) -> int:
    for start in range(len(value) - len(part) + 1):
        if value[start : start + len(part)] == part:
            return start
    return -1


def mapped(value: list[bytes], mapping: dict[str, str]) -> list[bytes]:
    text = "".join(mapping.get(character, character) for character in text_of(value))
    raw = text.encode("utf-16-le", "surrogatepass")
    return [raw[index : index + 2] for index in range(0, len(raw), 2)]


def trimmed(value: list[bytes]) -> list[bytes]:
    white = [" ".encode("utf-16-le"), "\u3000".encode("utf-16-le")]
    value = list(value)
    while value and value[0] in white:
        value.pop(0)
    while value and value[-1] in white:
        value.pop()
    return value


def substring(value: Value, start: int, count: int | None) -> Value:
    if not isinstance(value, list):
        return None
    if count is None:
        count = len(value) - start
    if start < 0 or start > len(value) or count < 0 or start + count > len(value):
        return None
    return value[start : start + count]


def equal(left: Value, right: Value) -> bool:
    return type(left) is type(right) and left == right


def literal(text: str) -> Expression:
    quoted = text.replace("'", "''")
    return Expression(f"'{quoted}'", lambda connection: units(text))


string_leaves = st.one_of(
    texts.map(literal),
    st.sampled_from(
        [
            Expression("userId", lambda connection: units(connection.user_id)),
            Expression("CONNECTIONID", lambda connection: units(connection.connection_id)),
            Expression("protocol", lambda connection: units(connection.protocol)),
        ]
    ),
)
integer_leaves = st.one_of(
    st.integers(-(2**31), 2**31 - 1).map(lambda number: Expression(str(number), lambda connection: number)),
    st.integers(-1, 5).map(lambda number: Expression(str(number), lambda connection: number)),
    st.just(Expression("length(groups)", lambda connection: len(connection.groups))),
)
boolean_leaves = st.one_of(
    st.sampled_from(
        [Expression("true", lambda connection: True), Expression("false", lambda connection: False)]
    ),
    texts.map(
        lambda text: Expression(
            f"{literal(text).text} in groups", lambda connection: text in connection.groups
        )
    ),
)


@st.composite
def strings(draw: st.DrawFn, depth: int = 2) -> Expression:
    if depth == 0 or draw(st.booleans()):
        return draw(string_leaves)
    inner = draw(strings(depth=depth - 1))
    match draw(st.sampled_from(["tolower", "toupper", "trim", "concat", "substring", "substring3"])):
        case "concat":
            other = draw(strings(depth=depth - 1))

            def joined(connection: Connection) -> Value:
                left, right = inner.meaning(connection), other.meaning(connection)
                if not isinstance(left, list):
                    return right
                return left + right if isinstance(right, list) else left

            return Expression(f"concat({inner.text},{other.text})", joined)
        case "substring":
            start = draw(st.integers(-1, 7))
            return Expression(
                f"substring({inner.text}, {start})",
                lambda connection: substring(inner.meaning(connection), start, None),
            )
        case "substring3":
            start, count = draw(st.integers(-1, 7)), draw(st.integers(-1, 7))
            return Expression(
                f"substring({inner.text},{start},{count})",
                lambda connection: substring(inner.meaning(connection), start, count),
            )
        case name:
            change: Callable[[list[bytes]], list[bytes]] = {
                "tolower": lambda value: mapped(value, LOWER_OF),
                "toupper": lambda value: mapped(value, UPPER_OF),
                "trim": trimmed,
            }[name]

            def changed(connection: Connection) -> Value:
                value = inner.meaning(connection)
                return change(value) if isinstance(value, list) else None

            return Expression(f"{name}( {inner.text} )", changed)


@st.composite
def integers(draw: st.DrawFn) -> Expression:
    match draw(st.sampled_from(["leaf", "length", "indexof"])):
        case "length":
            inner = draw(strings())

            def length(connection: Connection) -> Value:
                value = inner.meaning(connection)
                return len(value) if isinstance(value, list) else None

            return Expression(f"length({inner.text})", length)
        case "indexof":
            inner, part = draw(strings()), draw(strings())

            def index(connection: Connection) -> Value:
                value, sought = inner.meaning(connection), part.meaning(connection)
                return find(value, sought) if isinstance(value, list) and isinstance(sought, list) else -1

            return Expression(f"indexof({inner.text}, {part.text})", index)
        case _:
            return draw(integer_leaves)


def values() -> st.SearchStrategy[Expression]:
    return st.one_of(
        strings(),
        integers(),
        boolean_leaves.map(in_parentheses),
        st.just(Expression("null", lambda connection: None)),
    )


def written(value: Value) -> str:
    """The literal of a value. Half a character is written as it is."""
    if isinstance(value, list):
        return literal(text_of(value)).text
    return "null" if value is None else str(value).lower()


def in_parentheses(expression: Expression) -> Expression:
    return Expression(f"({expression.text})", expression.meaning)


def negated(expression: Expression) -> Expression:
    return Expression(f"not {expression.text}", lambda connection: not expression.meaning(connection))


@st.composite
def conditions(draw: st.DrawFn) -> Expression:
    match draw(st.sampled_from(["leaf", "equality", "order", "search", "set", "member"])):
        case "equality":
            left, right, name = draw(values()), draw(values()), draw(st.sampled_from(["eq", "ne"]))
            return Expression(
                f"{left.text} {name} {right.text}",
                lambda connection: (
                    equal(left.meaning(connection), right.meaning(connection)) == (name == "eq")
                ),
            )
        case "order":
            left, right = draw(integers()), draw(integers())
            name = draw(st.sampled_from(["gt", "ge", "lt", "le"]))

            def ordered(connection: Connection) -> bool:
                first, second = left.meaning(connection), right.meaning(connection)
                if not isinstance(first, int) or not isinstance(second, int):
                    return False
                return {
                    "gt": first > second,
                    "ge": first >= second,
                    "lt": first < second,
                    "le": first <= second,
                }[name]

            return Expression(f"{left.text}  {name} {right.text}", ordered)
        case "search":
            inner, part = draw(strings()), draw(strings())
            name = draw(st.sampled_from(["contains", "startswith", "endswith"]))

            def found(connection: Connection) -> bool:
                value, sought = inner.meaning(connection), part.meaning(connection)
                if not isinstance(value, list) or not isinstance(sought, list):
                    return False
                return {
                    "contains": find(value, sought) >= 0,
                    "startswith": value[: len(sought)] == sought,
                    "endswith": len(sought) <= len(value) and value[len(value) - len(sought) :] == sought,
                }[name]

            return Expression(f"{name}({inner.text},{part.text})", found)
        case "set":
            left, items = draw(values()), draw(st.lists(values(), max_size=4))
            separator = draw(st.sampled_from([",", ", ", " , ,"]))
            return Expression(
                f"{left.text} in ({separator.join(item.text for item in items)})",
                lambda connection: any(
                    equal(left.meaning(connection), item.meaning(connection)) for item in items
                ),
            )
        case "member":
            left = draw(strings())

            def member(connection: Connection) -> bool:
                value = left.meaning(connection)
                return isinstance(value, list) and text_of(value) in connection.groups

            return Expression(f"{left.text} in Groups", member)
        case _:
            return draw(boolean_leaves)


@st.composite
def booleans(draw: st.DrawFn, depth: int = 1) -> Expression:
    """With as few parentheses as precedence allows: an `and` under an `or` has none."""
    disjunction = [draw(conjunctions(depth)) for _ in range(draw(st.integers(1, 2)))]
    return Expression(
        " or ".join(each.text for each in disjunction),
        lambda connection: any(each.meaning(connection) for each in disjunction),
    )


@st.composite
def conjunctions(draw: st.DrawFn, depth: int) -> Expression:
    terms: list[Expression] = []
    for _ in range(draw(st.integers(1, 2))):
        if depth == 0 or draw(st.booleans()):
            term = draw(conditions())
        else:
            term = in_parentheses(draw(booleans(depth=depth - 1)))
            if draw(st.booleans()):
                term = negated(term)
        terms.append(term)
    return Expression(
        " and ".join(term.text for term in terms),
        lambda connection: all(term.meaning(connection) for term in terms),
    )


@settings(deadline=None, max_examples=400)
@given(values(), connections)
def test_an_expression_has_the_value_that_the_slow_evaluator_says(
    expression: Expression, connection: Connection
) -> None:
    value = expression.meaning(connection)
    other: Value = None if isinstance(value, list) else 0
    if isinstance(value, int):  # what Python takes for equal
        other = int(value) if isinstance(value, bool) else bool(value)
    assert parse_filter(f"{expression.text} eq {written(value)}").matches(*connection)
    assert parse_filter(f"{expression.text} in ({written(other)}, {written(value)})").matches(*connection)
    assert not parse_filter(f"{expression.text} eq {written(other)}").matches(*connection)
    assert not parse_filter(f"{expression.text} in ({written(other)})").matches(*connection)


@settings(deadline=None, max_examples=200)
@given(booleans(), st.lists(connections, min_size=1, max_size=4))
def test_a_well_typed_filter_means_what_the_slow_evaluator_says(
    expression: Expression, examples: list[Connection]
) -> None:
    parsed = parse_filter(expression.text)
    for connection in examples:
        matches = parsed.matches(*connection)
        assert matches is expression.meaning(connection)
        if matches:  # whatever it says it requires is there
            assert parsed.required_group is None or parsed.required_group in connection.groups
            assert parsed.required_user in (None, connection.user_id)
            assert parsed.required_connection in (None, connection.connection_id)


WORDS = [
    *("and", "or", "not", "eq", "ne", "gt", "ge", "lt", "le", "in", "add", "has", "true", "false", "null"),
    *("userId", "connectionId", "groups", "protocol", "ab", "any", "$it", "a.b", "NaN", "@p"),
    *("tolower(", "trim(", "substring(", "contains(", "indexof(", "concat(", "length(", "unknown("),
    *("(", ")", ",", "-", "/", "=", ".", "*", ":", "?", "'", "''", "[", "]", "{", "}", "#", "+", "@"),
    *(
        "1",
        "-1",
        "2147483648",
        "1.5",
        "5e",
        "0x1",
        "1L",
        "2020-01-01",
        "12:30",
        "'a'",
        "'b,c'",
        "x'a'",
        "null'a'",
    ),
    *(" ", "  ", "\t", "😀", "é", "\ud800"),
]


def must_be_refused_or_usable(text: str, connection: Connection) -> None:
    try:
        parsed = parse_filter(text)
    except InvalidFilter as error:
        message = str(error)
        message.encode()
        assert message.startswith("Invalid syntax for '")
        assert message.endswith(" (Parameter 'filter')")
        return
    assert isinstance(parsed, Filter)
    assert isinstance(parsed.matches(*connection), bool)
    assert isinstance(parsed.matches("", None, (), None), bool)
    assert compile_filter(text).matches(*connection) == parsed.matches(*connection)


@given(st.text(), connections)
def test_any_text_is_refused_or_usable(text: str, connection: Connection) -> None:
    must_be_refused_or_usable(text, connection)


@settings(max_examples=300)
@given(st.lists(st.sampled_from(WORDS), max_size=14), st.sampled_from(["", " "]), connections)
def test_any_sequence_of_words_is_refused_or_usable(
    words: list[str], separator: str, connection: Connection
) -> None:
    must_be_refused_or_usable(separator.join(words), connection)


@settings(deadline=None, max_examples=50)
@given(booleans(), st.data(), connections)
def test_a_filter_with_a_piece_cut_out_is_refused_or_usable(
    expression: Expression, data: st.DataObject, connection: Connection
) -> None:
    start = data.draw(st.integers(0, len(expression.text)))
    end = data.draw(st.integers(start, len(expression.text)))
    must_be_refused_or_usable(expression.text[:start] + expression.text[end:], connection)
