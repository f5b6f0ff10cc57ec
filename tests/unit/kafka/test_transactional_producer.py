"""What happens to a batch when a call of its transaction fails.

The producer is a stand-in that follows a script. The broker tests cover what librdkafka itself does.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from consumer.errors import (
    BatchAborted,
    CommitOutcomeUnknown,
    FatalError,
    RecordRejectedByBroker,
    RightMissing,
    StartupError,
    Unavailable,
)
from consumer.kafka import producer as transaction
from consumer.kafka.errors import unwrap_callback_errors
from consumer.kafka.producer import Records, SourceOffsets, TransactionalProducer

RECORDS = [Records(topic="out", partitions=[0, 1], keys=[b"k", b"l"], values=[b"v", b"w"])]
OFFSETS = [TopicPartition("in", 0, 2)]


def failure(code: int = KafkaError._FAIL, **marks: bool) -> KafkaException:
    """Return an exception as the client raises it."""
    return KafkaException(KafkaError(code, "scripted", **marks))


FATAL = failure(KafkaError._FENCED, fatal=True)
ABORTABLE = failure(KafkaError.UNKNOWN_MEMBER_ID, txn_requires_abort=True)
RETRIABLE = failure(KafkaError._TIMED_OUT, retriable=True)
UNMARKED = failure(KafkaError._STATE)


class Broker:
    """Records what the producers of one transactional id do, and makes their calls fail.

    Attributes:
        script: By call, the next steps: an exception to raise, or a function to call.
        committed: The transactions that readers see.
        producers: The number of producers so far.
    """

    def __init__(self, **script: list[Any]) -> None:
        self.script = script
        self.committed: list[Any] = []
        self.producers = 0
        self.calls: Counter[str] = Counter()

    def connect(self, config: dict[str, Any]) -> Producer:
        """Create a producer."""
        self.producers += 1
        return Producer(self, config)

    def next(self, call: str, config: dict[str, Any]) -> None:
        """Take the next step of the script."""
        self.calls[call] += 1
        steps = self.script.get(call, [])
        step = steps.pop(0) if steps else None
        if isinstance(step, Exception):
            raise step
        if step is not None:
            step(config)


class Producer:
    """A producer on the scripted broker."""

    def __init__(self, broker: Broker, config: dict[str, Any]) -> None:
        self._broker = broker
        self._config = config
        self._open: list[Any] = []

    def __getattr__(self, call: str) -> Callable[..., int]:
        def perform(*arguments: Any, **_: Any) -> int:
            self._broker.next(call, self._config)
            if call == "produce":
                self._open.append(arguments[1])
            elif call == "send_offsets_to_transaction":
                self._open.append(arguments[0])
            elif call == "commit_transaction":
                self._broker.committed.append(self._open)
            if call in ("begin_transaction", "abort_transaction", "commit_transaction"):
                self._open = []
            return 0

        return perform


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry at once."""
    monkeypatch.setattr(time, "sleep", lambda _: None)


def on(broker: Broker, **told: Any) -> TransactionalProducer:
    """Return a publisher on a scripted broker."""
    return TransactionalProducer({"transactional.id": "t"}, producer_factory=broker.connect, **told)  # type: ignore[arg-type]


def publish(publisher: TransactionalProducer, records: Sequence[Records] = RECORDS) -> None:
    """Publish one batch."""
    publisher.begin(records, SourceOffsets(None, "g", OFFSETS, None)).commit()  # type: ignore[arg-type]  # no consumer


PUBLISHED = [b"v", b"w", OFFSETS]


def test_records_and_offsets_are_committed_together() -> None:
    """One batch, one transaction; the next uses the same producer."""
    broker = Broker()
    publisher = on(broker)
    publish(publisher)
    publish(publisher)
    assert broker.committed == [PUBLISHED, PUBLISHED]
    assert broker.producers == 1


@pytest.mark.parametrize("call", ["begin_transaction", "send_offsets_to_transaction", "commit_transaction"])
def test_a_retriable_error_repeats_the_very_same_call(call: str) -> None:
    """It succeeds in the end, and nothing else is called again."""
    broker, outages = Broker(**{call: [RETRIABLE, RETRIABLE]}), list[str]()
    publish(on(broker, on_outage=outages.append))
    assert broker.committed == [PUBLISHED]
    assert broker.calls[call] == 3
    assert broker.calls["produce"] == 2
    assert len(outages) == 2


@pytest.mark.parametrize("call", ["produce", "send_offsets_to_transaction", "commit_transaction"])
def test_an_abortable_error_undoes_the_batch_and_keeps_the_producer(call: str) -> None:
    """It is certain that no reader sees any record, and the same batch can be published next."""
    broker = Broker(**{call: [ABORTABLE]})
    publisher = on(broker)
    with pytest.raises(BatchAborted):
        publish(publisher)
    assert broker.committed == []
    publish(publisher)
    assert broker.committed == [PUBLISHED]
    assert broker.producers == 1


@pytest.mark.parametrize("error", [FATAL, UNMARKED], ids=["fatal", "unmarked"])
@pytest.mark.parametrize(
    "call", ["poll", "begin_transaction", "send_offsets_to_transaction", "commit_transaction", "flush"]
)
def test_any_other_error_drops_the_producer_and_leaves_the_outcome_unknown(
    call: str, error: KafkaException
) -> None:
    """The broker may have committed; only the committed offsets can tell."""
    broker = Broker(**{call: [error, error]})  # a producer that met a fatal error raises it forever
    publisher = on(broker)
    with pytest.raises(CommitOutcomeUnknown):
        publish(publisher)
    broker.script.clear()
    publish(publisher)
    assert broker.producers == 2


