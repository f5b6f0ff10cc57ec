"""Which rows are committed, and in which order, when commits fail.

The session is a stand-in that follows a script; the pipeline and its model are real enough to score.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from consumer.columnar.arrays import FloatArray
from consumer.errors import (
    BatchAborted,
    CommitOutcomeUnknown,
    Condition,
    FatalError,
    RecordRejectedByBroker,
    Unavailable,
)
from consumer.kafka.producer import OpenTransaction, Records
from consumer.ops.bench import pipeline_of
from consumer.pipeline.batch import RawBatch
from consumer.runtime.readiness import Readiness
from consumer.scorer.commit import Committer
from consumer.scorer.metrics import ScorerTelemetry
from consumer.scorer.outputs import OutputTopics
from consumer.scorer.processing import BatchProcessor
from tests.support.events import decoded_prediction, good

_MAX_BYTES = 10_000


class Model:
    """A model that gives every student an even chance."""

    version, threshold = "v", 0.5

    def predict_probability(self, features: FloatArray) -> FloatArray:
        """Return 0.5 for every row."""
        return np.full(len(features), 0.5)


class Session:
    """Commits in memory, unless the script says otherwise.

    Attributes:
        script: The failures of the next commits; ``None`` lets one succeed.
        committed: The source offsets of predictions and dead letters, by commit.
        letter_bytes: The sizes of the committed dead letters.
        refuses: Returns whether the broker refuses a record.
        revoked: The partitions that were revoked.
        group_offset: The group's committed offset, as the broker answers it.
        pauses_s: How long the committer paused.
    """

    def __init__(self, *script: Exception | None) -> None:
        self.script = list(script)
        self.committed: list[list[int]] = []
        self.letter_bytes: list[int] = []
        self.refuses: Callable[[str, bytes], bool] = lambda _topic, _value: False
        self.revoked: set[int] = set()
        self.group_offset = 0
        self.pauses_s: list[float] = []
        self.n_reconnects = 0

    def begin(self, records: Sequence[Records], next_offsets: Mapping[int, int]) -> OpenTransaction:
        """Return a transaction that follows the script."""
        predictions, letters = records
        assert next_offsets

        def commit() -> None:
            failure = self.script.pop(0) if self.script else None
            if failure is not None:
                raise failure
            for part in records:
                for value in part.values:
                    if self.refuses(part.topic, value or b""):
                        raise RecordRejectedByBroker("too large")
            self.letter_bytes += [len(value or b"") for value in letters.values]
            self.committed.append(
                sorted(decoded_prediction(value or b"")["source_offset"] for value in predictions.values)
            )

        return OpenTransaction(commit)

    def uncommitted_rows(self, raw: RawBatch, *, commit_outcome_unknown: bool) -> RawBatch:
        """Return what the group has not committed, if that is asked for."""
        first = self.group_offset if commit_outcome_unknown else 0
        rows = [
            row
            for row, (partition, offset) in enumerate(zip(raw.partitions, raw.offsets, strict=True))
            if partition not in self.revoked and offset >= first
        ]
        return raw.select_rows(rows)

    def reconnect(self) -> None:
        """Count."""
        self.n_reconnects += 1

    def pause_and_poll(self, seconds: float) -> None:
        """Note the pause."""
        self.pauses_s.append(seconds)


def committer(session: Session, readiness: Readiness | None = None) -> Committer:
    """Return a committer on a scripted session."""
    return Committer(
        session=session,  # type: ignore[arg-type]  # a stand-in
        processor=BatchProcessor(pipeline_of(Model()), now_s=lambda: 1_790_000_000.0),
        topics=OutputTopics("predictions", "letters", {"predictions": 1, "letters": 1}, "group"),
        max_dead_letter_bytes=_MAX_BYTES,
        telemetry=ScorerTelemetry(CollectorRegistry()),
        readiness=readiness or Readiness(lambda: 0.0),
        heartbeat=lambda: None,
    )


def events(n: int, partition: int = 0) -> RawBatch:
    """Return n good events at the offsets 0 to n - 1."""
    values = [good(event_id=f"e{i}") for i in range(n)]
    return RawBatch(
        topic="events",
        partitions=[partition] * n,
        offsets=list(range(n)),
        keys=[b"k"] * n,
        values=values,
        timestamps_ms=lambda rows: [0] * len(rows),
        headers=lambda rows: [[] for _ in rows],
    )


@pytest.mark.parametrize("failure", [BatchAborted("x"), Unavailable("x")])
def test_an_aborted_batch_is_committed_by_the_next_attempt(failure: Exception) -> None:
    """All of its rows, once."""
    session = Session(failure)
    committer(session).commit_with_retry(events(5))
    assert session.committed == [[0, 1, 2, 3, 4]]
    assert session.pauses_s == []


def test_pauses_grow_while_attempts_fail() -> None:
    """The first retry is immediate; after the fourth failure the scorer is not ready until a commit."""
    readiness = Readiness(lambda: 0.0)
    session = Session(*[BatchAborted("x")] * 5)
    committer(session, readiness).commit_with_retry(events(2))
    assert session.committed == [[0, 1]]
    assert session.pauses_s == [0.05, 0.1, 0.2, 0.4]
    assert not readiness.active()


@pytest.mark.parametrize(("group_offset", "left"), [(0, [[0, 1, 2]]), (3, [])])
def test_an_unknown_outcome_is_settled_by_the_committed_offsets(
    group_offset: int, left: list[list[int]]
) -> None:
    """A batch that was committed is not published again; one that was not is."""
    session = Session()
    session.group_offset = group_offset
    committer(session).commit_with_retry(events(3), CommitOutcomeUnknown("disconnected"))
    assert session.committed == left
    assert session.n_reconnects == 1, "the producer is recreated before the offsets are read"


def test_a_known_abort_does_not_depend_on_the_committed_offsets() -> None:
    """They are read only if the outcome is unknown."""
    session = Session()
    session.group_offset = 3
    committer(session).commit_with_retry(events(3), BatchAborted("x"))
    assert session.committed == [[0, 1, 2]]


def test_rows_of_revoked_partitions_are_dropped() -> None:
    """They belong to another member, and nothing is published for them."""
    session = Session()
    session.revoked = {0}
    committer(session).commit_with_retry(events(3), BatchAborted("x"))
    assert session.committed == []


def test_a_refused_record_is_found_and_its_neighbours_are_committed_in_order() -> None:
    """The batch is split until the event is alone; then a dead letter takes the prediction's place."""
    session = Session()

    def refuses(topic: str, value: bytes) -> bool:
        return topic == "predictions" and decoded_prediction(value)["source_offset"] == 5

    session.refuses = refuses
    committer(session).commit_with_retry(events(8), RecordRejectedByBroker("x"))
    assert session.committed == [[0, 1, 2, 3], [4], [], [6, 7]]
    assert len(session.letter_bytes) == 1


