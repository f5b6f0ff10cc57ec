"""Find the schemas that are known without a registry, and the frames that name a record's schema.

These are our own schemas, and the schemas in a folder that the settings name.

Two kinds of frame are read, which differ in their first bytes:

- Avro single-object encoding: ``C3 01``, then the writer schema's CRC-64-AVRO fingerprint in
  8 bytes, little-endian (Avro specification, "Single-object encoding");
- Confluent wire format: ``00``, then the schema's registry id in 4 bytes, big-endian.

Confluent's newer serializers write no frame. They name the schema in the record header
``__value_schema_id``: ``00`` and the id, or ``01`` and the schema's GUID in 16 bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias
from uuid import UUID

from schemas.avro import AvroSchema, SchemaError, UndefinedTypeError, json_of

RegistryId: TypeAlias = int | UUID
"""The id or the GUID of a schema in a registry."""

SINGLE_OBJECT_MARKER: Final = b"\xc3\x01"
SINGLE_OBJECT_HEADER_BYTES: Final = 10
CONFLUENT_MARKER: Final = b"\x00"
CONFLUENT_HEADER_BYTES: Final = 5
SCHEMA_ID_HEADER: Final = "__value_schema_id"
_GUID_MARKER: Final = b"\x01"
_GUID_BYTES: Final = 17


def single_object_header(fingerprint: bytes) -> bytes:
    """Return the 10 bytes before a record in single-object encoding.

    Args:
        fingerprint: CRC-64-AVRO of the writer schema, 8 bytes little-endian.
    """
    return SINGLE_OBJECT_MARKER + fingerprint


def confluent_header(schema_id: int) -> bytes:
    """Return the 5 bytes before a record in Confluent's wire format."""
    return CONFLUENT_MARKER + schema_id.to_bytes(4, "big")


def parse_schema_id_header(value: bytes | None) -> RegistryId | None:
    """Parse the header ``__value_schema_id``; ``None`` if it is neither an id nor a GUID.

    >>> parse_schema_id_header(bytes([0, 0, 0, 1, 2]))
    258
    """
    if value is None:
        return None
    if value.startswith(CONFLUENT_MARKER) and len(value) == CONFLUENT_HEADER_BYTES:
        return int.from_bytes(value[1:], "big")
    if value.startswith(_GUID_MARKER) and len(value) == _GUID_BYTES:
        return UUID(bytes=value[1:])
    return None


def name_schema(value: bytes, schema_id_header: bytes | None) -> str:
    """Return the schema that a record names, in words, or ``-`` if it names none.

    Args:
        value: The record's value, or at least its first 10 bytes.
        schema_id_header: The record header ``__value_schema_id``.

    >>> name_schema(bytes([0, 0, 0, 0, 7, 42]), None)
    'id 7'
    """
    if value.startswith(SINGLE_OBJECT_MARKER) and len(value) >= SINGLE_OBJECT_HEADER_BYTES:
        return f"fingerprint {value[len(SINGLE_OBJECT_MARKER) : SINGLE_OBJECT_HEADER_BYTES].hex()}"
    if schema_id_header:
        return f"header {schema_id_header.hex()}"
    if value.startswith(CONFLUENT_MARKER) and len(value) >= CONFLUENT_HEADER_BYTES:
        return f"id {int.from_bytes(value[len(CONFLUENT_MARKER) : CONFLUENT_HEADER_BYTES], 'big')}"
    return "-"


FOLDER: Final = Path(__file__).parent

_UNIT: Final = re.compile(r'"logicalType":"((?!timestamp-millis|local-timestamp-millis|uuid")[^"]*)"')


class UnusableSchema(NamedTuple):
    """A schema that exists but cannot be used.

    Attributes:
        reason: The reason, as the end of a sentence.
    """

    reason: str


