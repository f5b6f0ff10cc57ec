"""Committed offsets that are deleted, reset or of another topic: no event is published a second time."""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from consumer.errors import ServiceError
from consumer.kafka.admin import ClusterAdmin, TopicSpec
from consumer.kafka.reader import TopicReader
from tests.faults.service import Service
from tests.support.events import decoded_prediction

pytestmark = pytest.mark.broker

_N: Final = 600
_PARTITIONS: Final = 3
_SHORT_SESSION: Final[dict[str, Any]] = {"session.timeout.ms": 2_000, "heartbeat.interval.ms": 300}
"""A group is empty, and its offsets can be changed, this long after its members have ended."""

_RESUMED: Final = "resuming behind the last outputs"


class Stream:
    """A service whose outputs are counted, and whose group an administrator changes."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.events = service.topics["events"]
        self._client: dict[str, Any] = {"bootstrap.servers": service.servers}
        self._admin = ClusterAdmin(self._client)
        self._group_admin = AdminClient(self._client)

    def send(self, n: int = _N) -> None:
        """Send n events, some of them broken."""
        self.service.stream(n).result()

    def process(self, *options: str, outputs: int | None = None, group: str = "") -> str:
        """Run a scorer until there are this many outputs, by default one per event; return its log."""
        expected = sum(self.service.ends().values()) if outputs is None else outputs
        group = group or self.service.group
        scorer = self.service.start("score", options=options, KAFKA__GROUP_ID=group)
        self.service.await_that(lambda: self.outputs().total() >= expected, 60, f"not {expected} outputs")
        scorer.send(signal.SIGTERM)
        assert scorer.wait(30) == 0, self.service.logs()
        return scorer.output()

    def refusal(self, *options: str) -> str:
        """Start a scorer that refuses to start; return its last line."""
        scorer = self.service.start("score", options=options)
        assert scorer.wait(60) == 78, self.service.logs()
        return scorer.output().strip().splitlines()[-1]

    def outputs(self) -> Counter[tuple[int, int]]:
        """Return how often each source coordinate is in the outputs."""
        found: Counter[tuple[int, int]] = Counter()
        for record in self._records(self.service.topics["predictions"]):
            prediction = decoded_prediction(record.value())
            found[prediction["source_partition"], prediction["source_offset"]] += 1
        for record in self._records(self.service.topics["dead_letters"]):
            source = json.loads(record.value())["source"]
            found[source["partition"], source["offset"]] += 1
        return found

    def assert_exactly_once(self) -> None:
        """Assert that the verifier finds every event in exactly one output."""
        verdict = self.service.verdict()
        assert verdict.holds, "\n".join(verdict.lines())
        assert verdict.events == sum(self.service.ends().values())

    def delete_group(self) -> None:
        """Delete the group, as soon as it is empty."""

        def deleted() -> bool:
            try:
                self._admin.delete_group(self.service.group)
            except ServiceError:
                return False
            return True

        self.service.await_that(deleted, 30, "the group is not empty")

    def reset(self, offsets: dict[int, int]) -> None:
        """Set the group's offsets as an administrator would, by partition."""
        positions = [TopicPartition(self.events, *position) for position in offsets.items()]
        request = ConsumerGroupTopicPartitions(self.service.group, positions)

        def done() -> bool:
            try:
                answer = self._group_admin.alter_consumer_group_offsets([request])[self.service.group]
                return all(position.error is None for position in answer.result(10).topic_partitions)
            except KafkaException:
                return False

        self.service.await_that(done, 30, "the group is not empty")

    def recreate_events(self) -> None:
        """Delete the events topic and create it again."""
        self._admin.delete_topics([self.events])
        deadline_s = time.monotonic() + 20
        while self._admin.describe_topics([self.events]):
            assert time.monotonic() < deadline_s
            time.sleep(0.2)
        self._admin.create_topics([TopicSpec(name=self.events, partitions=_PARTITIONS)])

    def remove_outputs(self) -> None:
        """Delete the records of the output topics, as retention would."""
        for kind in ("predictions", "dead_letters"):
            ends = self.service.ends(kind)
            self.service.delete_records({self.service.topics[kind]: {p: (0, end) for p, end in ends.items()}})

    def _records(self, topic: str) -> list[Any]:
        reader = TopicReader(self._client, topic)
        try:
            batches = reader.read_ranges(self._admin.committed_ranges(topic))
            return [record for batch in batches for record in batch]
        finally:
            reader.close()


