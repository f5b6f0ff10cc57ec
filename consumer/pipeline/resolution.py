"""Read records of another writer schema as records of ours (Avro 1.12, "Schema Resolution").

Resolving two schemas gives a plan: what happens to each field of the writer, for each branch of a union.
The stream executes the plan, and ``schemas check`` shows it, so both say the same. A record is converted to
the reader's encoding in one strict walk over its bytes. Values that are not read are not built.

Beyond the specification, a time in a known unit becomes milliseconds where the reader wants
``timestamp-millis``, and a value that is a time, a decimal or a duration is refused where the reader wants a
plain number or text: it would be wrong, and nobody would notice.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, TypeAlias

from consumer.columnar.avro import field_plan
from consumer.pipeline.walk import DecodeError, Walk, encode_long
from schemas.avro import PRIMITIVES, AvroSchema, Node, type_name

_UNITS_MS: Final = {
    ("long", "timestamp-micros"): (1, 1_000),
    ("long", "timestamp-nanos"): (1, 1_000_000),
    ("long", "local-timestamp-micros"): (1, 1_000),
    ("long", "local-timestamp-nanos"): (1, 1_000_000),
    ("int", "date"): (86_400_000, 1),
}
"""Factor and divisor that turn a value of a logical type into milliseconds since the epoch."""

_MILLISECONDS: Final = ("timestamp-millis", "local-timestamp-millis")
_MEASURES: Final = {
    "date": "int",
    "time-millis": "int",
    "time-micros": "long",
    "timestamp-millis": "long",
    "timestamp-micros": "long",
    "timestamp-nanos": "long",
    "local-timestamp-millis": "long",
    "local-timestamp-micros": "long",
    "local-timestamp-nanos": "long",
    "decimal": "bytes",
}
"""Logical types whose values are not plain numbers or text, and the primitive type that each annotates."""

_PROMOTIONS: Final = {
    "long": ("int",),
    "float": ("int", "long"),
    "double": ("int", "long", "float"),
    "string": ("bytes",),
    "bytes": ("string",),
}
"""The writer types that Avro promotes to each of the reader's types (Avro 1.12, "Schema Resolution")."""


class ResolutionError(DecodeError):
    """The bytes may be a record of the writer's schema, but a record of that type cannot be read as ours."""


class Converted(NamedTuple):
    """A record in the reader's encoding.

    Attributes:
        data: The record; a field that is null has an empty value there.
        stop: Where the record stopped in the writer's encoding.
        nulls: The names of the fields that are null.
    """

    data: bytes
    stop: int
    nulls: tuple[str, ...]


Read: TypeAlias = Callable[[Walk, int], tuple[bytes, int]]
"""Reads a value at a position; returns it in the reader's encoding, and where it stops."""


