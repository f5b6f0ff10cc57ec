"""Poll the scorers' progress and the dead letters from Kafka.

Two background threads ask Kafka, which may not answer, so neither the audit log nor a reader of the dashboard
waits for it. Unknown values are ``None``; they do not make the monitor unready.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from consumer.errors import ServiceError, Unavailable
from consumer.kafka.admin import ClusterAdmin, GroupLag, GroupMember
from consumer.kafka.lag import LagReader
from consumer.kafka.reader import TopicFollower
from consumer.monitor.audit.removals import Removals
from consumer.monitor.recent import RecentRejection, RejectionLog
from consumer.runtime.readiness import Readiness

_POLL_EVERY_S: Final = 2.0
_RETRY_S: Final = 5.0
_RATE_OVER_S: Final = 10.0
_TREND_OVER_S: Final = 60.0
"""The lag counts as growing if it grows over this time."""
_TOLERATED_DRAIN_S: Final = 60.0
"""A growing lag that the scorers can work off within this time is not a problem yet."""
_IDLE_AFTER_S: Final = 60.0
_STALE_S: Final = 6.0
"""Progress that is older than this is unknown: a failed request may take much longer than an answer."""
_MAX_RECORDS: Final = 1000
_MAX_WAIT_S: Final = 0.5
_EARLIER_DEAD_LETTERS: Final = 20
"""Number of dead letters per partition from before the start that are listed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSnapshot:
    """The state of the stream. Times are seconds since the epoch.

    Attributes:
        lag_events: Events that no scorer has decided yet; ``None`` if unknown, like all values below.
        lag_by_partition: The same by partition of the events topic; empty if unknown.
        incoming_per_s: Events produced per second.
        decided_per_s: Events decided per second.
        members: Number of members of the scorers' consumer group.
        group: The members of the group.
        no_members_since_s: When the group lost its last member; ``None`` if it has members.
        stuck_since_s: When the stream got stuck: events wait and none is decided; ``None`` if it is not
            stuck.
        growing_since_s: When the lag began to grow faster than the scorers work it off; ``None`` if it does
            not.
        idle_since_s: When the stream became idle: no event comes in and none waits; ``None`` if it is not
            idle.
        drain_s: Seconds that the scorers need for waiting events; ``None`` if none is decided.
        progress_problem: Why the values above are unknown; empty if they are known.
        rejections: Dead letters by code since the monitor started.
        recent_rejections: Dead letters in the last two minutes.
        last: The latest dead letters, newest first.
        rejections_problem: Why dead letters cannot be read; empty if they can.
    """

    lag_events: int | None = None
    lag_by_partition: Mapping[int, int] = field(default_factory=dict)
    incoming_per_s: float | None = None
    decided_per_s: float | None = None
    members: int | None = None
    group: Sequence[GroupMember] = ()
    no_members_since_s: float | None = None
    stuck_since_s: float | None = None
    growing_since_s: float | None = None
    idle_since_s: float | None = None
    drain_s: float | None = None
    progress_problem: str = "Kafka was not asked yet"
    rejections: Mapping[str, int] = field(default_factory=dict)
    recent_rejections: int = 0
    last: Sequence[RecentRejection] = ()
    rejections_problem: str = "the dead letters were not read yet"


class Progress:
    """Tracks the progress of the consumer group, and how long each state has lasted. Pure.

    Args:
        now_s: The start, seconds since the epoch.
    """

    def __init__(self, now_s: float) -> None:
        self._samples: deque[tuple[float, GroupLag]] = deque()
        self._last_event_s = self._last_decided_s = now_s
        self._no_members_since_s: float | None = None
        self._growing_since_s: float | None = None

    def update(self, now_s: float, lag: GroupLag, members: int) -> StreamSnapshot:
        """Add a new sample and return the progress.

        Args:
            now_s: The time of the sample, seconds since the epoch.
            lag: The group's offsets.
            members: The number of members of the group.
        """
        if self._samples:
            _, before = self._samples[-1]
            if before.end_offsets != lag.end_offsets:
                self._last_event_s = now_s
            if before.next_offsets != lag.next_offsets or not before.lag_events:
                self._last_decided_s = now_s
        self._samples.append((now_s, lag))
        while now_s - self._samples[0][0] > _TREND_OVER_S:
            self._samples.popleft()
        recent = [sample for sample in self._samples if now_s - sample[0] <= _RATE_OVER_S]
        incoming, decided = _rates(recent[0], recent[-1])
        drain_s = lag.lag_events / decided if decided else None
        self._no_members_since_s = _since(self._no_members_since_s, now_s, holds=not members)
        growing = self._is_growing(lag, drain_s)
        self._growing_since_s = _since(self._growing_since_s, now_s, holds=growing)
        idle = not lag.lag_events and now_s - self._last_event_s >= _IDLE_AFTER_S
        return StreamSnapshot(
            lag_events=lag.lag_events,
            lag_by_partition=lag.by_partition,
            incoming_per_s=incoming,
            decided_per_s=decided,
            members=members,
            no_members_since_s=self._no_members_since_s,
            stuck_since_s=self._last_decided_s if lag.lag_events else None,
            growing_since_s=self._growing_since_s,
            idle_since_s=self._last_event_s if idle else None,
            drain_s=drain_s,
            progress_problem="",
        )

    def _is_growing(self, lag: GroupLag, drain_s: float | None) -> bool:
        """Return whether the lag grew in each half of the last minute, and cannot be worked off soon."""
        (first_s, first), (last_s, _) = self._samples[0], self._samples[-1]
        if last_s - first_s < _TREND_OVER_S - 2 * _POLL_EVERY_S:
            return False
        middle = next(s for at_s, s in self._samples if at_s - first_s >= (last_s - first_s) / 2)
        grows = first.lag_events < middle.lag_events < lag.lag_events
        return grows and (drain_s is None or drain_s > _TOLERATED_DRAIN_S)