@pytest.fixture
def stream(kafka: str, trained_store: Path, tmp_path: Path) -> Iterator[Stream]:
    """A stream whose events are processed, and whose scorer has stopped."""
    with Service(kafka, tmp_path, trained_store, partitions=_PARTITIONS, client=_SHORT_SESSION) as service:
        stream = Stream(service)
        stream.send()
        stream.process()
        yield stream


def test_deleted_offsets_are_found_again_from_the_outputs(stream: Stream) -> None:
    """The group is deleted while events arrive; the next start resumes behind the last outputs."""
    stream.delete_group()
    stream.send()
    assert stream.process().count(_RESUMED) == 1
    stream.send()
    assert _RESUMED not in stream.process()
    stream.assert_exactly_once()


def test_another_group_resumes_where_the_outputs_end(stream: Stream) -> None:
    """A group that was renamed is a group without offsets."""
    stream.send()
    assert _RESUMED in stream.process(group=f"{stream.service.group}-renamed")
    stream.assert_exactly_once()


def test_an_offset_that_was_reset_is_refused(stream: Stream) -> None:
    """Backwards, it would publish events twice; forwards, it would skip them. The operator chooses."""
    ends = stream.service.ends()
    stream.send()
    last = ends[0] - 1
    for offset, words in ((5, "back behind"), (ends[0] + 10, "ahead of")):
        stream.reset({0: offset})
        said = stream.refusal()
        assert f"{stream.events}[0]" in said
        assert (
            f"{offset} was set by another program, {words} the outputs, which end with offset {last}" in said
        )
        assert "--resume-from: outputs" in said
    stream.process("--resume-from", "outputs")
    stream.assert_exactly_once()


def test_a_reset_can_be_accepted(stream: Stream) -> None:
    """With ``committed`` the scorer does what the administrator asked for, once."""
    end = stream.service.ends()[0]
    stream.reset({0: end - 10})
    stream.process("--resume-from", "committed", outputs=_N + 10)
    doubled = {source for source, n in stream.outputs().items() if n == 2}
    assert doubled == {(0, offset) for offset in range(end - 10, end)}
    stream.send()
    stream.process("--resume-from", "committed", outputs=2 * _N + 10)
    assert stream.outputs().total() == 2 * _N + 10


def test_offsets_of_an_earlier_version_are_used(stream: Stream) -> None:
    """They have no marker, and agree with the outputs."""
    stream.reset(stream.service.ends())
    stream.send()
    assert _RESUMED not in stream.process()
    stream.assert_exactly_once()


@pytest.mark.parametrize("n_new", [90, 2 * _N], ids=["shorter", "longer"])
def test_an_events_topic_that_was_created_again_is_refused(stream: Stream, n_new: int) -> None:
    """Its offsets start again, so the outputs do not tell; the beginning is one of the choices."""
    stream.recreate_events()
    stream.send(n_new)
    assert "created again" in stream.refusal()
    assert "created again" in stream.refusal("--resume-from", "outputs")
    n_outputs = _N + sum(stream.service.ends().values())
    stream.process("--resume-from", "beginning", outputs=n_outputs)
    assert stream.outputs().total() == n_outputs


def test_the_end_skips_what_is_there_once(stream: Stream) -> None:
    """A restart with the same option skips nothing."""
    stream.delete_group()
    stream.send()
    scorer = stream.service.start("score", options=("--resume-from", "end"))
    ends = stream.service.ends()
    stream.service.await_that(lambda: stream.service.committed() == ends, 60, "not at the end")
    scorer.kill()
    stream.send()
    stream.process("--resume-from", "end", outputs=2 * _N)
    assert stream.outputs().total() == 2 * _N


def test_outputs_that_retention_has_removed_are_not_guessed(stream: Stream) -> None:
    """Without offsets and without outputs nobody knows what was published."""
    stream.remove_outputs()
    stream.delete_group()
    assert "the output topics have lost records" in stream.refusal()


def test_two_scorers_that_start_at_once_resume_together(stream: Stream) -> None:
    """Each resolves the partitions that it gets, and those of a member that dies."""
    stream.delete_group()
    stream.send()
    stream.service.start("score", "a")
    other = stream.service.start("score", "b")
    stream.service.await_decided()
    other.kill()
    stream.send()
    stream.service.await_decided()
    stream.assert_exactly_once()
