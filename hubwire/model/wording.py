"""What a setting must be, in an operator's words: for the faults of files, of REST, of the command line."""

from __future__ import annotations

import types
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec


def wanted(annotation: Any) -> str:
    """A type in words, behind "it must be"."""
    annotation = without_none(annotation)
    origin = get_origin(annotation)
    if origin is Literal:
        return "one of " + ", ".join(map(str, get_args(annotation)))
    if origin is Annotated:
        bare, *metas = get_args(annotation)
        return wanted(bare) + "".join(_bounds(meta) for meta in metas if isinstance(meta, msgspec.Meta))
    if origin in (tuple, list):
        return "a list"
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        return "an object"
    words = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
    return words.get(annotation, "a value of another kind")


def without_none(annotation: Any) -> Any:
    """What stands beside None in a type, when it is one thing."""
    if get_origin(annotation) in (Union, types.UnionType):
        others = [each for each in get_args(annotation) if each is not types.NoneType]
        if len(others) == 1:
            return others[0]
    return annotation


def annotation_at(struct: type[msgspec.Struct], place: Sequence[str | int]) -> Any | None:
    """The type of what stands at a place of a struct's JSON; None where that depends on the content."""
    found: Any = struct
    for part in place:
        found = without_none(found)
        if isinstance(part, int):
            if get_origin(found) not in (tuple, list):
                return None
            found = get_args(found)[0]
            continue
        if not (isinstance(found, type) and issubclass(found, msgspec.Struct)):
            return None
        fields = {field.encode_name: field.type for field in msgspec.structs.fields(found)}
        if part not in fields:
            return None
        found = fields[part]
    return found


def _bounds(meta: msgspec.Meta) -> str:
    parts = [
        f"{word} {bound}"
        for word, bound in (
            ("from", meta.ge),
            ("above", meta.gt),
            ("to", meta.le),
            ("below", meta.lt),
        )
        if bound is not None
    ]
    if meta.min_length is not None:
        parts.append(f"of {meta.min_length} characters or more")
    return "".join(f" {part}" for part in parts)
