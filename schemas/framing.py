"""Which schema wrote these bytes, and where does the record begin.

Two framings, told apart by their first bytes:

- Avro single-object encoding: ``C3 01``, then the writer schema's CRC-64-AVRO fingerprint in
  8 bytes, little-endian (Avro specification, "Single-object encoding");
- Confluent wire format: ``00``, then the schema's registry id in 4 bytes, big-endian.
"""

from __future__ import annotations

from typing import Final

SINGLE_OBJECT_MARKER: Final = b"\xc3\x01"
SINGLE_OBJECT_HEADER_BYTES: Final = 10
CONFLUENT_MARKER: Final = b"\x00"
CONFLUENT_HEADER_BYTES: Final = 5


def single_object_header(fingerprint: bytes) -> bytes:
    """Return the 10 bytes before a record in single-object encoding.

    Args:
        fingerprint: CRC-64-AVRO of the writer schema, 8 bytes little-endian.
    """
    return SINGLE_OBJECT_MARKER + fingerprint


def confluent_header(schema_id: int) -> bytes:
    """Return the 5 bytes before a record in Confluent's wire format."""
    return CONFLUENT_MARKER + schema_id.to_bytes(4, "big")
