"""The filter of the REST API, by example (rest-api.md section 7)."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from hubwire.model.filter_syntax import MAX_HEIGHT, MAX_NESTING
from hubwire.model.filters import Filter, InvalidFilter, compile_filter, parse_filter


class Connection(NamedTuple):
    connection_id: str = "c1"
    user_id: str | None = "user1"
    groups: frozenset[str] = frozenset({"group1", "group2"})
    protocol: str | None = "json.webpubsub.azure.v1"


ANYBODY = Connection()
NOBODY = Connection("", None, frozenset(), None)


def holds(text: str, connection: Connection = ANYBODY) -> bool:
    return parse_filter(text).matches(*connection)


def refusal(text: str) -> str:
    with pytest.raises(InvalidFilter) as caught:
        parse_filter(text)
    assert caught.value.target == "filter"
    return str(caught.value)


def refused(expression: str, detail: str) -> str:
    return f"Invalid syntax for '{expression}': {detail} (Parameter 'filter')"


# Identifiers, literals, examples of the documentation


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("userId ne null", True),
        ("userId in ('user1', 'user2', 'user3') and 'group1' in groups", True),
        ("userId in ('user2', 'user3') and 'group1' in groups", False),
        ("userId eq 'user1' and (not ('group1' in groups))", False),
        ("userId eq 'user1' and (not ('group3' in groups))", True),
        ("userId eq 'user''1'", False),
        ("length(groups) gt 1", True),
        ("substring(userId,4,1) eq '1'", True),
        ("substring(userId,5,2) eq 'ab'", False),
        ("not endswith(userId, 'milk')", True),
        ("connectionId eq 'c1' and protocol eq 'json.webpubsub.azure.v1'", True),
        ("true", True),
        ("false", False),
    ],
)
def test_the_documented_examples(text: str, expected: bool) -> None:
    assert holds(text) is expected


def test_a_doubled_quote_is_one_quote() -> None:
    assert holds("userId eq 'user''1'", ANYBODY._replace(user_id="user'1"))
    assert holds("userId in ('O''Brien, Jane', 'Alice')", ANYBODY._replace(user_id="O'Brien, Jane"))


@pytest.mark.parametrize("name", ["userId", "userid", "USERID"])
def test_identifiers_have_any_case_and_their_values_one(name: str) -> None:
    assert holds(f"{name} eq 'user1'")
    assert not holds(f"{name} eq 'USER1'")
    assert holds("CONNECTIONID eq 'c1' and 'group1' in GROUPS and Protocol ne null")


@pytest.mark.parametrize("text", ["userId eq 'user1' AND true", "NOT true", "TRUE", "userId eq NULL"])
def test_operators_and_keywords_are_lower_case_only(text: str) -> None:
    refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "2147483647 gt -2147483648",
        "- 5 eq -5",
        "007 eq 7",
        "-0 eq 0",
        "0 lt 00000000000000000001",
        "+5 eq 5",
        "length(userId) gt +4",
        "+2147483647 in (1, +2147483647)",
        "+0 eq -0",
    ],
)
def test_integers_have_32_bits_and_may_have_a_sign(text: str) -> None:
    assert holds(text)


@pytest.mark.parametrize("text", ["+ 5 eq 5", "1 +5 eq 6", "++5 eq 5", "+userId eq 'a'", "+2147483648 eq 1"])
def test_a_plus_is_the_sign_of_an_integer_and_nothing_else(text: str) -> None:
    refusal(text)


# Precedence


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("true or false and false", True),
        ("(true or false) and false", False),
        ("false and false or true", True),
        ("not true or true", True),
        ("not (true or true)", False),
        ("not false and false", False),
        ("not not true", True),
        ("not true eq false", True),  # (not true) eq false
        ("not 'x' in groups", True),  # not ('x' in groups): `in` is the tightest
        ("'group1' in groups eq true", True),
        ("1 eq 1 eq true", True),  # from the left
        ("1 lt 2 eq true and 2 lt 1 eq false", True),
        ("not(true)", False),
        ("userId in('user1')", True),
    ],
)
def test_precedence_from_tight_to_loose_is_in_not_comparison_and_or(text: str, expected: bool) -> None:
    assert holds(text) is expected


# Operators


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1 eq 1", True),
        ("1 ne 1", False),
        ("'a' eq 'a'", True),
        ("'a' eq 'A'", False),
        ("true eq 1", False),  # types differ: unequal, and no error
        ("1 eq '1'", False),
        ("1 ne '1'", True),
        ("false eq 0", False),
        ("null eq null", True),
        ("null eq false", False),
        ("null eq 0", False),
        ("null eq ''", False),
        ("userId eq groups", False),
        ("groups eq groups", True),
        ("2 gt 1", True),
        ("1 gt 1", False),
        ("1 ge 1", True),
        ("1 lt 2", True),
        ("1 le 0", False),
        ("null gt 1", False),
        ("1 gt null", False),
        ("null le null", False),
        ("null lt 'a'", False),  # the untyped null comes before the type check
        ("userId lt null", False),
        ("length(null) ge 0", False),
        ("1 in (1, 2)", True),
        ("true in (1, 2)", False),
        ("1 in (true)", False),
        ("null in (1, null)", True),
        ("null in ()", False),
        ("1 in (,,1,)", True),
        ("2 in (1, length('ab'))", True),
        ("'x,y' in ('x,y')", True),
        ("'ab' in (concat('a', 'b'))", True),
        ("'a)' in ('a)', 'b')", True),
        ("1 in ((1), (2))", True),
        ("true in (1 in (1))", True),
        ("true in (not false, 1 eq 2)", True),
        ("'group1' in groups", True),
        ("'Group1' in groups", False),
        ("concat('group', '1') in groups", True),
        ("1 in groups", False),
        ("null in groups", False),
        ("groups in groups", False),
        ("groups in ('a')", False),
    ],
)
def test_operators(text: str, expected: bool) -> None:
    assert holds(text) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("userId eq null", True),
        ("null eq userId", True),
        ("userId ne null", False),
        ("userId eq protocol", True),
        ("userId in (null)", True),
        ("userId in ('a', null)", True),
        ("userId in ('a')", False),
        ("userId in (protocol)", True),
        ("length(userId) gt 0", False),
        ("length(groups) eq 0", True),
        ("'a' in groups", False),
        ("userId in groups", False),
        ("connectionId eq ''", True),
    ],
)
def test_a_connection_without_user_groups_and_protocol(text: str, expected: bool) -> None:
    assert holds(text, NOBODY) is expected


@pytest.mark.parametrize("null", ["null", "userId", "tolower(userId)"])
def test_null_rules_of_every_function(null: str) -> None:
    for text in [
        f"tolower({null}) eq null",
        f"toupper({null}) eq null",
        f"trim({null}) eq null",
        f"substring({null}, 0) eq null",
        f"substring({null}, 0, 1) eq null",
        f"contains({null}, 'a') eq false",
        f"contains('a', {null}) eq false",
        f"startswith({null}, 'a') eq false",
        f"startswith('a', {null}) eq false",
        f"endswith({null}, 'a') eq false",
        f"endswith('a', {null}) eq false",
        f"indexof({null}, 'a') eq -1",
        f"indexof('a', {null}) eq -1",
        f"contains({null}, 5) eq false",  # null decides before the other's type is looked at
        f"indexof(5, {null}) eq -1",
        f"concat({null}, {null}) eq null",
        f"concat({null}, 'a') eq 'a'",
        f"concat('a', {null}) eq 'a'",
        f"length({null}) eq null",
    ]:
        assert holds(text, NOBODY), text


@pytest.mark.parametrize(
    ("call", "result"),
    [
        ("tolower('AbC')", "'abc'"),
        ("toupper('AbC')", "'ABC'"),
        ("toupper('straße')", "'STRAßE'"),  # one for one
        ("toupper('ıŉﬁ')", "'ıŉﬁ'"),
        ("tolower('İI')", "'İi'"),
        ("toupper('ᾳ')", "'ᾼ'"),
        ("tolower('ΟΔΟΣ')", "'οδοσ'"),  # no final sigma
        ("toupper('𐐨')", "'𐐀'"),
        ("trim('\t\u3000a b\u00a0 ')", "'a b'"),
        ("trim('\x1fa')", "'\x1fa'"),
        ("substring('abc', 0)", "'abc'"),
        ("substring('abc', 1)", "'bc'"),
        ("substring('abc', 3)", "''"),
        ("substring('abc', 4)", "null"),
        ("substring('abc', -1)", "null"),
        ("substring('abc', 1, 1)", "'b'"),
        ("substring('abc', 1, 2)", "'bc'"),
        ("substring('abc', 1, 3)", "null"),
        ("substring('abc', 1, -1)", "null"),
        ("substring('abc', 3, 0)", "''"),
        ("substring('😀b', 2)", "'b'"),
        ("concat(substring('😀', 0, 1), substring('😀', 1))", "'😀'"),
        ("contains('abc', 'b')", "true"),
        ("contains('abc', '')", "true"),
        ("contains('abc', 'B')", "false"),
        ("startswith('abc', 'ab')", "true"),
        ("startswith('abc', 'b')", "false"),
        ("endswith('abc', 'bc')", "true"),
        ("endswith('abc', 'b')", "false"),
        ("indexof('abc', 'c')", "2"),
        ("indexof('abc', 'x')", "-1"),
        ("indexof('abc', '')", "0"),
        ("indexof('😀b', 'b')", "2"),
        ("concat('a', 'b')", "'ab'"),
        ("concat('', '')", "''"),
        ("length('')", "0"),
        ("length('😀')", "2"),
        ("length(groups)", "2"),
        ("length(userId)", "5"),
    ],
)
def test_functions(call: str, result: str) -> None:
    # The empty model gives "" for every substring, so the comparison is made on a real connection.
    assert holds(f"{call} eq {result}")
    assert not holds(f"{call} ne {result}")


def test_offsets_in_identifiers_count_utf16_units() -> None:
    connection = ANYBODY._replace(user_id="😀b", groups=frozenset({"g😀"}))
    assert holds(
        "length(userId) eq 3 and substring(userId, 2) eq 'b' and indexof(userId, 'b') eq 2", connection
    )
    assert holds("userId eq '😀b' and userId in ('😀b') and tolower(userId) eq '😀b'", connection)
    assert holds("'g😀' in groups and concat('g', '😀') in groups", connection)


# The check against the empty model, and connections that it did not foresee


def test_both_sides_of_and_and_or_are_checked() -> None:
    assert refusal("true or userId lt 1") == refused("userId lt 1", "Type 'string', expect 'int'.")
    assert refusal("false and 1") == refused("False and 1", "Type 'int', expect 'bool'.")


def test_the_check_does_not_depend_on_lengths() -> None:
    assert holds("substring(connectionId, 1) eq '1'")
    assert refusal("substring(connectionId, 1) lt 5") == refused(
        "substring(connectionId,1) lt 5", "Type 'string', expect 'int'."
    )


def test_a_type_that_is_wrong_on_one_connection_only_does_not_match_it() -> None:
    text = "tolower(userId) lt 1 or true"  # null, and so fine, without a user
    assert holds(text, NOBODY)
    assert not holds(text, ANYBODY)


def test_there_is_no_short_circuit_around_such_a_type() -> None:
    assert not holds("true or tolower(userId) lt 1", ANYBODY)
    assert not holds("not (false and tolower(userId) lt 1)", ANYBODY)
    assert not holds("'a' in ('a', tolower(userId) lt 1)", ANYBODY)


# Limits


@pytest.mark.parametrize(
    ("opening", "inner", "closing"),
    [
        ("(", "true", ")"),
        ("not ", "true", ""),
        ("tolower(", "'a'", ")"),
        ("1 in (", "1", ")"),
    ],
)
def test_nesting_of_100_is_accepted_and_of_101_refused(opening: str, inner: str, closing: str) -> None:
    def nested(depth: int) -> str:
        text = opening * depth + inner + closing * depth
        return text if "tolower" not in opening else f"{text} eq 'a'"

    assert isinstance(parse_filter(nested(MAX_NESTING)), Filter)
    too_deep = nested(MAX_NESTING + 1)
    assert refusal(too_deep) == refused(too_deep, "Recursion depth exceeded allowed limit.")


def test_operators_inside_each_other_have_a_limit_too() -> None:
    assert holds(" eq ".join(["true"] * MAX_HEIGHT))
    refusal(" eq ".join(["true"] * (MAX_HEIGHT + 1)))
    mixed = "(false or true and not true eq " * 30 + "true" + ")" * 30
    assert isinstance(holds(mixed), bool)


@pytest.mark.parametrize(
    "text",
    ["(" * 20_000, ")" * 20_000, "not " * 20_000, "-" * 20_000, "length(" * 20_000, "1 in (" * 5_000],
    ids=lambda text: text[:7],
)
def test_thousands_of_openings_are_refused_without_recursion(text: str) -> None:
    refusal(text)


def test_chains_of_thousands_of_clauses_work() -> None:
    users = " or ".join(f"userId eq 'user{number}'" for number in range(5_000))
    assert holds(users)
    assert not holds(users, ANYBODY._replace(user_id="user5000"))
    assert holds(" and ".join(["true or false"] * 5_000))
    names = ", ".join(f"'user{number}'" for number in range(5_000))
    assert holds(f"userId in ({names})")
    message = refusal(" or ".join(["true"] * 5_000 + ["'a'"]))
    assert message.startswith("Invalid syntax for '" + "(" * 4_999 + "True or True) or True)")
    assert message.endswith("True) or 'a'': Type 'string', expect 'bool'. (Parameter 'filter')")


# Filters as objects


def test_compiled_filters_are_remembered_and_failures_are_not() -> None:
    assert compile_filter("userId eq 'a'") is compile_filter("userId eq 'a'")
    assert compile_filter("userId eq 'a'") is not compile_filter("userId eq 'b'")
    for _ in range(2):
        with pytest.raises(InvalidFilter):
            compile_filter("userId eq")
    long = f"userId eq '{'a' * 10_000}'"
    assert compile_filter(long) is not compile_filter(long)


@pytest.mark.parametrize(
    ("text", "group", "user", "connection"),
    [
        ("'g' in groups", "g", None, None),
        ("userId ne 'a' and ('g' in Groups and true)", "g", None, None),
        ("'u' eq userId and connectionId eq 'c'", None, "u", "c"),
        ("'g' in groups or true", None, None, None),
        ("not ('g' in groups)", None, None, None),
        ("userId eq null and userId ne 'u' and protocol eq 'p'", None, None, None),
        ("userId in ('u')", None, None, None),
    ],
)
def test_what_a_filter_requires_can_be_looked_up(
    text: str, group: str | None, user: str | None, connection: str | None
) -> None:
    parsed = parse_filter(text)
    assert (parsed.required_group, parsed.required_user, parsed.required_connection) == (
        group,
        user,
        connection,
    )
