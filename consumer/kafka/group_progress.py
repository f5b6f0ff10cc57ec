"""Asks the brokers how far a consumer group has come in a topic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from consumer.errors import Unavailable
from consumer.kafka.policy import describe, error_of
from consumer.kafka.topic_probe import ASK_TIMEOUT_S, TopicProbe


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a group stands in a topic; both by partition.

    Attributes:
        next_offsets: what the group has committed; the first offset where it has committed nothing.
        end_offsets: the offset after the last record.
    """

    next_offsets: Mapping[int, int]
    end_offsets: Mapping[int, int]

    @property
    def lag_events(self) -> int:
        """Offsets that the group has not decided yet."""
        return sum(max(end - self.next_offsets[part], 0) for part, end in self.end_offsets.items())


class GroupProgress:
    """Looks at one group in one topic.

    Args:
        client_config: of every client (see :mod:`consumer.kafka.client_config`).
        group: the consumer group.
        topic: the topic.
    """

    def __init__(self, client_config: Mapping[str, Any], group: str, topic: str) -> None:
        self._group = group
        self._topic = topic
        self._probe = TopicProbe(client_config, topic)
        self._admin = AdminClient(dict(client_config))

    def read(self) -> Progress:
        """Return where it stands now.

        Raises:
            Unavailable: no broker answered in time, or none may tell.
            StartupError: there is no such topic.
        """
        partitions = self._probe.facts().partitions
        # In this order: events that come in between make the lag too large, never negative.
        committed = self._committed(partitions)
        ends = self._probe.end_offsets(partitions)
        missing = [partition for partition in partitions if partition not in committed]
        firsts = self._probe.first_offsets(missing) if missing else {}
        return Progress({**firsts, **committed}, ends)

    def _committed(self, partitions: Sequence[int]) -> dict[int, int]:
        wanted = ConsumerGroupTopicPartitions(
            self._group, [TopicPartition(self._topic, partition) for partition in partitions]
        )
        answers = self._admin.list_consumer_group_offsets([wanted], request_timeout=ASK_TIMEOUT_S)
        try:
            found = answers[self._group].result(ASK_TIMEOUT_S + 1.0)
        except (KafkaException, TimeoutError) as exception:
            why = describe(error_of(exception)) if isinstance(exception, KafkaException) else "no answer"
            raise Unavailable(f"no Kafka says how far group {self._group} is: {why}") from exception
        return {part.partition: part.offset for part in found.topic_partitions if part.offset >= 0}
