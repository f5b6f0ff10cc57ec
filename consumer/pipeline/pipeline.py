"""Run the stages on one batch: the result is the predictions to publish and the rejected rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import numpy as np

from consumer.columnar.arrays import select_rows
from consumer.pipeline.batch import RawBatch
from consumer.pipeline.decode import Decoder
from consumer.pipeline.encode import encode_predictions
from consumer.pipeline.framing import HeadersOfRows
from consumer.pipeline.rejections import Rejections
from consumer.pipeline.score import Model, Scored, score
from consumer.pipeline.validate import validate

Stage: TypeAlias = str
OnStageEnd: TypeAlias = Callable[[Stage], None]
"""Called with the name of each stage when it ends. The caller measures the time."""


@dataclass(frozen=True, slots=True)
class PipelineResult:
    """The result of a batch: every row is in exactly one of ``rows`` and ``rejections``.

    Attributes:
        rows: The scored rows, sorted.
        predictions: One framed ``PurchasePrediction`` per scored row.
        rejections: The other rows.
        scored: The events and probabilities behind the predictions.
    """

    rows: Sequence[int]
    predictions: Sequence[bytes] = field(repr=False)
    rejections: Rejections = field(repr=False)
    scored: Scored = field(repr=False)


def find_rejections(decoder: Decoder, values: Sequence[bytes | None], headers: HeadersOfRows) -> Rejections:
    """Return what the stream would reject before scoring: undecodable and invalid events.

    Args:
        decoder: Decodes events.
        values: Record values; ``None`` is a tombstone.
        headers: Returns the headers of rows.
    """
    decoded, undecodable = decoder.decode(values, headers)
    return Rejections.merged([undecodable, validate(decoded)[1]])


class Models(Protocol):
    """Provides the active model, which may change between batches."""

    def current(self) -> Model:
        """Return the active model; raise if there is none."""


@dataclass(frozen=True, slots=True)
class Pipeline:
    """The stages, and what they depend on besides the events.

    Attributes:
        decoder: Decodes events.
        models: Provides the model, once per batch.
        countries: The model's number for each country as received (UTF-8).
        header: The frame header of each prediction.
    """

    decoder: Decoder
    models: Models
    countries: Mapping[bytes, int]
    header: bytes

    def run(
        self, raw: RawBatch, *, scored_at_ms: int, on_stage_end: OnStageEnd = lambda _: None
    ) -> PipelineResult:
        """Score or reject every row of a batch.

        Args:
            raw: The batch.
            scored_at_ms: Milliseconds since the epoch, written to the predictions.
            on_stage_end: Called with ``decode``, ``validate``, ``score`` and ``encode`` as each ends.
        """
        decoded, undecodable = self.decoder.decode(raw.values, raw.headers)
        on_stage_end("decode")
        valid, invalid = validate(decoded)
        on_stage_end("validate")
        scored, failed = score(valid, self.models.current(), self.countries)
        on_stage_end("score")
        rows = scored.events.rows.tolist()
        predictions = encode_predictions(
            scored,
            header=self.header,
            scored_at_ms=scored_at_ms,
            partitions=select_rows(raw.partitions, rows),
            offsets=select_rows(np.asarray(raw.offsets, np.int64), scored.events.rows),
        )
        on_stage_end("encode")
        return PipelineResult(rows, predictions, Rejections.merged([undecodable, invalid, failed]), scored)
