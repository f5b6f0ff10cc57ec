"""Committed offsets that are deleted, reset or of another topic: no event is published a second time."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # it is exported

from tests.support.events import decoded_prediction, good

pytestmark = pytest.mark.broker

_N = 600
_PARTITIONS = 3


class Stream:
    """A deployment whose events and outputs are counted."""

    def __init__(self, service: Any) -> None:
        self.service = service
        self.admin = AdminClient({"bootstrap.servers": service.servers})
        self.events: str = service.topics["EVENTS"]
        self.n_sent = 0

    def send(self, n: int = _N, tag: str = "e") -> None:
        """Send n events, every tenth a broken one; the last partition gets none."""
        first = self.n_sent
        self.service.produce(
            [
                (
                    b"k%d" % i,
                    b"broken %d" % i if i % 10 == 0 else good(event_id=f"{tag}{i}"),
                    i % (_PARTITIONS - 1),
                )
                for i in range(first, first + n)
            ]
        )
        self.n_sent += n

    def outputs(self, expected: int) -> Counter[tuple[int, int]]:
        """Wait for so many outputs; return how often each source coordinate is in them."""
        deadline_s = time.monotonic() + 30
        while self._outputs().total() < expected and time.monotonic() < deadline_s:
            time.sleep(0.2)
        time.sleep(0.5)  # a doubled output would come now
        return self._outputs()

    def assert_exactly_once(self) -> None:
        """Assert that every event sent has one output."""
        outputs = self.outputs(self.n_sent)
        assert outputs.total() == self.n_sent, self.service.logs()
        assert set(outputs.values()) == {1}

    def run(self, *options: str, group: str | None = None, expected: int | None = None) -> None:
        """Run a scorer until everything is processed, then stop it."""
        environment = {"PURCHASE_STREAM_KAFKA__GROUP_ID": group} if group else {}
        scorer = self.service.start("score", *options, **environment)
        self.outputs(self.n_sent if expected is None else expected)
        scorer.terminate()
        assert scorer.wait(15) == 0, self.service.logs()

    def refusal(self, *options: str) -> str:
        """Start a scorer that refuses to start; return its last line."""
        scorer = self.service.start("score", *options)
        assert scorer.wait(30) == 78, self.service.logs()
        log = self.service.folder / f"score-{len(self.service.processes) - 1}.log"
        return str(log.read_text().strip().splitlines()[-1])

    def delete_group(self) -> None:
        """Delete the group once its members have left."""
        deadline_s = time.monotonic() + 20
        while True:
            try:
                self.admin.delete_consumer_groups([self.events])[self.events].result(10)
            except KafkaException:
                if time.monotonic() > deadline_s:
                    raise
                time.sleep(0.3)
            else:
                return

    def reset(self, **offsets: int) -> None:
        """Set the group's offsets as an administrator would; ``p0=7`` is offset 7 of partition 0."""
        wanted = [TopicPartition(self.events, int(name[1:]), offset) for name, offset in offsets.items()]
        request = ConsumerGroupTopicPartitions(self.events, wanted)
        deadline_s = time.monotonic() + 20
        while True:
            try:
                self.admin.alter_consumer_group_offsets([request])[self.events].result(10)
            except KafkaException:
                if time.monotonic() > deadline_s:
                    raise
                time.sleep(0.3)
            else:
                return

    def recreate_events(self) -> None:
        """Delete the events topic and create it again."""
        self.admin.delete_topics([self.events])[self.events].result(10)
        deadline_s = time.monotonic() + 20
        while True:
            try:
                self.admin.create_topics([NewTopic(self.events, _PARTITIONS, 1)])[self.events].result(10)
            except KafkaException:
                if time.monotonic() > deadline_s:
                    raise
                time.sleep(0.2)
            else:
                return

    def _outputs(self) -> Counter[tuple[int, int]]:
        topics = self.service.topics
        found: Counter[tuple[int, int]] = Counter()
        for record in self._records(topics["PREDICTIONS"]):
            prediction = decoded_prediction(record.value())
            found[prediction["source_partition"], prediction["source_offset"]] += 1
        for record in self._records(topics["DEAD_LETTERS"]):
            source = json.loads(record.value())["source"]
            found[source["partition"], source["offset"]] += 1
        return found

    def _records(self, topic: str) -> list[Any]:
        from consumer.kafka.admin import ClusterAdmin  # noqa: PLC0415 - only broker tests need it
        from consumer.kafka.reader import TopicReader  # noqa: PLC0415

        client = {"bootstrap.servers": self.service.servers}
        reader = TopicReader(client, topic)
        try:
            ranges = ClusterAdmin(client).committed_ranges(topic)
            return [record for batch in reader.read_ranges(ranges) for record in batch]
        finally:
            reader.close()


@pytest.fixture
def stream(deploy: Callable[..., Any]) -> Stream:
    """A stream whose first events are processed; its scorer has stopped."""
    stream = Stream(deploy(partitions=_PARTITIONS))
    stream.send()
    stream.run()
    stream.assert_exactly_once()
    return stream


