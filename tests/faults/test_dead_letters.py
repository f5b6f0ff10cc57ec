"""Dead letters from the first rejection to the last replay: every event is accounted for exactly once."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # not in __all__
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
)
from fastavro import parse_schema

from consumer.kafka.admin import ClusterAdmin
from consumer.kafka.reader import Record, TopicReader
from consumer.ops.dlq.replay import group_of
from consumer.pipeline.rejections import Code
from consumer.simulator.events import EVENT_FAULTS
from schemas.avro import AvroSchema
from schemas.repository import confluent_header, engagement_event, single_object_header
from tests.faults.crash_points import MODEL_FAILS_ON_MINUTES, model_fails_on_some
from tests.support.events import decoded_prediction, definition, encoded, event

pytestmark = pytest.mark.faults

N_EVENTS: Final = 50_000
EVERY_NTH_IS_BROKEN: Final = 10
PREDICTION_LIMIT_BYTES: Final = 200_000
LARGE_KEY_BYTES: Final = 300_000
RATE: Final = 50
"""Events per second of a replay that is to be killed: slow enough to be killed in the middle."""


class Writer:
    """A platform's schema, by which fastavro writes events.

    Attributes:
        definition: The schema as JSON.
        header: The frame that names it.
    """

    def __init__(self, definition: Any) -> None:
        self.definition = definition
        self.header = single_object_header(AvroSchema.parse(definition).fingerprint)
        self._parsed = parse_schema(definition)

    def encode(self, fields: Mapping[str, Any]) -> bytes:
        """Return a framed event."""
        return self.header + encoded(dict(fields), self._parsed)


def _changed(name: str, new_type: Any) -> Any:
    """Return our schema with another type of a field, added if it does not exist."""
    own = definition()
    kept = [spec for spec in own["fields"] if spec["name"] != name]
    return own | {"fields": [*kept, {"name": name, "type": new_type}]}


NULLABLE: Final = Writer(_changed("courses_started", ["null", "long"]))
"""Known from the start, by the folder of schemas."""
UNREADABLE: Final = Writer(_changed("minutes_watched", "string"))
"""Known from the start, and its events cannot be read."""
LATE: Final = Writer(_changed("plan", "string"))
"""Unknown until its file is added to the folder."""


@dataclass(frozen=True)
class Way:
    """One way in which an event is broken.

    Attributes:
        code: The code of its dead letter.
        make: Returns the value for good fields.
        code_later: The code with which a replay would reject it once everything is repaired; ``None`` if it
            is accepted then.
        is_repairable: Whether ``--set minutes_watched=1.5`` is enough to make it acceptable.
    """

    code: str
    make: Callable[[dict[str, Any]], bytes | None] = field(repr=False)
    code_later: str | None
    is_repairable: bool = False


def _of_fault(name: str) -> Way:
    fault = next(fault for fault in EVENT_FAULTS if fault.name == name)

    def make(fields: dict[str, Any]) -> bytes | None:
        return fault.spoil(own(fields | fault.wrong_fields(fields)))

    return Way(fault.code, make, fault.code, name in ("negative minutes", "minutes are NaN"))


def own(fields: Mapping[str, Any]) -> bytes:
    """Return an event of our own schema, framed by each fingerprint that libraries give it, in turn."""
    fingerprints = sorted(engagement_event().fingerprints)
    number = int(fields["event_id"].removeprefix("e-") or 0) if fields["event_id"] else 0
    return single_object_header(fingerprints[number % len(fingerprints)]) + encoded(dict(fields))


WAYS: Final = (
    *(_of_fault(fault.name) for fault in EVENT_FAULTS),
    *[Way("unknown_schema", lambda e: LATE.encode(e | {"plan": "free"}), None)] * 3,
    Way("unknown_schema", lambda e: LATE.encode(e | {"plan": "x", "days_on_platform": -1}), "field_invalid"),
    Way("field_invalid", lambda e: NULLABLE.encode(e | {"courses_started": None}), "field_invalid"),
    Way("field_invalid", lambda e: own(e | {"occurred_at": e["occurred_at"] // 1000}), "field_invalid"),
    Way("undecodable", lambda e: UNREADABLE.encode(e | {"minutes_watched": "12"}), "undecodable"),
    Way("unknown_framing", lambda e: confluent_header(7) + encoded(e), "unknown_framing"),
    Way("model_failed", lambda e: own(e | {"minutes_watched": MODEL_FAILS_ON_MINUTES}), None),
)
REFUSED: Final = Way("publish_refused", own, None)
"""A few events with a key that the predictions topic does not take."""


@dataclass(frozen=True)
class Planned:
    """An event, and what has to become of it; ``way`` is ``None`` for a good one."""

    event_id: str
    key: bytes
    value: bytes | None = field(repr=False)
    way: Way | None


def planned_events() -> Iterator[Planned]:
    """Yield the events: good ones of three writers, and each way to break one in turn."""
    n_broken = 0
    for n in range(N_EVENTS):
        fields, key = event(event_id=f"e-{n}", student_id=f"s-{n % 2000}"), b"s-%d" % (n % 2000)
        if n % EVERY_NTH_IS_BROKEN:
            yield Planned(f"e-{n}", key, own(fields) if n % 3 else NULLABLE.encode(fields), None)
            continue
        way = WAYS[n_broken % len(WAYS)]
        n_broken += 1
        if n_broken % 1000 == 0:
            way, key = REFUSED, b64encode(os.urandom(LARGE_KEY_BYTES * 3 // 4))
        yield Planned(f"e-{n}", key, way.make(fields), way)


def test_every_event_is_accounted_for_once_through_rejection_replay_and_repair(
    broker: Any, deploy: Callable[..., Any], holds: Callable[..., None], tmp_path: Path
) -> None:
    """Of 50,000 events 5,000 are broken in every way; then what can be repaired is, by killed commands.

    The counts of ``dlq stats`` add up to the dead letters; the forecast of ``replay`` and of ``repair`` is
    what they send, although each is killed twice; and every event has exactly one outcome in the end.
    """
    service, folder, admin = deploy(), tmp_path / "schemas", AdminClient({"bootstrap.servers": broker.direct})
    folder.mkdir()
    for name, writer in (("nullable", NULLABLE), ("unreadable", UNREADABLE)):
        (folder / f"{name}.avsc").write_text(json.dumps(writer.definition))
    settings = {"SCHEMAS__PATH": str(folder)}
    _limit_predictions(admin, service, PREDICTION_LIMIT_BYTES)
    events = list(planned_events())
    broken = [planned for planned in events if planned.way is not None]
    scorer = service.start("score", wire=model_fails_on_some, **settings)
    produce(service, events)
    service.await_decided()

    codes = Counter(planned.way.code for planned in broken if planned.way)
    assert {*codes} == {*Code}
    stats = json.loads(run(service, "stats", "--json", **settings))["signatures"]
    assert sum(entry["count"] for entry in stats) == len(read(service, "dead_letters")) == 5000
    counted: Counter[str] = Counter()
    for entry in stats:
        counted[entry["code"]] += entry["count"]
    assert counted == codes
    late = f"fingerprint {LATE.header[2:].hex()}"
    assert sum(entry["count"] for entry in stats if entry["schema"] == late) == sum(
        planned.value is not None and planned.value.startswith(LATE.header) for planned in broken
    )

    # The cause is repaired: the schema is there, the model works, the topic takes large predictions.
    (folder / "late.avsc").write_text(json.dumps(LATE.definition))
    _limit_predictions(admin, service, 1_048_588)
    scorer.kill()
    service.start("score", **settings)
    accepted = Counter(p.way.code for p in broken if p.way and p.way.code_later is None)
    n_sent = check_forecast(service, accepted, "replay", **settings)
    kill_twice(service, "replay", **settings)
    last = sent(run(service, "replay", **settings))
    assert 0 < last < n_sent
    await_decided(service, N_EVENTS + n_sent)

    repairable = Counter(p.way.code for p in broken if p.way and p.way.is_repairable)
    repair = ("repair", "--set", "minutes_watched=1.5", "--code", "field_invalid")
    n_repaired = check_forecast(service, repairable, *repair, **settings)
    kill_twice(service, *repair, **settings)
    last = sent(run(service, *repair, **settings))
    assert 0 < last < n_repaired
    await_decided(service, N_EVENTS + n_sent + n_repaired)

    # Nothing more can be sent, and what is left is exactly what was not repaired.
    left = Counter(
        (p.way.code, p.way.code_later)
        for p in broken
        if p.way and p.way.code_later and not p.way.is_repairable
    )
    answer = run(service, "replay", **settings)
    assert sent(answer) == 0
    assert {
        f"{code}: {count} would be rejected again as {later}; not sent"
        for (code, later), count in left.items()
    } <= {*answer.splitlines()}
    scored = Counter(
        decoded_prediction(record.value() or b"")["event_id"] for record in read(service, "predictions")
    )
    expected = {
        p.event_id for p in events if p.way is None or p.way.code_later is None or p.way.is_repairable
    }
    assert scored == dict.fromkeys(expected, 1)
    assert len(expected) + left.total() == N_EVENTS
    holds(
        "dead letters of every kind replayed and repaired",
        "10 % broken; replay and repair killed twice each",
        service.verdict(),
    )


def produce(service: Any, events: list[Planned]) -> None:
    """Send the events over all partitions."""
    producer = Producer({"bootstrap.servers": service.servers, "linger.ms": 5})
    for n, planned in enumerate(events):
        producer.produce(service.topics["events"], planned.value, planned.key, n % service.partitions)
        producer.poll(0)
    assert producer.flush(60) == 0


def check_forecast(service: Any, expected: Counter[str], *verb: str, **settings: str) -> int:
    """Check that a dry run announces the expected events, and return their number."""
    answer = run(service, *verb, "--dry-run", **settings)
    assert {f"{code}: {count} would be accepted now" for code, count in expected.items()} == {
        line for line in answer.splitlines() if line.endswith("accepted now")
    }
    assert sent(answer) == expected.total()
    return expected.total()


def sent(answer: str) -> int:
    """Return how many events a command has sent, or would send."""
    (line,) = [line for line in answer.splitlines() if " sent to " in line]
    return int(line.split()[0])


def run(service: Any, *verb: str, **settings: str) -> str:
    """Run a ``dlq`` command to its end and return its output."""
    process = service.start("dlq", options=verb, **settings)
    assert process.wait(120) == 0, process.output()
    return str(process.output())


def kill_twice(service: Any, *verb: str, **settings: str) -> None:
    """Kill a command twice, each time after it has committed something."""
    for _ in range(2):
        process, before = (
            service.start("dlq", options=(*verb, "--rate", str(RATE)), **settings),
            handled(service),
        )
        service.await_that(lambda before=before: handled(service) != before, 60, "nothing was committed")
        assert process.exit_code is None, "the command ended before it could be killed"
        process.send(signal.SIGKILL)
        process.wait(10)


def handled(service: Any) -> object:
    """Return the committed position of the replays."""
    admin = ClusterAdmin({"bootstrap.servers": service.servers})
    return admin.committed_offsets(group_of(service.settings), service.topics["dead_letters"], [0])


def await_decided(service: Any, n_events: int) -> None:
    """Check how many committed events there are, and wait until the scorers have committed the last of them.

    Behind the last event are the markers of the replay's transactions.
    """
    events = read(service, "events")
    assert len(events) == n_events
    stops = {record.partition(): record.offset() + 1 for record in events}
    service.await_that(
        lambda: all(service.committed()[partition] >= stop for partition, stop in stops.items()),
        120,
        "events are undecided",
    )


def read(service: Any, kind: str) -> list[Record]:
    """Return the committed records of a topic, each partition in order."""
    client, topic = {"bootstrap.servers": service.servers}, service.topics[kind]
    with contextlib.closing(TopicReader(client, topic)) as reader:
        ranges = ClusterAdmin(client).committed_ranges(topic)
        return [record for batch in reader.read_ranges(ranges) for record in batch]


def _limit_predictions(admin: AdminClient, service: Any, limit_bytes: int) -> None:
    entry = ConfigEntry("max.message.bytes", str(limit_bytes), incremental_operation=AlterConfigOpType.SET)
    topic = ConfigResource(
        ConfigResource.Type.TOPIC, service.topics["predictions"], incremental_configs=[entry]
    )
    admin.incremental_alter_configs([topic])[topic].result(30)
