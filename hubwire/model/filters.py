"""The OData `filter` of the REST API: which connections an operation is for (rest-api.md section 7).

    parse_filter(text) -> Filter         once, where a request comes in; raises InvalidFilter
    compile_filter(text) -> Filter       the same, remembered: for gateways, which see a text again and again
    Filter.matches(connection ...) -> bool     for each connection; never raises

    text -> filter_lexer -> filter_syntax (tree) -> filter_eval, filter_functions (closures)

Pure: no clock, no I/O, and the answer depends on the arguments alone.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache

from hubwire.model.errors import InvalidRequest
from hubwire.model.filter_eval import canonical_name, compile_tree
from hubwire.model.filter_lexer import FilterSyntaxError
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
    parse,
)
from hubwire.model.filter_values import EMPTY_MODEL_GROUPS, Code, Refusal

REMEMBERED_FILTERS = 1024
# Longer texts are compiled every time, so that what is remembered stays within some megabytes.
REMEMBERED_FILTER_CHARACTERS = 8192


class InvalidFilter(InvalidRequest):
    """The filter cannot be used. `str()` is the message that Azure answers with, to the letter."""

    def __init__(self, expression: str, detail: str) -> None:
        message = f"Invalid syntax for '{expression}': {detail} (Parameter 'filter')"
        # Half a character, from a JSON escape, could not be written into the answer.
        message = message.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        super().__init__(message, target="filter")


class Filter:
    """A filter that has passed its check; immutable, and safe to keep and share.

    `required_group`, `required_user` and `required_connection` name what a connection must have for the
    filter to match, where the text says so plainly (`'g' in groups and ...`): a place to look instead of
    all connections. None says nothing, and `matches` decides in any case.
    """

    __slots__ = ("_evaluate", "required_connection", "required_group", "required_user", "text")

    def __init__(self, text: str, root: Node, code: Code) -> None:
        self.text = text
        self._evaluate = code.evaluate
        self.required_group: str | None = None
        self.required_user: str | None = None
        self.required_connection: str | None = None
        terms = [root]
        while terms:
            term = terms.pop()
            if isinstance(term, Chain) and term.operator == "and":
                terms.extend(term.children)
            else:
                self._note_required(term)

    def matches(
        self, connection_id: str, user_id: str | None, groups: Collection[str], protocol: str | None
    ) -> bool:
        """Whether the filter holds for a connection. `groups` needs a fast `in`: a set or a dict's keys.

        Never raises: the check of `parse_filter` found what is wrong with every connection, and an
        expression that is wrong for this one only (`tolower(userId) lt 1`, once there is a user) does
        not match it.
        """
        try:
            return self._evaluate(connection_id, user_id, groups, protocol) is True
        except Refusal:
            return False

    def __repr__(self) -> str:
        return f"Filter({self.text!r})"

    def _note_required(self, term: Node) -> None:
        match term:
            case In(set_text=None, children=[Literal(value=str(group)), Name()]):
                self.required_group = group
            case (
                Comparison(operator="eq", children=[Name() as name, Literal(value=str(value))])
                | Comparison(operator="eq", children=[Literal(value=str(value)), Name() as name])
            ):
                if canonical_name(name) == "userid":
                    self.required_user = value
                elif canonical_name(name) == "connectionid":
                    self.required_connection = value
            case _:
                pass


def parse_filter(text: str) -> Filter:
    """Compiles a filter and checks it against a connection that has nothing (rest-api.md 7.5).

    Whether there is a filter at all is the caller's question: an absent or empty one means everybody, and
    an empty text is refused here, as is one of white space. Raises `InvalidFilter`, and nothing else.
    """
    try:
        root = parse(text)
    except FilterSyntaxError as error:
        raise InvalidFilter(text, str(error)) from None
    code = compile_tree(root)
    try:
        value = code.evaluate("", None, EMPTY_MODEL_GROUPS, None)
        if type(value) is not bool:
            raise Refusal(root, f"Type '{code.type_of(value)}', expect 'bool'.")
    except Refusal as refusal:
        raise _explain(text, refusal) from None
    return Filter(text, root, code)


def compile_filter(text: str) -> Filter:
    """`parse_filter`, remembering the last texts. Failures are not remembered."""
    return _remembered(text) if len(text) <= REMEMBERED_FILTER_CHARACTERS else parse_filter(text)


@lru_cache(maxsize=REMEMBERED_FILTERS)
def _remembered(text: str) -> Filter:
    return parse_filter(text)


def _explain(text: str, refusal: Refusal) -> InvalidFilter:
    """The message of a refusal, or of what stands in the way of quoting the expression (rest-api.md 7.6)."""
    node: Node | None = refusal.node
    operands = refusal.operands
    if refusal.around:
        child = refusal.node
        node = child.parent
        while isinstance(node, Not):
            child, node = node, node.parent
        if isinstance(node, Chain):
            operands = max(2, node.children.index(child) + 1)
    try:
        detail = refusal.detail
        if refusal.names_node:
            detail = detail.replace("*", _quote(refusal.node))
        return InvalidFilter(text if node is None else _quote(node, operands), detail)
    except _Unquotable as unquotable:
        return InvalidFilter(text, f"Token '{unquotable}' is not supported.")


class _Unquotable(Exception):
    """The expression contains something that the error texts have no form for."""


def _quote(root: Node, operands: int | None = None) -> str:
    """The expression printed anew, as the errors of Azure do it (rest-api.md 7.6)."""
    shown: dict[Node, list[Node]] = {}
    stack = [root]
    while stack:
        node = stack.pop()
        # A set is quoted as it was written.
        count = 1 if isinstance(node, In) and node.set_text is not None else None
        shown[node] = node.children[: operands if node is root and operands is not None else count]
        stack.extend(shown[node])
    texts: dict[Node, str] = {}
    for node in reversed(shown):  # children come after their parents in it
        texts[node] = _quote_node(node, [(child, texts[child]) for child in shown[node]])
    return texts[root]


def _quote_node(node: Node, children: list[tuple[Node, str]]) -> str:
    operands = [f"({text})" if child.operand_in_parentheses else text for child, text in children]
    match node:
        case Literal(value=None):
            return "null"
        case Literal(value=str(value)):
            return f"'{value}'"
        case Literal(value=value):
            return str(value)  # True, not true: as .NET prints it
        case Name():
            return node.text
        case Function():
            return f"{node.name}({','.join(text for _, text in children)})"
        case Comparison():
            return f" {node.operator} ".join(operands)
        case Chain():
            first, second, *others = operands
            left = "(" * len(others) + f"{first} {node.operator} {second}"
            return left + "".join(f") {node.operator} {operand}" for operand in others)
        case Not():
            return f"not {operands[0]}"
        case In(set_text=None):
            return " in ".join(text for _, text in children)
        case In():
            return f"{children[0][1]} in {node.set_text}"
        case Foreign(quotable=True):
            return node.token
        case Foreign():
            raise _Unquotable(node.token)
        case _:
            raise AssertionError(f"A tree cannot contain {type(node).__name__}.")
