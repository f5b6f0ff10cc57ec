"""Count the events that a consumer group still has to process."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Final, Protocol

import structlog

from consumer.errors import StartupError
from consumer.kafka.admin import ClusterAdmin, GroupLag
from consumer.kafka.reader import TopicReader

log = structlog.get_logger(__name__)

_MAX_OFFSETS: Final = 100_000
"""A partition with a larger lag is not read; its lag is the difference of the offsets."""

_MAX_EVENTS: Final = 1_000
"""If a partition has more events than this, its lag is the difference of the offsets."""

_SILENCE_LIMIT_S: Final = 5.0


class Offsets(Protocol):
    """The requests that :class:`LagReader` makes; :class:`ClusterAdmin` implements them."""

    def lag(self, group: str, topic: str) -> GroupLag:
        """Return the group's offsets and the ends of the partitions."""

    def stable_ends(self, topic: str, partitions: Iterable[int]) -> dict[int, int]:
        """Return the last stable offset of each partition."""


class LagReader:
    """Measures the lag of a group, excluding offsets that hold no event.

    If the producers of a topic use transactions, an offset may be a transaction marker or an aborted record,
    and records of an open transaction are not events yet. Counted by offsets alone, the lag of an idle group
    would then stay above zero forever. So the reader counts the records between the two offsets, once for
    each pair of offsets and only while neither moves. While they move, the difference is close enough.

    ::

        offset   0  1       2        3       4
        content  a  marker  aborted  marker  b

    A group that has committed offset 1 has a lag of one event, not of four.

    Args:
        client_config: The configuration of every client (see :mod:`consumer.kafka.client_config`).
        group: The consumer group.
        topic: The topic.
        admin: Asks the brokers.
    """

    def __init__(
        self, client_config: Mapping[str, Any], group: str, topic: str, admin: Offsets | None = None
    ) -> None:
        self._client_config = client_config
        self._group = group
        self._topic = topic
        self._admin = ClusterAdmin(client_config) if admin is None else admin
        self._before: Mapping[int, tuple[int, int]] = {}
        self._events: dict[int, tuple[tuple[int, int], int]] = {}
        """The range that was read last and its number of events, by partition."""
        self._may_read = True

    def read(self) -> GroupLag:
        """Return the lag now; raise what the methods of :class:`ClusterAdmin` raise."""
        lag = self._admin.lag(self._group, self._topic)
        behind = {p: start for p, start in lag.next_offsets.items() if start < lag.end_offsets[p]}
        ends = self._admin.stable_ends(self._topic, behind) if behind else {}
        ranges = {p: (start, max(ends[p], start)) for p, start in behind.items()}
        for partition, (start, stop) in ranges.items():
            has_moved = self._before.get(partition, (start, stop)) != (start, stop)
            is_known = partition in self._events and self._events[partition][0] == (start, stop)
            if 0 < stop - start <= _MAX_OFFSETS and self._may_read and not has_moved and not is_known:
                self._events[partition] = (start, stop), self._count(partition, start, stop)
        self._before = ranges
        without_events = {}
        for partition, (start, stop) in ranges.items():
            counted = self._events.get(partition)
            n_events = counted[1] if counted and counted[0] == (start, stop) else stop - start
            without_events[partition] = lag.end_offsets[partition] - start - n_events
        return replace(lag, without_events=without_events)

    def _count(self, partition: int, start: int, stop: int) -> int:
        """Return the number of committed records in a range."""
        try:
            reader = TopicReader(
                self._client_config, self._topic, fetch_ahead=_MAX_EVENTS, silence_limit_s=_SILENCE_LIMIT_S
            )
            with contextlib.closing(reader):
                records = itertools.islice(reader.read_range(partition, start, stop), _MAX_EVENTS + 1)
                n_events = sum(1 for _ in records)
        except StartupError as error:
            log.warning("the lag may include transaction markers", reason=str(error))
            self._may_read = False
            return stop - start
        return n_events if n_events <= _MAX_EVENTS else stop - start