def test_a_refused_dead_letter_shrinks_until_it_is_accepted() -> None:
    """Its size is halved each time, and the limit that worked is kept for later dead letters."""
    session = Session()
    session.refuses = lambda topic, value: topic == "letters" and len(value) > 3_000
    batch = events(1)
    raw = RawBatch(**_columns(batch) | {"values": [b"\x01" + b"x" * 20_000]})
    writer = committer(session)
    writer.commit_with_retry(raw)
    writer.commit_with_retry(raw)
    assert session.committed == [[], []]
    assert max(session.letter_bytes) <= 3_000


def test_a_topic_that_takes_no_dead_letter_is_reported_until_it_does() -> None:
    """The scorer is not ready meanwhile, and tries again every two seconds."""
    readiness = Readiness(lambda: 0.0)
    session = Session()
    reasons: list[str] = []

    def pause(seconds: float) -> None:
        session.pauses_s.append(seconds)
        reasons.extend(condition.reason for condition in readiness.active().values())
        if len(session.pauses_s) == 2:
            session.refuses = lambda _topic, _value: False

    session.pause_and_poll = pause  # type: ignore[method-assign]  # time passes
    session.refuses = lambda topic, _value: topic == "letters"
    raw = RawBatch(**_columns(events(1)) | {"values": [b"nonsense"]})
    committer(session, readiness).commit_with_retry(raw)
    assert session.pauses_s == [2.0, 2.0]
    assert all("no dead letter is small enough" in reason for reason in reasons)
    assert not readiness.active()


def test_an_outage_is_waited_out_and_reported() -> None:
    """The function is repeated while it raises Unavailable; any other error is raised."""
    readiness = Readiness(lambda: 0.0)
    session = Session()
    outcomes: list[Any] = [Unavailable("no registry", Condition.SCHEMA_REGISTRY), 7]

    def act() -> int:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return int(outcome)

    writer = committer(session, readiness)
    assert writer.wait_out_outage(act) == 7
    assert session.pauses_s == [0.05]
    assert Condition.SCHEMA_REGISTRY in readiness.active()
    outcomes.append(FatalError("refused"))
    with pytest.raises(FatalError):
        writer.wait_out_outage(act)


def test_committed_offsets_are_the_next_offsets_of_every_partition() -> None:
    """They follow what was committed, partition by partition."""
    writer = committer(Session())
    writer.commit_with_retry(events(3))
    writer.commit_with_retry(events(2, partition=4))
    assert writer.next_offsets == {0: 3, 4: 2}


def _columns(raw: RawBatch) -> dict[str, Any]:
    return {name: getattr(raw, name) for name in RawBatch.__dataclass_fields__}
