"""Change the fields of rejected events, so that the scorers accept them when they are replayed. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

import orjson

from consumer import timestamps
from consumer.errors import UsageError
from consumer.ops.dlq.dead_letter import DeadLetterRecord, NotReplayable, OriginalEvent, original_event
from consumer.simulator.events import encode_event
from schemas.repository import engagement_event

_LONG_LIMIT: Final = 2**63
_ABSENT: Final = object()


def _field_types() -> dict[str, str]:
    """Return the primitive type of each field of an event: ``string``, ``long`` or ``double``."""
    types = {item["name"]: item["type"] for item in engagement_event().parsed["fields"]}
    return {name: kind["type"] if isinstance(kind, dict) else kind for name, kind in types.items()}


@dataclass(frozen=True, slots=True)
class Repair:
    """Changes to the fields of events, applied in this order: drop, cast, set.

    Attributes:
        drop: Fields to remove.
        cast: Fields whose value is converted to the type of the schema.
        set: New values, already of the schema's type.
    """

    drop: Collection[str] = ()
    cast: Collection[str] = ()
    set: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, drop: Collection[str], cast: Collection[str], assignments: Collection[str]) -> Repair:
        """Parse the options of a command line.

        Args:
            drop: Field names.
            cast: Field names.
            assignments: Texts such as ``minutes_watched=0``.

        Raises:
            UsageError: A field does not exist, a value does not have its type, or there is no change.
        """
        types, values = _field_types(), {}
        for assignment in assignments:
            name, equals, text = assignment.partition("=")
            if not equals:
                raise UsageError(f"--set {assignment}: write it as FIELD=VALUE")
            if name in types:
                try:
                    values[name] = _convert(text, types[name])
                except ValueError as error:
                    raise UsageError(f"--set {assignment}: {error}") from error
            else:
                raise UsageError(f"--set {assignment}: one of {', '.join(types)}")
        for name in cast:
            if name not in types:
                raise UsageError(f"--cast {name}: one of {', '.join(types)}")
        if not (drop or cast or assignments):
            raise UsageError("say what to change: --set, --cast or --drop")
        return cls(drop, cast, values)

    def restore(self, dead_letter: DeadLetterRecord, events_topic: str) -> OriginalEvent:
        """Return the changed event of a dead letter, in the current schema.

        Raises:
            NotReplayable: The dead letter does not hold the event's fields, or a field is still wrong.
        """
        original = original_event(dead_letter, events_topic)
        fields, types = self.apply(decoded_fields(dead_letter, original)), _field_types()
        if unknown := [name for name in fields if name not in types]:
            raise NotReplayable(f"the schema has no field {unknown[0]}; add --drop {unknown[0]}")
        for name, kind in types.items():
            if name not in fields:
                raise NotReplayable(f"{name} is missing; add --set {name}=VALUE")
            if not _has_type(fields[name], kind):
                raise NotReplayable(f"{name} is not a {kind}; add --cast {name} or --set {name}=VALUE")
        return OriginalEvent(original.partition, original.key, encode_event(fields), original.headers)

    def apply(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Return the changed fields.

        Raises:
            NotReplayable: A value cannot be converted.
        """
        types = _field_types()
        changed = {name: value for name, value in fields.items() if name not in self.drop}
        for name in self.cast:
            if name in changed:
                try:
                    changed[name] = _convert(changed[name], types[name])
                except ValueError as error:
                    raise NotReplayable(f"{name}: {error}") from error
        return changed | dict(self.set)

    def difference(self, dead_letter: DeadLetterRecord, events_topic: str) -> Iterator[str]:
        """Yield each changed field with its value before and after. The caller must escape the lines."""
        before = decoded_fields(dead_letter, original_event(dead_letter, events_topic))
        after = self.apply(before)
        for name in dict.fromkeys([*before, *after]):
            old, new = before.get(name, _ABSENT), after.get(name, _ABSENT)
            if old is _ABSENT or new is _ABSENT or old != new or type(old) is not type(new):
                yield f"{name}: {_show(old)} -> {_show(new)}"


def decoded_fields(dead_letter: DeadLetterRecord, original: OriginalEvent) -> dict[str, Any]:
    """Return the event's fields: as the scorer decoded them, or as parsed from a value that is JSON.

    Raises:
        NotReplayable: The event has no fields.
    """
    fields = (dead_letter.body or {}).get("event")
    if fields is None:
        try:
            fields = orjson.loads(original.value or b"")
        except ValueError:
            fields = None
    if not isinstance(fields, dict):
        raise NotReplayable("its event could not be decoded, so it has no fields to repair")
    return fields


def _convert(value: Any, kind: str) -> Any:
    """Convert a value to a type of the schema.

    Raises:
        ValueError: The value cannot be converted to this type.
    """
    if kind == "string" and isinstance(value, str | int | float) and not isinstance(value, bool):
        return str(value)
    try:
        if kind == "double" and isinstance(value, str | int | float):
            return float(value)
        if kind == "long" and isinstance(value, str | int | float):
            return _to_long(str(value).strip())
    except (ArithmeticError, ValueError):
        pass
    raise ValueError(f"{value!r} cannot be converted to {kind}")


def _to_long(text: str) -> int:
    """Parse an integer, or a time as milliseconds since the epoch."""
    try:
        number = Decimal(text)
    except ArithmeticError:
        return round(timestamps.parse(text).timestamp() * 1000)
    if number != int(number) or not -_LONG_LIMIT <= number < _LONG_LIMIT:
        raise ValueError(text)
    return int(number)


def _has_type(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return False
    if kind == "string":
        return isinstance(value, str)
    if kind == "double":
        return isinstance(value, int | float)
    return isinstance(value, int) and -_LONG_LIMIT <= value < _LONG_LIMIT


def _show(value: Any) -> str:
    return "absent" if value is _ABSENT else orjson.dumps(value).decode()
