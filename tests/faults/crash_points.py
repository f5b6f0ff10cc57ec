"""Faulty parts that a test puts into the process of a role: producers that crash, clocks that jump.

The product does not know them. A crash point is a step of a transaction at which a producer kills its own
process. Each class and function here can be pickled, because it is sent to a forked process.
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

# The fork server imports this module, and so everything that a role needs.
from consumer.roles import scorer as scorer_role
from model_store.inputs import INPUT_NAMES
from model_store.loading import LoadedModel

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from confluent_kafka import Consumer, TopicPartition
    from numpy.typing import NDArray

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
"""Approximately. A kill at a random instant of it comes before, while or after the coordinator acts."""
_FEW_RECORDS: Final = 50


@dataclass(frozen=True)
class Scorer:
    """Runs ``score`` with another producer.

    Attributes:
        producer: Creates the producer.
    """

    producer: Callable[[dict[str, Any]], Producer]

    def __call__(self) -> None:
        """Replace the producer factory."""
        for name in ("TransactionalProducer", "AtLeastOnceProducer"):
            publisher = getattr(scorer_role, name)
            setattr(scorer_role, name, partial(publisher, producer_factory=self.producer))


class UnmarkedConsumer(EventConsumer):
    """A consumer that commits offsets without a marker, as version 0.1 did."""

    def __init__(self, *arguments: Any, offset_metadata: str, **keywords: Any) -> None:
        del offset_metadata
        super().__init__(*arguments, **keywords)


def without_markers() -> None:
    """Replace the scorer's consumer."""
    scorer_role.EventConsumer = UnmarkedConsumer


def dies(point: str, transaction: int) -> Scorer:
    """Return a scorer that dies at a crash point of its n-th transaction (from 1)."""
    return Scorer(partial(DyingProducer, point, transaction))


class DyingProducer(Producer):
    """A producer that kills its process at one of :data:`POINTS`."""

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
        """Step 1."""
        super().begin_transaction()
        self._n_begun += 1
        self._n_produced = 0
        self._pass("after begin")

    def produce(self, *arguments: Any, **keywords: Any) -> None:
        """Step 2, for every record."""
        super().produce(*arguments, **keywords)
        self._n_produced += 1
        if self._n_produced == _FEW_RECORDS:
            super().flush(0.002)  # Let some of them reach the broker.
            self._pass("during produce")

    def flush(self, *arguments: Any) -> int:
        """Step 3."""
        left = super().flush(*arguments)
        self._pass("after flush")
        return left

    def send_offsets_to_transaction(self, *arguments: Any) -> None:
        """Step 4."""
        super().send_offsets_to_transaction(*arguments)
        self._pass("after offsets")

    def commit_transaction(self, *arguments: Any) -> None:
        """Step 5."""
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
    """A producer that aborts every third transaction after its offsets were sent."""

    EVERY = 3

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config)
        self._n = 0

    def commit_transaction(self, *arguments: Any) -> None:
        """Commit, or report that the transaction must be aborted."""
        self._n += 1
        if self._n % self.EVERY == 0:
            raise _must_abort()
        super().commit_transaction(*arguments)


class SlowProducer(AbortingProducer):
    """A producer that leaves every transaction open for a while, and aborts every second one.

    If another request ends such a transaction, it shows: as a double if the transaction was to be aborted, as
    a gap if it was to be committed.
    """

    EVERY = 2
    OPEN_S = 0.2

    def flush(self, *arguments: Any) -> int:
        """Wait half of the time with the records in the topic."""
        left = super().flush(*arguments)
        time.sleep(self.OPEN_S / 2)
        return left

    def send_offsets_to_transaction(self, *arguments: Any) -> None:
        """Wait the other half with the offsets sent."""
        super().send_offsets_to_transaction(*arguments)
        time.sleep(self.OPEN_S / 2)


class DiesAfterFlush(Producer):
    """A producer without transactions that kills its process after it has flushed its second batch."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config)
        self._n = 0

    def flush(self, *arguments: Any) -> int:
        """Flush, and die the second time."""
        left = super().flush(*arguments)
        self._n += not left
        if self._n == 2:
            _die()
        return left


class StuckProducer(Producer):
    """A producer that never returns from sending the offsets (librdkafka issue 5456)."""

    def send_offsets_to_transaction(self, *_arguments: Any) -> None:
        """Wait forever."""
        threading.Event().wait()


class OffsetsFirst(AtLeastOnceProducer):
    """A mutant that commits the offsets of a batch before its predictions, and dies in between."""

    N_COMMITS = 0

    def begin(self, records: Sequence[Records], offsets: SourceOffsets) -> OpenTransaction:
        """Produce nothing yet."""

        def commit() -> None:
            """Commit the offsets, die if it is time, then publish."""
            offsets.consumer.commit(offsets=list(offsets.next_offsets), asynchronous=False)
            OffsetsFirst.N_COMMITS += 1
            if OffsetsFirst.N_COMMITS == 3:
                _die()
            super(OffsetsFirst, self).begin(records, offsets)
            assert self._producer is not None
            self._producer.flush()

        return OpenTransaction(commit)


def offsets_first() -> None:
    """Run ``score`` with the mutant."""
    scorer_role.AtLeastOnceProducer = OffsetsFirst


def stuck() -> None:
    """Run ``score`` with a call that never returns, and a watchdog that waits less long for it."""
    scorer_role.COMMIT_MARGIN_S = 3.0 - TRANSACTION_TIMEOUT_MS / 1000
    Scorer(StuckProducer)()


MODEL_FAILS_ON_MINUTES: Final = 777.25


def model_fails_on_some() -> None:
    """Run ``score`` with a model that raises for students who have watched certain minutes."""
    predict = LoadedModel.predict_probability

    def failing(model: LoadedModel, inputs: NDArray[np.float64]) -> NDArray[np.float64]:
        if (inputs[:, INPUT_NAMES.index("minutes_watched")] == MODEL_FAILS_ON_MINUTES).any():
            raise ValueError("no student watches so many minutes")
        return predict(model, inputs)

    LoadedModel.predict_probability = failing


class DiesHandingOver(EventConsumer):
    """A consumer that kills its process when its first partitions are revoked."""

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        if partitions:
            _die()
        super()._on_revoke(consumer, partitions)


def dies_handing_over() -> None:
    """Run ``score`` with a consumer that does not survive a rebalance."""
    scorer_role.EventConsumer = DiesHandingOver


@dataclass(frozen=True)
class SteppingClock:
    """Runs a role with a wall clock that jumps.

    Attributes:
        every_s: The time between two jumps.
        step_s: The error of the clock: none, ahead, back, in turn.
    """

    every_s: float
    step_s: float

    def __call__(self) -> None:
        """Replace the wall clock of the whole process, but not the monotonic clock."""
        true_s = time.time
        steps_s = (0.0, self.step_s, -self.step_s)

        def stepping_s() -> float:
            now_s = true_s()
            return now_s + steps_s[int(now_s / self.every_s) % len(steps_s)]

        time.time = stepping_s
        scorer_role.BatchProcessor = partial(scorer_role.BatchProcessor, now_s=stepping_s)
