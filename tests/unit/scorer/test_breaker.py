"""When the breaker holds a batch or reports a schema, and that a held batch is published whole and once."""

from __future__ import annotations

import struct
from typing import Any

import pytest
import structlog
from prometheus_client import CollectorRegistry

from consumer.errors import Condition, Unavailable
from consumer.ops.bench import pipeline_of
from consumer.pipeline.batch import Headers
from consumer.pipeline.decode import Decoder
from consumer.pipeline.rejections import Code, Rejection, Rejections
from consumer.runtime.readiness import Readiness
from consumer.scorer.breaker import Breaker, Tally, schema_names, tallies
from consumer.scorer.commit import Committer
from consumer.scorer.metrics import ScorerTelemetry
from consumer.scorer.outputs import OutputTopics
from consumer.scorer.processing import BatchProcessor
from consumer.settings import BreakerSettings
from schemas.avro import AvroSchema
from schemas.repository import confluent_header, engagement_event
from tests.support.events import Writers, encoded, event, good, raw_batch
from tests.unit.scorer.test_commit import Model, Session

GOOD, BAD = good(), good(minutes_watched=-1.0)
UNKNOWN = b"\xc3\x01" + bytes(8) + GOOD[10:]
PROCESSOR = BatchProcessor(pipeline_of(Model()), now_s=lambda: 1_790_000_000.0)


def breaker(registry: CollectorRegistry | None = None, **settings: Any) -> Breaker:
    """Return a breaker that judges ten events and tolerates half of them."""
    chosen = {"action": "pause", "minimum_events": 10, "rejected_ratio": 0.5} | settings
    return Breaker(BreakerSettings(**chosen), ScorerTelemetry(registry or CollectorRegistry()))


def test_rows_are_named_by_the_schema_that_they_name() -> None:
    """A frame, a registry id, a header, or none of these."""
    values = [GOOD, confluent_header(7) + b"x", b"bare", None, b""]
    headers: list[Headers] = [[], [], [("__value_schema_id", b"\0\0\0\0\x09")], [], []]
    assert schema_names(raw_batch(values, headers=headers)) == [
        f"fingerprint {engagement_event().fingerprint.hex()}",
        "id 7",
        "header 0000000009",
        "-",
        "-",
    ]


def test_only_faults_of_the_event_count() -> None:
    """A model that fails and a record that the broker refuses are not the schema's fault."""
    rejections = Rejections.of(
        [
            Rejection(0, Code.FIELD_INVALID, "x"),
            Rejection(1, Code.MODEL_FAILED, "x"),
            Rejection(3, Code.UNDECODABLE, "x"),
            Rejection(4, Code.PUBLISH_REFUSED, "x"),
        ]
    )
    assert tallies(["a", "a", "a", "b", "b"], rejections) == {"a": Tally(3, 1), "b": Tally(2, 1)}
    assert tallies(["a"], Rejections.of(())) == {"a": Tally(1, 0)}


def test_too_few_events_are_not_judged() -> None:
    """Nine bad events pass, the tenth batch of one is held."""
    judge = breaker()
    for _ in range(9):
        batch = PROCESSOR.process(raw_batch([BAD]))
        judge.check(batch)
        judge.note_committed(batch)
    with pytest.raises(Unavailable, match="10 of the latest 10 events of the schema with fingerprint"):
        judge.check(PROCESSOR.process(raw_batch([BAD])))


def test_exactly_the_tolerated_share_passes() -> None:
    """Five of ten pass at 0.5, six do not; the reason names an event and what is wrong with it."""
    breaker().check(PROCESSOR.process(raw_batch([GOOD] * 5 + [BAD] * 5)))
    with pytest.raises(Unavailable, match=r"such as 0:\d+ as field_invalid \(minutes_watched: ") as held:
        breaker().check(PROCESSOR.process(raw_batch([GOOD] * 4 + [BAD] * 6)))
    assert held.value.condition is Condition.BREAKER


def test_a_large_good_batch_before_does_not_hide_a_bad_one() -> None:
    """Only the latest batches that suffice are judged."""
    judge = breaker()
    judge.note_committed(PROCESSOR.process(raw_batch([GOOD] * 1000)))
    with pytest.raises(Unavailable, match="10 of the latest 10"):
        judge.check(PROCESSOR.process(raw_batch([BAD] * 10)))


