"""What a test puts into a role's process in place of the real thing; the product knows nothing of it.

Crash points: a producer that kills its own process at a step of its transactions. Each class or
function here can be pickled, because it travels to a forked process.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from confluent_kafka import KafkaError, KafkaException, Producer

from consumer.kafka.client_config import TRANSACTION_TIMEOUT_MS
from consumer.kafka.consumer import EventConsumer
from consumer.kafka.producer import AtLeastOnceProducer, OpenTransaction

# Not used here: the fork server imports this module, and with it whatever a role needs.
from consumer.roles import scorer as scorer_role

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from confluent_kafka import Consumer, TopicPartition

    from consumer.kafka.producer import Records, SourceOffsets

POINTS: Final = (
    "after begin",
    "during produce",
    "after flush",
    "after offsets",
    "before commit",
    "during commit",
    "after commit",
)
_COMMIT_TAKES_S: Final = 0.003
"""About; a kill at a random instant of it hits the request before, at or after the coordinator."""
_FEW_RECORDS: Final = 50


@dataclass(frozen=True)
class Scorer:
    """Wires ``score`` with a producer of the test's own.

    Attributes:
        producer: makes it.
    """

    producer: Callable[[dict[str, Any]], Producer]

    def __call__(self) -> None:
        """Replace the factory."""
        for name in ("TransactionalProducer", "AtLeastOnceProducer"):
            publisher = getattr(scorer_role, name)
            setattr(scorer_role, name, partial(publisher, producer_factory=self.producer))


def dies(point: str, transaction: int) -> Scorer:
    """Kill the scorer at a point of its so-many-th transaction (from 1)."""
    return Scorer(partial(DyingProducer, point, transaction))


class DyingProducer(Producer):
    """Kills its process at one of :data:`POINTS`."""

    def __init__(self, point: str, transaction: int, config: dict[str, Any]) -> None:
        super().__init__(config)
        self._point = point
        self._transaction = transaction
        self._n_begun = 0
        self._n_produced = 0

    def _at(self, point: str) -> bool:
        return point == self._point and self._n_begun == self._transaction

    def _pass(self, point: str) -> None:
        if self._at(point):
            _die()

    def begin_transaction(self) -> None:
        """1."""
        super().begin_transaction()
        self._n_begun += 1
        self._n_produced = 0
        self._pass("after begin")

    def produce(self, *arguments: Any, **keywords: Any) -> None:
        """2., for every record."""
        super().produce(*arguments, **keywords)
        self._n_produced += 1
        if self._n_produced == _FEW_RECORDS:
            super().flush(0.002)  # let some of them leave
            self._pass("during produce")

    def flush(self, *arguments: Any) -> int:
        """3."""
        left = super().flush(*arguments)
        self._pass("after flush")
        return left

    def send_offsets_to_transaction(self, *arguments: Any) -> None:
        """4."""
        super().send_offsets_to_transaction(*arguments)
        self._pass("after offsets")

    def commit_transaction(self, *arguments: Any) -> None:
        """5."""
        self._pass("before commit")
        if self._at("during commit"):
            threading.Timer(random.uniform(0, _COMMIT_TAKES_S), _die).start()
        super().commit_transaction(*arguments)
        if self._at("during commit"):
            time.sleep(_COMMIT_TAKES_S)
        self._pass("after commit")


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _must_abort() -> KafkaException:
    return KafkaException(KafkaError(KafkaError._INCONSISTENT, "forced to abort", txn_requires_abort=True))


class AbortingProducer(Producer):
    """Aborts every third transaction after its offsets were sent."""

    EVERY = 3

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config)
        self._n = 0

    def commit_transaction(self, *arguments: Any) -> None:
        """Commit, or say that the transaction must be aborted."""
        self._n += 1
        if self._n % self.EVERY == 0:
            raise _must_abort()
        super().commit_transaction(*arguments)


class SlowProducer(AbortingProducer):
    """Leaves every transaction open for a while, so that something can happen to it; aborts every second.

    So whatever ends a transaction in place of its owner shows: as a double if it was to be aborted, as
    a gap if it was to be committed.
    """

    EVERY = 2
    OPEN_S = 0.2

    def flush(self, *arguments: Any) -> int:
        """Let half of the while pass with the records in the topic."""
        left = super().flush(*arguments)
        time.sleep(self.OPEN_S / 2)
        return left

    def send_offsets_to_transaction(self, *arguments: Any) -> None:
        """Let the other half pass with the offsets sent."""
        super().send_offsets_to_transaction(*arguments)
        time.sleep(self.OPEN_S / 2)


class DiesAfterFlush(Producer):
    """Kills its process, which knows no transactions, after it has flushed its second batch."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config)
        self._n = 0

    def flush(self, *arguments: Any) -> int:
        """Flush; die the second time."""
        left = super().flush(*arguments)
        self._n += not left
        if self._n == 2:
            _die()
        return left


class StuckProducer(Producer):
    """Never returns from sending the offsets, as librdkafka issue 5456 describes it."""

    def send_offsets_to_transaction(self, *_arguments: Any) -> None:
        """Wait for ever."""
        threading.Event().wait()


class OffsetsFirst(AtLeastOnceProducer):
    """The mutant that commits the offsets of a batch before its predictions; dies in between."""

    N_COMMITS = 0

    def begin(self, records: Sequence[Records], offsets: SourceOffsets) -> OpenTransaction:
        """Publish nothing yet."""

        def commit() -> None:
            """Commit, die if it is time, publish."""
            offsets.consumer.commit(offsets=list(offsets.next_offsets), asynchronous=False)
            OffsetsFirst.N_COMMITS += 1
            if OffsetsFirst.N_COMMITS == 3:
                _die()
            super(OffsetsFirst, self).begin(records, offsets)
            assert self._producer is not None
            self._producer.flush()

        return OpenTransaction(commit)


def offsets_first() -> None:
    """Wire ``score`` with the mutant."""
    scorer_role.AtLeastOnceProducer = OffsetsFirst


def stuck() -> None:
    """Wire ``score`` with a call that never returns, and less patience for it."""
    scorer_role.COMMIT_MARGIN_S = 3.0 - TRANSACTION_TIMEOUT_MS / 1000
    Scorer(StuckProducer)()


class DiesHandingOver(EventConsumer):
    """Kills its process when it is asked for the first of its partitions."""

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        if partitions:
            _die()
        super()._on_revoke(consumer, partitions)


def dies_handing_over() -> None:
    """Wire ``score`` with a consumer that does not survive a rebalance."""
    scorer_role.EventConsumer = DiesHandingOver


@dataclass(frozen=True)
class SteppingClock:
    """Wires a role with a wall clock that jumps back and forth.

    Attributes:
        every_s: time between jumps.
        step_s: by how much it goes wrong, in turn one way, the other, and not at all.
    """

    every_s: float
    step_s: float

    def __call__(self) -> None:
        """Replace the wall clock of the whole process; the monotonic one stays."""
        true_s = time.time
        steps_s = (0.0, self.step_s, -self.step_s)

        def stepping_s() -> float:
            now_s = true_s()
            return now_s + steps_s[int(now_s / self.every_s) % len(steps_s)]

        time.time = stepping_s
        scorer_role.BatchProcessor = partial(scorer_role.BatchProcessor, now_s=stepping_s)
