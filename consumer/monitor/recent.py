"""Keep the latest predictions and rejections, with counts, rates and latencies. Pure."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import orjson

from consumer import timestamps
from consumer.columnar.arrays import FloatArray, IntArray
from consumer.monitor.audit.lines import audit_lines
from consumer.monitor.audit.removals import Removals
from consumer.monitor.loop import CommittedBatch
from consumer.pipeline.batch import RecordBatch
from consumer.pipeline.dead_letter import summarize_detail
from consumer.pipeline.rejections import Code

HISTORY_S: Final = 120
RATE_OVER_S: Final = 10
ROWS_SHOWN: Final = 10
REJECTIONS_KEPT: Final = 1000
"""The number of dead letters that can be searched."""

_MAX_CHARACTERS: Final = 500
ROWS_TIMED: Final = 1000
_OTHER_CODE: Final = "other"
_CODES: Final = frozenset(Code)


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Latencies of the last predictions.

    Attributes:
        to_score_s: Median and 95 % quantile from ``occurred_at`` to the score, seconds.
        to_log_s: Median and 95 % quantile from the score to the audit log, seconds.
        predictions: The number of predictions measured.
    """

    to_score_s: tuple[float, float]
    to_log_s: tuple[float, float]
    predictions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiTraffic:
    """The predictions for requests to the synchronous API.

    Attributes:
        total: Predictions since the monitor started.
        per_second: Predictions in each of the last seconds, oldest first, without the current second.
        last_s: When the monitor saw the last one, seconds since the epoch; ``None`` before the first.
    """

    total: int = 0
    per_second: list[int] = field(default_factory=lambda: [0] * HISTORY_S)
    last_s: float | None = None

    @property
    def rate(self) -> float:
        """Predictions per second over the last ten seconds."""
        return sum(self.per_second[-RATE_OVER_S:]) / RATE_OVER_S


@dataclass(frozen=True, slots=True, kw_only=True)
class RecentSnapshot:
    """The latest predictions.

    Attributes:
        since_s: Start of counting, seconds since the epoch.
        total: Predictions since then.
        per_second: Predictions in each of the last seconds, oldest first, without the current second.
        last: The last audit log lines, parsed, newest first.
        latency: The latencies; ``None`` before the first prediction.
    api: The predictions among them that the API made.
    """

    since_s: float
    total: int
    per_second: list[int]
    last: list[dict[str, Any]] = field(repr=False)
    latency: Latency | None
    api: ApiTraffic = field(default_factory=ApiTraffic)

    @property
    def rate(self) -> float:
        """Predictions per second over the last ten seconds."""
        return sum(self.per_second[-RATE_OVER_S:]) / RATE_OVER_S


@dataclass(frozen=True, slots=True)
class _BatchEnd:
    """The last predictions of a batch, with the coordinates of all its records."""

    predictions: RecordBatch
    partitions: IntArray
    offsets: IntArray