def test_each_schema_is_judged_by_itself() -> None:
    """A schema that is unknown is held, however many good events of another one are in the batch."""
    with pytest.raises(Unavailable, match="fingerprint 0000000000000000 are rejected"):
        breaker().check(PROCESSOR.process(raw_batch([GOOD] * 500 + [UNKNOWN] * 10)))
    with pytest.raises(Unavailable, match="events that name no schema are rejected"):
        breaker().check(PROCESSOR.process(raw_batch([GOOD] * 500 + [None] * 10)))


def test_an_alert_counts_every_batch_and_logs_each_schema_once_until_it_recovers() -> None:
    """And it holds nothing."""
    registry = CollectorRegistry()
    judge = breaker(registry, action="alert")
    with structlog.testing.capture_logs() as logs:
        for values in ([BAD] * 10, [BAD] * 10, [GOOD] * 10, [BAD] * 10):
            batch = PROCESSOR.process(raw_batch(values))
            judge.check(batch)
            judge.note_committed(batch)
    assert [line["event"] for line in logs] == ["events of a schema are rejected"] * 2
    assert registry.get_sample_value("purchase_stream_breaker_batches_total") == 3


def test_made_up_schemas_do_not_fill_the_memory() -> None:
    """A thousand schemas are kept, the latest ones."""
    judge = breaker(action="alert", minimum_events=1)
    frames = [b"\xc3\x01" + struct.pack("<Q", n) + b"x" for n in range(3000)]
    judge.note_committed(PROCESSOR.process(raw_batch(frames)))
    assert len(judge._latest) == len(judge._reported) == 1000


def test_a_held_batch_is_published_whole_and_once_when_its_schema_is_known() -> None:
    """Until then nothing is produced, no abort is counted, and the scorer is not ready."""
    registry, readiness, session = CollectorRegistry(), Readiness(lambda: 0.0), Session()
    own = engagement_event().definition
    writer = AvroSchema.parse(own | {"fields": [*own["fields"], {"name": "more", "type": "int"}]})
    writers = Writers()
    pipeline = pipeline_of(Model())
    telemetry = ScorerTelemetry(registry)
    committer = Committer(
        session=session,  # type: ignore[arg-type]  # a stand-in
        processor=BatchProcessor(
            type(pipeline)(
                Decoder(engagement_event(), writers), pipeline.models, pipeline.countries, pipeline.header
            )
        ),
        topics=OutputTopics("predictions", "letters", {"predictions": 1, "letters": 1}, "group"),
        max_dead_letter_bytes=10_000,
        telemetry=telemetry,
        readiness=readiness,
        heartbeat=lambda: None,
        breaker=Breaker(BreakerSettings(action="pause", minimum_events=10), telemetry),
    )
    seen: list[Any] = []

    def pause(seconds: float) -> None:
        session.pauses_s.append(seconds)
        seen.append((list(session.committed), [*readiness.active()]))
        if len(session.pauses_s) == 3:
            writers.schemas[1] = writer

    session.pause_and_poll = pause  # type: ignore[method-assign]  # time passes
    body = confluent_header(1) + encoded(event()) + b"\x02"
    committer.commit_with_retry(raw_batch([GOOD] * 3 + [body] * 12))
    assert seen == [([], [Condition.BREAKER])] * 3
    assert session.committed == [list(range(15))]
    assert session.letter_bytes == []
    assert not readiness.active()
    assert registry.get_sample_value("purchase_stream_transactions_total", {"result": "aborted"}) == 0
    assert registry.get_sample_value("purchase_stream_breaker_batches_total") == 0


def test_a_held_batch_whose_partitions_are_revoked_ends_the_condition() -> None:
    """Another member has it now."""
    readiness, session = Readiness(lambda: 0.0), Session()
    telemetry = ScorerTelemetry(CollectorRegistry())
    committer = Committer(
        session=session,  # type: ignore[arg-type]  # a stand-in
        processor=PROCESSOR,
        topics=OutputTopics("predictions", "letters", {"predictions": 1, "letters": 1}, "group"),
        max_dead_letter_bytes=10_000,
        telemetry=telemetry,
        readiness=readiness,
        heartbeat=lambda: None,
        breaker=Breaker(BreakerSettings(action="pause", minimum_events=10), telemetry),
    )

    def pause(seconds: float) -> None:  # noqa: ARG001 - the session's signature
        session.revoked.add(0)

    session.pause_and_poll = pause  # type: ignore[method-assign]  # a rebalance happens
    committer.commit_with_retry(raw_batch([BAD] * 10))
    assert session.committed == []
    assert not readiness.active()
