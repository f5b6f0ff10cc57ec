"""Hold the options before the verb, and define the option that most verbs share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from consumer.errors import UsageError
from consumer.runtime import logging as logs
from consumer.settings import Settings, load

Json = Annotated[bool, typer.Option("--json", help="Answer in JSON.")]


@dataclass(frozen=True, slots=True)
class Context:
    """The options before the verb."""

    config_file: Path | None
    overrides: list[str]
    debug: bool

    def settings(self, flags: dict[str, dict[str, Any]] | None = None) -> Settings:
        """Load the settings, and configure logging accordingly.

        Args:
            flags: The verb's own options by section. ``None`` values are left out.

        Raises:
            StartupError: A setting is unknown or wrong.
            UsageError: An override is malformed.
        """
        tree: dict[str, dict[str, Any]] = {}
        for override in self.overrides:
            key, equals, value = override.partition("=")
            section, dot, name = key.partition(".")
            if not equals or not dot:
                raise UsageError("--set takes section.key=value")  # the override may hold a secret
            tree.setdefault(section, {})[name] = _parse(value, key)
        for section, values in (flags or {}).items():
            given = {name: value for name, value in values.items() if value is not None}
            if given:
                tree[section] = tree.get(section, {}) | given
        settings = load(self.config_file, tree)
        logs.configure("debug" if self.debug else settings.log.level, settings.log.format)
        return settings


def _parse(text: str, key: str) -> Any:
    """Parse a JSON object. Any other value stays a text, which pydantic converts."""
    if text.startswith("{"):
        try:
            return orjson.loads(text)
        except orjson.JSONDecodeError as error:
            raise UsageError(f"--set {key}: the value is not a JSON object: {error}") from error
    return text
