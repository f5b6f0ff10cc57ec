"""The verifier on a real Kafka and a real file accepts what is right, and finds what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest
from confluent_kafka import Producer

from consumer.errors import StartupError
from consumer.monitor.audit.log import read_checkpoint
from consumer.ops.audit_rebuild import rebuild_audit_log
from consumer.ops.verify.verifier import verify, verify_until_idle
from consumer.settings import AuditSettings, KafkaSettings, Settings, TopicSettings
from tests.support.events import prediction

pytestmark = pytest.mark.broker

REJECTED = {3, 4, 11}
"""The numbers of the rejected events."""


@dataclass
class World:
    """Twelve events in one partition, their outputs, and the log; tests change it first."""

    events: list[bytes | None] = field(default_factory=list)
    predictions: list[tuple[int, bytes | None]] = field(default_factory=list)
    letters: list[tuple[int, bytes | None]] = field(default_factory=list)
    lines: list[tuple[int, int]] = field(default_factory=list)
    foreign_lines: list[bytes] = field(default_factory=list)

    @classmethod
    def faithful(cls) -> World:
        """Return one in which everything is right."""
        keys = [b"key-%d" % n for n in range(12)]
        scored = [n for n in range(12) if n not in REJECTED]
        return cls(
            events=list(keys),
            predictions=[(n, keys[n]) for n in scored],
            letters=[(n, keys[n]) for n in sorted(REJECTED)],
            lines=list(enumerate(scored)),
        )


def prediction_of(partition: int, offset: int) -> bytes:
    """Return the framed prediction of an event."""
    return prediction(
        event_id=f"event-{offset}",
        predicted_purchase_probability=offset / 7,
        occurred_at=2**60,  # far beyond the years that datetime knows
        source_partition=partition,
        source_offset=offset,
    )


def letter(
    topic: str, offset: int, *, body_offset: int | None = None
) -> tuple[bytes, list[tuple[str, bytes]]]:
    """Return value and headers of a dead letter."""
    body = {
        "code": "field_invalid",
        "source": {"topic": topic, "partition": 0, "offset": offset if body_offset is None else body_offset},
        "raw_truncated": False,
    }
    headers = {
        "__dlq.errors.topic": topic,
        "__dlq.errors.partition": "0",
        "__dlq.errors.offset": str(offset),
        "dlq.error.code": "field_invalid",
    }
    return orjson.dumps(body), [(name, value.encode()) for name, value in headers.items()]


def line(topic: str, output_offset: int, source_offset: int) -> bytes:
    """Return the audit line of a prediction."""
    return orjson.dumps(
        {
            "event_id": f"event-{source_offset}",
            "predicted_purchase_probability": source_offset / 7,
            "source": {"topic": "events", "partition": 0, "offset": source_offset},
            "output": {"topic": topic, "partition": 0, "offset": output_offset},
        }
    )


class Writer:
    """Writes a world to topics of its own and to a file."""

    def __init__(self, kafka: str, topics: Callable[..., str], folder: Path) -> None:
        self.settings = Settings(
            kafka=KafkaSettings(bootstrap_servers=kafka),
            topics=TopicSettings(
                events=topics("events"), predictions=topics("predictions"), dead_letters=topics("letters")
            ),
            audit=AuditSettings(path=folder / "log.jsonl"),
        )
        self.kafka = kafka

    def write(self, world: World, extra: Sequence[tuple[str, Any]] = ()) -> None:
        """Write everything; extra records go to ``predictions`` or ``dead_letters`` as they are."""
        topics = self.settings.topics
        producer = Producer({"bootstrap.servers": self.kafka, "enable.idempotence": True})
        for key in world.events:
            producer.produce(topics.events, b"event", key)
        for n, key in world.predictions:
            producer.produce(topics.predictions, prediction_of(0, n), key)
        for n, key in world.letters:
            value, headers = letter(topics.events, n)
            producer.produce(topics.dead_letters, value, key, headers=[*headers])
        for topic, value in extra:
            producer.produce(getattr(topics, topic), value, b"key")
        assert producer.flush(20) == 0
        lines = [line(topics.predictions, *entry) for entry in world.lines] + world.foreign_lines
        path = self.settings.audit.path
        path.with_name(path.name + ".000001").write_bytes(b"".join(text + b"\n" for text in lines[:4]))
        path.write_bytes(b"".join(text + b"\n" for text in lines[4:]) + b'{"torn')


@pytest.fixture
def writer(kafka: str, topics: Callable[..., str], tmp_path: Path) -> Writer:
    """Topics and a log of the test's own."""
    return Writer(kafka, topics, tmp_path)


def test_a_faithful_world_holds(writer: Writer) -> None:
    """Counts are right, nothing is found, and a torn tail of the log is no finding."""
    writer.write(World.faithful())
    verdict = verify(writer.settings)
    assert verdict.holds, verdict.lines()
    assert (verdict.events, verdict.predictions, verdict.dead_letters) == (12, 9, {"field_invalid": 3})
    assert (verdict.prediction_records, verdict.log_lines) == (9, 9)
    assert verdict.lines()[0] == "events 12 = predictions 9 + dead letters 3"