def test_an_abort_that_fails_leaves_the_outcome_unknown() -> None:
    """Like a fatal error."""
    broker = Broker(send_offsets_to_transaction=[ABORTABLE], abort_transaction=[FATAL])
    publisher = on(broker)
    with pytest.raises(CommitOutcomeUnknown):
        publish(publisher)


def test_fatal_errors_without_a_commit_between_them_end_the_process() -> None:
    """Another process uses our transactional id. A commit resets the count."""
    broker = Broker(commit_transaction=[FATAL] * 4 + [None] + [FATAL] * 5)
    publisher = on(broker)
    for _ in range(4):
        with pytest.raises(CommitOutcomeUnknown):
            publish(publisher)
    publish(publisher)
    for _ in range(4):
        with pytest.raises(CommitOutcomeUnknown):
            publish(publisher)
    with pytest.raises(FatalError, match="another process"):
        publish(publisher)


def test_a_record_that_is_never_accepted_is_distinguished_from_other_aborts() -> None:
    """The client refuses it at once, or the broker does and the transaction must be aborted."""
    refusal = KafkaError(KafkaError.MSG_SIZE_TOO_LARGE, "scripted")
    by_client = Broker(produce=[KafkaException(refusal)])
    with pytest.raises(RecordRejectedByBroker):
        publish(on(by_client))
    by_broker = Broker(send_offsets_to_transaction=[failure(refusal.code(), txn_requires_abort=True)])
    with pytest.raises(RecordRejectedByBroker):
        publish(on(by_broker))
    assert by_client.committed == by_broker.committed == []


def test_a_broken_connection_during_a_commit_recreates_the_producer() -> None:
    """It is noticed before the next transaction begins, so that a late request meets a new epoch."""
    disconnect = KafkaError(KafkaError._TRANSPORT, "scripted")
    breaks: Any = lambda config: config["error_cb"](disconnect)  # noqa: E731 - a step of a script
    broker = Broker(poll=[breaks, None, None, breaks])  # before and after each transaction
    publisher = on(broker)
    publish(publisher)
    assert broker.producers == 1, "no transaction was under way"
    publish(publisher)
    publish(publisher)
    assert broker.committed == [PUBLISHED, PUBLISHED, PUBLISHED]
    assert broker.producers == 2


@pytest.mark.parametrize("call", ["send_offsets_to_transaction", "commit_transaction"])
def test_a_slow_end_recreates_the_producer(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It took so long that a request may have been sent twice."""
    now_s = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now_s[0])

    def take_long(_: Any) -> None:
        now_s[0] += transaction.MAY_BE_SENT_TWICE_AFTER_S * 1.01

    broker = Broker(**{call: [take_long]})
    publisher = on(broker)
    publish(publisher)
    publish(publisher)
    publish(publisher)
    assert broker.producers == 2


@pytest.mark.parametrize("call", ["list_topics", "init_transactions"])
def test_a_broker_that_does_not_answer_is_an_outage_and_a_refusal_is_fatal(call: str) -> None:
    """The next attempt creates a new producer; a refusal ends the process."""
    broker = Broker(**{call: [RETRIABLE, None]})
    publisher = on(broker)
    with pytest.raises(Unavailable):
        publisher.open()
    publisher.open()
    assert broker.producers == 2
    with pytest.raises(FatalError):
        on(Broker(init_transactions=[failure(KafkaError.INVALID_TRANSACTION_TIMEOUT)])).open()
    with pytest.raises(StartupError, match="lacks the right Write on transactional id t"):
        on(Broker(init_transactions=[failure(KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED)])).open()


def test_a_right_that_is_taken_away_is_waited_for() -> None:
    """The batch was aborted, so that nothing is lost or published twice once the right is back."""
    abortable = failure(KafkaError.TOPIC_AUTHORIZATION_FAILED, txn_requires_abort=True)
    refused = failure(KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED)
    broker = Broker(commit_transaction=[abortable, None], init_transactions=[None, refused, None])
    publisher = on(broker)
    with pytest.raises(RightMissing, match="lacks the right Write on topic"):
        publish(publisher)
    publish(publisher)
    publisher.close()
    with pytest.raises(RightMissing, match="lacks the right Write on transactional id t"):
        publisher.open()
    publisher.open()


@pytest.mark.parametrize(
    ("code", "outcome", "right"),
    [
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, RightMissing, "Write on topic"),
        (KafkaError.GROUP_AUTHORIZATION_FAILED, RightMissing, "Read on group g"),
        (
            KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
            CommitOutcomeUnknown,
            "Write on transactional id t",
        ),
    ],
)
def test_a_refused_abort_does_not_hide_the_missing_right(
    code: int, outcome: type[Exception], right: str
) -> None:
    """The broker refuses to abort a transaction that it refused to begin; this is not the sign of a rival."""
    abortable = failure(code, txn_requires_abort=True)
    invalid = failure(KafkaError.INVALID_TXN_STATE, fatal=True)
    times = 10
    publisher = on(Broker(commit_transaction=[abortable] * times, abort_transaction=[invalid] * times))
    for _ in range(times):
        with pytest.raises(outcome, match=f"lacks the right {right}"):
            publish(publisher)


def test_a_fatal_error_hidden_by_a_callback_is_raised_as_itself() -> None:
    """CPython reports it as a SystemError of the callback, with the client's error as the cause."""

    def call() -> None:
        raise SystemError("a result with an exception set") from FATAL

    with pytest.raises(KafkaException) as raised:
        unwrap_callback_errors(call)
    assert raised.value is FATAL
