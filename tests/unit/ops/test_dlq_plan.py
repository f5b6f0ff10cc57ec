"""Every dead letter is taken exactly once, in whatever order codes are asked for and wherever runs end."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.errors import StartupError
from consumer.ops.dlq.dead_letter import CODES, DeadLetterRecord, NotReplayable, OriginalEvent, original_event
from consumer.ops.dlq.plan import METADATA_MAX_BYTES, OffsetSet, ReplayPlan, ReplayPosition
from consumer.pipeline.rejections import Code
from tests.support.events import TOPIC
from tests.unit.ops.test_dlq_dead_letter import letter_of

SOME = [Code.UNDECODABLE, Code.TOMBSTONE, Code.FIELD_INVALID]


class World:
    """One partition of dead letters, and what is committed of its replay."""

    def __init__(self, codes: list[Code]) -> None:
        self.letters = [letter_of(b"%d" % n, code=code, offset=2 * n) for n, code in enumerate(codes)]
        self.rejected: set[bytes | None] = set()
        self.end = 2 * len(codes)
        self.committed: dict[int, tuple[int, str | None]] = {}
        self.sent: list[int] = []
        self.refused: list[int] = []

    def selection(self, codes: list[str], limit: int | None = None, partitions: int = 5) -> ReplayPlan:
        """Begin a run."""

        def restore(letter: DeadLetterRecord) -> OriginalEvent:
            event = original_event(letter, TOPIC)
            if event.partition >= partitions:
                raise NotReplayable("no partition")
            return event

        return ReplayPlan(
            codes=codes,
            limit=limit,
            restore=restore,
            preview=self.preview,
            on_refused=lambda letter, _: self.refused.append(letter.offset),
        )

    def preview(self, events: Sequence[OriginalEvent]) -> list[str | None]:
        """Reject the events of :attr:`rejected` again."""
        return ["undecodable" if event.value in self.rejected else None for event in events]

    def run(self, codes: list[str], limit: int | None, stop_after: int, batch: int) -> None:
        """Replay in batches; a run that is stopped loses the batch that it had in hand."""
        selection = self.selection(codes, limit)
        start, stop = selection.resume_from("dlq", {0: (0, self.end)}, self.committed)[0]
        todo = [letter for letter in self.letters if start <= letter.offset < stop]
        for n, at in enumerate(range(0, len(todo), batch)):
            due = selection.advance(todo[at : at + batch])
            if n == stop_after:
                return
            self.sent += [item.dead_letter.offset for item in due]
            self.committed = dict(selection.committable())


@given(
    codes=st.lists(st.sampled_from(SOME), max_size=20),
    runs=st.lists(
        st.tuples(
            st.lists(st.sampled_from(SOME), max_size=2),
            st.none() | st.integers(1, 4),
            st.integers(0, 5),
            st.integers(1, 6),
        ),
        max_size=6,
    ),
)
def test_any_runs_and_a_last_one_send_each_exactly_once(codes: list[Code], runs: list[Any]) -> None:
    """With filters, limits and interruptions in between."""
    world = World(codes)
    for asked, limit, stop_after, batch in runs:
        before = len(world.sent)
        world.run([code.value for code in asked], limit, stop_after, batch)
        sent = world.sent[before:]
        assert limit is None or len(sent) <= limit
        assert not asked or {world.letters[at // 2].code for at in sent} <= set(asked)
    world.run([], None, -1, 3)
    assert sorted(world.sent) == [letter.offset for letter in world.letters]
    world.run([], None, -1, 3)
    assert len(world.sent) == len(world.letters)


@given(st.dictionaries(st.sampled_from(CODES), st.integers(0, 50)), st.integers(0, 50))
def test_a_position_is_read_back_as_it_was_committed(ahead: dict[str, int], offset: int) -> None:
    """Kafka's offset and metadata text hold the whole position."""
    position = ReplayPosition.at(offset)
    for code, at in ahead.items():
        position = position.add([code], 0, at)
    read = ReplayPosition.parse(position.offset, position.metadata)
    assert read == position
    assert len(position.metadata) < 1000


@pytest.mark.parametrize(
    "metadata", [None, "", "by hand", "[]", '{"next": 3}', '{"next": {"tombstone": "x"}}']
)
def test_an_offset_that_a_person_set_holds_for_all_codes(metadata: str | None) -> None:
    """Foreign metadata means nothing."""
    assert ReplayPosition.parse(12, metadata) == ReplayPosition.at(12)