def test_a_log_that_is_lost_is_rebuilt_from_the_topic(writer: Writer) -> None:
    """The monitor could go on after it; what the topic does not have any more is said."""
    writer.write(World.faithful(), [("predictions", b"no prediction")])
    path = writer.settings.audit.path
    with pytest.raises(StartupError, match="move the log"):
        rebuild_audit_log(writer.settings, path, lambda _: None)
    for file in path.parent.iterdir():
        file.unlink()
    rebuilt = rebuild_audit_log(writer.settings, path, lambda _: None)
    assert (rebuilt.lines, rebuilt.undecodable, rebuilt.expired) == (9, 1, {})
    checkpoint = read_checkpoint(path.with_name(path.name + ".checkpoint"))
    assert checkpoint is not None
    assert checkpoint.next_offsets == {0: 10}
    found = verify(writer.settings)
    assert {name for name, finding in found.findings.items() if finding.count} == {"unreadable"}
    assert found.log_lines == 9


def drop(world: World) -> None:
    """Lose a prediction of the middle, and its line's place with it."""
    world.predictions.pop(3)
    world.lines = [(at, n) for at, (n, _) in enumerate(world.predictions)]


def double(world: World) -> None:
    """Publish a prediction twice; both are logged."""
    world.predictions.append(world.predictions[2])
    world.lines.append((9, world.predictions[2][0]))


def both(world: World) -> None:
    """Let a scored event be a dead letter, too."""
    world.letters.insert(0, (0, b"key-0"))


def swap(world: World) -> None:
    """Publish two predictions in the wrong order, and log them as they stand."""
    world.predictions[2:4] = reversed(world.predictions[2:4])
    world.lines = [(at, n) for at, (n, _) in enumerate(world.predictions)]


def rename(world: World) -> None:
    """Publish under another key."""
    world.predictions[0] = (0, b"other")


def log_twice(world: World) -> None:
    """Write a line twice."""
    world.lines.append(world.lines[1])


def log_less(world: World) -> None:
    """Lose a line."""
    world.lines.pop(5)


def log_swapped(world: World) -> None:
    """Write two lines in the wrong order."""
    world.lines[5:7] = reversed(world.lines[5:7])


def log_altered(world: World) -> None:
    """Write a line that tells of another prediction."""
    world.lines[0] = (0, 7)


def log_garbage(world: World) -> None:
    """Write what is no line."""
    world.foreign_lines.append(b'{"event_id": 1}')


@pytest.mark.parametrize(
    ("change", "findings"),
    [
        (drop, {"missing": 1}),
        (double, {"doubled": 1}),
        (both, {"doubled": 1}),
        (swap, {"out_of_order": 1}),
        (rename, {"wrong_key": 1}),
        (log_twice, {"log_doubled": 1}),
        (log_less, {"log_missing": 1}),
        (log_swapped, {"log_out_of_order": 1}),
        (log_altered, {"log_altered": 1}),
        (log_garbage, {"log_unreadable": 1}),
    ],
)
def test_the_oracle_finds(writer: Writer, change: Callable[[World], None], findings: dict[str, int]) -> None:
    """Each change is found for what it is, and nothing else is."""
    world = World.faithful()
    change(world)
    writer.write(world)
    verdict = verify(writer.settings)
    assert not verdict.holds
    found = {name: finding.count for name, finding in verdict.findings.items() if finding.count}
    assert found == findings
    assert all(len(verdict.findings[name].examples) == 1 for name in findings)


def test_foreign_records_are_found_and_do_not_hide_anything(writer: Writer) -> None:
    """Bytes that are no prediction, and a dead letter that contradicts itself, are named."""
    contradiction, _ = letter(writer.settings.topics.events, 3, body_offset=4)
    world = World.faithful()
    writer.write(world, [("predictions", b"foreign"), ("predictions", None), ("dead_letters", contradiction)])
    verdict = verify(writer.settings)
    assert verdict.count("unreadable") == 3
    assert verdict.missing == verdict.doubled == verdict.out_of_order == 0
    assert "predictions" in verdict.findings["unreadable"].examples[0]


def test_aborted_transactions_and_markers_are_no_events(kafka: str, writer: Writer) -> None:
    """Events of an aborted transaction need no decision, nor do the offsets that markers take."""
    producer = Producer({"bootstrap.servers": kafka, "transactional.id": writer.settings.topics.events})
    producer.init_transactions(20)
    topics = writer.settings.topics
    for commits in (False, True, False):
        producer.begin_transaction()
        producer.produce(topics.events, b"event", b"key-1")
        producer.flush()
        producer.commit_transaction() if commits else producer.abort_transaction()
    # Offsets: 0 aborted, 1 marker, 2 committed, 3 marker, 4 aborted, 5 marker.
    world = World(predictions=[(2, b"key-1")], lines=[(0, 2)])
    writer.write(world)
    verdict = verify(writer.settings)
    assert verdict.holds, verdict.lines()
    assert verdict.events == 1


def test_predictions_asked_for_over_http_must_be_logged_all_the_same(writer: Writer) -> None:
    """They belong to no event, and to one line each."""
    writer.write(World.faithful(), [("predictions", prediction_of(-1, -1))])
    verdict = verify(writer.settings)
    assert {name for name, finding in verdict.findings.items() if finding.count} == {"log_missing"}
    assert (verdict.predictions, verdict.http_predictions, verdict.prediction_records) == (9, 1, 10)
    assert verify(writer.settings, with_log=False).holds


def test_until_idle_gives_up_on_a_stream_that_stands_still(writer: Writer) -> None:
    """What is missing after a silence is missing, and the answer says that it is at the end."""
    world = World.faithful()
    world.letters.pop()
    writer.write(world)
    verdict = verify_until_idle(writer.settings, idle_s=1.0)
    assert verdict.missing == 1
    assert any("not decided yet, or lost" in note for note in verdict.notes)
