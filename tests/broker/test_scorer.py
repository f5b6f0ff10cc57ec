"""The scorer as a process on a real broker, as the readers of its topics see it."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import re
import signal
import time
from collections import Counter
from collections.abc import Callable
from typing import Any
from urllib.request import urlopen

import pytest

from consumer.embedded_kafka.broker import free_port
from tests.support.events import decoded_prediction, good

pytestmark = pytest.mark.broker

GOOD: dict[str, Any] = {
    "event_id": "e-1",
    "student_id": "s-1",
    "occurred_at": 1_790_000_000_000,
    "student_country": "NA",
    "days_on_platform": 30,
    "minutes_watched": 12.5,
    "courses_started": 2,
    "practice_exams_started": 4,
    "practice_exams_passed": 3,
    "minutes_spent_on_exams": 20.25,
}


def event(**changed: Any) -> bytes:
    """Return a framed event."""
    return good(**GOOD | changed)


HEADERS: list[tuple[str, bytes]] = [
    ("trace", b"t-1"),
    ("traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ("tracestate", b"vendor=1"),
    ("ce_id", b"7"),
    ("__dlq.errors.topic", b"forged"),
]

BROKEN: list[tuple[str, bytes | None]] = [
    ("tombstone", None),
    ("unknown_framing", b""),
    ("unknown_framing", b"\x01plainly not"),
    ("unknown_framing", b"\xc3\x01short"),
    ("unknown_framing", b"\x00\x00\x00\x00\x01registry"),
    ("unknown_schema", b"\xc3\x01" + b"nosuchfp" + b"body"),
    ("undecodable", event()[:-1]),
    ("trailing_bytes", event() + b"\x00"),
    ("field_invalid", event(minutes_watched=-1.0)),
    ("field_invalid", event(minutes_spent_on_exams=float("nan"), event_id="")),
    ("rule_violated", event(practice_exams_passed=5)),
]


def test_every_kind_of_bad_event_gets_its_code_and_its_neighbours_are_scored(
    deploy: Callable[..., Any],
) -> None:
    """In a batch of good and bad events, order, keys, bytes, headers and details are as promised.

    A prediction carries the trace context and the CloudEvents headers, a dead letter all headers.
    """
    service = deploy(partitions=1)
    records: list[tuple[bytes | None, bytes | None, int]] = []
    for i, (_, value) in enumerate(BROKEN):
        records += [(b"good-%d" % i, event(event_id=f"e-{i}"), 0), (b"\xffbad-%d" % i, value, 0)]
    service.produce(records, headers=HEADERS)
    service.start("score")

    predictions = service.read(service.topics["PREDICTIONS"], len(BROKEN))
    letters = service.read(service.topics["DEAD_LETTERS"], len(BROKEN))

    decoded = [decoded_prediction(record.value()) for record in predictions]
    assert [record.key() for record in predictions] == [b"good-%d" % i for i in range(len(BROKEN))]
    assert [p["source_offset"] for p in decoded] == [2 * i for i in range(len(BROKEN))]
    assert len({p["predicted_purchase_probability"] for p in decoded}) == 1
    assert all(record.headers() == HEADERS[1:4] for record in predictions)
    assert decoded[0]["features"] == {name: GOOD[name] for name in decoded[0]["features"]}

    for i, (record, (code, value)) in enumerate(zip(letters, BROKEN, strict=True)):
        body = json.loads(record.value())
        assert (body["code"], body["status"]) == (code, 422)
        assert record.key() == b"\xffbad-%d" % i
        assert body["source"] | {"timestamp": 0} == {
            "topic": service.topics["EVENTS"],
            "partition": 0,
            "offset": 2 * i + 1,
            "timestamp": 0,
            "key": f"\\xffbad-{i}",
        }
        assert body["raw"] == (None if value is None else base64.b64encode(value).decode())
        assert body["raw_sha256"] == (None if value is None else hashlib.sha256(value).hexdigest())
        headers = record.headers()
        assert headers[: len(HEADERS)] == HEADERS
        assert dict(headers[len(HEADERS) :]) | {"__dlq.errors.message": b""} == {
            "__dlq.errors.topic": service.topics["EVENTS"].encode(),
            "__dlq.errors.partition": b"0",
            "__dlq.errors.offset": b"%d" % (2 * i + 1),
            "__dlq.errors.group": service.topics["EVENTS"].encode(),
            "__dlq.errors.message": b"",
            "dlq.error.code": code.encode(),
            "dlq.error.status": b"422",
        }
    by_code = {json.loads(r.value())["code"]: json.loads(r.value()) for r in letters}
    assert by_code["rule_violated"]["detail"] == "practice_exams_passed cannot exceed practice_exams_started."
    assert [p["loc"] for p in by_code["field_invalid"]["detail"]] == [
        ["event", "event_id"],
        ["event", "minutes_spent_on_exams"],
    ]


def test_sigterm_finishes_the_batch_and_exits_0(deploy: Callable[..., Any]) -> None:
    """A clean stop loses nothing, and the next run resumes where the last one stopped."""
    service = deploy()
    service.produce([(b"k%d" % i, event(event_id=f"e{i}"), i % 2) for i in range(2000)])
    first = service.start("score")
    service.read(service.topics["PREDICTIONS"], 2000)
    first.send_signal(signal.SIGTERM)
    assert first.wait(10) == 0, service.logs()

    service.produce([(b"k%d" % i, event(event_id=f"f{i}"), i % 2) for i in range(500)])
    service.start("score")
    records = service.read(service.topics["PREDICTIONS"], 2500)
    assert max(Counter(decoded_prediction(r.value())["event_id"] for r in records).values()) == 1


def test_a_value_that_the_dead_letter_topic_cannot_hold_is_truncated(deploy: Callable[..., Any]) -> None:
    """It does not block the stream, and says that it was truncated."""
    service = deploy(partitions=1, dead_letters={"max_message_bytes": "20000"})
    huge = b"\x01" + b"x" * 1_000_000
    service.produce([(b"k", huge, 0), (b"k", event(), 0)])
    service.start("score")
    service.read(service.topics["PREDICTIONS"], 1)
    (letter,) = service.read(service.topics["DEAD_LETTERS"], 1)
    body = json.loads(letter.value())
    assert body["raw_truncated"]
    assert huge.startswith(base64.b64decode(body["raw"]))
    assert body["raw_sha256"] == hashlib.sha256(huge).hexdigest()


def test_a_dead_letter_keeps_a_large_key_beside_a_large_value(deploy: Callable[..., Any]) -> None:
    """A value of 600 kB gives way to a key of 300 kB, up to the client's own limit of a record."""
    service = deploy(partitions=1)
    key, value = (
        random.Random(1).randbytes(150_000).hex().encode(),
        b"\x01" + random.Random(2).randbytes(600_000),
    )
    service.produce([(b"k", event(), 0), (key, value, 0), (b"k", event(), 0)])
    service.start("score")
    service.read(service.topics["PREDICTIONS"], 2)
    (letter,) = service.read(service.topics["DEAD_LETTERS"], 1)
    body = json.loads(letter.value())
    assert letter.key() == key
    assert body["source"]["key"] == key.decode()
    raw = base64.b64decode(body["raw"])
    assert body["raw_truncated"]
    assert value.startswith(raw)
    assert body["raw_sha256"] == hashlib.sha256(value).hexdigest()
    assert "dlq.error.dropped" not in dict(letter.headers())
    # Nothing more would have fitted: the client takes 1,000,000 bytes.
    assert 999_000 < len(letter.key()) + len(letter.value()) < 1_000_000