class RecentPredictions:
    """A view of the committed predictions that keeps the latest ones.

    Args:
        source_topic: The events topic.
        output_topic: The predictions topic.
        now_s: Wall clock, seconds since the epoch.
    """

    def __init__(self, source_topic: str, output_topic: str, now_s: Callable[[], float] = time.time) -> None:
        self._source_topic = source_topic
        self._output_topic = output_topic
        self._now_s = now_s
        self._since_s = now_s()
        self._total = 0
        self._seconds: deque[tuple[int, int]] = deque(maxlen=HISTORY_S + 1)
        self._api_total = 0
        self._api_last_s: float | None = None
        self._api_seconds: deque[tuple[int, int]] = deque(maxlen=HISTORY_S + 1)
        self._batches: tuple[_BatchEnd, ...] = ()
        self._timed: tuple[FloatArray, FloatArray] = (np.empty(0), np.empty(0))

    def observe(self, batch: CommittedBatch) -> None:
        """Add a batch that is in the audit log."""
        m = len(batch.predictions)
        if m == 0:
            return
        now_s = self._now_s()
        self._total += m
        _count_second(self._seconds, int(now_s), m)
        by_api = int(np.count_nonzero(batch.predictions.numbers["source_offset"] < 0))
        if by_api:
            self._api_total += by_api
            self._api_last_s = now_s
            _count_second(self._api_seconds, int(now_s), by_api)
        newest = _BatchEnd(
            batch.predictions.select_rows(np.arange(max(0, m - ROWS_SHOWN), m)),
            batch.records.partitions,
            batch.records.offsets,
        )
        older = self._batches[: ROWS_SHOWN - 1] if m < ROWS_SHOWN else ()
        self._batches = (newest, *older)
        self._timed = _timed(batch.predictions, now_s, self._timed)

    def snapshot(self) -> RecentSnapshot:
        """Return the present state. Thread-safe."""
        return RecentSnapshot(
            since_s=self._since_s,
            total=self._total,
            per_second=_per_second(self._seconds, int(self._now_s())),
            last=self._last(),
            latency=_latency(*self._timed),
            api=ApiTraffic(
                total=self._api_total,
                per_second=_per_second(self._api_seconds, int(self._now_s())),
                last_s=self._api_last_s,
            ),
        )

    def _last(self) -> list[dict[str, Any]]:
        """Format the last lines, newest first. Only done on request."""
        last: list[dict[str, Any]] = []
        for end in self._batches:
            lines = audit_lines(
                end.predictions,
                source_topic=self._source_topic,
                output_topic=self._output_topic,
                partitions=end.partitions,
                offsets=end.offsets,
            )
            last += [orjson.loads(line) for line in reversed(lines.splitlines())]
            if len(last) >= ROWS_SHOWN:
                break
        return last[:ROWS_SHOWN]


def _count_second(seconds: deque[tuple[int, int]], second: int, n: int) -> None:
    """Add a count to the current second."""
    before = seconds.pop()[1] if seconds and seconds[-1][0] == second else 0
    seconds.append((second, before + n))


def _per_second(seconds: deque[tuple[int, int]], second: int) -> list[int]:
    """Return the counts of the last seconds, oldest first, without the current second."""
    counts = dict(list(seconds))
    return [counts.get(second - ago, 0) for ago in range(HISTORY_S, 0, -1)]


def _timed(
    predictions: RecordBatch, now_s: float, previous: tuple[FloatArray, FloatArray]
) -> tuple[FloatArray, FloatArray]:
    """Return the latencies of the last predictions to the score and to the log, float64 (k,) seconds each."""
    occurred_s, scored_s = (
        predictions.numbers[name][-ROWS_TIMED:].astype(np.float64) / 1000
        for name in ("occurred_at", "scored_at")
    )
    new = (scored_s - occurred_s, now_s - scored_s)
    to_score, to_log = (
        np.concatenate([old, added])[-ROWS_TIMED:] for old, added in zip(previous, new, strict=True)
    )
    return to_score, to_log


def _latency(to_score: FloatArray, to_log: FloatArray) -> Latency | None:
    if not len(to_score):
        return None
    median, high = np.quantile(to_score, [0.5, 0.95]).tolist()
    log_median, log_high = np.quantile(to_log, [0.5, 0.95]).tolist()
    return Latency(to_score_s=(median, high), to_log_s=(log_median, log_high), predictions=len(to_score))


@dataclass(frozen=True, slots=True, kw_only=True)
class RecentRejection:
    """A dead letter.

    Attributes:
        partition: The partition of the dead-letter topic.
        offset: The offset in that partition.
        rejected_at: The time of the rejection, RFC 3339.
        code: The code, or ``other`` if the code is unknown.
        detail: The detail in one line.
        event_id: The event's id, if the event could be decoded.
        student_id: The event's student id, else the record key.
        source: Topic, partition and offset of the event: ``topic[0]@17``.
    """

    partition: int
    offset: int
    rejected_at: str
    code: str
    detail: str
    event_id: str
    student_id: str
    source: str