class BundledSchemas:
    """Finds the schemas of this package and of one more folder by fingerprint, without a registry.

    Args:
        folder: A folder with ``*.avsc`` files, sub-folders included.

    Raises:
        SchemaError: A file is not a usable schema.
    """

    reads_confluent = False

    def __init__(self, folder: Path | None = None) -> None:
        self._known = known_schemas(*(() if folder is None else (folder,)))

    def by_fingerprint(self, fingerprint: bytes) -> AvroSchema | None:
        """Return the schema that any library knows by this fingerprint (8 bytes, in either byte order)."""
        return self._known.get(fingerprint)

    def by_id(self, _schema_id: RegistryId) -> AvroSchema | UnusableSchema | None:
        """Return ``None``: there is no registry."""
        return None


def read_schema(path: Path) -> AvroSchema:
    """Read one ``.avsc`` file that defines a record.

    Raises:
        SchemaError: The file is missing or not a usable schema; the message names it.
    """
    return read_schemas([path])[path]


def read_schemas(paths: Iterable[Path]) -> dict[Path, AvroSchema]:
    """Read ``.avsc`` files, which may use each other's named types, and the ``.avsc`` files in folders.

    Raises:
        SchemaError: A file is missing or not a usable schema; the message names it.
    """
    files = [file for path in paths for file in (sorted(path.rglob("*.avsc")) if path.is_dir() else [path])]
    definitions = {file: _definition(file) for file in files}
    schemas: dict[Path, AvroSchema] = {}
    for file in definitions:
        try:
            schemas[file] = _parse(file, definitions, using=())
        except SchemaError as error:
            raise SchemaError(f"{file}: {error}") from error
    return schemas


def _parse(file: Path, definitions: dict[Path, Any], using: tuple[Path, ...]) -> AvroSchema:
    """Parse a file, together with the files that define the types that it uses."""
    references: list[Path] = []
    while True:
        try:
            return AvroSchema.parse(definitions[file], [definitions[one] for one in references])
        except UndefinedTypeError as missing:
            found = _defining(missing.names, definitions)
            if found is None or found in (file, *references, *using):
                raise
            references[:0] = [found]


def _defining(names: Sequence[str], definitions: dict[Path, Any]) -> Path | None:
    """Return the file whose top-level type has one of these names."""
    for name in names:
        for file, definition in definitions.items():
            if isinstance(definition, dict) and isinstance(own := definition.get("name"), str):
                space = definition.get("namespace")
                if name == (own if "." in own or not space else f"{space}.{own}"):
                    return file
    return None


def _definition(file: Path) -> Any:
    try:
        return json_of(file.read_bytes())
    except OSError as error:
        raise SchemaError(f"{file}: {error.strerror or 'it cannot be read'}") from error
    except SchemaError as error:
        raise SchemaError(f"{file}: {error}") from error


def _own(name: str) -> AvroSchema:
    path = FOLDER / f"{name}.avsc"
    return _folder(FOLDER)[path]


@cache
def engagement_event() -> AvroSchema:
    """The reader's schema of events (``EngagementEvent``)."""
    return _own("engagement_event")


@cache
def purchase_prediction() -> AvroSchema:
    """The schema of predictions (``PurchasePrediction``)."""
    return _own("purchase_prediction")


@cache
def purchase_outcome() -> AvroSchema:
    """The reader's schema of outcomes (``PurchaseOutcome``)."""
    return _own("purchase_outcome")


@cache
def _folder(folder: Path) -> dict[Path, AvroSchema]:
    return read_schemas([folder])


@cache
def known_schemas(*folders: Path) -> dict[bytes, AvroSchema]:
    """Return our own schemas and those in folders by each of their fingerprints.

    Raises:
        SchemaError: A folder is missing, a file is not a usable schema, or two schemas cannot be told apart
            by their fingerprint.
    """
    known: dict[bytes, AvroSchema] = {}
    for folder in (FOLDER, *folders):
        if not folder.is_dir():
            raise SchemaError(f"{folder}: there is no such folder")
        for path, schema in _folder(folder).items():
            for fingerprint in schema.fingerprints:
                other = known.setdefault(fingerprint, schema)
                if _UNIT.findall(other.identity) != _UNIT.findall(schema.identity):
                    raise SchemaError(
                        f"{path}: {schema.name} has the fingerprint of a schema with other logical types, "
                        "so their records cannot be told apart; use a schema registry"
                    )
    return known