class StreamStatusPoller:
    """Polls the consumer group's progress and reads the dead-letter topic.

    Args:
        client_config: Kafka client configuration.
        group: The scorers' consumer group.
        events: Name of the events topic.
        dead_letters: Name of the dead-letter topic.
        removals: Says which students were erased.
        now_s: Wall clock, seconds since the epoch.
    """

    def __init__(
        self,
        client_config: Mapping[str, Any],
        group: str,
        events: str,
        dead_letters: str,
        removals: Removals | None = None,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._client_config = client_config
        self._group = group
        self._events = events
        self._dead_letters = dead_letters
        self._now_s = now_s
        self._admin = ClusterAdmin(client_config)
        self._latest: tuple[float, StreamSnapshot] = (now_s(), StreamSnapshot())
        self._rejections = RejectionLog(removals, now_s)
        self._rejections_problem = StreamSnapshot().rejections_problem
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
        """Return the present state. Thread-safe."""
        at_s, progress = self._latest
        if not progress.progress_problem and self._now_s() - at_s > _STALE_S:
            progress = StreamSnapshot(progress_problem="Kafka did not answer in time")
        return replace(
            progress,
            rejections=self._rejections.counts,
            recent_rejections=self._rejections.recent,
            last=self._rejections.last,
            rejections_problem=self._rejections_problem,
        )

    def find_rejections(self, text: str) -> Sequence[RecentRejection]:
        """Return the latest dead letters with this event id or student id, newest first. Thread-safe."""
        return self._rejections.find(text)

    def _follow_progress(self) -> None:
        progress = Progress(self._now_s())
        reader = LagReader(self._client_config, self._group, self._events)
        while not self._stopping.wait(_POLL_EVERY_S):
            try:
                lag = reader.read()
                members = self._admin.describe_group(self._group).members
            except ServiceError as error:
                self._latest = (self._now_s(), StreamSnapshot(progress_problem=str(error)))
                continue
            now_s = self._now_s()
            snapshot = progress.update(now_s, lag, len(members))
            self._latest = (now_s, replace(snapshot, group=members))

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
                if not isinstance(error, Unavailable):  # a gap or a new topic, so start over
                    self._next_offsets = {}
                self._stopping.wait(_RETRY_S)

    def _start_offsets(self) -> Mapping[int, int]:
        """Return the offsets to continue from; at first, a little before the end of the topic."""
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
                positions = list(zip(batch.partitions.tolist(), batch.offsets.tolist(), strict=True))
                counted = [offset >= count_from.get(p, 0) for p, offset in positions]
                self._rejections.add(batch.values, positions, counted=counted)
            self._next_offsets = tail.next_offsets


def _since(since_s: float | None, now_s: float, *, holds: bool) -> float | None:
    """Return the start of a state that holds now, given its start if it held before."""
    if not holds:
        return None
    return now_s if since_s is None else since_s


def _rates(first: tuple[float, GroupLag], last: tuple[float, GroupLag]) -> tuple[float | None, float | None]:
    """Return the events produced and decided per second between two samples; ``None`` for a single sample."""
    span_s = last[0] - first[0]
    if span_s <= 0:
        return None, None
    incoming = _growth(first[1].end_offsets, last[1].end_offsets) / span_s
    return incoming, _growth(first[1].next_offsets, last[1].next_offsets) / span_s


def _growth(first: Mapping[int, int], last: Mapping[int, int]) -> int:
    return sum(offset - first.get(partition, 0) for partition, offset in last.items())
