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
from consumer.pipeline.rejections import Rejections
from consumer.pipeline.score import Model, Scored, score
from consumer.pipeline.validate import validate

Stage: TypeAlias = str
Lap: TypeAlias = Callable[[Stage], None]
"""Told the name of a stage whenever one has ended; the caller owns the clock."""


@dataclass(frozen=True, slots=True)
class PipelineResult:
    """What became of a batch: every row is in exactly one of ``rows`` and ``rejections``.

    Attributes:
        rows: the scored rows, rising.
        predictions: one framed ``PurchasePrediction`` per scored row.
        rejections: the other rows.
        scored: the events and probabilities behind the predictions.
    """

    rows: Sequence[int]
    predictions: Sequence[bytes] = field(repr=False)
    rejections: Rejections = field(repr=False)
    scored: Scored = field(repr=False)


class Models(Protocol):
    """Where the model comes from; it may change from batch to batch."""

    def current(self) -> Model:
        """Return the model that is on; raises if there is none."""


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Everything a decision depends on, besides the events.

    Attributes:
        decoder: bytes to events.
        models: asked once per batch for the model to score it with.
        countries: from a country as received (UTF-8) to the model's number for it.
        header: the frame before each prediction.
    """

    decoder: Decoder
    models: Models
    countries: Mapping[bytes, int]
    header: bytes

    def run(self, raw: RawBatch, *, scored_at_ms: int, lap: Lap = lambda _: None) -> PipelineResult:
        """Decide on every row of a batch.

        Args:
            raw: the batch.
            scored_at_ms: milliseconds since the epoch, as it stands in the predictions.
            lap: called with ``decode``, ``validate``, ``score`` and ``encode`` as each ends.
        """
        decoded, undecodable = self.decoder.decode(raw.values)
        lap("decode")
        valid, invalid = validate(decoded)
        lap("validate")
        scored, failed = score(valid, self.models.current(), self.countries)
        lap("score")
        which = scored.events.rows
        rows = which.tolist()
        predictions = encode_predictions(
            scored,
            header=self.header,
            scored_at_ms=scored_at_ms,
            partitions=select_rows(raw.partitions, rows),
            offsets=select_rows(np.asarray(raw.offsets, np.int64), which),
        )
        lap("encode")
        return PipelineResult(rows, predictions, Rejections.merged([undecodable, invalid, failed]), scored)