@pytest.mark.parametrize(
    ("predictions", "key_bytes"),
    [
        pytest.param({}, 1_100_000, id="client"),
        pytest.param({"max_message_bytes": "20000"}, 40_000, id="broker"),
    ],
)
def test_a_prediction_that_its_topic_refuses_is_dead_lettered(
    deploy: Callable[..., Any], predictions: dict[str, str], key_bytes: int
) -> None:
    """If a key is too long for the predictions topic, the batch is split until that event is alone.

    The client knows its own limit, but only the broker knows the topic's.
    """
    service = deploy(partitions=1, predictions=predictions)
    records: list[tuple[bytes | None, bytes | None, int]] = [(b"k", event(), 0) for _ in range(20)]
    records.insert(7, (random.Random(1).randbytes(key_bytes), event(), 0))
    service.produce(records)
    service.start("score")
    published = service.read(service.topics["PREDICTIONS"], 20)
    (letter,) = service.read(service.topics["DEAD_LETTERS"], 1)
    assert [decoded_prediction(r.value())["source_offset"] for r in published] == [
        i for i in range(21) if i != 7
    ]
    assert json.loads(letter.value())["code"] == "publish_refused"


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_partitions_move_between_scorers_while_events_flow(deploy: Callable[..., Any], protocol: str) -> None:
    """A second scorer joins and leaves; every event is processed exactly once, in order.

    Also with the group protocol of KIP-848.
    """
    service = deploy(partitions=4)
    client = {"PURCHASE_STREAM_KAFKA__CLIENT": json.dumps({"group.protocol": protocol})}
    first = {"PURCHASE_STREAM_KAFKA__INSTANCE_ID": "one", **client}
    second = {"PURCHASE_STREAM_KAFKA__INSTANCE_ID": "two", **client}
    service.start("score", **first)
    sent = 0

    def flow_until(phase_over: Callable[[], bool]) -> None:
        nonlocal sent
        deadline_s = time.monotonic() + 20
        while not phase_over() and time.monotonic() < deadline_s:
            service.produce([(b"k", event(event_id=f"{sent + i}"), i % 4) for i in range(400)])
            sent += 400
            time.sleep(0.1)

    flow_until(lambda: "assigned" in service.logs())
    joiner = service.start("score", **second)
    flow_until(lambda: "assigned" in (service.folder / "score-1.log").read_text())
    flow_until(lambda: sent % 4000 == 0)
    joiner.send_signal(signal.SIGTERM)
    flow_until(lambda: joiner.poll() is not None)
    assert joiner.wait(15) == 0
    flow_until(lambda: sent % 4000 == 0)
    records = service.read(service.topics["PREDICTIONS"], sent, timeout_s=40)
    for partition in range(4):
        offsets = [
            decoded_prediction(r.value())["source_offset"] for r in records if r.partition() == partition
        ]
        assert offsets == list(range(sent // 4))


def test_at_least_once_publishes_everything(deploy: Callable[..., Any]) -> None:
    """It loses nothing, and without a failure it doubles nothing."""
    service = deploy()
    service.produce([(b"k", event(event_id=f"e{i}") if i % 10 else None, i % 2) for i in range(1000)])
    service.start("score", PURCHASE_STREAM_KAFKA__DELIVERY="at_least_once")
    service.read(service.topics["PREDICTIONS"], 900)
    service.read(service.topics["DEAD_LETTERS"], 100)


def test_lag_behind_a_transactional_upstream_is_0_once_all_events_are_committed(
    deploy: Callable[..., Any],
) -> None:
    """The markers of its transactions, and the records of aborted ones, are not events."""
    from confluent_kafka import Producer  # noqa: PLC0415 - only this test sends transactions

    service = deploy(partitions=2)
    upstream = Producer({"bootstrap.servers": service.servers, "transactional.id": service.topics["EVENTS"]})
    upstream.init_transactions(20)
    for transaction in range(6):
        upstream.begin_transaction()
        for i in range(50):
            upstream.produce(service.topics["EVENTS"], event(event_id=f"e{transaction}-{i}"), b"k", i % 2)
        upstream.flush()
        if transaction % 2:
            upstream.abort_transaction()
        else:
            upstream.commit_transaction()
    port = free_port()
    service.start("score", PURCHASE_STREAM_HTTP__SCORE_PORT=str(port))
    service.read(service.topics["PREDICTIONS"], 150)
    lag: dict[str, float] = {}
    deadline_s = time.monotonic() + 15
    while time.monotonic() < deadline_s and (len(lag) < 2 or any(lag.values())):
        time.sleep(0.3)
        lag = _lag(port)
    assert lag == {"0": 0.0, "1": 0.0}


def _lag(port: int) -> dict[str, float]:
    """Return the scorer's lag by partition, from its metrics."""
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    found = re.findall(r'purchase_stream_consumer_lag_events\{partition="(\d+)",topic="[^"]+"\} (\S+)', text)
    return {partition: float(value) for partition, value in found}