@dataclass(frozen=True, slots=True)
class Branch:
    """What happens to the values of one type that the writer may send for a field.

    Attributes:
        type_name: The writer's type.
        problem: Why these values cannot be read; empty if they can.
        note: How they are converted; empty if they stay as they are.
        is_null: Whether the only value is null.
        read: Reads a primitive value.
        steps: What happens to the fields of a nested record.
    """

    type_name: str
    problem: str = ""
    note: str = ""
    is_null: bool = False
    read: Read | None = field(default=None, repr=False)
    steps: tuple[Step, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Step:
    """What happens to one field of the writer.

    Attributes:
        name: The field's name.
        type: The field's type in the writer schema.
        target: The full name of the reader's field; empty if the field is not read.
        branches: The types that the writer may send, one unless it is a union.
    """

    name: str
    type: Node = field(repr=False)
    target: str = ""
    branches: tuple[Branch, ...] = ()


@dataclass(frozen=True, slots=True)
class Missing:
    """A field of the reader that the writer does not have.

    Attributes:
        name: The full name of the field.
        default: The reader's default, or ``None`` if it has none.
        problem: Why records cannot be read; empty if there is a default.
    """

    name: str
    default: Any
    problem: str


class Resolution:
    """Resolves one writer schema to one reader schema.

    Args:
        writer: The schema that records were written with.
        reader: A record whose fields are primitives, or records of primitives.

    Attributes:
        is_union: Whether the writer's schema is a union.
        branches: What happens to the records of each of its branches; one if it is not a union.
        missing: The fields of the reader that the writer does not have, by the index of the branch.
        is_identity: Whether records are in the reader's encoding already.
    """

    def __init__(self, writer: AvroSchema, reader: AvroSchema) -> None:
        self._writer = writer
        self._fields = field_plan(reader.parsed)
        resolver = _Resolver(writer.named)
        self.is_union = isinstance(writer.parsed, list)
        types = writer.parsed if self.is_union else [writer.parsed]
        resolved = [resolver.record(node, reader.parsed) for node in types]
        self.branches = tuple(branch for branch, _ in resolved)
        self.missing = tuple(missing for _, missing in resolved)
        self._defaults = [
            {one.name: _encode(kinds[one.name], one.default) for one in missing if not one.problem}
            for missing in self.missing
            for kinds in [dict(self._fields)]
        ]
        self._problems = [self._problem(index) for index in range(len(self.branches))]
        self.is_identity = not self.is_union and _is_identity(self.branches[0], self._fields)

    @property
    def problem(self) -> str:
        """Why no record can be read; empty if at least some records can be read."""
        return self._problems[0] if all(self._problems) else ""

    def _problem(self, index: int) -> str:
        branch = self.branches[index]
        if branch.problem:
            return branch.problem
        missing = [one for one in self.missing[index] if one.problem]
        names = ", ".join(one.name for one in missing)
        problems = [f"{names}: {missing[0].problem}"] if missing else []
        return "; ".join([*problems, *_hopeless(branch.steps)])

    def convert(self, data: bytes, start: int = 0) -> Converted:
        """Convert one record to the reader's encoding.

        Raises:
            DecodeError: The bytes are not a record of the writer, or it cannot be read as ours.
        """
        walk, index, at = Walk(data, self._writer), 0, start
        if self.is_union:
            index, at = walk.branch(self.branches, at)
        if problem := self._problems[index]:
            raise ResolutionError(problem)
        values: dict[str, bytes | None] = dict(self._defaults[index])
        stop = _run(self.branches[index].steps, walk, at, values)
        encoded = [values[name] for name, _ in self._fields]
        if None not in encoded:
            return Converted(b"".join(encoded), stop, ())  # type: ignore[arg-type]
        nulls = tuple(name for name, _ in self._fields if values[name] is None)
        empty = [_EMPTY[kind] if values[name] is None else values[name] for name, kind in self._fields]
        return Converted(b"".join(empty), stop, nulls)  # type: ignore[arg-type]

    def stop(self, data: bytes, start: int) -> int:
        """Return where the record that starts there stops.

        Raises:
            DecodeError: The bytes are not a record of the writer.
        """
        return Walk(data, self._writer).skip(self._writer.parsed, start)


def _run(steps: Sequence[Step], walk: Walk, at: int, values: dict[str, bytes | None]) -> int:
    """Read the fields of a record into ``values``; return where it stops."""
    for step in steps:
        try:
            if not step.target:
                at = walk.skip(step.type, at)
                continue
            index = 0
            if isinstance(step.type, list):
                index, at = walk.branch(step.branches, at)
            branch = step.branches[index]
            if branch.steps:
                at = _run(branch.steps, walk, at, values)
            elif branch.read is not None:
                values[step.target], at = branch.read(walk, at)
            elif branch.is_null:
                values[step.target] = None
            elif branch.problem:
                raise ResolutionError(branch.problem)
        except DecodeError as error:
            raise type(error)(f"{step.name}: {error}") from error
    return at


def _hopeless(steps: Sequence[Step]) -> Iterator[str]:
    """Yield a problem for each field whose values can never be read, except null."""
    for step in steps:
        if step.target and all(branch.problem and not branch.is_null for branch in step.branches):
            yield f"{step.name}: {step.branches[0].problem}"
        elif len(step.branches) == 1:
            for problem in _hopeless(step.branches[0].steps):
                yield f"{step.name}: {problem}"


class _Resolver:
    """Resolves types of one writer schema.

    Args:
        named: The writer's named types.
    """

    def __init__(self, named: Mapping[str, Node]) -> None:
        self._named = named

    def record(self, writer: Node, reader: Node, prefix: str = "") -> tuple[Branch, tuple[Missing, ...]]:
        """Resolve a type to a record; nested fields of the reader are named ``outer.inner``."""
        writer = self._definition(writer)
        wanted = reader["name"].rpartition(".")[2]
        name = type_name(writer)
        if not (isinstance(writer, dict) and writer["type"] == "record"):
            return Branch(name, f"{name} where the record {wanted} is needed"), ()
        accepted = {wanted, *(alias.rpartition(".")[2] for alias in reader.get("aliases", ()))}
        if name.rpartition(".")[2] not in accepted:
            return Branch(name, f"the record is named {name}, not {wanted}"), ()
        own = {alias: spec for spec in reader["fields"] for alias in (spec["name"], *spec.get("aliases", ()))}
        steps: list[Step] = []
        missing: list[Missing] = []
        found: set[str] = set()
        for spec in writer["fields"]:
            target = own.get(spec["name"])
            if target is None or target["name"] in found:
                steps.append(Step(spec["name"], spec["type"]))
                continue
            found.add(target["name"])
            full = prefix + target["name"]
            types = spec["type"] if isinstance(spec["type"], list) else [spec["type"]]
            resolved = [self._field(node, target["type"], full) for node in types]
            steps.append(Step(spec["name"], spec["type"], full, tuple(branch for branch, _ in resolved)))
            missing += [one for _, inner in resolved for one in inner]
        missing += [
            Missing(prefix + spec["name"], spec.get("default"), _missing_problem(spec))
            for spec in reader["fields"]
            if spec["name"] not in found
        ]
        return Branch(name, steps=tuple(steps)), tuple(missing)

    def _field(self, writer: Node, reader: Node, full: str) -> tuple[Branch, tuple[Missing, ...]]:
        if isinstance(reader, dict) and reader["type"] == "record":
            return self.record(writer, reader, full + ".")
        return self._primitive(self._definition(writer), reader), ()

    def _primitive(self, writer: Node, reader: Node) -> Branch:
        kind, wanted = _kind(writer), _kind(reader)
        name = type_name(writer)
        needed = f"{name} where {'an' if wanted == 'int' else 'a'} {wanted} is needed"
        if kind not in (wanted, *_PROMOTIONS.get(wanted, ())) or kind not in PRIMITIVES:
            return Branch(name, needed, is_null=kind == "null")
        logical = writer.get("logicalType", "") if isinstance(writer, dict) else ""
        if _MEASURES.get(logical) != kind:  # none, or one that must be ignored
            logical = ""
        is_time = isinstance(reader, dict) and reader.get("logicalType") in _MILLISECONDS
        if not logical or (is_time and logical in _MILLISECONDS):
            note = "" if kind == wanted else f"{kind} as {wanted}"
            if logical == "local-timestamp-millis":
                note = "local time taken as UTC"
            return Branch(name, note=note, read=_READS[kind, wanted])
        if is_time and (kind, logical) in _UNITS_MS:
            note = f"{logical} converted to milliseconds"
            if logical.startswith("local"):
                note += ", local time taken as UTC"
            return Branch(name, note=note, read=_time_reader(kind, *_UNITS_MS[kind, logical]))
        if is_time:
            return Branch(name, f"{logical} where a timestamp in milliseconds is needed")
        return Branch(name, f"{logical} where a plain {wanted} is needed")

    def _definition(self, node: Node) -> Node:
        return self._named[node] if isinstance(node, str) and node in self._named else node


def _kind(node: Node) -> str:
    return node if isinstance(node, str) else str(node["type"])


def _missing_problem(spec: dict[str, Any]) -> str:
    return "" if "default" in spec else "missing, and it has no default"


def _is_identity(branch: Branch, fields: Sequence[tuple[str, str]]) -> bool:
    """Return whether a record's fields are those of the reader, in order and in the same encoding."""

    def targets(steps: Sequence[Step]) -> Iterator[tuple[str, str]]:
        for step in steps:
            if isinstance(step.type, list) or not step.target:
                yield "", ""
            elif inner := step.branches[0].steps:
                yield from targets(inner)
            else:
                is_copy = not (step.branches[0].note or step.branches[0].problem)
                yield step.target, _kind(step.type) if is_copy else ""

    return not branch.problem and list(targets(branch.steps)) == list(fields)


def _copy_number(kind: str) -> Read:
    def read(walk: Walk, at: int) -> tuple[bytes, int]:
        _, stop = walk.number(kind, at)
        return walk.data[at:stop], stop

    return read


def _read_text(walk: Walk, at: int) -> tuple[bytes, int]:
    stop = walk.text(at, utf8=True)
    return walk.data[at:stop], stop


def _copy(kind: str) -> Read:
    def read(walk: Walk, at: int) -> tuple[bytes, int]:
        stop = walk.skip(kind, at)
        return walk.data[at:stop], stop

    return read


def _number_as(kind: str, form: str) -> Read:
    def read(walk: Walk, at: int) -> tuple[bytes, int]:
        value, stop = walk.number(kind, at)
        return struct.pack(form, float(value)), stop

    return read


def _float_as_double(walk: Walk, at: int) -> tuple[bytes, int]:
    stop = walk.need(at, 4)
    return struct.pack("<d", *struct.unpack("<f", walk.data[at:stop])), stop


def _time_reader(kind: str, factor: int, divisor: int) -> Read:
    def read(walk: Walk, at: int) -> tuple[bytes, int]:
        value, stop = walk.number(kind, at)
        return encode_long(value * factor // divisor), stop

    return read


_READS: Final[dict[tuple[str, str], Read]] = {
    ("int", "int"): _copy_number("int"),
    ("int", "long"): _copy_number("int"),
    ("long", "long"): _copy_number("long"),
    ("int", "float"): _number_as("int", "<f"),
    ("long", "float"): _number_as("long", "<f"),
    ("int", "double"): _number_as("int", "<d"),
    ("long", "double"): _number_as("long", "<d"),
    ("float", "float"): _copy("float"),
    ("float", "double"): _float_as_double,
    ("double", "double"): _copy("double"),
    ("boolean", "boolean"): _copy("boolean"),
    ("string", "string"): _read_text,
    ("bytes", "string"): _read_text,
}
"""How a value of one primitive type is read as another. Those of int and long have the same encoding."""

_EMPTY: Final = {
    "string": b"\0",
    "int": b"\0",
    "long": b"\0",
    "boolean": b"\0",
    "float": bytes(4),
    "double": bytes(8),
}
"""The encoding of an empty value of each type."""


def _encode(kind: str, value: Any) -> bytes:
    """Encode a default value of the reader."""
    match kind:
        case "string":
            text: bytes = value.encode()
            return encode_long(len(text)) + text
        case "boolean":
            return bytes([value])
        case "float" | "double":
            return struct.pack("<f" if kind == "float" else "<d", value)
    return encode_long(int(value))
