"""Writer schemas from a Confluent Schema Registry, and the ids of the schemas that we write with."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any, Final

from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.error import SchemaRegistryError

from consumer.errors import Condition, StartupError, Unavailable
from consumer.settings import without_credentials
from schemas.errors import SchemaError
from schemas.repository import AvroSchema, known_schemas

UNKNOWN_FOR_S: Final = 60.0
"""How long an id stays unknown before the registry is asked again: a flood of made-up ids must not
become a flood of requests, and a schema that is registered late must be found all the same."""

_MAX_REMEMBERED: Final = 10_000
_TIMEOUT_S: Final = 5
_NOT_FOUND: Final = 404


class RegistrySchemas:
    """Looks writer schemas up by registry id; those in ``schemas/`` also by fingerprint.

    Args:
        url: of the registry.
        client: further settings of the registry client (authentication, TLS).
        monotonic_s: a clock for the memory of unknown ids.
    """

    reads_confluent = True

    def __init__(
        self, url: str, client: dict[str, Any], monotonic_s: Callable[[], float] = time.monotonic
    ) -> None:
        try:
            self._client = SchemaRegistryClient({"url": url, "timeout": _TIMEOUT_S, **client})
        except (ValueError, TypeError) as error:
            raise StartupError(f"schema_registry: {error}") from error
        self._url = url
        self._monotonic_s = monotonic_s
        self._known: dict[int, AvroSchema] = {}
        self._unknown_until_s: dict[int, float] = {}

    def by_fingerprint(self, fingerprint: bytes) -> AvroSchema | None:
        """Return the schema with this CRC-64-AVRO fingerprint (8 bytes, little-endian)."""
        return known_schemas().get(fingerprint)

    def by_id(self, schema_id: int) -> AvroSchema | None:
        """Return the schema with this id, or ``None`` if there is no Avro record schema with it.

        Raises:
            Unavailable: the registry does not answer.
        """
        schema = self._known.get(schema_id)
        if schema is not None:
            return schema
        if self._unknown_until_s.get(schema_id, 0.0) > self._monotonic_s():
            return None
        schema = self._look_up(schema_id)
        memory: dict[int, Any] = self._unknown_until_s if schema is None else self._known
        if len(memory) >= _MAX_REMEMBERED:
            memory.clear()
        memory[schema_id] = self._monotonic_s() + UNKNOWN_FOR_S if schema is None else schema
        return schema

    def register(self, topic: str, schema: AvroSchema) -> int:
        """Register the schema of a topic's values (subject ``<topic>-value``) and return its id.

        Raises:
            Unavailable: the registry does not answer.
            StartupError: the registry refuses the schema.
        """
        definition = Schema(json.dumps(_without_hints(schema.parsed)), "AVRO")
        try:
            return int(self._client.register_schema(f"{topic}-value", definition))
        except SchemaRegistryError as error:
            raise StartupError(f"the schema registry refuses {schema.name}: {error}") from error
        except Exception as error:  # the HTTP library's own, of many kinds
            raise self._away(error) from error

    def _look_up(self, schema_id: int) -> AvroSchema | None:
        try:
            found = self._client.get_schema(schema_id)
        except SchemaRegistryError as error:
            if error.http_status_code == _NOT_FOUND:
                return None
            raise self._away(error) from error
        except Exception as error:  # the HTTP library's own, of many kinds
            raise self._away(error) from error
        if found.schema_type != "AVRO" or found.schema_str is None:
            return None
        try:
            return AvroSchema.parse(json.loads(found.schema_str))
        except (SchemaError, ValueError):
            return None

    def _away(self, error: Exception) -> Unavailable:
        return Unavailable(
            f"no answer from the schema registry at {without_credentials(self._url)}: {error}",
            Condition.SCHEMA_REGISTRY,
        )


def _without_hints(node: Any) -> Any:
    """Drop the marks that fastavro leaves in a parsed schema."""
    if isinstance(node, dict):
        return {key: _without_hints(value) for key, value in node.items() if not key.startswith("__")}
    if isinstance(node, list):
        return [_without_hints(item) for item in node]
    return node
