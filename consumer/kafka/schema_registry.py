"""Writer schemas from a Confluent Schema Registry, and the ids of the schemas with which we write.

:func:`writer_schemas` chooses between the registry and the schemas in this package.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any, Final
from uuid import UUID

from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.error import SchemaRegistryError

from consumer.errors import Condition, StartupError, Unavailable
from consumer.settings import Settings, without_credentials
from schemas.avro import AvroSchema, SchemaError, json_of
from schemas.repository import BundledSchemas, RegistryId, UnusableSchema

UNKNOWN_FOR_S: Final = 60.0
"""How long an id stays unknown before the registry is asked again. A flood of invented ids must not become a
flood of requests, and a schema that is registered late must still be found."""

_MAX_CACHED: Final = 10_000
_MAX_REFERENCES: Final = 100
"""Schemas that one schema may refer to, directly or not."""
_TIMEOUT_S: Final = 5
_NOT_FOUND: Final = 404
_SCHEMA_NOT_FOUND: Final = (40401, 40402, 40403)
"""The registry's own codes: a 404 without one of them means that the URL does not belong to a registry."""


class RegistrySchemas:
    """Finds writer schemas by registry id or GUID, and known schemas by fingerprint.

    Args:
        url: The registry's URL.
        client: Further settings of the registry client (authentication, TLS).
        known: The schemas that are known without a registry.
        monotonic_s: The clock for how long ids stay unknown.

    Raises:
        StartupError: The settings are wrong.
    """

    reads_confluent = True

    def __init__(
        self,
        url: str,
        client: dict[str, Any],
        known: BundledSchemas | None = None,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        try:
            self._client = SchemaRegistryClient({"url": url, "timeout": _TIMEOUT_S, **client})
        except (ValueError, TypeError) as error:
            raise StartupError(f"schema_registry: {error}") from error
        self._url = without_credentials(url)
        self._known = known or BundledSchemas()
        self._monotonic_s = monotonic_s
        self._found: dict[RegistryId, AvroSchema | UnusableSchema] = {}
        self._unknown_until_s: dict[RegistryId, float] = {}

    def by_fingerprint(self, fingerprint: bytes) -> AvroSchema | None:
        """Return the schema that any library knows by this fingerprint (8 bytes, in either byte order)."""
        return self._known.by_fingerprint(fingerprint)

    def by_id(self, schema_id: RegistryId) -> AvroSchema | UnusableSchema | None:
        """Return the schema with this id or GUID, or ``None`` if the registry has none.

        Raises:
            Unavailable: The registry does not answer.
        """
        found = self._found.get(schema_id)
        if found is not None:
            return found
        if self._unknown_until_s.get(schema_id, 0.0) > self._monotonic_s():
            return None
        found = self._look_up(schema_id)
        if found is None:
            _remember(self._unknown_until_s, schema_id, self._monotonic_s() + UNKNOWN_FOR_S)
        else:
            _remember(self._found, schema_id, found)
        return found

    def register(self, topic: str, schema: AvroSchema) -> int:
        """Register the schema of a topic's values (subject ``<topic>-value``) and return its id.

        Raises:
            Unavailable: The registry does not answer.
            StartupError: The registry refuses the schema.
        """
        definition = Schema(json.dumps(schema.definition), "AVRO")
        try:
            return int(self._client.register_schema(f"{topic}-value", definition))
        except SchemaRegistryError as error:
            raise StartupError(
                f"the schema registry refuses {schema.name} for {topic}-value: {error.error_message}"
            ) from error
        except Exception as error:  # the HTTP library raises many kinds
            raise self._unavailable(error) from error

    def _look_up(self, schema_id: RegistryId) -> AvroSchema | UnusableSchema | None:
        try:
            if isinstance(schema_id, UUID):
                schema = self._client.get_schema_by_guid(str(schema_id))
            else:
                schema = self._client.get_schema(schema_id)
            references = self._references(schema, [])
        except SchemaRegistryError as error:
            if error.http_status_code == _NOT_FOUND and error.error_code in _SCHEMA_NOT_FOUND:
                return None
            raise self._unavailable(error) from error
        except SchemaError as error:
            return UnusableSchema(str(error))
        except Exception as error:  # the HTTP library raises many kinds
            raise self._unavailable(error) from error
        if schema.schema_type != "AVRO" or schema.schema_str is None:
            return UnusableSchema(f"it is a {schema.schema_type} schema, and only AVRO is read")
        try:
            return AvroSchema.parse_json(schema.schema_str, references)
        except SchemaError as error:
            return UnusableSchema(str(error))

    def _references(self, schema: Schema, found: list[tuple[str, int]]) -> list[Any]:
        """Return the definitions of the schemas that a schema refers to, in dependency order."""
        definitions: list[Any] = []
        for reference in schema.references or ():
            key = (reference.subject or "", reference.version or 0)
            if key in found:
                continue
            if len(found) >= _MAX_REFERENCES:
                raise SchemaError(f"it refers to more than {_MAX_REFERENCES} other schemas")
            found.append(key)
            referred = self._client.get_version(*key).schema
            definitions += [*self._references(referred, found), json_of(referred.schema_str or "")]
        return definitions

    def _unavailable(self, error: Exception) -> Unavailable:
        if isinstance(error, SchemaRegistryError):
            what = f"answers with HTTP status {error.http_status_code}"
            if error.http_status_code == _NOT_FOUND:
                what += "; is this the URL of its API?"
        elif "Timeout" in type(error).__name__:
            what = f"does not answer within {_TIMEOUT_S} s"
        else:
            what = f"cannot be reached ({type(error).__name__})"
        return Unavailable(f"the schema registry at {self._url} {what}", Condition.SCHEMA_REGISTRY)


def _remember(cache: dict[RegistryId, Any], schema_id: RegistryId, value: Any) -> None:
    """Cache a value. A full cache is emptied: ids that are in use are looked up again."""
    if len(cache) >= _MAX_CACHED:
        cache.clear()
    cache[schema_id] = value


def writer_schemas(settings: Settings) -> RegistrySchemas | BundledSchemas:
    """Return the resolver of writer schemas that the settings ask for.

    Raises:
        SchemaError: The schemas folder is missing, or a file in it is not a usable schema.
        StartupError: The registry's settings are wrong, or its client is not installed.
    """
    registry, known = settings.schema_registry, BundledSchemas(settings.schemas.path)
    if registry.url is None:
        return known
    try:
        from consumer.kafka.schema_registry import RegistrySchemas  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise StartupError("schema_registry.url needs: pip install 'purchase-stream[registry]'") from error
    return RegistrySchemas(registry.url, registry.client, known)
