"""Watches what predictions do not tell: how far the scorers are, and what they reject.

A thread of its own, because Kafka is asked and may not answer: neither the audit log nor a reader of the
page waits for it. What cannot be told is said to be unknown; it is no condition of the monitor's.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog

from consumer.errors import ServiceError, Unavailable
from consumer.kafka.admin import GroupLag, GroupProgress, TopicProbe
from consumer.kafka.reader import CommittedTail
from consumer.monitor.rejections import RecentRejection, RejectionLog
from consumer.runtime.readiness import Readiness

log = structlog.get_logger(__name__)

_LOOK_EVERY_S: Final = 2.0
_TRY_AGAIN_S: Final = 5.0
_RATE_OVER_S: Final = 10.0
_STALE_S: Final = 6.0
"""A look older than this says nothing of now: Kafka may take longer to fail than to answer."""
_MAX_RECORDS: Final = 1000
_MAX_WAIT_S: Final = 0.5
_LETTERS_BEFORE: Final = 20
"""Dead letters of each partition that are shown though they are older than we are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSnapshot:
    """How the stream stands.

    Attributes:
        lag_events: events that are not decided yet; ``None`` if it cannot be told.
        incoming_per_s: events that come in; likewise.
        decided_per_s: events that are decided; likewise.
        partitions: of the events topic.
        progress_problem: why these cannot be told; empty if they can.
        rejections: dead letters by code, since we began.
        last: the last dead letters, newest first.
        rejections_problem: why dead letters cannot be read; empty if they can.
    """

    lag_events: int | None = None
    incoming_per_s: float | None = None
    decided_per_s: float | None = None
    partitions: int = 0
    progress_problem: str = "not asked yet"
    rejections: Mapping[str, int]
    last: Sequence[RecentRejection] = ()
    rejections_problem: str = "not read yet"


class StreamStatusPoller:
    """Looks at the events topic and the dead-letter topic.

    Args:
        client_config: of every client.
        group: the scorers' consumer group.
        events: topic name.
        dead_letters: topic name.
        clock_s: a monotonic clock, seconds.
    """

    def __init__(
        self,
        client_config: Mapping[str, Any],
        group: str,
        events: str,
        dead_letters: str,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client_config = client_config
        self._dead_letters = dead_letters
        self._clock_s = clock_s
        self._progress = GroupProgress(client_config, group, events)
        self._looks: deque[tuple[float, GroupLag]] = deque()
        self._progress_problem = "not asked yet"
        self._rejections = RejectionLog()
        self._rejections_problem = "not read yet"
        self._counted_from: Mapping[int, int] = {}
        self._next_offsets: Mapping[int, int] = {}
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._follow_progress, name="progress", daemon=True),
            threading.Thread(target=self._follow_rejections, name="rejections", daemon=True),
        ]

    def start(self) -> None:
        """Begin to watch."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop watching; does not wait for an answer of Kafka."""
        self._stopping.set()
        self._threads[1].join(4 * _MAX_WAIT_S)

    def snapshot(self) -> StreamSnapshot:
        """Return what is known; safe to call from any thread."""
        looks, problem = list(self._looks), self._progress_problem
        if looks and self._clock_s() - looks[-1][0] > _STALE_S:
            looks, problem = [], problem or "Kafka has not said for seconds how far the scorers are"
        (first_s, first), (last_s, last) = (looks[0], looks[-1]) if looks else ((0, None), (0, None))
        span_s = last_s - first_s
        return StreamSnapshot(
            lag_events=last.lag_events if last else None,
            incoming_per_s=_rate(first.end_offsets, last.end_offsets, span_s) if first and last else None,
            decided_per_s=_rate(first.next_offsets, last.next_offsets, span_s) if first and last else None,
            partitions=len(last.end_offsets) if last else 0,
            progress_problem=problem,
            rejections=self._rejections.counts,
            last=self._rejections.last,
            rejections_problem=self._rejections_problem,
        )

    def _follow_progress(self) -> None:
        while not self._stopping.wait(_LOOK_EVERY_S):
            try:
                progress = self._progress.read()
            except ServiceError as error:
                self._progress_problem = str(error)
                self._looks.clear()
                continue
            now_s = self._clock_s()
            self._looks.append((now_s, progress))
            while now_s - self._looks[0][0] > _RATE_OVER_S:
                self._looks.popleft()
            self._progress_problem = ""

    def _follow_rejections(self) -> None:
        while not self._stopping.is_set():
            conditions = Readiness(time.time)
            try:
                tail = CommittedTail(self._client_config, self._dead_letters, self._starts(), conditions)
                try:
                    self._read(tail, conditions)
                finally:
                    tail.close()
            except ServiceError as error:
                self._rejections_problem = str(error)
                if not isinstance(error, Unavailable):  # a gap or a new topic: nothing to go on from
                    self._next_offsets = {}
                self._stopping.wait(_TRY_AGAIN_S)

    def _starts(self) -> Mapping[int, int]:
        """Return where to begin: a little before the end, unless we were reading already."""
        if self._next_offsets:
            return self._next_offsets
        probe = TopicProbe(self._client_config, self._dead_letters)
        partitions = probe.facts().partitions
        ends, firsts = probe.end_offsets(partitions), probe.first_offsets(partitions)
        self._counted_from = ends
        return {part: max(firsts[part], end - _LETTERS_BEFORE) for part, end in ends.items()}

    def _read(self, tail: CommittedTail, conditions: Readiness) -> None:
        begin = self._counted_from
        while not self._stopping.is_set():
            batch = tail.poll(_MAX_RECORDS, _MAX_WAIT_S)
            wrong = [condition.reason for condition in conditions.active().values()]
            self._rejections_problem = "; ".join(wrong)
            if batch is not None:
                at = zip(batch.partitions.tolist(), batch.offsets.tolist(), strict=True)
                self._rejections.add(batch.values, counted=[offset >= begin.get(p, 0) for p, offset in at])
            self._next_offsets = tail.next_offsets


def _rate(first: Mapping[int, int], last: Mapping[int, int], span_s: float) -> float | None:
    """Return by how much offsets have grown per second, ``None`` without two looks."""
    if span_s <= 0:
        return None
    return sum(offset - first.get(part, 0) for part, offset in last.items()) / span_s
