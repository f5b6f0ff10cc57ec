"""The ledger finds every change of a faithful view, and nothing in a faithful view."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from consumer.ops.verify.ledger import OffsetLedger, SeenReport

Row = tuple[int, int, int]
"""Partition, offset, digest."""


@st.composite
def topics(draw: st.DrawFn) -> dict[int, list[Row]]:
    """Two partitions with gaps, as transaction markers leave them, that need not begin at 0."""
    topic = {}
    for partition in (0, 1):
        begin = draw(st.integers(0, 5))
        gaps = draw(st.lists(st.integers(1, 3), min_size=2, max_size=30))
        offsets = np.cumsum(gaps) + begin
        topic[partition] = [(partition, int(offset), 100 * partition + i) for i, offset in enumerate(offsets)]
    return topic


def ledger_of(topic: dict[int, list[Row]]) -> OffsetLedger:
    """Return a ledger that expects these records."""
    ledger = OffsetLedger({partition: (rows[0][1], rows[-1][1] + 2) for partition, rows in topic.items()})
    for partition, rows in topic.items():
        ledger.expect(
            partition,
            np.array([row[1] for row in rows], np.int64),
            np.array([row[2] for row in rows], np.uint32),
        )
    return ledger


def record_seen(ledger: OffsetLedger, rows: Sequence[Row], sequence: str = "view") -> SeenReport:
    """Enter rows into the ledger in one batch."""
    table = np.array(rows, np.int64).reshape(-1, 3)
    return ledger.record_seen(sequence, table[:, 0], table[:, 1], table[:, 2].astype(np.uint32))


def rows_of(topic: dict[int, list[Row]]) -> list[Row]:
    """Mix the partitions, each in its order."""
    longest = max(map(len, topic.values()))
    return [rows[i] for i in range(longest) for rows in topic.values() if i < len(rows)]


@given(topics(), st.integers(1, 7))
def test_a_faithful_view_is_faultless_however_it_is_cut(topic: dict[int, list[Row]], step: int) -> None:
    """Nothing is found where each record is shown once, in order, whatever the batches."""
    ledger, rows = ledger_of(topic), rows_of(topic)
    for at in range(0, len(rows), step):
        batch = rows[at : at + step]
        assert record_seen(ledger, batch) == SeenReport(known=ledger_order(batch))
    assert ledger.missing(5) == (0, [])
    assert ledger.doubled(5) == (0, [])
    assert ledger.missing_at_end() == 0


def ledger_order(batch: Sequence[Row]) -> list[int]:
    """Return the row numbers in the ledger's order: partition by partition."""
    return sorted(range(len(batch)), key=lambda i: batch[i][0])


@given(topics(), st.data())
def test_a_dropped_row_is_missing(topic: dict[int, list[Row]], data: st.DataObject) -> None:
    """Its coordinates are named, and nothing else is."""
    rows = rows_of(topic)
    dropped = rows.pop(data.draw(st.integers(0, len(rows) - 1)))
    ledger = ledger_of(topic)
    assert not record_seen(ledger, rows).out_of_order
    assert ledger.missing(5) == (1, [dropped[:2]])
    assert ledger.doubled(5) == (0, [])
    assert ledger.missing_at_end() == (dropped == topic[dropped[0]][-1])


@given(topics(), st.data())
def test_a_repeated_row_is_doubled_wherever_it_comes_again(
    topic: dict[int, list[Row]], data: st.DataObject
) -> None:
    """It counts as doubled once, and not as out of order, in one batch and in two."""
    rows = rows_of(topic)
    first = data.draw(st.integers(0, len(rows) - 1))
    again = data.draw(st.integers(first + 1, len(rows)))
    rows.insert(again, rows[first])
    cut = data.draw(st.integers(0, len(rows)))
    ledger = ledger_of(topic)
    found = [record_seen(ledger, rows[:cut]), record_seen(ledger, rows[cut:])]
    assert ledger.doubled(5) == (1, [rows[first][:2]])
    assert not any(part.out_of_order for part in found)
    assert ledger.missing(5) == (0, [])


@given(topics(), st.data())
def test_two_swapped_rows_of_a_partition_are_out_of_order(
    topic: dict[int, list[Row]], data: st.DataObject
) -> None:
    """The late row is found, in one batch and in two; no record is missing or doubled."""
    partition = data.draw(st.sampled_from([0, 1]))
    at = data.draw(st.integers(0, len(topic[partition]) - 2))
    swapped = {p: list(rows) for p, rows in topic.items()}
    swapped[partition][at : at + 2] = reversed(swapped[partition][at : at + 2])
    rows = rows_of(swapped)
    cut = data.draw(st.integers(0, len(rows)))
    ledger = ledger_of(topic)
    found = [record_seen(ledger, rows[:cut]), record_seen(ledger, rows[cut:])]
    late = [
        row for part, begin in zip(found, (0, cut), strict=True) for row in np.add(part.out_of_order, begin)
    ]
    assert [rows[int(i)] for i in late] == [topic[partition][at]]
    assert ledger.missing(5) == (0, [])
    assert ledger.doubled(5) == (0, [])


@given(topics(), st.data())
def test_a_row_that_says_something_else_is_altered(topic: dict[int, list[Row]], data: st.DataObject) -> None:
    """A digest that is not the original's is found."""
    rows = rows_of(topic)
    at = data.draw(st.integers(0, len(rows) - 1))
    rows[at] = (*rows[at][:2], 7777)
    assert record_seen(ledger_of(topic), rows).altered == [at]


@given(topics())
def test_a_foreign_row_is_unknown(topic: dict[int, list[Row]]) -> None:
    """An offset in range at which there is no record, and a partition that is not there, are found."""
    ledger = ledger_of(topic)
    found = record_seen(ledger, [(0, topic[0][-1][1] + 1, 0), (9, 0, 0), topic[0][0]])
    assert sorted(found.unknown) == [0, 1]
    assert found.known == [2]


@given(topics())
def test_rows_outside_the_range_are_left_out(topic: dict[int, list[Row]]) -> None:
    """What retention removed before, or what came after the end was taken, is neither found nor known."""
    ledger = ledger_of(topic)
    assert record_seen(ledger, [(0, topic[0][0][1] - 1, 0), (0, topic[0][-1][1] + 2, 0)]) == SeenReport()


def test_order_is_asked_for_within_a_sequence_only() -> None:
    """The rows of two output topics may interleave in any way."""
    topic = {0: [(0, 0, 0), (0, 1, 1)]}
    ledger = ledger_of(topic)
    assert record_seen(ledger, [(0, 1, 1)], "predictions").out_of_order == []
    assert record_seen(ledger, [(0, 0, 0)], "dead letters").out_of_order == []
    assert ledger.missing(5) == (0, [])


def test_a_thousand_repeats_do_not_wrap_around() -> None:
    """A record that is shown 513 times is doubled, in one batch or in many."""
    for step in (513, 1):
        ledger = ledger_of({0: [(0, 0, 0)]})
        for _ in range(0, 513, step):
            record_seen(ledger, [(0, 0, 0)] * step)
        assert ledger.doubled(5) == (1, [(0, 0)])


def test_a_digest_that_was_given_up_is_not_compared() -> None:
    """A dead letter that was too large for its key is no fault."""
    ledger = ledger_of({0: [(0, 0, 5)]})
    one = np.zeros(1, np.int64)
    found = ledger.record_seen("view", one, one, np.ones(1, np.uint32), comparable=np.zeros(1, np.bool_))
    assert found.altered == []
