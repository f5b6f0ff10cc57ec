"""Asks the brokers what one topic looks like now."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from confluent_kafka import IsolationLevel, KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]  # it is exported

from consumer.errors import StartupError, Unavailable
from consumer.kafka.policy import describe, error_of, is_outage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from concurrent.futures import Future

    from confluent_kafka.admin import TopicDescription  # type: ignore[attr-defined]  # it is exported

ASK_TIMEOUT_S: Final = 10.0
"""How long the brokers may take to answer. Above the seconds that a change of leaders takes."""

GONE_CODES: Final = (
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError._UNKNOWN_PARTITION,
)


@dataclass(frozen=True, slots=True)
class TopicFacts:
    """What a topic looks like.

    Attributes:
        topic_id: differs if a topic of the same name is deleted and created anew.
        partitions: their numbers, rising.
    """

    topic_id: str
    partitions: Sequence[int]


class TopicProbe:
    """Looks at one topic.

    Every method that waits raises :class:`Unavailable` if no broker answers in time, and
    :class:`StartupError` if the topic does not exist or may not be looked at.

    Args:
        client_config: of every client (see :mod:`consumer.kafka.client_config`).
        topic: the topic.
    """

    def __init__(self, client_config: Mapping[str, Any], topic: str) -> None:
        self._topic = topic
        self._admin = AdminClient(dict(client_config))

    def identity(self) -> dict[str, str]:
        """Return what tells this topic from every other: ``cluster_id``, ``topic`` and ``topic_id``."""
        cluster = self._wait(self._admin.describe_cluster(request_timeout=ASK_TIMEOUT_S))
        return {
            "cluster_id": str(cluster.cluster_id),
            "topic": self._topic,
            "topic_id": self.facts().topic_id,
        }

    def look(self) -> Future[TopicDescription]:
        """Ask for the description without waiting; see :func:`facts_of`."""
        answers = self._admin.describe_topics(TopicCollection([self._topic]), request_timeout=ASK_TIMEOUT_S)
        answer: Future[TopicDescription] = answers[self._topic]
        return answer

    def facts(self) -> TopicFacts:
        """Return the facts."""
        return facts_of(self._wait(self.look()))

    def first_offsets(self, partitions: Sequence[int]) -> dict[int, int]:
        """Return the first offset that each partition still has."""
        return self._offsets(partitions, OffsetSpec.earliest())  # type: ignore[no-untyped-call]

    def end_offsets(self, partitions: Sequence[int]) -> dict[int, int]:
        """Return the offset after the last record of each partition, uncommitted ones included."""
        return self._offsets(partitions, OffsetSpec.latest())  # type: ignore[no-untyped-call]

    def offsets_since(self, partitions: Sequence[int], time_ms: int) -> dict[int, int]:
        """Return the first offset of each partition that is not older than a time, where there is one.

        Args:
            partitions: of the topic.
            time_ms: milliseconds since the epoch.
        """
        found = self._offsets(partitions, OffsetSpec.for_timestamp(time_ms))
        return {partition: offset for partition, offset in found.items() if offset >= 0}

    def _offsets(self, partitions: Sequence[int], spec: OffsetSpec) -> dict[int, int]:
        wanted = {TopicPartition(self._topic, partition): spec for partition in partitions}
        answers = self._admin.list_offsets(
            wanted, isolation_level=IsolationLevel.READ_UNCOMMITTED, request_timeout=ASK_TIMEOUT_S
        )
        return {at.partition: self._wait(answer).offset for at, answer in answers.items()}

    def _wait(self, answer: Future[Any]) -> Any:
        """Wait for an answer and translate what can go wrong."""
        try:
            return answer.result(ASK_TIMEOUT_S + 1.0)
        except (KafkaException, TimeoutError) as exception:
            error = error_of(exception) if isinstance(exception, KafkaException) else None
            if error is None or is_outage(error):
                why = "no answer" if error is None else describe(error)
                raise Unavailable(
                    f"no Kafka says what topic {self._topic} looks like: {why}; check that it is up"
                ) from exception
            if error.code() in GONE_CODES:
                raise StartupError(
                    f"no topic {self._topic}; create it with: purchase-stream topics create"
                ) from exception
            raise StartupError(f"topic {self._topic} cannot be looked at: {describe(error)}") from exception


def facts_of(description: TopicDescription) -> TopicFacts:
    """Pick what matters here."""
    return TopicFacts(
        topic_id=str(description.topic_id), partitions=sorted(part.id for part in description.partitions)
    )
