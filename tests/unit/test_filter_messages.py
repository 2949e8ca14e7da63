"""What a filter that cannot be used is answered with, to the letter (rest-api.md 7.6)."""

from __future__ import annotations

import pytest

from hubwire.model.errors import InvalidRequest
from hubwire.model.filters import InvalidFilter, parse_filter


def refusal(text: str) -> str:
    with pytest.raises(InvalidFilter) as caught:
        parse_filter(text)
    assert caught.value.target == "filter"
    return str(caught.value)


def refused(expression: str, detail: str) -> str:
    return f"Invalid syntax for '{expression}': {detail} (Parameter 'filter')"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        # Recorded from the real service.
        (
            "invalid filter",
            "Invalid syntax for 'invalid filter': Syntax error at position 14 in 'invalid filter'."
            " (Parameter 'filter')",
        ),
        # rest-api.md 7.6.
        (
            "not length(userId) gt 5",
            "Invalid syntax for 'not length(userId)': Type 'null', expect 'bool'. (Parameter 'filter')",
        ),
        ("( not 'a' )", "Invalid syntax for 'not 'a'': Type 'string', expect 'bool'. (Parameter 'filter')"),
        (
            "userId lt 1",
            "Invalid syntax for 'userId lt 1': Type 'string', expect 'int'. (Parameter 'filter')",
        ),
        (
            "invalid(ab,c)",
            "Invalid syntax for 'invalid(ab,c)': Token 'invalid(ab,c)' is not supported."
            " (Parameter 'filter')",
        ),
        ("ab eq 1", "Invalid syntax for 'ab eq 1': Token 'ab' is not supported. (Parameter 'filter')"),
    ],
)
def test_the_documented_refusals_come_out_to_the_letter(text: str, message: str) -> None:
    assert refusal(text) == message


@pytest.mark.parametrize(
    ("text", "detail"),
    [
        ("", "Expression expected at position 0 in ''."),
        (" \t", "Expression expected at position 2 in ' \t'."),
        ("userId eq", "Expression expected at position 9 in 'userId eq'."),
        ("userId eq )", "Expression expected at position 10 in 'userId eq )'."),
        ("and", "Token 'and' is not supported."),
        ("userId in", "Expression expected at position 9 in 'userId in'."),
        ("()", "Expression expected at position 1 in '()'."),
        ("(true", "')' or operator expected at position 5 in '(true'."),
        ("(true, false)", "')' or operator expected at position 5 in '(true, false)'."),
        ("(true false)", "')' or operator expected at position 6 in '(true false)'."),
        ("true)", "Syntax error at position 5 in 'true)'."),
        ("true, false", "Syntax error at position 5 in 'true, false'."),
        ("contains(userId", "')' or ',' expected at position 15 in 'contains(userId'."),
        ("contains(userId 'a')", "')' or ',' expected at position 16 in 'contains(userId 'a')'."),
        ("contains(userId,", "Expression expected at position 16 in 'contains(userId,'."),
        # No white space between a function and its parenthesis.
        ("length (userId) eq 1", "Syntax error at position 8 in 'length (userId) eq 1'."),
        ("userId = 'a'", "Syntax error at position 8 in 'userId = 'a''."),
        ("userId EQ 'a'", "Syntax error at position 9 in 'userId EQ 'a''."),
        ("userId eq 'a' not true", "Syntax error at position 17 in 'userId eq 'a' not true'."),
        ("userId eq 'a", "There is an unterminated string literal at position 12 in 'userId eq 'a'."),
        ("userId eq 'a''", "There is an unterminated string literal at position 14 in 'userId eq 'a'''."),
        ("userId in ('a'", "Found an unbalanced bracket expression."),
        ("userId in ('a)", "Found an unbalanced bracket expression."),
        ("userId eq #", "Syntax error: character '#' is not valid at position 10 in 'userId eq #'."),
        # The library looks one token ahead, so the bad character is noticed before the missing operand.
        (") #", "Syntax error: character '#' is not valid at position 2 in ') #'."),
        ("length(userId) gt + 5", "Syntax error: character '+' is not valid at position 18 in {}."),
        ("5e eq 1", "A digit was expected at position 2 in '5e eq 1'."),
        ("x'a' eq 1", "Unrecognized 'Edm.String' literal 'x'a'' at '0' in 'x'a' eq 1'."),
        ("٥ eq 5", "Numeric string '٥' is not a valid Int32/Int64/Double/Decimal."),
        # Positions count UTF-16 code units.
        ("userId eq '😀' x", "Syntax error at position 16 in 'userId eq '😀' x'."),
        # Items of a set are texts of their own.
        ("userId in ('a', b c)", "Syntax error at position 3 in 'b c'."),
        ("userId in ('a' 'b')", "Syntax error at position 7 in ''a' 'b''."),
        # Arithmetic, lambdas, paths: the whole filter is quoted.
        ("length(userId) add 1 gt 2", "Token 'BinaryOperator' is not supported."),
        ("userId has 'a'", "Token 'BinaryOperator' is not supported."),
        ("-length(userId) lt 2", "Token 'UnaryOperator' is not supported."),
        ("groups/any(g: g eq 'a')", "Token 'Any' is not supported."),
        ("groups/all(g: g eq 'a')", "Token 'All' is not supported."),
        ("groups/any(g: g eq 'a'", "')' or ',' expected at position 22 in 'groups/any(g: g eq 'a''."),
        ("userId/length eq 1", "Token 'InnerPath' is not supported."),
        ("a.b eq 1", "Token 'DottedIdentifier' is not supported."),
        ("@p eq 1", "Token 'FunctionParameterAlias' is not supported."),
        # `not` is no place where the library names an unsupported token.
        ("not ab", "Token 'ab' is not supported."),
    ],
)
def test_a_syntax_error_quotes_the_whole_filter_with_the_words_of_odata(text: str, detail: str) -> None:
    assert refusal(text) == refused(text, detail.replace("{}", f"'{text}'"))


