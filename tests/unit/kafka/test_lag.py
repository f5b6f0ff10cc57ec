"""The lag counts events: no transaction markers, no aborted records, none of an open transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest

from consumer.errors import StartupError
from consumer.kafka import lag as lag_module
from consumer.kafka.admin import GroupLag
from consumer.kafka.lag import LagReader


class Brokers:
    """A partition with events at some offsets, and the group's offset in it."""

    def __init__(self, events: Iterable[int], end: int, stable_end: int | None = None) -> None:
        self.events = set(events)
        self.end = end
        self.stable_end = end if stable_end is None else stable_end
        self.committed = 0
        self.reads = 0

    def lag(self, group: str, topic: str) -> GroupLag:  # noqa: ARG002 - the port's
        """Return the offsets."""
        return GroupLag({0: self.committed}, {0: self.end})

    def stable_ends(self, topic: str, partitions: Iterable[int]) -> dict[int, int]:  # noqa: ARG002 - the port's
        """Return the last stable offset."""
        return dict.fromkeys(partitions, self.stable_end)


Measure = Callable[[Brokers], LagReader]


@pytest.fixture
def measure(monkeypatch: pytest.MonkeyPatch) -> Measure:
    """A function that returns a reader of these brokers."""

    def make(brokers: Brokers) -> LagReader:
        class Reader:
            def __init__(self, *_: object, **__: object) -> None:
                brokers.reads += 1

            def read_range(self, _partition: int, start: int, stop: int) -> Iterable[int]:
                return (offset for offset in range(start, stop) if offset in brokers.events)

            def close(self) -> None:
                pass

        monkeypatch.setattr(lag_module, "TopicReader", Reader)
        return LagReader({}, "g", "t", brokers)

    return make


@pytest.mark.parametrize(
    ("events", "committed", "end", "stable_end", "lag"),
    [
        ([0], 1, 2, 2, 0),  # only a marker is left
        ([0, 4], 1, 5, 5, 1),  # a marker, an aborted record and its marker, then an event
        ([0, 1, 2], 0, 3, 3, 3),  # no transactions
        ([0], 1, 50, 2, 0),  # the rest belongs to an open transaction
        ([], 3, 3, 3, 0),
        (range(5_000), 0, 5_000, 5_000, 5_000),  # too many to count
        ([], 0, 10_000_000, 10_000_000, 10_000_000),  # too many offsets to look at
    ],
)
def test_only_events_are_counted(
    measure: Measure, events: Iterable[int], committed: int, end: int, stable_end: int, lag: int
) -> None:
    """Offsets alone would say ``end - committed``."""
    brokers = Brokers(events, end, stable_end)
    brokers.committed = committed
    assert measure(brokers).read().lag_events == lag


def test_a_range_is_read_once_and_not_while_it_moves(measure: Measure) -> None:
    """A busy stream is not read, and an idle one is read once."""
    brokers = Brokers([0], 2)
    brokers.committed = 1
    reader = measure(brokers)
    assert [reader.read().lag_events for _ in range(3)] == [0, 0, 0]
    assert brokers.reads == 1
    brokers.events |= {2, 3}
    for end in (4, 5, 6):
        brokers.end = brokers.stable_end = end
        assert reader.read().lag_events == end - 1
    assert brokers.reads == 1
    assert reader.read().lag_events == 2
    assert brokers.reads == 2


def test_without_the_right_to_read_the_offsets_count(
    measure: Measure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lag is then an upper bound; it is asked for once."""
    brokers = Brokers([0], 2)
    brokers.committed = 1
    reader = measure(brokers)

    def refuse(*_: object, **__: object) -> None:
        brokers.reads += 1
        raise StartupError("no right")

    monkeypatch.setattr(lag_module, "TopicReader", refuse)
    assert [reader.read().lag_events for _ in range(3)] == [1, 1, 1]
    assert brokers.reads == 1
