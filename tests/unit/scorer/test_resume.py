"""Where partitions start when the group's committed offset is missing, foreign or contradicted."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from hashlib import sha256
from typing import Any, get_args

import pytest

from consumer.errors import StartupError
from consumer.kafka.starting_offsets import CommittedOffset
from consumer.scorer.resume import LastOutput, LastOutputs, OffsetMarker, StartResolver
from consumer.settings import ResumeFrom

_MARKER = OffsetMarker("topic-1", 4)


class Event:
    """An event of the topic."""

    def __init__(self, key: bytes | None, value: bytes | None) -> None:
        self._key, self._value = key, value

    def key(self) -> bytes | None:
        """Return the key."""
        return self._key

    def value(self) -> bytes | None:
        """Return the value."""
        return self._value


class Topic:
    """The events topic.

    Attributes:
        range: The first offset and the end of every partition.
        other_markers: The markers of the group's other offsets.
    """

    topic = "events"

    def __init__(self, first: int = 0, end: int = 1000) -> None:
        self.range = first, end
        self.other_markers: list[OffsetMarker] = []
        self.missing: set[int] = set()

    def ranges(self, partitions: Iterable[int]) -> dict[int, tuple[int, int]]:
        """Return the same range for every partition."""
        return dict.fromkeys(partitions, self.range)

    def event(self, partition: int, offset: int) -> Event | None:
        """Return an event that contains its coordinates."""
        return None if offset in self.missing else Event(b"k", b"event %d-%d." % (partition, offset))

    def markers(self, n_partitions: int) -> list[OffsetMarker]:
        """Return the markers of the other offsets."""
        assert n_partitions == _MARKER.partitions
        return self.other_markers


class Outputs:
    """The output topics: the last output of each partition, by its source offset."""

    def __init__(self, *, complete: bool = True, foreign: bool = False, **last: int) -> None:
        self.complete = complete
        self.foreign = foreign
        self.offsets = {int(name[1:]): offset for name, offset in last.items()}
        self.asked: set[int] = set()

    def last(self, partitions: AbstractSet[int]) -> LastOutputs:
        """Return the last outputs."""
        self.asked |= partitions
        text = b"another %d-%d." if self.foreign else b"event %d-%d."
        return LastOutputs(
            {
                p: LastOutput(offset, b"k", is_prediction=True, texts=[text % (p, offset)])
                for p, offset in self.offsets.items()
                if p in partitions
            },
            self.complete,
        )


def starts(
    committed: dict[int, CommittedOffset | None],
    outputs: Outputs,
    topic: Topic | None = None,
    resume_from: ResumeFrom | None = None,
) -> dict[int, int]:
    """Return the chosen starts."""
    resolver = StartResolver(_MARKER, topic or Topic(), outputs, resume_from)  # type: ignore[arg-type]  # stand-ins
    return resolver(committed)


def own(offset: int) -> CommittedOffset:
    """Return an offset that a scorer has committed."""
    return CommittedOffset(offset, str(_MARKER))


def reset(offset: int) -> CommittedOffset:
    """Return an offset that another program has committed."""
    return CommittedOffset(offset, "")


@pytest.mark.parametrize("resume_from", [None, *get_args(ResumeFrom)])
def test_an_offset_with_our_marker_is_used_without_a_look_at_the_outputs(
    resume_from: ResumeFrom | None,
) -> None:
    """An ordinary start costs nothing, and an option that stays on the command line changes nothing."""
    outputs = Outputs(p0=999)
    assert starts({0: own(7), 1: own(0)}, outputs, None, resume_from) == {0: 7, 1: 0}
    assert outputs.asked == set()


def test_a_partition_that_never_had_events_starts_at_0() -> None:
    """No outputs are read for it."""
    outputs = Outputs(complete=False)
    assert starts({0: None}, outputs, Topic(0, 0)) == {0: 0}
    assert outputs.asked == set()


def test_a_first_start_begins_at_the_first_event() -> None:
    """There are no outputs, and none were removed."""
    assert starts({0: None, 1: None}, Outputs(), Topic(5, 1000)) == {0: 5, 1: 5}


def test_a_missing_offset_resumes_behind_the_last_output() -> None:
    """Partitions with and without outputs, in one assignment with good offsets."""
    assert starts({0: None, 1: None, 2: own(9)}, Outputs(p0=41)) == {0: 42, 1: 0, 2: 9}


def test_an_offset_of_an_earlier_topic_counts_as_missing() -> None:
    """The marker names another topic id; the outputs decide."""
    earlier = CommittedOffset(800, str(OffsetMarker("topic-0", 4)))
    assert starts({0: earlier}, Outputs(p0=41)) == {0: 42}


def test_an_unmarked_offset_that_agrees_with_the_outputs_is_used() -> None:
    """An earlier version commits such offsets."""
    assert starts({0: reset(42)}, Outputs(p0=41)) == {0: 42}
    assert starts({0: reset(42)}, Outputs(complete=False)) == {0: 42}


@pytest.mark.parametrize(("offset", "words"), [(41, "back behind"), (43, "ahead of")])
def test_an_unmarked_offset_that_contradicts_the_outputs_is_refused(offset: int, words: str) -> None:
    """It would publish events twice, or skip them."""
    with pytest.raises(StartupError, match=f"offset {offset} was set by another program, {words}"):
        starts({0: reset(offset)}, Outputs(p0=41))


@pytest.mark.parametrize(
    ("resume_from", "start"), [("outputs", 42), ("beginning", 3), ("end", 1000), ("committed", 20)]
)
def test_the_operator_chooses_where_offset_and_outputs_disagree(resume_from: ResumeFrom, start: int) -> None:
    """Each choice, for an offset that was reset backwards."""
    assert starts({0: reset(20)}, Outputs(p0=41), Topic(3, 1000), resume_from) == {0: start}


def test_outputs_beyond_the_end_of_the_topic_are_refused() -> None:
    """The topic was created again. Even ``outputs`` cannot resume there."""
    for resume_from in (None, "outputs"):
        with pytest.raises(StartupError, match="the topic only has 0 to 40"):
            starts({0: None}, Outputs(p0=41), Topic(0, 40), resume_from)
    assert starts({0: None}, Outputs(p0=41), Topic(0, 40), "beginning") == {0: 0}


def test_outputs_of_other_events_are_refused() -> None:
    """The topic was created again and has grown beyond the outputs."""
    for resume_from in (None, "outputs"):
        with pytest.raises(StartupError, match="is not the event of the last output"):
            starts({0: None}, Outputs(foreign=True, p0=41), None, resume_from)


def test_an_event_that_retention_has_removed_needs_no_check() -> None:
    """Everything that is left comes after it. A gap is reported when the offset is read."""
    assert starts({0: None}, Outputs(p0=41), Topic(42, 1000)) == {0: 42}


def test_an_event_that_compaction_has_removed_needs_a_choice() -> None:
    """It cannot be compared with the output."""
    topic = Topic()
    topic.missing = {41}
    with pytest.raises(StartupError, match="not there any more"):
        starts({0: None}, Outputs(p0=41), topic)
    assert starts({0: None}, Outputs(p0=41), topic, "outputs") == {0: 42}


def test_outputs_that_may_have_been_removed_are_not_guessed() -> None:
    """Neither offset nor output, and the output topics have lost their first records."""
    with pytest.raises(StartupError, match="lost records"):
        starts({0: None}, Outputs(complete=False))
    assert starts({0: None}, Outputs(complete=False), None, "outputs") == {0: 0}


@pytest.mark.parametrize("resume_from", [None, *get_args(ResumeFrom)])
def test_a_partition_that_was_added_to_the_topic_starts_at_its_first_event(
    resume_from: ResumeFrom | None,
) -> None:
    """The group's other offsets were committed when the topic had fewer partitions."""
    topic, outputs = Topic(), Outputs(complete=False)
    topic.other_markers = [OffsetMarker("topic-1", 3)]
    assert starts({3: None}, outputs, topic, resume_from) == {3: 0}
    assert outputs.asked == set()
    topic.other_markers = [OffsetMarker("topic-0", 3), OffsetMarker("topic-1", 4)]
    if resume_from is None:
        with pytest.raises(StartupError):
            starts({3: None}, outputs, topic)


