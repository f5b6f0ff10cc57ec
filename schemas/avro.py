"""Parse Avro schemas strictly, and compute their fingerprints. Pure.

A schema is checked against the Avro specification (1.12, "Schema Declaration"), so that every fault is
reported in our own words: names, duplicate definitions, fields, symbols and branches, sizes, defaults.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from fastavro.schema import fingerprint

PRIMITIVES: Final = frozenset({"null", "boolean", "int", "long", "float", "double", "bytes", "string"})

MAX_DEPTH: Final = 64
"""The deepest nesting of a schema, and of a record of a recursive schema. Real nesting stays below 10."""

Node: TypeAlias = Any
"""A type in a parsed schema: a name, a list of branches, or a dictionary with ``type``."""

_NAME: Final = re.compile(r"[^\W\d]\w*")
_LOGICAL_ATTRIBUTES: Final = ("logicalType", "precision", "scale")
_INT_LIMIT: Final = {"int": 2**31, "long": 2**63}
_SHOWN_CHARACTERS: Final = 60


class SchemaError(Exception):
    """A schema cannot be used; the message says why."""


class UndefinedTypeError(SchemaError):
    """A schema uses a named type that it does not define.

    Args:
        names: The full names that the type may have.
    """

    def __init__(self, *names: str) -> None:
        super().__init__(f"the type {_shown(names[-1])} is not defined; give the file that defines it, too")
        self.names = names


@dataclass(frozen=True, slots=True, eq=False)
class AvroSchema:
    """A parsed schema.

    Attributes:
        name: The full name of a record, such as ``purchase_stream.EngagementEvent``; otherwise the type.
        definition: The schema as it was given.
        parsed: The schema with full names, each named type defined where it is first used, and without
            documentation.
        named: The named types by full name.
        empty: The names of the named types whose values take no bytes.
        canonical: The Parsing Canonical Form (Avro specification): schemas with the same form write the
            same bytes.
        identity: The canonical form with logical types: schemas with the same identity have the same meaning.
        fingerprint: CRC-64-AVRO of the canonical form, 8 bytes little-endian, as in a single-object frame.
        fingerprints: Every fingerprint by which libraries know the schema, the specification's first.
    """

    name: str
    definition: Any = field(repr=False)
    parsed: Node = field(repr=False)
    named: Mapping[str, Node] = field(repr=False)
    empty: frozenset[str] = field(repr=False)
    canonical: str = field(repr=False)
    identity: str = field(repr=False)
    fingerprint: bytes
    fingerprints: tuple[bytes, ...] = field(repr=False)

    @classmethod
    def parse(cls, definition: Any, references: Iterable[Any] = ()) -> AvroSchema:
        """Parse a schema from its JSON value.

        Args:
            definition: The schema.
            references: Schemas of named types that it uses, in dependency order.

        Raises:
            SchemaError: The schema breaks the Avro specification, or nests too deep.
        """
        parser = _Parser()
        try:
            for reference in references:
                parser.parse(reference)
            parsed, named = parser.in_place(parser.parse(definition))
        except RecursionError:
            raise SchemaError(f"the schema nests deeper than {MAX_DEPTH} levels") from None
        canonical = _canonical(parsed, _plain)
        identity = _canonical(parsed, _with_logical_type)
        # In bytes 2 to 10 of a frame, libraries put the CRC of one of three forms, in either byte order.
        forms = dict.fromkeys((canonical, _canonical(parsed, _with_object), identity))
        crcs = [bytes.fromhex(fingerprint(form, "CRC-64-AVRO")) for form in forms]
        return cls(
            name=parsed["name"] if _is_named(parsed) else type_name(parsed),
            definition=definition,
            parsed=parsed,
            named=named,
            empty=_empty_types(named),
            canonical=canonical,
            identity=identity,
            fingerprint=crcs[0],
            fingerprints=tuple(dict.fromkeys([*crcs, *(crc[::-1] for crc in crcs)])),
        )

    @classmethod
    def parse_json(cls, text: str | bytes, references: Iterable[Any] = ()) -> AvroSchema:
        """Parse a schema from its JSON text.

        Raises:
            SchemaError: The text is not JSON; otherwise as for :meth:`parse`.
        """
        return cls.parse(json_of(text), references)

    @property
    def is_record(self) -> bool:
        """Whether the schema is a record."""
        return isinstance(self.parsed, dict) and self.parsed["type"] == "record"


def json_of(text: str | bytes) -> Any:
    """Parse JSON.

    Raises:
        SchemaError: The text is not JSON; the message says where.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise SchemaError(f"not JSON: it breaks in line {error.lineno}, column {error.colno}") from error
    except UnicodeDecodeError as error:
        raise SchemaError(f"not JSON: byte {error.start} is not UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise SchemaError("not JSON that can be read: a number or the nesting is too large") from error


class _Parser:
    """Checks schemas and gives their types full names."""

    def __init__(self) -> None:
        self._named: dict[str, Node] = {}

    def parse(self, node: Any, namespace: str = "", depth: int = 0) -> Node:  # noqa: C901, PLR0911 - a branch per type
        """Check a schema. Store each named type, and replace it by its name."""
        if depth > MAX_DEPTH:
            raise SchemaError(f"the schema nests deeper than {MAX_DEPTH} levels")
        if isinstance(node, str):
            return self._reference(node, namespace)
        if isinstance(node, list):
            return self._union([self.parse(branch, namespace, depth + 1) for branch in node])
        if not isinstance(node, dict):
            raise SchemaError(f"{_shown(node)} is not a schema")
        if "type" not in node:
            raise SchemaError(f"{_shown(node)} has no type")
        kind = node["type"]
        if isinstance(kind, dict | list):
            if isinstance(kind, list):
                raise SchemaError("a union stands where the name of a type is needed; give the list itself")
            return self.parse(kind, namespace, depth + 1)
        logical = {key: node[key] for key in _LOGICAL_ATTRIBUTES if key in node}
        match kind:
            case "record" | "error" | "enum" | "fixed":
                return self._define(node, namespace, depth)
            case "array" | "map":
                part = "items" if kind == "array" else "values"
                if part not in node:
                    raise SchemaError(f"the {kind} has no {part}")
                return {"type": kind, part: self.parse(node[part], namespace, depth + 1)}
            case str() if kind in PRIMITIVES:
                return {"type": kind, **logical} if isinstance(logical.get("logicalType"), str) else kind
            case str():
                return self._reference(kind, namespace)
        raise SchemaError(f"{_shown(kind)} is not the name of a type")

    def in_place(self, node: Node) -> tuple[Node, dict[str, Node]]:
        """Put the definition of each named type where it is first used; return those that are used."""
        used: dict[str, Node] = {}

        def place(node: Node, depth: int) -> Node:
            if depth > MAX_DEPTH:
                raise SchemaError(f"the schema nests deeper than {MAX_DEPTH} levels")
            if isinstance(node, str):
                if node in PRIMITIVES or node in used:
                    return node
                used[node] = definition = dict(self._named[node])
                if "fields" in definition:
                    definition["fields"] = [
                        spec | {"type": place(spec["type"], depth + 1)} for spec in definition["fields"]
                    ]
                return definition
            if isinstance(node, list):
                return [place(branch, depth + 1) for branch in node]
            parts = {part: place(node[part], depth + 1) for part in ("items", "values") if part in node}
            return node | parts

        return place(node, 0), used

    def _reference(self, name: str, namespace: str) -> str:
        if name in PRIMITIVES:
            return name
        full = name if "." in name or not namespace else f"{namespace}.{name}"
        for found in (full, name):
            if found in self._named:
                return found
        raise UndefinedTypeError(full, name)

    @staticmethod
    def _union(branches: list[Node]) -> list[Node]:
        seen: set[str] = set()
        for branch in branches:
            if isinstance(branch, list):
                raise SchemaError("a union contains a union")
            name = branch if isinstance(branch, str) else branch["type"]
            if name in seen:
                raise SchemaError(f"a union contains {name} twice")
            seen.add(name)
        if not branches:
            raise SchemaError("a union has no branch")
        return branches

    def _define(self, node: dict[str, Any], namespace: str, depth: int) -> str:
        """Define a named type and return its full name."""
        kind = "record" if node["type"] == "error" else node["type"]
        name, namespace = _full_name(node, kind, namespace)
        if name in self._named:
            raise SchemaError(f"{name} is defined twice")
        self._named[name] = definition = {"type": kind, "name": name}
        if aliases := _aliases(node, name):
            definition["aliases"] = aliases
        match kind:
            case "record":
                definition["fields"] = self._fields(node, name, namespace, depth)
            case "enum":
                definition["symbols"] = _symbols(node, name)
            case _:
                definition["size"] = _size(node, name)
                if isinstance(node.get("logicalType"), str):
                    definition["logicalType"] = node["logicalType"]
        return name

    def _fields(self, node: dict[str, Any], record: str, namespace: str, depth: int) -> list[dict[str, Any]]:
        if not isinstance(node.get("fields"), list):
            raise SchemaError(f"{record} has no list of fields")
        fields: list[dict[str, Any]] = []
        seen: set[str] = set()
        for spec in node["fields"]:
            name = _field_name(spec, record)
            if name in seen:
                raise SchemaError(f"{record} has two fields named {name}")
            seen.add(name)
            try:
                parsed = {"name": name, "type": self.parse(spec["type"], namespace, depth + 1)}
            except UndefinedTypeError:
                raise
            except SchemaError as error:
                raise SchemaError(_within(f"{record}.{name}", str(error))) from None
            if "default" in spec:
                if not self._is_default(parsed["type"], spec["default"]):
                    wanted = type_name(parsed["type"])
                    raise SchemaError(
                        f"{record}.{name} has the default {_shown(spec['default'])}, which is not {wanted}"
                    )
                parsed["default"] = spec["default"]
            if aliases := _aliases(spec, f"{record}.{name}"):
                parsed["aliases"] = aliases
            fields.append(parsed)
        return fields

    def _is_default(self, node: Node, value: Any) -> bool:  # noqa: C901, PLR0911 - a branch per Avro type
        """Return whether a JSON value is a valid default of a type."""
        if isinstance(node, list):
            return any(self._is_default(branch, value) for branch in node)
        if isinstance(node, str) and node in self._named:
            node = self._named[node]
        kind = node if isinstance(node, str) else node["type"]
        number = isinstance(value, int | float) and not isinstance(value, bool)
        match kind:
            case "null":
                return value is None
            case "boolean":
                return isinstance(value, bool)
            case "int" | "long":
                limit = _INT_LIMIT[kind]
                return number and float(value).is_integer() and -limit <= value < limit
            case "float" | "double":
                return number and math.isfinite(value)
            case "enum":
                return value in node.get("symbols", ())
            case "array":
                return isinstance(value, list) and all(self._is_default(node["items"], v) for v in value)
            case "map":
                is_map = isinstance(value, dict)
                return is_map and all(self._is_default(node["values"], v) for v in value.values())
            case "record":
                return isinstance(value, dict) and all(
                    "default" in spec
                    if spec["name"] not in value
                    else self._is_default(spec["type"], value[spec["name"]])
                    for spec in node.get("fields", ())
                )
            case _:
                return isinstance(value, str)


def _empty_types(named: Mapping[str, Node]) -> frozenset[str]:
    """Return the named types whose values take no bytes. Each type is visited once."""
    known: dict[str, bool] = {}

    def is_empty(node: Node) -> bool:
        kind = node if isinstance(node, str) else "union" if isinstance(node, list) else node["type"]
        name = kind if kind in named else node["name"] if _is_named(node) else None
        if name is None:
            return bool(kind == "null")
        if name not in known:
            known[name] = False  # of a type that contains itself
            fields, size = named[name].get("fields", ()), named[name].get("size")
            is_record = named[name]["type"] == "record"
            known[name] = (
                not [spec for spec in fields if not is_empty(spec["type"])] if is_record else size == 0
            )
        return known[name]

    return frozenset(name for name in named if is_empty(name))


def _full_name(node: dict[str, Any], kind: str, namespace: str) -> tuple[str, str]:
    """Return the full name of a definition, and the namespace of what it contains."""
    name = node.get("name")
    if not isinstance(name, str):
        raise SchemaError(f"the {kind} has no name")
    given = node.get("namespace")
    if given is not None and not isinstance(given, str):
        raise SchemaError(f"{_shown(name)} has the namespace {_shown(given)}, which is not a name")
    if "." not in name:
        inherited = namespace if given is None else given
        name = f"{inherited}.{name}" if inherited else name
    if not all(map(_NAME.fullmatch, name.split("."))):
        raise SchemaError(f"{_shown(name)} is not a valid name of a type")
    if name in PRIMITIVES:
        raise SchemaError(f"{name} is the name of a primitive type and cannot be defined")
    return name, name.rpartition(".")[0]


def _field_name(spec: Any, record: str) -> str:
    """Check a field's own attributes and return its name."""
    name = spec.get("name") if isinstance(spec, dict) else None
    if not (isinstance(name, str) and _NAME.fullmatch(name)):
        raise SchemaError(f"{record} has a field without a valid name: {_shown(name or spec)}")
    if "type" not in spec:
        raise SchemaError(f"{record}.{name} has no type")
    if spec.get("order", "ascending") not in ("ascending", "descending", "ignore"):
        raise SchemaError(f"{record}.{name} has the order {_shown(spec['order'])}")
    return name


def _aliases(node: dict[str, Any], owner: str) -> list[str]:
    aliases = node.get("aliases", [])
    valid = isinstance(aliases, list) and all(
        isinstance(alias, str) and all(map(_NAME.fullmatch, alias.split("."))) for alias in aliases
    )
    if not valid:
        raise SchemaError(f"{owner} has aliases that are not a list of names: {_shown(aliases)}")
    return list(aliases)


def _symbols(node: dict[str, Any], name: str) -> list[str]:
    symbols = node.get("symbols")
    if not (isinstance(symbols, list) and symbols):
        raise SchemaError(f"the enum {name} has no list of symbols")
    for symbol in symbols:
        if not (isinstance(symbol, str) and _NAME.fullmatch(symbol)):
            raise SchemaError(f"the enum {name} has the symbol {_shown(symbol)}, which is not a valid name")
        if symbols.count(symbol) > 1:
            raise SchemaError(f"the enum {name} has the symbol {symbol} twice")
    if "default" in node and node["default"] not in symbols:
        raise SchemaError(
            f"the default of the enum {name}, {_shown(node['default'])}, is not one of its symbols"
        )
    return list(symbols)


def _size(node: dict[str, Any], name: str) -> int:
    size = node.get("size")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise SchemaError(f"the fixed {name} has the size {_shown(size)}; it must be a count of bytes")
    return size


def _within(owner: str, problem: str) -> str:
    """Prefix a problem with the innermost field, once."""
    return problem if problem.startswith(f"{owner.rpartition('.')[0]}.") else f"{owner}: {problem}"


def _shown(value: Any) -> str:
    """Return a JSON value, shortened, as ASCII."""
    text = json.dumps(value, default=str)
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "..."


def _is_named(node: Node) -> bool:
    return isinstance(node, dict) and "name" in node


def type_name(node: Node) -> str:
    """Return the name of a type for messages: its logical type, its own name or its kind."""
    if isinstance(node, list):
        return " or ".join(map(type_name, node))
    if isinstance(node, str):
        return node
    return str(node.get("logicalType") or node.get("name") or node["type"])


def _plain(node: dict[str, Any]) -> Any:
    """Reduce a primitive with a logical type to its name, as the specification says."""
    return node["type"]


def _with_object(node: dict[str, Any]) -> Any:
    """Keep ``{"type": "long"}`` as an object, like Rust's apache-avro and goavro."""
    return {"type": node["type"]}


def _with_logical_type(node: dict[str, Any]) -> Any:
    """Keep the logical type, like hamba/avro."""
    return node


def _canonical(node: Node, primitive: Callable[[dict[str, Any]], Any]) -> str:
    """Return the Parsing Canonical Form, with a rule for primitive types that have a logical type."""

    def reduced(node: Node) -> Any:  # noqa: PLR0911 - a branch per Avro type
        if isinstance(node, str):
            return node
        if isinstance(node, list):
            return [reduced(branch) for branch in node]
        kind = node["type"]
        match kind:
            case "record":
                fields = [{"name": spec["name"], "type": reduced(spec["type"])} for spec in node["fields"]]
                return {"name": node["name"], "type": kind, "fields": fields}
            case "enum":
                return {"name": node["name"], "type": kind, "symbols": node["symbols"]}
            case "fixed":
                return {"name": node["name"], "type": kind, "size": node["size"]}
            case "array":
                return {"type": kind, "items": reduced(node["items"])}
            case "map":
                return {"type": kind, "values": reduced(node["values"])}
        return primitive(node)

    return json.dumps(reduced(node), ensure_ascii=False, separators=(",", ":"))
