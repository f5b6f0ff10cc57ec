"""What has come in lately: how many predictions, how late, and the last of them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import orjson

from consumer.columnar.arrays import FloatArray, IntArray
from consumer.monitor.audit.lines import audit_lines
from consumer.monitor.loop import CommittedBatch
from consumer.pipeline.batch import RecordBatch

HISTORY_S: Final = 120
RATE_OVER_S: Final = 10
ROWS_SHOWN: Final = 10
ROWS_TIMED: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """How late predictions were, seconds; of the last so many.

    Attributes:
        to_score_s: median and 95 % quantile from an event's ``occurred_at`` to its score.
        to_log_s: likewise, from the score to its line in the audit log.
        predictions: how many.
    """

    to_score_s: tuple[float, float]
    to_log_s: tuple[float, float]
    predictions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RecentSnapshot:
    """What was predicted lately.

    Attributes:
        since_s: since when the total is counted, seconds since the epoch.
        total: predictions since then.
        per_second: predictions of each of the last seconds, oldest first, the current one left out.
        last: the last lines of the audit log as objects, newest first.
        latency: ``None`` before the first prediction.
    """

    since_s: float
    total: int
    per_second: list[int]
    last: list[dict[str, Any]] = field(repr=False)
    latency: Latency | None

    @property
    def rate(self) -> float:
        """Predictions per second, over the last few seconds."""
        return sum(self.per_second[-RATE_OVER_S:]) / RATE_OVER_S


@dataclass(frozen=True, slots=True)
class _Tail:
    """The last predictions of a batch, and where each record of that batch stands in Kafka."""

    predictions: RecordBatch
    partitions: IntArray
    offsets: IntArray


class RecentPredictions:
    """A view of the committed predictions that keeps the last of them.

    Args:
        source_topic: the topic of the events.
        output_topic: the topic of the predictions.
        now_s: the wall clock, seconds since the epoch.
    """

    def __init__(self, source_topic: str, output_topic: str, now_s: Callable[[], float] = time.time) -> None:
        self._source_topic = source_topic
        self._output_topic = output_topic
        self._now_s = now_s
        self._since_s = now_s()
        self._total = 0
        self._seconds: deque[tuple[int, int]] = deque(maxlen=HISTORY_S + 1)
        self._batches: tuple[_Tail, ...] = ()
        self._timed: tuple[FloatArray, FloatArray] = (np.empty(0), np.empty(0))

    def show(self, batch: CommittedBatch) -> None:
        """Take in predictions that are in the audit log."""
        m = len(batch.predictions)
        if m == 0:
            return
        now_s = self._now_s()
        self._total += m
        second, before = int(now_s), 0
        if self._seconds and self._seconds[-1][0] == second:
            before = self._seconds.pop()[1]
        self._seconds.append((second, before + m))
        newest = _Tail(
            batch.predictions.select_rows(np.arange(max(0, m - ROWS_SHOWN), m)),
            batch.records.partitions,
            batch.records.offsets,
        )
        older = self._batches[: ROWS_SHOWN - 1] if m < ROWS_SHOWN else ()
        self._batches = (newest, *older)
        self._timed = _timed(batch.predictions, now_s, self._timed)

    def snapshot(self) -> RecentSnapshot:
        """Return what is known; safe to call from any thread."""
        now = int(self._now_s())
        counts = dict(list(self._seconds))
        return RecentSnapshot(
            since_s=self._since_s,
            total=self._total,
            per_second=[counts.get(second, 0) for second in range(now - HISTORY_S, now)],
            last=self._last(),
            latency=_latency(*self._timed),
        )

    def _last(self) -> list[dict[str, Any]]:
        """Return the last lines, newest first; made only when somebody looks."""
        last: list[dict[str, Any]] = []
        for tail in self._batches:
            lines = audit_lines(
                tail.predictions,
                source_topic=self._source_topic,
                output_topic=self._output_topic,
                partitions=tail.partitions,
                offsets=tail.offsets,
            )
            last += [orjson.loads(line) for line in reversed(lines.splitlines())]
            if len(last) >= ROWS_SHOWN:
                break
        return last[:ROWS_SHOWN]


def _timed(
    predictions: RecordBatch, now_s: float, before: tuple[FloatArray, FloatArray]
) -> tuple[FloatArray, FloatArray]:
    """Return how late the last predictions were, float64 (k,) seconds each: to the score, to the log."""
    occurred_s, scored_s = (
        predictions.numbers[name][-ROWS_TIMED:].astype(np.float64) / 1000
        for name in ("occurred_at", "scored_at")
    )
    new = (scored_s - occurred_s, now_s - scored_s)
    to_score, to_log = (
        np.concatenate([old, added])[-ROWS_TIMED:] for old, added in zip(before, new, strict=True)
    )
    return to_score, to_log


def _latency(to_score: FloatArray, to_log: FloatArray) -> Latency | None:
    if not len(to_score):
        return None
    median, high = np.quantile(to_score, [0.5, 0.95]).tolist()
    log_median, log_high = np.quantile(to_log, [0.5, 0.95]).tolist()
    return Latency(to_score_s=(median, high), to_log_s=(log_median, log_high), predictions=len(to_score))
