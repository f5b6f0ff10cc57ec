"""What is to be published for a batch: the pipeline's outcome as records, on the clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from consumer.errors import Condition, InvariantError, Unavailable
from consumer.pipeline.batch import RawBatch
from consumer.pipeline.dead_letter import DeadLetters, dead_letters
from consumer.pipeline.pipeline import Pipeline, PipelineResult
from consumer.pipeline.rejections import Code, Rejection, Rejections
from consumer.pipeline.score import ModelFails
from consumer.scorer.metrics import BatchReport

_MODEL_FAILURES_BORNE: Final = 10
"""A model that fails on more events of one batch than this, and on most of it, is itself at fault."""


@dataclass(slots=True)
class StageTimer:
    """Seconds spent per stage; called with a stage's name when it ends."""

    durations_s: dict[str, float] = field(default_factory=dict)
    _since_s: float = field(default_factory=time.perf_counter)

    def __call__(self, stage: str) -> None:
        """End a stage."""
        now_s = time.perf_counter()
        self.durations_s[stage] = self.durations_s.get(stage, 0.0) + now_s - self._since_s
        self._since_s = now_s


@dataclass(frozen=True, slots=True)
class ProcessedBatch:
    """What is to be published for a batch.

    Attributes:
        raw: the batch.
        rows: the scored rows.
        predictions: their predictions, one each.
        letters: the dead letters of the other rows.
        report: what telemetry is told once this is committed; its durations grow until then.
    """

    raw: RawBatch
    rows: Sequence[int] = field(repr=False)
    predictions: Sequence[bytes] = field(repr=False)
    letters: DeadLetters = field(repr=False)
    report: BatchReport = field(repr=False)


@dataclass(slots=True)
class BatchProcessor:
    """Decides on batches.

    Attributes:
        pipeline: the decision itself.
        group: the consumer group, for the dead letters' headers.
        dead_letter_max_bytes: the largest record that the dead-letter topic takes.
        now_s: the wall clock, seconds since the epoch.
    """

    pipeline: Pipeline
    group: str
    dead_letter_max_bytes: int
    now_s: Callable[[], float] = time.time

    def decide(self, raw: RawBatch, refused_bytes: int | None = None) -> ProcessedBatch:
        """Run the pipeline on a batch.

        Args:
            raw: the batch.
            refused_bytes: set once the broker has refused what became of this single event: the
                largest dead letter to send for it instead.

        Raises:
            Unavailable: the schema registry is away, or the model fails on most events.
            InvariantError: rows were lost or doubled.
        """
        laps, now_s = StageTimer(), self.now_s()
        now_ms = int(now_s * 1000)
        try:
            outcome = self.pipeline.run(raw, scored_at_ms=now_ms, lap=laps)
        except ModelFails as error:
            raise Unavailable(
                f"the model fails; promote another version: {error}", Condition.MODEL
            ) from error
        _check(outcome, len(raw))
        rows, predictions, rejections = outcome.rows, outcome.predictions, outcome.rejections
        if refused_bytes is not None and rows:
            (event,) = outcome.scored.events.to_json()
            why = "The prediction is larger than its topic takes."
            rejections = Rejections.of([Rejection(0, Code.PUBLISH_REFUSED, why, event)])
            rows, predictions = [], []
        letters = dead_letters(
            rejections,
            raw,
            group=self.group,
            rejected_at_ms=now_ms,
            max_bytes=refused_bytes or self.dead_letter_max_bytes,
        )
        laps("encode")
        report = _report(outcome, len(rows), rejections, now_s, laps)
        return ProcessedBatch(raw, rows, predictions, letters, report)


def _check(outcome: PipelineResult, n_events: int) -> None:
    """Refuse to publish an outcome that cannot be right.

    Raises:
        InvariantError: rows were lost or doubled.
        Unavailable: the model fails on most events; that is an outage, and no fault of theirs.
    """
    decided = np.concatenate([outcome.scored.events.rows, outcome.rejections.rows])
    if len(decided) != n_events or (np.bincount(decided, minlength=n_events) != 1).any():
        raise InvariantError(
            f"{n_events} events came in and {len(decided)} were decided on; nothing was published"
        )
    failed = outcome.rejections.counts().get(Code.MODEL_FAILED, 0)
    if failed > max(_MODEL_FAILURES_BORNE, n_events // 2):
        raise Unavailable(
            f"the model fails on {failed} of {n_events} events; promote another version", Condition.MODEL
        )


def _report(
    outcome: PipelineResult, n_published: int, rejections: Rejections, now_s: float, laps: StageTimer
) -> BatchReport:
    """Say what telemetry is told; an event whose prediction is not published counts as rejected."""
    scored = outcome.scored
    return BatchReport(
        n_events=len(outcome.rows) + len(outcome.rejections),
        rejections=rejections.counts(),
        model_version=scored.model_version,
        probabilities=scored.probabilities[:n_published],
        n_positive=int(scored.decisions[:n_published].sum()),
        n_unknown_country=int((scored.features[:n_published, 0] < 0).sum()),
        ages_s=now_s - scored.events.numbers["occurred_at"][:n_published] / 1000,
        durations_s=laps.durations_s,
    )
