"""Measure the pipeline stage by stage, on generated events and without a broker."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from consumer.monitor.audit.lines import audit_lines
from consumer.pipeline.batch import RawBatch
from consumer.pipeline.decode import Decoder
from consumer.pipeline.pipeline import Pipeline
from consumer.pipeline.score import CountryNumbers, Model
from consumer.scorer.processing import BatchProcessor
from consumer.simulator.events import events
from model_store.countries import country_code
from model_store.synthetic import generate_students
from schemas.repository import BundledSchemas, engagement_event, purchase_prediction, single_object_header

STAGES: Final = ("decode", "validate", "score", "encode", "audit lines")
"""The scorer's stages in order, then the monitor's."""

_STUDENTS: Final = 5_000
_RUN_ID: Final = "0" * 20
_NOW_MS: Final = 1_790_000_000_000


@dataclass(frozen=True, slots=True)
class Timing:
    """The duration of each stage.

    Attributes:
        batch_events: The number of events per batch.
        repeats: The number of measured runs.
        microseconds: Microseconds per event by stage, the median over the runs.
    """

    batch_events: int
    repeats: int
    microseconds: dict[str, float]

    @property
    def scorer_us(self) -> float:
        """Microseconds per event of all scorer stages."""
        return sum(self.microseconds[stage] for stage in STAGES[:-1])

    def lines(self) -> Iterator[str]:
        """Format the result, one line per stage, then a summary."""
        for stage, took in self.microseconds.items():
            yield f"{stage:<12} {took:8.3f} µs/event"
        yield (
            f"a scorer processes {1e6 / self.scorer_us:,.0f} events/s on one core, without Kafka's share;"
            f" a monitor renders {1e6 / self.microseconds[STAGES[-1]]:,.0f} audit lines/s"
        )


@dataclass(frozen=True, slots=True)
class _Always:
    """Provides one model, and never reloads."""

    model: Model

    def current(self) -> Model:
        """Return the model."""
        return self.model


def pipeline_of(model: Model) -> Pipeline:
    """Return the pipeline with a model and without a schema registry."""
    return Pipeline(
        Decoder(engagement_event(), BundledSchemas(), keep_nulls=True),
        _Always(model),
        CountryNumbers(country_code),
        single_object_header(purchase_prediction().fingerprint),
    )


def time_core(pipeline: Pipeline, *, batch_events: int, repeats: int, broken_ratio: float) -> Timing:
    """Run the same batch repeatedly and time each stage.

    Args:
        pipeline: The pipeline.
        batch_events: The number of events in the batch, including the broken ones.
        repeats: The number of measured runs, after one run to warm up.
        broken_ratio: The number of broken events per good event.
    """
    raw = _batch(batch_events, broken_ratio)
    processor = BatchProcessor(pipeline, now_s=lambda: _NOW_MS / 1000)
    monitor = Decoder(purchase_prediction(), BundledSchemas())
    took: dict[str, list[float]] = {stage: [] for stage in STAGES}
    for _ in range(repeats + 1):
        processed = processor.process(raw)
        started_s = time.perf_counter()
        predictions, _ = monitor.decode(processed.predictions)
        n = len(processed.predictions)
        audit_lines(
            predictions, source_topic="events", output_topic="out", partitions=[0] * n, offsets=range(n)
        )
        durations_s = {**processed.durations_s, STAGES[-1]: time.perf_counter() - started_s}
        for stage in STAGES:
            took[stage].append(durations_s[stage])
    per_event = {stage: statistics.median(all_s[1:]) / batch_events * 1e6 for stage, all_s in took.items()}
    return Timing(batch_events, repeats, per_event)


def _batch(n: int, broken_ratio: float) -> RawBatch:
    """Return generated events as one polled batch."""
    source = events(
        generate_students(_STUDENTS),
        count=n,
        broken_ratio=broken_ratio,
        run_id=_RUN_ID,
        now_ms=lambda: _NOW_MS,
    )
    batch = list(itertools.islice(source, n))
    return RawBatch(
        topic="events",
        partitions=[0] * n,
        offsets=range(n),
        keys=[event.key for event in batch],
        values=[event.value for event in batch],
        timestamps_ms=lambda rows: [_NOW_MS] * len(rows),
        headers=lambda rows: [[] for _ in rows],
    )
