"""Choose the source of writer schemas: the schema registry, or the schemas in this package."""

from __future__ import annotations

from typing import TYPE_CHECKING

from consumer.errors import StartupError
from consumer.settings import Settings
from schemas.repository import BundledSchemas

if TYPE_CHECKING:
    from consumer.kafka.schema_registry import RegistrySchemas


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
