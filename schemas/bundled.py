"""Writer schemas from the folder alone, for when no schema registry is set."""

from __future__ import annotations

from schemas.repository import AvroSchema, known_schemas


class BundledSchemas:
    """Knows every schema in ``schemas/`` by its fingerprint, and no registry ids."""

    reads_confluent = False

    def by_fingerprint(self, fingerprint: bytes) -> AvroSchema | None:
        """Return the schema with this CRC-64-AVRO fingerprint (8 bytes, little-endian)."""
        return known_schemas().get(fingerprint)

    def by_id(self, _schema_id: int) -> AvroSchema | None:
        """Return ``None``: there is no registry to ask."""
        return None