def test_deleted_offsets_are_found_again_from_the_outputs(stream: Stream) -> None:
    """The group is deleted while events arrive; the next start resumes behind the last outputs."""
    stream.delete_group()
    stream.send()
    stream.run()
    stream.assert_exactly_once()
    assert "resuming from what the outputs say" in stream.service.logs()
    stream.send()
    stream.run()
    stream.assert_exactly_once()
    assert stream.service.logs().count("resuming from what the outputs say") == 1, "said once"


def test_another_group_resumes_where_the_outputs_end(stream: Stream) -> None:
    """A group that was renamed is a group without offsets."""
    stream.send()
    stream.run(group=f"{stream.events}-renamed")
    stream.assert_exactly_once()


def test_an_offset_that_was_reset_backwards_is_refused(stream: Stream) -> None:
    """The choice is the operator's: resuming behind the outputs publishes nothing twice."""
    stream.reset(p0=5)
    stream.send()
    said = stream.refusal()
    assert f"{stream.events}[0]" in said
    assert "5 was set by another program, back behind the outputs, which end with offset 299" in said
    assert "--resume-from: outputs" in said
    stream.run("--resume-from", "outputs")
    stream.assert_exactly_once()


def test_an_offset_that_was_reset_forwards_is_refused(stream: Stream) -> None:
    """It would skip events without a trace; resuming behind the outputs processes them."""
    stream.send()
    stream.reset(p0=450)
    assert "ahead of the outputs, which end with offset 299" in stream.refusal()
    stream.run("--resume-from", "outputs")
    stream.assert_exactly_once()


def test_a_reset_can_be_accepted(stream: Stream) -> None:
    """With ``committed`` the scorer does what the administrator asked for, once."""
    stream.reset(p0=290)
    stream.run("--resume-from", "committed", expected=_N + 10)
    outputs = stream.outputs(_N + 10)
    assert {at for at, n in outputs.items() if n == 2} == {(0, offset) for offset in range(290, 300)}
    stream.run("--resume-from", "committed")
    assert stream.outputs(_N + 10).total() == _N + 10, "its own offsets are not chosen again"


def test_a_reset_to_where_the_outputs_end_is_no_reset(stream: Stream) -> None:
    """Offsets without our marker, such as those of an earlier version, are checked once."""
    stream.reset(p0=300, p1=300)
    stream.send()
    stream.run()
    stream.assert_exactly_once()
    assert "resuming from" not in stream.service.logs()


@pytest.mark.parametrize("n_new", [100, 2000], ids=["shorter", "longer"])
def test_an_events_topic_that_was_created_again_is_refused(stream: Stream, n_new: int) -> None:
    """Its offsets start again, so the outputs do not tell; the beginning is one of the choices."""
    stream.recreate_events()
    n_before, stream.n_sent = stream.n_sent, 0
    stream.send(n_new, tag="new")
    assert "created again" in stream.refusal()
    assert "created again" in stream.refusal("--resume-from", "outputs")
    stream.run("--resume-from", "beginning", expected=n_before + n_new)
    outputs = stream.outputs(n_before + n_new)
    assert outputs.total() == n_before + n_new, stream.service.logs()


def test_the_end_skips_what_is_there(stream: Stream) -> None:
    """Only where the group has no offset: a restart with the same option skips nothing."""
    stream.delete_group()
    stream.send(200)
    scorer = stream.service.start("score", "--resume-from", "end")
    deadline_s = time.monotonic() + 20
    while "partitions assigned" not in stream.service.logs().rsplit("model activated", 1)[-1]:
        assert time.monotonic() < deadline_s, stream.service.logs()
        time.sleep(0.1)
    time.sleep(1)
    scorer.terminate()
    assert scorer.wait(15) == 0
    stream.send(200)
    stream.run("--resume-from", "end", expected=_N + 200)
    assert stream.outputs(_N + 200).total() == _N + 200


def test_outputs_that_retention_has_removed_are_not_guessed(deploy: Callable[..., Any]) -> None:
    """Without offsets and without outputs it cannot be told what was published."""
    stream = Stream(deploy(partitions=_PARTITIONS))
    stream.send()
    stream.run()
    predictions, letters = (stream.service.topics[kind] for kind in ("PREDICTIONS", "DEAD_LETTERS"))
    everything = [TopicPartition(predictions, p, -1) for p in range(_PARTITIONS - 1)]
    for answer in stream.admin.delete_records([*everything, TopicPartition(letters, 0, -1)]).values():
        answer.result(10)
    stream.delete_group()
    assert "the output topics have lost records" in stream.refusal()


def test_two_scorers_that_start_at_once_resume_together(stream: Stream) -> None:
    """Each resolves the partitions that it gets, also those that come by a later rebalance."""
    stream.delete_group()
    stream.send()
    both = [stream.service.start("score", PURCHASE_STREAM_KAFKA__INSTANCE_ID=instance) for instance in "ab"]
    stream.assert_exactly_once()
    both.pop().kill()
    stream.send()
    stream.assert_exactly_once()
