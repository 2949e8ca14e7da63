"""From the words of a filter to its tree.

Grammar and precedence: rest-api.md 7.3, where `not` binds tighter than a comparison, with two details from
Microsoft's OData library, which the real service and its emulator use: `in` binds tighter than `not`, and
comparisons may be chained, from the left. By the grammar to the letter `not 'a' in groups` could only be an
error of types, so nothing that the grammar allows means something else here.

What the library can read and filters cannot use (arithmetic, lambdas, paths, dates ...) becomes `Foreign`,
which is refused with its name later.

Nothing here recurses: a filter of thousands of parentheses or `not`s is refused, not a RecursionError,
and `a or b or c ...` of any length is one node. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum, auto
from typing import ClassVar, Final

from hubwire.model.filter_lexer import (
    WHITE_SPACE,
    FilterSyntaxError,
    Kind,
    Lexer,
    Token,
    int32_of,
    utf16_length,
)

# Parentheses, functions, `not`s and sets inside each other (rest-api.md 4). OData itself counts eight
# for a parenthesis, so whatever Azure accepts is far below this.
MAX_NESTING: Final = 100
# Operators of the tree inside each other, so that evaluation has a bounded stack whatever the mixture.
MAX_HEIGHT: Final = 250

_TOO_DEEP: Final = "Recursion depth exceeded allowed limit."

_COMPARISONS: Final = frozenset({"eq", "ne", "gt", "ge", "lt", "le"})
_SET_PART = re.compile(r"'[^']*'|[(),]")
_PRECEDENCE: Final = {
    "or": 1,
    "and": 2,
    **dict.fromkeys(_COMPARISONS, 3),
    **dict.fromkeys(("add", "sub"), 4),
    **dict.fromkeys(("mul", "div", "mod"), 5),
    "not": 6,
    "-": 6,
    **dict.fromkeys(("in", "has"), 7),
}


class Node:
    """A node of the tree. `parent` is set once the tree is complete."""

    operand_in_parentheses: ClassVar[bool] = False  # when it is printed as an operand

    def __init__(self, *children: Node) -> None:
        self.children: list[Node] = list(children)
        self.parent: Node | None = None


class Literal(Node):
    def __init__(self, value: bool | int | str | None) -> None:
        super().__init__()
        self.value = value


class Name(Node):
    """An identifier, known or not, as it was written."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text


class Function(Node):
    def __init__(self, name: str, arguments: list[Node]) -> None:
        super().__init__(*arguments)
        self.name = name


class Chain(Node):
    """Two or more operands joined by `and`, or by `or`. `a and b and c` is `(a and b) and c` in OData;
    as one node it can be of any length."""

    operand_in_parentheses = True

    def __init__(self, operator: str, left: Node, right: Node) -> None:
        super().__init__(left, right)
        self.operator = operator


class Comparison(Node):
    operand_in_parentheses = True

    def __init__(self, operator: str, left: Node, right: Node) -> None:
        super().__init__(left, right)
        self.operator = operator


class Not(Node):
    operand_in_parentheses = True


class In(Node):
    """`x in (...)`, whose items are the children from the second on, or `x in y` with a second child."""

    operand_in_parentheses = True

    def __init__(self, left: Node, right: Node, nesting: int) -> None:
        super().__init__(left)
        self.set_text = right.text if isinstance(right, _Set) else None
        self.nesting = nesting
        if self.set_text is None:
            self.children.append(right)


class Foreign(Node):
    """What OData knows and filters do not. `token` is what the refusal calls it.

    Literals can be quoted in an error, other constructs cannot; then the whole filter is quoted instead.
    """

    def __init__(self, token: str, *, quotable: bool = False) -> None:
        super().__init__()
        self.token = token
        self.quotable = quotable