class RejectionLog:
    """Counts dead letters by code and keeps the latest ones.

    Args:
        removals: Says which students were erased; their dead letters are not kept.
        now_s: Wall clock, seconds since the epoch.
    """

    def __init__(self, removals: Removals | None = None, now_s: Callable[[], float] = time.time) -> None:
        self._removals = removals or Removals()
        self._now_s = now_s
        self._counts: Counter[str] = Counter()
        self._seconds: deque[tuple[int, int]] = deque(maxlen=HISTORY_S + 1)
        self._kept: list[RecentRejection] = []

    def add(
        self,
        values: Sequence[bytes | None],
        positions: Sequence[tuple[int, int]],
        *,
        counted: Sequence[bool],
    ) -> None:
        """Add dead letters.

        Args:
            values: The record values, in order.
            positions: The partition and offset of each.
            counted: Whether each one counts. Dead letters from before the start are only listed.
        """
        rejections = []
        for value, position, counts in zip(values, positions, counted, strict=True):
            if value is None:
                continue
            rejection = _parse_rejection(value, *position)
            if not self._is_erased(rejection):
                rejections.append(rejection)
            if counts:
                self._counts[rejection.code] += 1
        self._kept = [*reversed(rejections), *self._kept][:REJECTIONS_KEPT]
        _count_second(self._seconds, int(self._now_s()), sum(counted))

    def _is_erased(self, rejection: RecentRejection) -> bool:
        try:
            at_ms = int(timestamps.parse(rejection.rejected_at).timestamp() * 1000)
        except ValueError:
            at_ms = 0  # another program's record: from before any erasure, to be safe
        return self._removals.hides(rejection.student_id.encode(), at_ms)

    @property
    def counts(self) -> Mapping[str, int]:
        """The number of dead letters by code, the most frequent code first."""
        return dict(self._counts.copy().most_common())

    @property
    def recent(self) -> int:
        """The number of dead letters in the last seconds, without the current second."""
        return sum(_per_second(self._seconds, int(self._now_s())))

    @property
    def last(self) -> Sequence[RecentRejection]:
        """The latest dead letters, newest first."""
        return self._kept[:ROWS_SHOWN]

    def find(self, text: str) -> Sequence[RecentRejection]:
        """Return the kept dead letters with this event id or student id, newest first."""
        wanted = _shortened(text)
        return [kept for kept in self._kept if wanted in (kept.event_id, kept.student_id)]


def _parse_rejection(value: bytes, partition: int, offset: int) -> RecentRejection:
    """Parse a dead letter. Other records are parsed as far as possible."""
    dead_letter = _mapping(_parsed(value))
    source, event = _mapping(dead_letter.get("source")), _mapping(dead_letter.get("event"))
    code = dead_letter.get("code")
    return RecentRejection(
        partition=partition,
        offset=offset,
        rejected_at=_shortened(dead_letter.get("rejected_at", "")),
        code=code if isinstance(code, str) and code in _CODES else _OTHER_CODE,
        detail=_shortened(_detail(dead_letter.get("detail"))),
        event_id=_shortened(event.get("event_id", "")),
        student_id=_shortened(event.get("student_id", source.get("key") or "")),
        source=_shortened(
            f"{source.get('topic', '?')}[{source.get('partition', '?')}]@{source.get('offset', '?')}"
        ),
    )


def _shortened(value: Any) -> str:
    """Return at most 500 characters of a text: a rejected event may have an id of a megabyte."""
    text = str(value)
    return text if len(text) <= _MAX_CHARACTERS else f"{text[:_MAX_CHARACTERS]}…"


def _parsed(value: bytes) -> Any:
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError:
        return None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _detail(detail: Any) -> str:
    try:
        return summarize_detail(detail) if isinstance(detail, str | list) else ""
    except (KeyError, IndexError, TypeError):
        return str(detail)
