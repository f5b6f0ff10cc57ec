"""Join consumer and producer: a batch is published and committed together, or not at all.

:meth:`Session.begin` takes the records of a batch together with its next offsets, so that no caller can
publish records without advancing, or advance without publishing.

:class:`ZombieFencer` aborts the transactions of members that have left the group, before anybody waits for
them. A scorer that dies between sending its offsets and the end of its commit leaves the offsets pending. The
member that takes its partitions over cannot read the committed offsets until the broker has timed the
transaction out, 10 to 20 s later. A producer that opens with the same transactional id ends the
transaction at once; a restart of the same instance does that anyway. So every member notes at each
rebalance which other members there are, and opens a producer with the id of each member that has gone.

A member that was only suspended finds its producer fenced when it wakes up, and recovers from that like
from any other aborted transaction.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, Protocol

import structlog
from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from consumer.kafka.client_config import common, transactional_producer
from consumer.kafka.consumer import EventConsumer
from consumer.kafka.errors import format_error, kafka_error
from consumer.kafka.producer import OpenTransaction, Records, SourceOffsets, acquire_producer_id
from consumer.pipeline.batch import RawBatch
from consumer.settings import KafkaSettings


class Publisher(Protocol):
    """Publishes records and commits offsets: ``TransactionalProducer`` or ``AtLeastOnceProducer``."""

    def open(self) -> None:
        """Prepare to publish."""

    def begin(self, records: Sequence[Records], offsets: SourceOffsets) -> OpenTransaction:
        """Produce records."""

    def close(self) -> None:
        """Release the client."""


class Session:
    """The scorer's connection to Kafka.

    Args:
        consumer: The group's consumer.
        publisher: Publishes exactly once or at least once.
    """

    def __init__(self, consumer: EventConsumer, publisher: Publisher) -> None:
        self._consumer = consumer
        self._publisher = publisher

    def open(self) -> None:
        """Fence the earlier run of this instance, then join the group.

        The order matters: the open transaction of the earlier run would hide its committed offsets.

        Raises:
            Unavailable: The broker did not answer; call again.
            FatalError: The broker refuses this instance.
        """
        self._publisher.open()
        self._consumer.open()

    def poll(
        self, max_events: int, max_wait_s: float, idle_s: float, *, commit: Future[Any] | None = None
    ) -> RawBatch | None:
        """Return the next events; see :meth:`EventConsumer.poll`."""
        return self._consumer.poll(max_events, max_wait_s, idle_s, commit=commit)

    def begin(self, records: Sequence[Records], next_offsets: Mapping[int, int]) -> OpenTransaction:
        """Produce the records of a batch, to be committed together with its offsets.

        Args:
            records: The predictions and dead letters of the batch.
            next_offsets: The offset to resume from, for each partition of the batch.

        Raises:
            BatchAborted: No reader will see any of the records.
            RecordRejectedByBroker: The same, because of one of the records.
            CommitOutcomeUnknown: The producer was lost.
            Unavailable: The broker is away.
            FatalError: This process must stop.
        """
        client, topic = self._consumer.client, self._consumer.topic
        offsets = SourceOffsets(
            consumer=client,
            group=self._consumer.group,
            next_offsets=[
                TopicPartition(topic, partition, offset, self._consumer.offset_metadata)
                for partition, offset in next_offsets.items()
            ],
            group_metadata=client.consumer_group_metadata(),
        )
        return self._publisher.begin(records, offsets)

    def uncommitted_rows(self, raw: RawBatch, *, commit_outcome_unknown: bool) -> RawBatch:
        """Return the rows of a failed batch that still have to be committed.

        Rows of partitions that were revoked since the last poll belong to another member.

        Args:
            raw: The batch.
            commit_outcome_unknown: Whether the batch may have been committed. If so, the group's committed
                offsets tell.

        Raises:
            Unavailable: The committed offsets cannot be read at the moment.
        """
        revoked = self._consumer.revoked_since_poll
        committed: Mapping[int, int] = {}
        if commit_outcome_unknown:
            committed = self._consumer.committed(set(raw.partitions) - revoked)
        return raw.select_rows(
            [
                row
                for row, (partition, offset) in enumerate(zip(raw.partitions, raw.offsets, strict=True))
                if partition not in revoked and offset >= committed.get(partition, 0)
            ]
        )

    def pause_and_poll(self, seconds: float) -> None:
        """Stay a member of the group without taking events, while a batch waits."""
        self._consumer.pause_and_poll(seconds)

    def reconnect(self) -> None:
        """Prepare to publish again after a failure.

        Raises:
            Unavailable: The broker is still away.
            FatalError: The broker refuses this instance.
        """
        self._publisher.open()

    def lag(self, next_offsets: Mapping[int, int]) -> dict[tuple[str, int], int]:
        """Return how many events wait in each owned partition (topic, number).

        Args:
            next_offsets: The offset to resume from, by partition.
        """
        lag = self._consumer.lag(next_offsets)
        return {(self._consumer.topic, partition): n for partition, n in lag.items()}

    def close(self) -> None:
        """Leave the group and release both clients."""
        self._publisher.close()
        self._consumer.close()


log = structlog.get_logger(__name__)

_TIMEOUT_S: Final = 2.0
"""The time limit of each call, which usually takes milliseconds. If a broker is away, a rebalance takes this
much longer, once."""


class ZombieFencer:
    """Tracks the members of the group, and fences those that have gone.

    Args:
        kafka: The group, and the name of this instance in it.
        list_members: Asks for the client ids of the group's members, without waiting. The answer may raise
            ``KafkaException``.
        fence: Opens a producer with a transactional id. It may raise ``KafkaException``.
    """

    def __init__(
        self,
        kafka: KafkaSettings,
        *,
        list_members: Callable[[], Future[set[str]]] | None = None,
        fence: Callable[[str], None] | None = None,
    ) -> None:
        config = transactional_producer(kafka)
        self._own_id: str = config["transactional.id"]
        self._list_members = list_members or _GroupMembers(kafka).request
        self._fence = fence or _Fence(config)
        self._last_answer: Future[set[str]] | None = None
        self._other_ids: set[str] = set()

    def abort_transactions(self) -> None:
        """Note the group's current members, and abort the open transactions of members that have left.

        It waits for the answer only if other members were known before, so that neither a first start nor a
        restart loses time. Without an answer, the next rebalance tries again.
        """
        previous, self._last_answer = self._last_answer, self._list_members()
        if previous is not None:
            with contextlib.suppress(KafkaException):
                self._other_ids |= self._others_in(previous)
        if not self._other_ids:
            return
        try:
            for transactional_id in sorted(self._other_ids - self._others_in(self._last_answer)):
                self._fence(transactional_id)
                self._other_ids.remove(transactional_id)
                log.info("aborted what a departed member may have left open", instance=transactional_id)
        except KafkaException as exception:
            log.warning(
                "cannot fence members that have left the group", error=format_error(kafka_error(exception))
            )

    def _others_in(self, answer: Future[set[str]]) -> set[str]:
        present = answer.result()
        if self._own_id not in present:  # The group's coordinator was not among the brokers that answered.
            raise KafkaException(KafkaError(KafkaError.COORDINATOR_NOT_AVAILABLE))
        return present - {self._own_id}


class _GroupMembers:
    def __init__(self, kafka: KafkaSettings) -> None:
        self._kafka = kafka
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="group-members")

    def request(self) -> Future[set[str]]:
        return self._executor.submit(self._client_ids)

    def _client_ids(self) -> set[str]:
        # Not describe_consumer_groups: when a broker goes away at the wrong moment, its requests end the
        # process with an assertion of rd_kafka_enq_once_del_source_return.
        # The client is created for each request, which is rare: it costs threads and connections.
        admin = AdminClient(common(self._kafka))
        groups = admin.list_groups(self._kafka.group_id, timeout=_TIMEOUT_S)
        return {str(member.client_id) for group in groups for member in group.members}


class _Fence:
    def __init__(self, config: dict[str, Any]) -> None:
        self._config = config

    def __call__(self, transactional_id: str) -> None:
        # The transactional id of an instance is its client id (client_config.py).
        producer = Producer(self._config | {"transactional.id": transactional_id})
        acquire_producer_id(producer, _TIMEOUT_S)