class _Set(Node):
    """The unread right side of `in`, while the parser holds it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text


class _State(Enum):
    """What the parser expects next."""

    OPERAND = auto()
    PRIMARY = auto()  # an operand that cannot begin with `not` or a minus: after `in`
    OPERATOR = auto()  # or the end, or what closes a parenthesis
    DONE = auto()


class _Open:
    """An open parenthesis (`function` is None) or an open function call, on the stack of operators."""

    def __init__(self, function: str | None) -> None:
        self.function = function
        self.arguments: list[Node] = []


def parse(text: str) -> Node:
    """The complete tree of a filter, with the items of its sets. Raises `FilterSyntaxError`.

    A set's items are read after everything around it, each as a text of its own: that is the order in
    which OData finds errors, and positions in an item count from its beginning.
    """
    parser = _Parser(text, nesting=0)
    root = parser.parse()
    sets = list(parser.sets)
    for each in sets:  # grows while it runs: items may contain sets
        for item in _split_items(each.set_text or ""):
            item_parser = _Parser(item, nesting=each.nesting + 1)
            each.children.append(item_parser.parse())
            sets.extend(item_parser.sets)
    heights: dict[Node, int] = {}
    for node in postorder(root):
        heights[node] = 1 + max((heights[child] for child in node.children), default=0)
        if heights[node] > MAX_HEIGHT:
            raise FilterSyntaxError(_TOO_DEEP)
        for child in node.children:
            child.parent = node
    return root


def postorder(root: Node) -> Iterator[Node]:
    """Every node, children before parents."""
    found: list[Node] = []
    stack = [root]
    while stack:
        node = stack.pop()
        found.append(node)
        stack.extend(node.children)
    return reversed(found)


def _split_items(set_text: str) -> Iterator[str]:
    """The items between the outer parentheses; empty ones are skipped (rest-api.md 7.5)."""
    start, end, depth = 1, len(set_text) - 1, 0
    for part in _SET_PART.finditer(set_text, start, end):
        match part.group():
            case "(":
                depth += 1
            case ")":
                depth -= 1
            case "," if depth == 0:
                if item := set_text[start : part.start()].strip(WHITE_SPACE):
                    yield item
                start = part.end()
    if item := set_text[start:end].strip(WHITE_SPACE):
        yield item


class _Parser:
    """Operator precedence with two explicit stacks, for one text. `sets` holds the `in`s still to fill."""

    def __init__(self, text: str, nesting: int) -> None:
        self.sets: list[In] = []
        self._lexer = Lexer(text)
        self._nesting = nesting
        self._check_nesting()
        self._operands: list[Node] = []
        self._operators: list[str | _Open] = []

    def parse(self) -> Node:
        state = _State.OPERAND
        while state is not _State.DONE:
            state = self._read_operator() if state is _State.OPERATOR else self._read_operand(state)
        return self._operands[0]

    def _check_nesting(self) -> None:
        if self._nesting > MAX_NESTING:
            raise FilterSyntaxError(_TOO_DEEP)

    def _enter(self, operator: str | _Open) -> _State:
        self._nesting += 1
        self._check_nesting()
        self._operators.append(operator)
        return _State.OPERAND

    def _read_operand(self, state: _State) -> _State:
        token = self._lexer.current
        if state is _State.OPERAND:
            if token.kind is Kind.IDENTIFIER and token.text == "not":
                self._lexer.advance()
                return self._enter("not")
            if token.kind is Kind.SYMBOL and token.text == "-":
                return self._read_minus()
        # The library looks one token ahead here, so a bad character behind comes before a missing operand.
        following = self._lexer.peek()
        if following.kind is Kind.SYMBOL and following.text == "/" and token.kind is not Kind.IDENTIFIER:
            position = utf16_length(self._lexer.text[: token.start])
            raise FilterSyntaxError(f"An identifier was expected at position {position}.")
        if token.kind is Kind.IDENTIFIER:
            return self._read_identifier(token)
        if token.kind is Kind.SYMBOL and token.text == "(":
            self._lexer.advance()
            return self._enter(_Open(None))
        self._operands.append(self._literal(token))
        self._lexer.advance()
        return _State.OPERATOR

    def _literal(self, token: Token) -> Node:
        match token.kind:
            case Kind.STRING:
                return Literal(token.text[1:-1].replace("''", "'"))
            case Kind.INTEGER:
                return Literal(int32_of(token.text))
            case Kind.BOOLEAN:
                return Literal(token.text == "true")
            case Kind.NULL:
                return Literal(None)
            case Kind.FOREIGN:
                return Foreign(token.text, quotable=True)
            case Kind.ALIAS:
                return Foreign("FunctionParameterAlias")
            case Kind.SET:
                return _Set(token.text)
            case Kind.SYMBOL if token.text == "*":
                return Foreign("Star")
            case _:
                raise self._lexer.expected("Expression")

    def _read_minus(self) -> _State:
        """A minus and a number with white space between are one literal, anything else a negation."""
        minus = self._lexer.advance()
        number = self._lexer.current
        if number.kind is Kind.INTEGER and number.text.startswith("-"):
            position = utf16_length(self._lexer.text[: minus.start])
            raise FilterSyntaxError(
                f"Unrecognized 'Edm.Int32' literal '-{number.text}' at '{position}' in '{self._lexer.text}'."
            )
        if number.kind is Kind.INTEGER:
            self._operands.append(Literal(int32_of(f"-{number.text}")))
        elif number.kind is Kind.FOREIGN and number.text[0].isdigit():
            self._operands.append(Foreign(f"-{number.text}", quotable=True))
        else:
            return self._enter("-")
        self._lexer.advance()
        return _State.OPERATOR

    def _read_identifier(self, token: Token) -> _State:
        """A name, or a function when its parenthesis follows without white space."""
        name = token.text
        self._lexer.advance()
        while self._is_symbol("."):
            self._lexer.advance()
            if self._lexer.current.kind is not Kind.IDENTIFIER:
                raise self._lexer.syntax_error()
            token = self._lexer.advance()
            name = f"{name}.{token.text}"
        if self._is_symbol("(") and self._lexer.current.start == token.end:
            self._lexer.advance()
            self._enter(_Open(name))
            return self._close() if self._is_symbol(")") else _State.OPERAND
        self._operands.append(Foreign("DottedIdentifier") if "." in name else Name(name))
        return _State.OPERATOR

    def _is_symbol(self, text: str) -> bool:
        return self._lexer.current.kind is Kind.SYMBOL and self._lexer.current.text == text

    def _read_operator(self) -> _State:
        token = self._lexer.current
        if self._is_symbol("/"):
            return self._read_path()
        if token.kind is Kind.IDENTIFIER and token.text in _PRECEDENCE and token.text != "not":
            self._reduce(_PRECEDENCE[token.text])
            self._operators.append(token.text)
            self._lexer.advance()
            return _State.PRIMARY if token.text in ("in", "has") else _State.OPERAND
        self._reduce(0)
        opened = self._operators[-1] if self._operators else None
        if not isinstance(opened, _Open):
            if token.kind is Kind.END:
                return _State.DONE
            raise self._lexer.syntax_error()
        if opened.function is None:
            if not self._is_symbol(")"):
                raise self._lexer.expected("')' or operator")
            return self._close()
        if not (self._is_symbol(")") or self._is_symbol(",")):
            raise self._lexer.expected("')' or ','")
        opened.arguments.append(self._operands.pop())
        if self._is_symbol(")"):
            return self._close()
        self._lexer.advance()
        return _State.OPERAND

    def _close(self) -> _State:
        opened = self._operators.pop()
        assert isinstance(opened, _Open)
        self._nesting -= 1
        self._lexer.advance()
        if opened.function is not None:
            self._operands.append(Function(opened.function, opened.arguments))
        return _State.OPERATOR

    def _reduce(self, precedence: int) -> None:
        """Completes what binds at least as tight as the operator at hand (all associate to the left)."""
        while self._operators:
            operator = self._operators[-1]
            if isinstance(operator, _Open) or _PRECEDENCE[operator] < precedence:
                return
            self._operators.pop()
            right = self._operands.pop()
            if operator in ("not", "-"):
                self._nesting -= 1
                self._operands.append(Not(right) if operator == "not" else Foreign("UnaryOperator"))
            else:
                self._operands.append(self._binary(operator, self._operands.pop(), right))

    def _binary(self, operator: str, left: Node, right: Node) -> Node:
        if operator in ("and", "or"):
            if isinstance(left, Chain) and left.operator == operator:
                left.children.append(right)
                return left
            return Chain(operator, left, right)
        if operator in _COMPARISONS:
            return Comparison(operator, left, right)
        if operator == "in":
            node = In(left, right, self._nesting)
            if node.set_text is not None:
                self.sets.append(node)
            return node
        return Foreign("BinaryOperator")

    def _read_path(self) -> _State:
        """`x/y`, `x/any(...)`: read so far that what follows can be checked, and never supported."""
        self._lexer.advance()
        segment = self._lexer.current
        if segment.kind is not Kind.IDENTIFIER:
            raise self._lexer.syntax_error()
        self._lexer.advance()
        token = {"any": "Any", "all": "All", "$count": "CountSegment"}.get(segment.text, "InnerPath")
        if self._is_symbol("("):
            depth = 0
            while True:
                if self._lexer.current.kind is Kind.END:
                    raise self._lexer.expected("')' or ','")
                depth += self._is_symbol("(") - self._is_symbol(")")
                self._lexer.advance()
                if depth == 0:
                    break
        self._operands[-1] = Foreign(token)
        return _State.OPERATOR
