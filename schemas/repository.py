"""The schemas this software knows from its own folder, found by name or by fingerprint."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

from fastavro import parse_schema
from fastavro.schema import fingerprint, to_parsing_canonical_form

from schemas.errors import SchemaError
from schemas.safety import refuse_unsafe

FOLDER: Final = Path(__file__).parent


@dataclass(frozen=True, slots=True, eq=False)
class AvroSchema:
    """One parsed schema.

    Attributes:
        name: full name of the record, such as ``purchase_stream.EngagementEvent``.
        parsed: the schema as fastavro parsed it.
        canonical: the Parsing Canonical Form (Avro specification, "Transforming into Parsing
            Canonical Form"): two schemas with the same one write the same bytes.
        fingerprint: CRC-64-AVRO of the canonical form, 8 bytes little-endian, as it stands in a
            single-object frame.
    """

    name: str
    parsed: Any = field(repr=False)
    canonical: str = field(repr=False)
    fingerprint: bytes

    @classmethod
    def parse(cls, definition: Any) -> AvroSchema:
        """Parse a schema from its JSON value.

        Raises:
            SchemaError: it is no Avro record schema, or one that could exhaust the reader.
        """
        try:
            parsed = parse_schema(definition)
            canonical = to_parsing_canonical_form(definition)
            crc = fingerprint(canonical, "CRC-64-AVRO")
        except Exception as error:  # fastavro raises many kinds here, ValueError to KeyError
            raise SchemaError(f"not a usable Avro schema: {error}") from error
        if not (isinstance(parsed, dict) and parsed.get("type") == "record"):
            raise SchemaError("the schema must be a record")
        refuse_unsafe(parsed)
        return cls(
            name=parsed["name"],
            parsed=parsed,
            canonical=canonical,
            fingerprint=bytes.fromhex(crc),
        )


def read_schema(path: Path) -> AvroSchema:
    """Read one ``.avsc`` file.

    Raises:
        SchemaError: the file is missing or no usable schema; the message names it.
    """
    try:
        return AvroSchema.parse(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, SchemaError) as error:
        raise SchemaError(f"{path}: {error}") from error


@cache
def engagement_event() -> AvroSchema:
    """The reader's schema of events (``EngagementEvent``)."""
    return read_schema(FOLDER / "engagement_event.avsc")


@cache
def purchase_prediction() -> AvroSchema:
    """The schema that predictions are written with (``PurchasePrediction``)."""
    return read_schema(FOLDER / "purchase_prediction.avsc")


@cache
def purchase_outcome() -> AvroSchema:
    """The reader's schema of outcomes (``PurchaseOutcome``)."""
    return read_schema(FOLDER / "purchase_outcome.avsc")


@cache
def known_schemas(folder: Path = FOLDER) -> dict[bytes, AvroSchema]:
    """Every schema in a folder (``*.avsc``, sub-folders included) by its 8-byte fingerprint.

    Raises:
        SchemaError: a file is no usable schema.
    """
    schemas = (read_schema(path) for path in sorted(folder.rglob("*.avsc")))
    return {schema.fingerprint: schema for schema in schemas}
