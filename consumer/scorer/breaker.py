"""Notice a writer schema whose events are rejected, and hold its batches if the settings say so.

A platform that deploys a faulty producer turns every one of its events into a dead letter. The breaker
computes, for each schema, the share of its latest events that were rejected. With ``breaker.action=alert``
it only counts and logs a share that is too large. With ``pause`` it holds the batch before its transaction
begins: nothing of it is published and no offset advances. The scorer processes the held batch again and
again, and continues once the events are accepted, for example because their schema was registered. A
restart with ``breaker.action=alert`` lets them become dead letters.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import numpy as np
import structlog

from consumer.errors import Condition, Unavailable
from consumer.pipeline.batch import RawBatch
from consumer.pipeline.dead_letter import summarize_detail
from consumer.pipeline.rejections import Rejections
from consumer.scorer.metrics import ScorerTelemetry
from consumer.scorer.processing import ProcessedBatch
from consumer.settings import BreakerSettings
from schemas.repository import SCHEMA_ID_HEADER, SINGLE_OBJECT_HEADER_BYTES, SINGLE_OBJECT_MARKER, name_schema

log = structlog.get_logger(__name__)

_MAX_SCHEMAS: Final = 1000
"""The largest number of schemas that are tracked. In frames of random bytes, each looks like a new schema."""

_EVENT_AT_FAULT: Final = 422


class Tally(NamedTuple):
    """The events of one schema in one batch.

    Attributes:
        n_events: The number of events.
        n_rejected: The number of events that were rejected through a fault of their own.
    """

    n_events: int
    n_rejected: int


def latest_batches(tallies: Iterable[Tally], minimum_events: int) -> tuple[Tally, ...]:
    """Return the latest tallies that together have enough events.

    Args:
        tallies: The batches of one schema, the latest first.
        minimum_events: How many events are enough.

    >>> latest_batches([Tally(5, 0), Tally(6, 0), Tally(6, 6)], minimum_events=10)
    (Tally(n_events=5, n_rejected=0), Tally(n_events=6, n_rejected=0))
    """
    latest: list[Tally] = []
    n_events = 0
    for tally in tallies:
        if n_events >= minimum_events:
            break
        latest.append(tally)
        n_events += tally.n_events
    return tuple(latest)


class Breaker:
    """Judges the events of each writer schema, batch by batch.

    Args:
        settings: The tolerated share, and what happens beyond it.
        telemetry: Counts the batches that are published although a schema exceeds the share.
    """

    def __init__(self, settings: BreakerSettings, telemetry: ScorerTelemetry) -> None:
        self._settings = settings
        self._telemetry = telemetry
        self._latest: OrderedDict[str, tuple[Tally, ...]] = OrderedDict()
        """The latest committed batches of each schema; the schema of the last batch is at the end."""
        self._reported: set[str] = set()
        """The schemas that exceed the share and have been logged."""

    def check(self, processed: ProcessedBatch) -> None:
        """Hold a batch if the setting is ``pause`` and a schema exceeds the share with it.

        Raises:
            Unavailable: The batch is held. Process it again later.
        """
        if self._settings.action != "pause":
            return
        schemas = schema_names(processed.raw)
        for schema, tally in tallies(schemas, processed.rejections).items():
            total = self._total(self._with_batch(schema, tally))
            if self._is_beyond(total) and tally.n_rejected:
                example = _example(processed, schemas, schema)
                raise Unavailable(
                    f"{_describe(schema, total)}, {example}; the batch is held until these are accepted, or "
                    "until the scorer is restarted with breaker.action=alert",
                    Condition.BREAKER,
                )

    def note_committed(self, processed: ProcessedBatch) -> None:
        """Remember a committed batch; report the schemas that exceed the share with it."""
        schemas = schema_names(processed.raw)
        is_beyond = False
        for schema, tally in tallies(schemas, processed.rejections).items():
            self._latest[schema] = self._with_batch(schema, tally)
            self._latest.move_to_end(schema)
            total = self._total(self._latest[schema])
            if not self._is_beyond(total):
                self._reported.discard(schema)
                continue
            is_beyond = True
            if schema not in self._reported:
                self._reported.add(schema)
                log.warning("events of a schema are rejected", reason=_describe(schema, total))
        if is_beyond:
            self._telemetry.schema_rejected()
        while len(self._latest) > _MAX_SCHEMAS:
            schema, _ = self._latest.popitem(last=False)
            self._reported.discard(schema)

    def _with_batch(self, schema: str, tally: Tally) -> tuple[Tally, ...]:
        return latest_batches((tally, *self._latest.get(schema, ())), self._settings.minimum_events)

    @staticmethod
    def _total(latest: tuple[Tally, ...]) -> Tally:
        return Tally(sum(tally.n_events for tally in latest), sum(tally.n_rejected for tally in latest))

    def _is_beyond(self, total: Tally) -> bool:
        return (
            total.n_events >= self._settings.minimum_events
            and total.n_rejected > self._settings.rejected_ratio * total.n_events
        )


def schema_names(raw: RawBatch) -> list[str]:
    """Return the schema that each row names (see :func:`schemas.repository.name_schema`)."""
    starts = [(value or b"")[:SINGLE_OBJECT_HEADER_BYTES] for value in raw.values]
    distinct = set(starts)
    # The start of a single object is its frame, and nearly all rows share one. Other starts hold data, too.
    by_frame = {
        start: name_schema(start, None)
        for start in distinct
        if start.startswith(SINGLE_OBJECT_MARKER) and len(start) == SINGLE_OBJECT_HEADER_BYTES
    }
    names = [by_frame.get(start, "") for start in starts]
    if len(by_frame) < len(distinct):
        others = [row for row, name in enumerate(names) if not name]
        for row, headers in zip(others, raw.headers(others), strict=True):
            schema_id = next((value for name, value in headers if name == SCHEMA_ID_HEADER), None)
            names[row] = name_schema(starts[row], schema_id)
    return names


def tallies(schemas: Sequence[str], rejections: Rejections) -> dict[str, Tally]:
    """Count the events of each schema, and the rejected ones.

    A rejection with status 500 (``model_failed``, ``publish_refused``) is not the fault of the schema.

    Args:
        schemas: The schema of each row of the batch.
        rejections: The rejections of the batch.
    """
    at_fault = np.array([reason.code.status == _EVENT_AT_FAULT for reason in rejections.reasons.dictionary])
    rows = rejections.rows[at_fault[rejections.reasons.indices]] if len(rejections) else rejections.rows
    rejected = Counter([schemas[row] for row in rows.tolist()])
    return {schema: Tally(n, rejected[schema]) for schema, n in Counter(schemas).items()}


def _describe(schema: str, total: Tally) -> str:
    named = "that name no schema" if schema == "-" else f"of the schema with {schema}"
    return f"{total.n_rejected:,} of the latest {total.n_events:,} events {named} are rejected"


def _example(processed: ProcessedBatch, schemas: Sequence[str], schema: str) -> str:
    """Return why the first rejected event of a schema is rejected, and where it is."""
    rejection = next(rejection for rejection in processed.rejections if schemas[rejection.row] == schema)
    raw, row = processed.raw, rejection.row
    detail = summarize_detail(rejection.detail).rstrip(".")
    return f"such as {raw.partitions[row]}:{raw.offsets[row]} as {rejection.code} ({detail})"
