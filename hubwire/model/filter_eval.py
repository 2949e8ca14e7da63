"""From the tree of a filter to a function of a connection: identifiers, literals and operators.

Every node becomes a closure once, so that a fan-out to thousands of connections pays for calls only, and
the shapes that real filters have (`userId eq 'a'`, `'g' in groups`) become a single one. Rules:
rest-api.md 7.5; functions are in `filter_functions`. Pure.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection
from typing import Final, NoReturn

from hubwire.model.filter_functions import FUNCTIONS
from hubwire.model.filter_syntax import (
    Chain,
    Comparison,
    Foreign,
    Function,
    In,
    Literal,
    Name,
    Node,
    Not,
    postorder,
)
from hubwire.model.filter_text import from_units, to_units
from hubwire.model.filter_values import (
    Code,
    Evaluate,
    Refusal,
    Types,
    invalid_token,
    mismatch,
    not_supported,
)

_Groups = Collection[str]

_INT_OR_NULL: Final = Types.INT | Types.NULL
_ORDER: Final[dict[str, Callable[[int, int], bool]]] = {
    "gt": operator.gt,
    "ge": operator.ge,
    "lt": operator.lt,
    "le": operator.le,
}


def compile_tree(root: Node) -> Code:
    """The code of a whole tree. It refuses nothing itself: what is wrong raises when it is evaluated."""
    codes: dict[Node, Code] = {}
    for node in postorder(root):
        codes[node] = _compile(node, [codes[child] for child in node.children])
    return codes[root]


def _compile(node: Node, children: list[Code]) -> Code:
    match node:
        case Literal():
            return _compile_literal(node)
        case Name():
            return _compile_name(node)
        case Comparison(operator="eq" | "ne"):
            return _compile_equality(node, *children)
        case Comparison():
            return _compile_order(node, *children)
        case In(set_text=None):
            return _compile_membership(node, *children)
        case In():
            return _compile_in_set(node, children[0], children[1:])
        case Chain():
            return _compile_chain(node, children)
        case Not():
            return _compile_not(node, children[0])
        case Function():
            return _compile_function(node, children)
        case Foreign():
            return _refusing(lambda: not_supported(node, node.token))
        case _:
            raise AssertionError(f"A tree cannot contain {type(node).__name__}.")


def _refusing(refusal: Callable[[], Refusal]) -> Code:
    def refuse(connection: str, user: str | None, groups: _Groups, protocol: str | None) -> NoReturn:
        raise refusal()

    return Code(refuse, Types.NULL, safe=False)


def _compile_literal(node: Literal) -> Code:
    value = to_units(node.value) if isinstance(node.value, str) else node.value
    types = {bool: Types.BOOL, int: Types.INT, str: Types.STRING}.get(type(value), Types.NULL)
    return Code(lambda connection, user, groups, protocol: value, types, safe=True)


def _units(text: str | None) -> str | None:
    return text if text is None or text.isascii() else to_units(text)


_NAMES: Final = {
    "connectionid": Code(
        lambda connection, user, groups, protocol: _units(connection), Types.STRING, safe=True
    ),
    "userid": Code(lambda connection, user, groups, protocol: _units(user), Types.STRING, safe=True),
    "protocol": Code(lambda connection, user, groups, protocol: _units(protocol), Types.STRING, safe=True),
    "groups": Code(lambda connection, user, groups, protocol: groups, Types.COLLECTION, safe=True),
}


def canonical_name(node: Node) -> str | None:
    """The identifier in lower case, when the node is one that a connection has (rest-api.md 7.1)."""
    if not isinstance(node, Name) or not node.text.isascii():
        return None
    name = node.text.lower()
    return name if name in _NAMES else None


def _compile_name(node: Name) -> Code:
    name = canonical_name(node)
    return _NAMES[name] if name is not None else _refusing(lambda: not_supported(node, node.text))


def _compile_equality(node: Comparison, left: Code, right: Code) -> Code:
    safe = left.safe and right.safe
    negated = node.operator == "ne"
    fast = _identifier_equals(node)
    if fast is not None:
        return Code(fast, Types.BOOL, safe)
    evaluate_left, evaluate_right = left.evaluate, right.evaluate

    def equal(connection: str, user: str | None, groups: _Groups, protocol: str | None) -> bool:
        first = evaluate_left(connection, user, groups, protocol)
        second = evaluate_right(connection, user, groups, protocol)
        # By type too: in Python, unlike in .NET, True equals 1.
        return (type(first) is type(second) and first == second) is not negated

    return Code(equal, Types.BOOL, safe)


def _identifier_equals(node: Comparison) -> Evaluate | None:
    """`userId eq 'a'` and its like in one closure. Both sides are texts as they are, so no units."""
    sides = node.children if isinstance(node.children[1], Literal) else node.children[::-1]
    name, literal = canonical_name(sides[0]), sides[1]
    if name is None or not isinstance(literal, Literal) or not isinstance(literal.value, str | None):
        return None
    value = literal.value
    match name, node.operator:
        case "userid", "eq":
            return lambda connection, user, groups, protocol: user == value
        case "userid", "ne":
            return lambda connection, user, groups, protocol: user != value
        case "connectionid", "eq":
            return lambda connection, user, groups, protocol: connection == value
        case "connectionid", "ne":
            return lambda connection, user, groups, protocol: connection != value
        case "protocol", "eq":
            return lambda connection, user, groups, protocol: protocol == value
        case "protocol", "ne":
            return lambda connection, user, groups, protocol: protocol != value
        case _:
            return None


def _compile_order(node: Comparison, left: Code, right: Code) -> Code:
    holds = _ORDER[node.operator]
    evaluate_left, evaluate_right = left.evaluate, right.evaluate
    # A bare identifier that is null counts as a string, and a string is an error here.
    left_is_string, right_is_string = left.types is Types.STRING, right.types is Types.STRING

    def compare(connection: str, user: str | None, groups: _Groups, protocol: str | None) -> bool:
        first = evaluate_left(connection, user, groups, protocol)
        second = evaluate_right(connection, user, groups, protocol)
        if (first is None and not left_is_string) or (second is None and not right_is_string):
            return False
        if type(first) is not int:
            raise mismatch(node, left, first, "int")
        if type(second) is not int:
            raise mismatch(node, right, second, "int")
        return holds(first, second)

    return Code(compare, Types.BOOL, left.is_safely(_INT_OR_NULL) and right.is_safely(_INT_OR_NULL))


def _compile_membership(node: In, left: Code, right: Code) -> Code:
    """`x in groups`; nothing else has items."""
    sought = node.children[0]
    evaluate_left, evaluate_right = left.evaluate, right.evaluate
    if right.types is not Types.COLLECTION:

        def refuse(connection: str, user: str | None, groups: _Groups, protocol: str | None) -> NoReturn:
            evaluate_left(connection, user, groups, protocol)
            value = evaluate_right(connection, user, groups, protocol)
            if right.type_of(value) == "string":
                raise Refusal(node, f"Invalid token '{value or ''}'.")
            raise mismatch(node, right, value, "string")

        return Code(refuse, Types.BOOL, safe=False)

    if isinstance(sought, Literal) and isinstance(sought.value, str):
        group = sought.value
        return Code(lambda connection, user, groups, protocol: group in groups, Types.BOOL, safe=True)

    def member(connection: str, user: str | None, groups: _Groups, protocol: str | None) -> bool:
        value = evaluate_left(connection, user, groups, protocol)
        return type(value) is str and from_units(value) in groups

    return Code(member, Types.BOOL, left.safe)


def _compile_in_set(node: In, left: Code, items: list[Code]) -> Code:
    evaluate_left = left.evaluate
    literals: dict[type, set[object]] = {}
    others: list[Evaluate] = []
    for child, code in zip(node.children[1:], items, strict=True):
        if isinstance(child, Literal):
            value = to_units(child.value) if isinstance(child.value, str) else child.value
            literals.setdefault(type(value), set()).add(value)
        else:
            others.append(code.evaluate)
    safe = left.safe and all(code.safe for code in items)

    def in_literals(connection: str, user: str | None, groups: _Groups, protocol: str | None) -> bool:
        value = evaluate_left(connection, user, groups, protocol)
        kind = type(value)
        return kind in literals and value in literals[kind]

    if not others:
        return Code(in_literals, Types.BOOL, safe)

    def in_items(connection: str, user: str | None, groups: _Groups, protocol: str | None) -> bool:
        value = evaluate_left(connection, user, groups, protocol)
        kind = type(value)
        found = kind in literals and value in literals[kind]
        for evaluate in others:  # all of them, also after a match: each may refuse
            item = evaluate(connection, user, groups, protocol)
            found = found or (type(item) is kind and item == value)
        return found

    return Code(in_items, Types.BOOL, safe)


def _compile_chain(node: Chain, operands: list[Code]) -> Code:
    """`and`, `or`: no short circuit, unless no operand can raise, when nobody can tell the difference."""
    stops_at = node.operator == "or"
    evaluates = [operand.evaluate for operand in operands]
    if all(operand.is_safely(Types.BOOL) for operand in operands):

        def quick(connection: str, user: str | None, groups: _Groups, protocol: str | None) -> bool:
            for evaluate in evaluates:
                if evaluate(connection, user, groups, protocol) is stops_at:
                    return stops_at
            return not stops_at

        return Code(quick, Types.BOOL, safe=True)

    def thorough(connection: str, user: str | None, groups: _Groups, protocol: str | None) -> bool:
        # In the order of `((a op b) op c) ...`: both operands are computed before either is judged.
        judged = 0
        values: list[object] = []
        for number, evaluate in enumerate(evaluates, start=1):
            values.append(evaluate(connection, user, groups, protocol))
            if number == 1:
                continue
            for index in range(judged, number):
                if type(values[index]) is not bool:
                    raise mismatch(node, operands[index], values[index], "bool", operands=number)
            judged = number
        return stops_at if stops_at in values else not stops_at

    return Code(thorough, Types.BOOL, safe=False)


def _compile_not(node: Not, operand: Code) -> Code:
    evaluate = operand.evaluate

    def negate(connection: str, user: str | None, groups: _Groups, protocol: str | None) -> bool:
        value = evaluate(connection, user, groups, protocol)
        if type(value) is not bool:
            raise mismatch(node, operand, value, "bool")
        return not value

    return Code(negate, Types.BOOL, operand.is_safely(Types.BOOL))


def _compile_function(node: Function, arguments: list[Code]) -> Code:
    function = FUNCTIONS.get(node.name)  # names are lower case only
    if function is None:
        return _refusing(lambda: not_supported(node))
    if len(arguments) not in function.arity:
        return _refusing(lambda: invalid_token(node))
    return function.compile(node, arguments)