def test_a_topic_that_is_shorter_than_the_replay_was_is_refused() -> None:
    """It was created again: going on would skip its dead letters without a word."""
    with pytest.raises(StartupError, match="ends at 4"):
        World([]).selection([]).resume_from("dlq", {0: (0, 4)}, {0: (5, None)})


def test_dead_letters_that_expired_before_they_were_replayed_are_told() -> None:
    """Nothing is dropped silently, and what is left is replayed."""
    selection = World([]).selection(["tombstone"])
    assert selection.resume_from("dlq", {0: (10, 20)}, {0: (3, "")}) == {0: (10, 20)}
    assert selection.replayed.expired == ["0:3 to 0:9"]


def test_one_that_cannot_be_replayed_is_told_once_and_passed() -> None:
    """Also when its batch is taken again."""
    world = World([])
    broken = DeadLetterRecord(0, 3, 0, None, b"?", [], None)
    selection = world.selection([])
    selection.resume_from("dlq", {0: (0, 9)}, {})
    before = selection.save()
    assert selection.advance([broken]) == []
    selection.restore_state(before)
    assert selection.advance([broken]) == []
    assert world.refused == [3]
    assert selection.replayed.refused == {"other": 1}
    assert selection.committable()[0][0] == 4


def test_a_partition_that_the_events_topic_does_not_have_any_more_is_a_reason() -> None:
    """The event would otherwise end among those of other students, out of order."""
    world = World([Code.TOMBSTONE])
    selection = world.selection([], partitions=4)
    selection.resume_from("dlq", {0: (0, 9)}, {})
    assert selection.advance(world.letters) == []
    assert world.refused == [0]


@given(
    codes=st.lists(st.sampled_from(SOME), min_size=1, max_size=20),
    runs=st.lists(
        st.tuples(
            st.lists(st.sampled_from(SOME), max_size=2),
            st.sets(st.integers(0, 19)),
            st.none() | st.tuples(st.integers(0, 40), st.integers(0, 40)),
            st.none() | st.integers(1, 4),
            st.integers(1, 6),
        ),
        max_size=6,
    ),
)
def test_what_is_held_or_not_selected_stays_due(codes: list[Code], runs: list[Any]) -> None:
    """Each is sent exactly once, whatever earlier runs selected, held and left unread."""
    world = World(codes)
    for asked, rejected, bounds, limit, batch in runs:
        world.rejected = {b"%d" % n for n in rejected}
        plan = world.selection([code.value for code in asked], limit)
        selected = None if bounds is None else {0: (min(bounds), min(max(bounds), world.end))}
        start, stop = plan.resume_from("dlq", {0: (0, world.end)}, world.committed, selected)[0]
        todo = [letter for letter in world.letters if start <= letter.offset < stop]
        for at in range(0, len(todo), batch):
            sent = [item.dead_letter.offset for item in plan.advance(todo[at : at + batch])]
            assert not {offset // 2 for offset in sent} & rejected
            world.sent += sent
        if plan.left != 0:
            plan.mark_read(0, stop)
        world.committed = dict(plan.committable())
    world.rejected = set()
    world.run([], None, -1, 3)
    assert sorted(world.sent) == [letter.offset for letter in world.letters]


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=12))
def test_an_offset_set_holds_what_was_added(ranges: list[tuple[int, int]]) -> None:
    """As the plain set of offsets does; and a position with it is read back as it was committed."""
    offsets, expected = OffsetSet(), set[int]()
    for start, stop in ranges:
        offsets = offsets.add(start, stop)
        expected |= set(range(start, stop))
    assert {offset for offset in range(45) if offset in offsets} == expected
    assert offsets.first_missing == next(n for n in range(45) if n not in expected)
    assert all(before[1] < after[0] for before, after in pairwise(offsets.ranges))
    position = ReplayPosition({**ReplayPosition.at(0).handled, CODES[0]: offsets})
    assert ReplayPosition.parse(position.offset, position.metadata) == position


def test_thousands_of_gaps_fit_the_metadata() -> None:
    """The dead letters of two schemas alternate at random, and one schema is still missing."""
    random = Random(3)
    position, at = ReplayPosition.at(0), 0
    for _ in range(2000):
        at += random.randint(1, 12)
        position = position.add([CODES[0]], at, at + random.randint(1, 4))
        at += 4
    assert len(position.metadata) < METADATA_MAX_BYTES
    assert ReplayPosition.parse(position.offset, position.metadata) == position