def test_markers_survive_a_round_trip_and_nothing_else_is_one() -> None:
    """What an administrator's tools or an earlier version commit is no marker."""
    assert OffsetMarker.parse(str(_MARKER)) == _MARKER
    for text in (None, "", "purchase-stream", "purchase-stream x y", "another x 4", f"{_MARKER} more"):
        assert OffsetMarker.parse(text) is None


def test_a_dead_letter_is_compared_by_the_digest_of_its_event() -> None:
    """A tombstone has none."""
    letter = LastOutput(1, None, is_prediction=False, value_sha256=sha256(b"v").hexdigest())
    tombstone = LastOutput(1, None, is_prediction=False)
    values: list[Any] = [b"v", b"w", None]
    assert [letter.is_of(b"k", value) for value in values] == [True, False, False]
    assert [tombstone.is_of(b"k", value) for value in values] == [False, False, True]


def test_a_prediction_is_compared_by_key_and_ids() -> None:
    """Both ids are in the event's bytes, whatever schema wrote it."""
    prediction = LastOutput(1, b"k", is_prediction=True, texts=[b"e-1", b"s-1"])
    assert prediction.is_of(b"k", b"\x06e-1\x06s-1...")
    assert not prediction.is_of(b"l", b"\x06e-1\x06s-1...")
    assert not prediction.is_of(b"k", b"\x06e-2\x06s-1...")
    assert not prediction.is_of(b"k", None)
