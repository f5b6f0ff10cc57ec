"""The stages of the core alone, without Kafka: microseconds per event."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from consumer.monitor.audit.lines import audit_lines
from consumer.ops.bench import pipeline_of
from consumer.pipeline.batch import RawBatch
from consumer.pipeline.dead_letter import dead_letters
from consumer.pipeline.decode import Decoder
from consumer.runtime.memory import tune_gc_and_malloc
from consumer.scorer.processing import StageTimer
from consumer.simulator.events import events
from model_store.store import ModelStore
from model_store.synthetic import generate_students
from schemas.repository import BundledSchemas, purchase_prediction

BATCH_EVENTS = 10_000
REPEATS = 31
_NOW_MS = 1_700_000_000_000
_LETTER_MAX_BYTES = 1_048_588


def stages_us(store: ModelStore) -> dict[str, float]:
    """Run the core on batches of good and of broken events, and on the predictions that came of them.

    Returns:
        Median microseconds per event by stage: ``decode``, ``validate``, ``score``, ``encode`` of good
        events; ``reject`` (decode and validate) and ``dead letter`` of broken ones, every kind in turn;
        ``monitor: decode`` and ``monitor: lines`` per prediction.
    """
    good, broken = _batch(broken_ratio=0.0), _batch(broken_ratio=float(BATCH_EVENTS))
    pipeline = pipeline_of(store.load("champion"))
    predictions_decoder = Decoder(purchase_prediction(), BundledSchemas())
    timings: dict[str, list[float]] = defaultdict(list)
    tune_gc_and_malloc()  # as the roles do
    for _ in range(REPEATS):
        laps = StageTimer()
        outcome = pipeline.run(good, scored_at_ms=_NOW_MS, on_stage_end=laps)
        _note(timings, laps, len(good))

        laps = StageTimer()
        rejections = pipeline.run(broken, scored_at_ms=_NOW_MS).rejections
        laps("reject")
        dead_letters(rejections, broken, group="bench", rejected_at_ms=_NOW_MS, max_bytes=_LETTER_MAX_BYTES)
        laps("dead letter")
        _note(timings, laps, len(broken))

        laps = StageTimer()
        predictions, _ = predictions_decoder.decode(outcome.predictions)
        laps("monitor: decode")
        audit_lines(
            predictions,
            source_topic="events",
            output_topic="predictions",
            partitions=good.partitions,
            offsets=good.offsets,
        )
        laps("monitor: lines")
        _note(timings, laps, len(good))
    return {stage: statistics.median(values) for stage, values in timings.items()}


def _note(timings: dict[str, list[float]], laps: StageTimer, n_events: int) -> None:
    for stage, seconds in laps.durations_s.items():
        timings[stage].append(seconds / n_events * 1e6)


def _batch(broken_ratio: float) -> RawBatch:
    """Return a batch of good events, or, for a ratio above 0, of broken ones only."""
    students = generate_students(BATCH_EVENTS, seed=7)
    count = 1 if broken_ratio else BATCH_EVENTS
    sent = events(
        students,
        count=count,
        broken_ratio=broken_ratio,
        run_id="0" * 20,
        now_ms=lambda: time.time_ns() // 1_000_000,
    )
    chosen = [event for event in sent if (event.code is not None) == bool(broken_ratio)]
    n = len(chosen)
    return RawBatch(
        topic="events",
        partitions=_cycle(n),
        offsets=np.arange(n).tolist(),
        keys=[event.key for event in chosen],
        values=[event.value for event in chosen],
        timestamps_ms=lambda rows: [_NOW_MS] * len(rows),
        headers=lambda rows: [[] for _ in rows],
    )


def _cycle(n: int) -> Sequence[int]:
    return [i % 4 for i in range(n)]