@pytest.mark.parametrize(
    ("text", "expression", "detail"),
    [
        ("  not   1", "not 1", "Type 'int', expect 'bool'."),
        ("'a'", "'a'", "Type 'string', expect 'bool'."),
        ("null", "null", "Type 'null', expect 'bool'."),
        ("userId", "userId", "Type 'string', expect 'bool'."),
        ("groups", "groups", "Type 'collection', expect 'bool'."),
        ("not (1 eq 1 and 2)", "(1 eq 1) and 2", "Type 'int', expect 'bool'."),
        ("true and true or 'c'", "(True and True) or 'c'", "Type 'string', expect 'bool'."),
        ("true or true or 'c' or ab", "(True or True) or 'c'", "Type 'string', expect 'bool'."),
        ("'a' or ab", "'a' or ab", "Token 'ab' is not supported."),
        ("true and ab and true", "True and ab", "Token 'ab' is not supported."),
        ("true and true and not ab", "(True and True) and (not ab)", "Token 'ab' is not supported."),
        ("('a' in groups) eq ab", "('a' in groups) eq ab", "Token 'ab' is not supported."),
        ("tolower( ab , 1 )", "tolower(ab,1)", "Invalid token 'tolower(ab,1)'."),
        ("contains(userId, ab)", "contains(userId,ab)", "Token 'ab' is not supported."),
        ("length() eq 1", "length()", "Invalid token 'length()'."),
        ("length(5) eq 1", "length(5)", "Invalid token 'length(5)'."),
        ("substring(userId) eq 'a'", "substring(userId)", "Invalid token 'substring(userId)'."),
        ("Length(userId) eq 1", "Length(userId)", "Token 'Length(userId)' is not supported."),
        ("userId in ( ab )", "userId in ( ab )", "Token 'ab' is not supported."),
        ("userId in (1 add 1)", "userId in (1 add 1)", "Token 'BinaryOperator' is not supported."),
        ("userId in 'a'", "userId in 'a'", "Invalid token 'a'."),
        ("userId in 5", "userId in 5", "Type 'int', expect 'string'."),
        ("userId eq 1 gt 2", "(userId eq 1) gt 2", "Type 'bool', expect 'int'."),
        ("groups gt 1", "groups gt 1", "Type 'collection', expect 'int'."),
        ("1 lt userId", "1 lt userId", "Type 'string', expect 'int'."),
        (
            "length(userId) gt 2147483648",
            "length(userId) gt 2147483648",
            "Token '2147483648' is not supported.",
        ),
        ("1.5 eq 1", "1.5 eq 1", "Token '1.5' is not supported."),
        ("5L eq 5", "5L eq 5", "Token '5L' is not supported."),
        ("0xFF eq 5", "0xFF eq 5", "Token '0xFF' is not supported."),
        ("2020-01-01 eq 5", "2020-01-01 eq 5", "Token '2020-01-01' is not supported."),
        ("12:30 eq 5", "12:30 eq 5", "Token '12:30' is not supported."),
        ("NaN eq 5", "NaN eq 5", "Token 'NaN' is not supported."),
        ("duration'P1D' eq 5", "duration'P1D' eq 5", "Token 'duration'P1D'' is not supported."),
        ("['a'] eq 5", "['a'] eq 5", "Token '['a']' is not supported."),
        (
            "01234567-89ab-cdef-0123-456789abcdef eq 5",
            "01234567-89ab-cdef-0123-456789abcdef eq 5",
            "Token '01234567-89ab-cdef-0123-456789abcdef' is not supported.",
        ),
    ],
)
def test_an_error_of_type_or_name_quotes_the_smallest_failing_expression(
    text: str, expression: str, detail: str
) -> None:
    assert refusal(text) == refused(expression, detail)


def test_a_message_never_holds_half_a_character() -> None:
    message = refusal("userId eq '\ud83d' x")
    message.encode()
    assert "\ufffd" in message


def test_an_invalid_filter_is_an_invalid_request() -> None:
    assert issubclass(InvalidFilter, InvalidRequest)


@pytest.mark.parametrize(
    ("call", "detail"),
    [
        ("tolower(1)", "Type 'int', expect 'string'."),
        ("trim(groups)", "Type 'collection', expect 'string'."),
        ("contains('a', 1)", "Type 'int', expect 'string'."),
        ("endswith(1 eq 1, 'a')", "Type 'bool', expect 'string'."),
        ("indexof('a', groups)", "Type 'collection', expect 'string'."),
        ("concat(null, 1)", "Type 'null', expect 'string'."),
        ("concat(userId, 1)", "Type 'int', expect 'string'."),
        ("concat(1, 'a')", "Type 'int', expect 'string'."),
        ("substring('a', null)", "Type 'null', expect 'int'."),
        ("substring(null, 'a')", "Type 'string', expect 'int'."),
        ("substring('a', 0, userId)", "Type 'string', expect 'int'."),
        ("substring(5, 0)", "Type 'int', expect 'string'."),
    ],
)
def test_arguments_of_the_wrong_type_are_refused(call: str, detail: str) -> None:
    expression = call.replace(", ", ",")
    assert refusal(f"{call} eq 1") == refused(expression, detail)
