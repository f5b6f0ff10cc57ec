"""Process a batch: run the pipeline on it, and refuse a result that must be wrong.

The stream, the synchronous API and the benchmark all use :class:`BatchProcessor`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from consumer.errors import Condition, InvariantError, Unavailable
from consumer.pipeline.batch import RawBatch
from consumer.pipeline.pipeline import Pipeline, PipelineResult
from consumer.pipeline.rejections import Code, Rejection, Rejections
from consumer.pipeline.score import ModelFails, Scored
from consumer.scorer.metrics import BatchReport

_MAX_MODEL_FAILURES: Final = 10
"""If a model fails on more events of a batch than this, and on most of the batch, the model is at fault
and not the events."""


@dataclass(slots=True)
class StageTimer:
    """Measures seconds per stage. Call it with the name of a stage when that stage ends."""

    durations_s: dict[str, float] = field(default_factory=dict)
    _started_s: float = field(default_factory=time.perf_counter)

    def __call__(self, stage: str) -> None:
        """End a stage; the next one starts now."""
        now_s = time.perf_counter()
        self.durations_s[stage] = self.durations_s.get(stage, 0.0) + now_s - self._started_s
        self._started_s = now_s


@dataclass(frozen=True, slots=True)
class ProcessedBatch:
    """A batch in which every row has either a prediction or a rejection.

    Attributes:
        raw: The batch.
        rows: The rows that have a prediction, sorted.
        predictions: One framed ``PurchasePrediction`` per element of ``rows``.
        rejections: The other rows.
        scored: The events, features and probabilities behind the predictions.
        processed_at_s: When the batch was processed, seconds since the epoch.
        durations_s: Seconds per stage.
    """

    raw: RawBatch
    rows: Sequence[int] = field(repr=False)
    predictions: Sequence[bytes] = field(repr=False)
    rejections: Rejections = field(repr=False)
    scored: Scored = field(repr=False)
    processed_at_s: float
    durations_s: Mapping[str, float] = field(repr=False)

    def refused_by_broker(self) -> ProcessedBatch:
        """Return this batch of one event with a rejection in place of a prediction.

        A batch that is rejected already is returned unchanged; its dead letter can only become smaller.
        """
        if not self.rows:
            return self
        (event,) = self.scored.events.to_json()
        detail = "The prediction is larger than its topic takes."
        rejections = Rejections.of([Rejection(0, Code.PUBLISH_REFUSED, detail, event)])
        return replace(self, rows=[], predictions=[], rejections=rejections)

    def report(self, durations_s: Mapping[str, float]) -> BatchReport:
        """Return what the metrics show about this batch.

        An event whose prediction is not published counts as rejected.

        Args:
            durations_s: Seconds per stage, including the commit.
        """
        scored, n_published = self.scored, len(self.rows)
        return BatchReport(
            n_events=len(self.raw),
            rejections=self.rejections.counts(),
            model_version=scored.model_version,
            probabilities=scored.probabilities[:n_published],
            n_positive=int(scored.decisions[:n_published].sum()),
            n_unknown_country=int((scored.features[:n_published, 0] < 0).sum()),
            ages_s=self.processed_at_s - scored.events.numbers["occurred_at"][:n_published] / 1000,
            durations_s=durations_s,
        )


@dataclass(frozen=True, slots=True)
class BatchProcessor:
    """Processes batches.

    Attributes:
        pipeline: The pipeline.
        now_s: The wall clock, seconds since the epoch.
    """

    pipeline: Pipeline
    now_s: Callable[[], float] = time.time

    def process(self, raw: RawBatch) -> ProcessedBatch:
        """Run the pipeline on a batch.

        Raises:
            StartupError: No model is loaded.
            Unavailable: The schema registry is away, or the model fails on most events.
            InvariantError: Rows were lost or duplicated.
        """
        timer, now_s = StageTimer(), self.now_s()
        try:
            result = self.pipeline.run(raw, scored_at_ms=int(now_s * 1000), on_stage_end=timer)
        except ModelFails as error:
            raise _model_outage(str(error)) from error
        _check_rows(result, len(raw))
        _check_model(result, len(raw))
        timer("encode")
        return ProcessedBatch(
            raw=raw,
            rows=result.rows,
            predictions=result.predictions,
            rejections=result.rejections,
            scored=result.scored,
            processed_at_s=now_s,
            durations_s=timer.durations_s,
        )


def _check_rows(result: PipelineResult, n_events: int) -> None:
    """Check that every row is either scored or rejected, once.

    Raises:
        InvariantError: Rows were lost or duplicated.
    """
    rows = np.concatenate([result.scored.events.rows, result.rejections.rows])
    if len(rows) != n_events or (np.bincount(rows, minlength=n_events) != 1).any():
        raise InvariantError(
            f"{n_events} events came in and {len(rows)} came out of the pipeline; nothing was published"
        )


def _check_model(result: PipelineResult, n_events: int) -> None:
    """Check that the model works on most events.

    Raises:
        Unavailable: It does not.
    """
    failed = result.rejections.counts().get(Code.MODEL_FAILED, 0)
    if failed > max(_MAX_MODEL_FAILURES, n_events // 2):
        raise _model_outage(f"{failed} of {n_events} events")


def _model_outage(reason: str) -> Unavailable:
    return Unavailable(f"the model fails; promote another version: {reason}", Condition.MODEL)
