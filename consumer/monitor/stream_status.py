"""The scorers' progress and the dead letters, read from Kafka beside the predictions.

Two background threads ask Kafka, which may not answer: neither the audit log nor a reader of the dashboard
waits for them. Unknown values are ``None``; they do not make the monitor unready.
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
from consumer.kafka.admin import ClusterAdmin, GroupLag
from consumer.kafka.reader import TopicFollower
from consumer.monitor.recent import RecentRejection, RejectionLog
from consumer.runtime.readiness import Readiness

log = structlog.get_logger(__name__)

_POLL_EVERY_S: Final = 2.0
_RETRY_S: Final = 5.0
_RATE_OVER_S: Final = 10.0
_STALE_S: Final = 6.0
"""Age above which progress is unknown: Kafka may take longer to fail than to answer."""
_MAX_RECORDS: Final = 1000
_MAX_WAIT_S: Final = 0.5
_EARLIER_DEAD_LETTERS: Final = 20
"""Dead letters per partition from before the start that are listed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSnapshot:
    """The state of the stream.

    Attributes:
        lag_events: Events that no scorer has decided yet; ``None`` if unknown.
        incoming_per_s: Events produced per second; ``None`` if unknown.
        decided_per_s: Events decided per second; ``None`` if unknown.
        partitions: Number of partitions of the events topic.
        progress_problem: Why the values above are unknown; empty if they are known.
        rejections: Dead letters by code since the monitor started.
        last: The latest dead letters, newest first.
        rejections_problem: Why dead letters cannot be read; empty if they can.
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
    """Polls the consumer group's progress and reads the dead-letter topic.

    Args:
        client_config: Kafka client configuration.
        group: The scorers' consumer group.
        events: Name of the events topic.
        dead_letters: Name of the dead-letter topic.
        clock_s: Monotonic clock, seconds.
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
        self._admin = ClusterAdmin(client_config)
        self._group = group
        self._events = events
        self._samples: deque[tuple[float, GroupLag]] = deque()
        self._progress_problem = "not asked yet"
        self._rejections = RejectionLog()
        self._rejections_problem = "not read yet"
        self._count_from: Mapping[int, int] = {}
        self._next_offsets: Mapping[int, int] = {}
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._follow_progress, name="progress", daemon=True),
            threading.Thread(target=self._follow_rejections, name="rejections", daemon=True),
        ]

    def start(self) -> None:
        """Start both threads."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop both threads, without waiting for an answer from Kafka."""
        self._stopping.set()
        self._threads[1].join(4 * _MAX_WAIT_S)

    def snapshot(self) -> StreamSnapshot:
        """Return what is known now. Thread-safe."""
        samples, problem = list(self._samples), self._progress_problem
        if samples and self._clock_s() - samples[-1][0] > _STALE_S:
            samples, problem = [], problem or "Kafka did not answer in time"
        (first_s, first), (last_s, last) = (samples[0], samples[-1]) if samples else ((0, None), (0, None))
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
        while not self._stopping.wait(_POLL_EVERY_S):
            try:
                progress = self._admin.lag(self._group, self._events)
            except ServiceError as error:
                self._progress_problem = str(error)
                self._samples.clear()
                continue
            now_s = self._clock_s()
            self._samples.append((now_s, progress))
            while now_s - self._samples[0][0] > _RATE_OVER_S:
                self._samples.popleft()
            self._progress_problem = ""

    def _follow_rejections(self) -> None:
        while not self._stopping.is_set():
            readiness = Readiness(time.time)
            try:
                tail = TopicFollower(
                    self._client_config, self._dead_letters, self._start_offsets(), readiness
                )
                try:
                    self._read(tail, readiness)
                finally:
                    tail.close()
            except ServiceError as error:
                self._rejections_problem = str(error)
                if not isinstance(error, Unavailable):  # a gap or a new topic: start over
                    self._next_offsets = {}
                self._stopping.wait(_RETRY_S)

    def _start_offsets(self) -> Mapping[int, int]:
        """Return where to continue; at first, a little before the end of the topic."""
        if self._next_offsets:
            return self._next_offsets
        topic = self._dead_letters
        partitions = range(self._admin.describe_topic(topic).partitions)
        ends = self._admin.end_offsets(topic, partitions)
        firsts = self._admin.first_offsets(topic, partitions)
        self._count_from = ends
        return {part: max(firsts[part], end - _EARLIER_DEAD_LETTERS) for part, end in ends.items()}

    def _read(self, tail: TopicFollower, readiness: Readiness) -> None:
        count_from = self._count_from
        while not self._stopping.is_set():
            batch = tail.poll(_MAX_RECORDS, _MAX_WAIT_S)
            reasons = [condition.reason for condition in readiness.active().values()]
            self._rejections_problem = "; ".join(reasons)
            if batch is not None:
                coordinates = zip(batch.partitions.tolist(), batch.offsets.tolist(), strict=True)
                counted = [offset >= count_from.get(p, 0) for p, offset in coordinates]
                self._rejections.add(batch.values, counted=counted)
            self._next_offsets = tail.next_offsets


def _rate(first: Mapping[int, int], last: Mapping[int, int], span_s: float) -> float | None:
    """Return by how much the offsets have grown per second; ``None`` with a single sample."""
    if span_s <= 0:
        return None
    return sum(offset - first.get(part, 0) for part, offset in last.items()) / span_s
