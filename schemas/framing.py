"""The frames before a record, which name the schema that it was written with.

Two frames are read, told apart by their first bytes:

- Avro single-object encoding: ``C3 01``, then the writer schema's CRC-64-AVRO fingerprint in
  8 bytes, little-endian (Avro specification, "Single-object encoding");
- Confluent wire format: ``00``, then the schema's registry id in 4 bytes, big-endian.

Confluent's newer serializers write no frame. They name the schema in the record header
``__value_schema_id``: ``00`` and the id, or ``01`` and the schema's GUID in 16 bytes.
"""

from __future__ import annotations

from typing import Final, TypeAlias
from uuid import UUID

RegistryId: TypeAlias = int | UUID
"""What a registry knows a schema by: its id, or its GUID."""

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
