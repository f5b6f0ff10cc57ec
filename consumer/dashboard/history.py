"""How many records each topic got over the last hours, by the timestamps of its own records.

Kafka is asked for the offset at the edges of each bar; no record is read. So a week costs as much as an hour.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any, Final, Protocol

from consumer import timestamps
from consumer.dashboard.charts import history
from consumer.dashboard.rendering import number
from consumer.errors import StartupError
from consumer.kafka.admin import Topic
from consumer.settings import TopicSettings

HOURS: Final = (1, 6, 24, 168)
"""The spans that can be chosen."""
BARS: Final = 24
_MS_PER_HOUR: Final = 3_600_000


class OffsetAdmin(Protocol):
    """The questions that are put to Kafka; :class:`consumer.kafka.admin.ClusterAdmin` answers them."""

    def describe_topic(self, name: str) -> Topic:
        """Return the topic's partitions."""

    def end_offsets(self, topic: str, partitions: Iterable[int]) -> dict[int, int]:
        """Return the offset after the last record of each partition."""

    def offsets_since(self, topic: str, partitions: Iterable[int], time_ms: int) -> dict[int, int]:
        """Return the first offset with at least this timestamp, where there is one."""


class TopicHistory:
    """Counts records over time. Safe to use from several threads, one of which is served at a time.

    Args:
        connect: Returns a client that asks Kafka.
        topics: The names of the topics.
        now_s: Wall clock, seconds since the epoch.
    """

    def __init__(
        self,
        connect: Callable[[], OffsetAdmin],
        topics: TopicSettings,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._connect = connect
        self._topics = {
            "Events": topics.events,
            "Predictions": topics.predictions,
            "Dead letters": topics.dead_letters,
        }
        self._now_s = now_s
        self._lock = threading.Lock()

    def __call__(self, hours: int) -> dict[str, Any]:
        """Return what the page shows of the last hours.

        Args:
            hours: One of :data:`HOURS`.

        Raises:
            Unavailable: No broker answered in time.
        """
        until_ms = int(self._now_s() * 1000)
        span_ms = hours * _MS_PER_HOUR
        edges_ms = [until_ms - span_ms + span_ms * i // BARS for i in range(BARS + 1)]
        with self._lock:
            admin = self._connect()
            series = [self._series(admin, name, topic, edges_ms) for name, topic in self._topics.items()]
        return {
            "hours": hours,
            "choices": HOURS,
            "bar_s": span_ms / BARS / 1000,
            "since": timestamps.format_ms(edges_ms[0]),
            "until": timestamps.format_ms(until_ms),
            "series": series,
        }

    def _series(self, admin: OffsetAdmin, name: str, topic: str, edges_ms: list[int]) -> dict[str, Any]:
        series: dict[str, Any] = {"name": name, "topic": topic, "problem": None}
        try:
            counts = count_between(admin, topic, edges_ms)
        except StartupError as error:  # the topic is missing, or a right is
            return {**series, "problem": str(error)}
        spans = [(timestamps.format_ms(a), timestamps.format_ms(b)) for a, b in pairwise(edges_ms)]
        rows = [
            {"start": start, "stop": stop, "count": count}
            for (start, stop), count in zip(spans, counts, strict=True)
        ]
        peak, total = max(counts), sum(counts)
        label = f"{name} over time: {number(total)} in {BARS} bars, at most {number(peak)} in one"
        tooltips = [
            f"{number(count)} from {start} to {stop}"
            for (start, stop), count in zip(spans, counts, strict=True)
        ]
        chart = history(counts, label, tooltips)
        return {**series, "total": total, "peak": peak, "chart": chart, "rows": rows}


def count_between(admin: OffsetAdmin, topic: str, edges_ms: list[int]) -> list[int]:
    """Count the offsets of a topic between each two neighbouring times.

    Args:
        admin: Asks Kafka.
        topic: The topic.
        edges_ms: E times in ascending order, milliseconds since the epoch.

    Returns:
        E - 1 counts.

    Raises:
        StartupError: The topic does not exist, or may not be described.
        Unavailable: No broker answered in time.
    """
    partitions = range(admin.describe_topic(topic).partitions)
    ends = admin.end_offsets(topic, partitions)
    positions = [sum((ends | admin.offsets_since(topic, partitions, edge)).values()) for edge in edges_ms]
    return [max(0, stop - start) for start, stop in pairwise(positions)]
