"""A YAML file held against a type, without losing track of the lines.

The parsed values alone know nothing of lines, and the first error of a converter hides the others. So the
file's own tree is walked along the type: every fault is found, each with the way to its place.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, get_args, get_origin

import msgspec
import yaml

from hubwire.model.hub_rules import place_text
from hubwire.model.wording import wanted, without_none
from hubwire.runtime.parsers import did_you_mean

Place = tuple[str | int, ...]


class Fault(NamedTuple):
    """What is wrong and what to do, at which place of the file."""

    place: Place
    text: str


_SHOWN_CHARACTERS = 200
MAX_DEPTH = 50  # far more than any setting needs; PyYAML itself recurses, and ends at some hundred


class Tree:
    """A parsed file. Raises yaml.YAMLError when it is not YAML, or is nested deeper than MAX_DEPTH; so do
    `entries` and `value` for what only they find (a merge of a list, an anchor inside itself)."""

    def __init__(self, text: str) -> None:
        _check_depth(text)
        self._loader = yaml.SafeLoader(text)
        self.root: yaml.Node | None = self._loader.get_single_node()
        self._lines: dict[Place, int] = {(): self._line(self.root)}

    @staticmethod
    def _line(node: yaml.Node | None) -> int:
        return node.start_mark.line + 1 if node is not None else 1

    def line_of(self, place: Place) -> int:
        """The line of a place; of the nearest place around it when it is not in the file."""
        while place not in self._lines:
            place = place[:-1]
        return self._lines[place]

    def note(self, place: Place, node: yaml.Node) -> None:
        self._lines[place] = self._line(node)

    def entries(self, node: yaml.MappingNode) -> list[tuple[str, yaml.Node, yaml.Node]]:
        """Key, key node and value node, merges (`<<`) resolved. Keys are taken as they are written."""
        try:
            self._loader.flatten_mapping(node)
        except RecursionError:
            raise _too_deep(node.start_mark) from None
        return [(str(key.value), key, value) for key, value in node.value]

    def value(self, node: yaml.Node) -> Any:
        try:
            return self._loader.construct_object(node, deep=True)
        except RecursionError:  # anchors in anchors are deeper than the text
            raise _too_deep(node.start_mark) from None


def _check_depth(text: str) -> None:
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise _too_deep(event.start_mark)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _too_deep(mark: Any) -> yaml.YAMLError:
    return yaml.MarkedYAMLError(problem=f"it is nested deeper than {MAX_DEPTH} levels", problem_mark=mark)


def check(tree: Tree, type_: type[msgspec.Struct]) -> tuple[dict[str, Any], list[Fault]]:
    """The plain values that `msgspec.convert` takes, and all faults. Null counts as absent.

    What is at fault is left out of the values, so rules can be tried on the rest.
    """
    walk = _Walk(tree)
    if tree.root is None or _is_null(tree.root):
        return {}, []
    plain = walk.value(tree.root, type_, ())
    return (plain if isinstance(plain, dict) else {}), walk.faults


_BAD = object()


class _Walk:
    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self.faults: list[Fault] = []

    def _fault(self, place: Place, text: str) -> object:
        self.faults.append(Fault(place, text))
        return _BAD

    def value(self, node: yaml.Node, annotation: Any, place: Place) -> Any:
        bare = without_none(annotation)
        origin = get_origin(bare)
        if isinstance(bare, type) and issubclass(bare, msgspec.Struct):
            if not isinstance(node, yaml.MappingNode):
                names = ", ".join(f.encode_name for f in msgspec.structs.fields(bare))
                return self._fault(place, f"{_name(place)} must be a table with some of: {names}.")
            return self._struct(node, bare, place)
        if origin in (tuple, list):
            if not isinstance(node, yaml.SequenceNode):
                return self._fault(place, f"{_name(place)} must be a list: write it in [ ].")
            return self._list(node, get_args(bare)[0], place)
        if origin is dict:
            if not isinstance(node, yaml.MappingNode):
                return self._fault(place, f"{_name(place)} must be a table from names to values.")
            return self._table(node, get_args(bare)[1], place)
        return self._leaf(node, bare, place)

    def _struct(self, node: yaml.MappingNode, type_: type[msgspec.Struct], place: Place) -> dict[str, Any]:
        fields = {field.encode_name: field for field in msgspec.structs.fields(type_)}
        found: dict[str, Any] = {}
        entries = self._entries(node, place)
        for name, inner, inside in entries:
            field = fields.get(name)
            if field is None:
                hint = did_you_mean(name, fields) or f": known are {', '.join(fields)}."
                self._fault(inside, f"{_name(inside)} is not a setting{hint}")
                continue
            value = self.value(inner, field.type, inside)
            if value is not _BAD:
                found[name] = value
        given = {name for name, _, _ in entries}
        for name, field in fields.items():
            if field.required and name not in given:
                self._fault(place, f"{_name((*place, name))} is missing: it must be {wanted(field.type)}.")
        return found

    def _table(self, node: yaml.MappingNode, annotation: Any, place: Place) -> dict[str, Any]:
        found: dict[str, Any] = {}
        tables = isinstance(annotation, type) and issubclass(annotation, msgspec.Struct)
        for name, inner, inside in self._entries(node, place, keep_nulls=tables):
            # `chat:` with nothing behind it is a hub with the default settings.
            value = {} if _is_null(inner) else self.value(inner, annotation, inside)
            if value is not _BAD:
                found[name] = value
        return found

    def _list(self, node: yaml.SequenceNode, annotation: Any, place: Place) -> list[Any]:
        found = []
        for index, inner in enumerate(node.value):
            inside = (*place, index)
            self._tree.note(inside, inner)
            value = self.value(inner, annotation, inside)
            if value is not _BAD:
                found.append(value)
        return found

    def _entries(
        self, node: yaml.MappingNode, place: Place, *, keep_nulls: bool = False
    ) -> list[tuple[str, yaml.Node, Place]]:
        entries = []
        names: set[str] = set()
        for name, key, inner in self._tree.entries(node):
            inside = (*place, name)
            if name in names:
                text = f"{_name(inside)} stands here for the second time: remove one of the two."
                self._tree.note((*inside, ""), key)
                self._fault((*inside, ""), text)
                continue
            names.add(name)
            self._tree.note(inside, key)
            if keep_nulls or not _is_null(inner):
                entries.append((name, inner, inside))
        return entries

    def _leaf(self, node: yaml.Node, annotation: Any, place: Place) -> Any:
        value = self._tree.value(node)
        if get_origin(annotation) is Literal and isinstance(value, str):  # words in any case, as Azure's
            value = next((word for word in get_args(annotation) if word.lower() == value.lower()), value)
        try:
            return msgspec.convert(value, annotation)
        except msgspec.ValidationError:
            shown = "" if _is_secret(place) else f" is {_shown(value)}:"
            it = "" if _is_secret(place) else " it"
            hint = " Put it in quotes." if annotation is str and not isinstance(value, (dict, list)) else ""
            text = f"{_name(place)}{shown}{it} must be {wanted(annotation)}.{hint}"
            return self._fault(place, text)


def _name(place: Place) -> str:
    return place_text(place) if place else "The file"


def _shown(value: object) -> str:
    """A few characters of it: with anchors in anchors, a short text can stand for a value without end."""
    if isinstance(value, (dict, list, set)):
        return "a list" if isinstance(value, list) else "a table"
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


def _is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"


def _is_secret(place: Place) -> bool:
    return "accessKeys" in place or "adminToken" in place
