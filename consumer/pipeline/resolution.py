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
from schemas.avro import MAX_DEPTH, PRIMITIVES, AvroSchema, Node, type_name

_VARINT_MAX_BYTES: Final = 10
_FIXED_BYTES: Final = {"null": 0, "float": 4, "double": 8}
_INT_MIN, _INT_MAX = -(2**31), 2**31 - 1

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


class DecodeError(Exception):
    """The bytes are not a record of the schema, or cannot be read as ours; the message says why."""


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


def explain_decode_error(schema: AvroSchema, record: bytes) -> str:
    """Explain why these bytes are not a record of a schema, and at which field they differ."""
    try:
        Walk(record, schema).skip(schema.parsed, 0)
    except DecodeError as error:
        return str(error)
    return "the bytes are not one of its records"


class Walk:
    """A strict cursor: skips the values of a record without building them, and rejects what Avro forbids.

    Args:
        data: The buffer.
        schema: The schema of the record.
    """

    def __init__(self, data: bytes, schema: AvroSchema) -> None:
        self.data = data
        self._named = schema.named
        self._empty = schema.empty

    def skip(self, node: Node, at: int, depth: int = 0) -> int:  # noqa: C901, PLR0911 - a branch per Avro type
        """Return where the value that starts at ``at`` stops."""
        if depth > MAX_DEPTH:
            raise DecodeError(f"the record nests deeper than {MAX_DEPTH} levels")
        if isinstance(node, list):
            index, at = self.branch(node, at)
            return self.skip(node[index], at, depth + 1)
        kind = node if isinstance(node, str) else node["type"]
        if kind in self._named:
            return at if kind in self._empty else self.skip(self._named[kind], at, depth)
        match kind:
            case "record":
                return self._skip_fields(node, at, depth)
            case "int" | "long":
                return self.number(kind, at)[1]
            case "enum":
                symbol, at = self.varint(at)
                if not 0 <= symbol < len(node["symbols"]):
                    raise DecodeError(f"enum has no symbol {symbol}")
                return at
            case "string" | "bytes":
                return self.text(at, utf8=kind == "string")
            case "boolean":
                at = self.need(at, 1)
                if self.data[at - 1] > 1:
                    raise DecodeError(f"boolean is {self.data[at - 1]}, neither 0 nor 1")
                return at
            case "array" | "map":
                return self._skip_blocks(kind, node["items" if kind == "array" else "values"], at, depth)
            case "fixed":
                return self.need(at, node["size"])
        return self.need(at, _FIXED_BYTES[kind])

    def branch(self, union: Sequence[Any], at: int) -> tuple[int, int]:
        """Read the index of a union's branch; return it and where its value starts."""
        index, at = self.varint(at)
        if not 0 <= index < len(union):
            raise DecodeError(f"union has no branch {index}")
        return index, at

    def number(self, kind: str, at: int) -> tuple[int, int]:
        """Read an int or a long; return it and where it stops."""
        value, at = self.varint(at)
        if kind == "int" and not _INT_MIN <= value <= _INT_MAX:
            raise DecodeError(f"int {value} does not fit in 32 bits")
        return value, at

    def text(self, at: int, *, utf8: bool) -> int:
        """Return where a string or bytes stop."""
        length, at = self.varint(at)
        if length < 0:
            raise DecodeError(f"{'string' if utf8 else 'bytes'} of negative length {length}")
        stop = self.need(at, length)
        if utf8:
            try:
                self.data[at:stop].decode()
            except UnicodeDecodeError as error:
                raise DecodeError(f"byte {error.start} of the text is not UTF-8") from error
        return stop

    def varint(self, at: int) -> tuple[int, int]:
        """Read a zig-zag varint; return it and where it stops."""
        value = 0
        for n in range(_VARINT_MAX_BYTES):
            stop = self.need(at, n + 1)
            byte = self.data[stop - 1]
            value |= (byte & 0x7F) << (7 * n)
            if byte < 0x80:  # noqa: PLR2004 - the continuation bit
                if value >> 64:
                    break
                return (value >> 1) ^ -(value & 1), stop
        raise DecodeError("varint runs past 64 bits")

    def need(self, at: int, length: int) -> int:
        """Return where the next ``length`` bytes stop."""
        if length > len(self.data) - at:
            raise DecodeError("the record ends early")
        return at + length

    def _skip_fields(self, node: Node, at: int, depth: int) -> int:
        for spec in node["fields"]:
            try:
                at = self.skip(spec["type"], at, depth + 1)
            except DecodeError as error:
                raise DecodeError(f"{spec['name']}: {error}") from error
        return at

    def _skip_blocks(self, kind: str, items: Node, at: int, depth: int) -> int:
        """Skip the blocks of an array or a map. Items that take no bytes are not counted through."""
        item = items if isinstance(items, str) else "" if isinstance(items, list) else items.get("name")
        takes_bytes = kind == "map" or not (item == "null" or item in self._empty)
        while True:
            count, at = self.varint(at)
            if count == 0:
                return at
            size = None
            if count < 0:  # the size of the block in bytes follows
                size, at = self.varint(at)
            start = at
            for _ in range(abs(count) if takes_bytes else 0):
                if kind == "map":
                    at = self.text(at, utf8=True)
                at = self.skip(items, at, depth + 1)
            if size is not None and size != at - start:
                raise DecodeError(f"{kind} block says {size} bytes and takes {at - start}")


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
            return Branch(name, f"{name} where a record {wanted} is needed"), ()
        accepted = {wanted, *(alias.rpartition(".")[2] for alias in reader.get("aliases", ()))}
        if name.rpartition(".")[2] not in accepted:
            return Branch(name, f"the record is named {name}, and {wanted} is needed"), ()
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
        needed = f"{name} where a {wanted} is needed"
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
    return "" if "default" in spec else "missing, and there is no default"


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


def encode_long(value: int) -> bytes:
    r"""Encode a 64-bit number as a zig-zag varint.

    >>> encode_long(-1), encode_long(64)
    (b'\x01', b'\x80\x01')
    """
    rest, encoded = (value << 1) ^ (value >> 63), bytearray()
    while rest > 0x7F:  # noqa: PLR2004 - 7 bits per byte
        encoded.append(rest & 0x7F | 0x80)
        rest >>= 7
    encoded.append(rest)
    return bytes(encoded)


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
