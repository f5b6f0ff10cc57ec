"""Refuse schemas that let a few bytes exhaust memory or the stack of whoever decodes with them.

Checked once, when a schema is loaded, so that decoding needs no such guard:

- recursion: depth is then chosen by the bytes, and a deep record ends the process (a C stack
  overflow cannot be caught);
- arrays and maps whose items take no bytes: a count of 2e8 fits in 6 bytes and is then built;
- nesting deeper, or records larger, than any honest schema's, also where a name stands for a type
  that was defined before: forty lines can then describe a record of 2⁴⁰ values and no bytes;
- a fixed of negative size, which would send the reader backwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from schemas.errors import SchemaError

MAX_DEPTH: Final = 32
"""Levels of nesting that a schema may have; real ones stay below 10."""

MAX_VALUES: Final = 1000
"""Values that one record may unfold to, with one item per array and map; real ones stay below 100."""


class _Shape(NamedTuple):
    """What a value of some type may unfold to.

    Attributes:
        levels: of nesting below it.
        values: in it, itself included; arrays and maps count as one item.
        empty: whether it can take no bytes at all.
    """

    levels: int
    values: int
    empty: bool


_NOTHING: Final = _Shape(levels=0, values=1, empty=True)
_SOMETHING: Final = _Shape(levels=0, values=1, empty=False)


def refuse_unsafe(parsed: Any) -> None:
    """Raise :class:`SchemaError` if the parsed schema is unsafe to decode with."""
    _visit(parsed, named={}, open_names=(), depth=0)


def _visit(node: Any, named: dict[str, _Shape], open_names: tuple[str, ...], depth: int) -> _Shape:
    """Walk a schema; return what its values unfold to."""
    if isinstance(node, str):
        if node in open_names:
            raise SchemaError(f"the schema is recursive: {node} contains itself")
        shape = named.get(node, _NOTHING if node == "null" else _SOMETHING)
        _refuse_deep(depth + shape.levels)
        return shape
    _refuse_deep(depth)
    if isinstance(node, list):  # the branch index takes a byte
        return _around([_visit(branch, named, open_names, depth + 1) for branch in node], empty=False)
    kind = node["type"]
    if kind in ("record", "error"):
        name = node["name"]
        fields = [_visit(f["type"], named, (*open_names, name), depth + 1) for f in node["fields"]]
        shape = named[name] = _around(fields, empty=all(field.empty for field in fields))
    elif kind in ("array", "map"):
        item = _visit(node["items" if kind == "array" else "values"], named, open_names, depth + 1)
        # A map's entry has a key, which takes a byte; an array's item may take none.
        if item.empty and kind == "array":
            raise SchemaError("the schema has an array whose items take no bytes")
        shape = _around([item], empty=False)
    elif kind == "fixed":
        if node["size"] < 0:
            raise SchemaError(f"the schema has a fixed of negative size: {node['name']}")
        shape = named[node["name"]] = _SOMETHING if node["size"] else _NOTHING
    elif kind == "enum":
        shape = named[node["name"]] = _SOMETHING
    else:
        shape = _visit(kind, named, open_names, depth + 1)
    return shape


def _around(inner: Sequence[_Shape], *, empty: bool) -> _Shape:
    values = 1 + sum(shape.values for shape in inner)
    if values > MAX_VALUES:
        raise SchemaError(f"a record of the schema unfolds to more than {MAX_VALUES} values")
    return _Shape(1 + max((shape.levels for shape in inner), default=0), values, empty)


def _refuse_deep(depth: int) -> None:
    if depth > MAX_DEPTH:
        raise SchemaError(f"the schema nests deeper than {MAX_DEPTH} levels")
