"""What every verb gets: where its settings come from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from consumer.errors import UsageError
from consumer.settings import Settings, load


@dataclass(frozen=True, slots=True)
class Context:
    """The options that stand before the verb."""

    config_file: Path | None
    overrides: list[str]
    debug: bool

    def settings(self, flags: dict[str, dict[str, Any]] | None = None) -> Settings:
        """Merge every source of settings.

        Args:
            flags: a verb's own options, by section; ``None`` values are left out.

        Raises:
            StartupError: a setting is unknown or wrong.
            UsageError: an override has no ``=``.
        """
        tree: dict[str, dict[str, Any]] = {}
        for override in self.overrides:
            key, equals, value = override.partition("=")
            section, dot, name = key.partition(".")
            if not equals or not dot:
                raise UsageError(f"--set {override}: write it as section.key=value")
            tree.setdefault(section, {})[name] = _value(value)
        for section, values in (flags or {}).items():
            given = {name: value for name, value in values.items() if value is not None}
            if given:
                tree[section] = tree.get(section, {}) | given
        return load(self.config_file, tree)


def _value(text: str) -> Any:
    """Read a value as JSON where it is an object; pydantic converts the rest."""
    if text.startswith("{"):
        try:
            return orjson.loads(text)
        except orjson.JSONDecodeError as error:
            raise UsageError(f"not a JSON object: {text}") from error
    return text
