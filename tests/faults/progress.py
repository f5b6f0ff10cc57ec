"""The progress of a service, as the brokers report it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

from confluent_kafka import Consumer, ConsumerGroupState, IsolationLevel, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]  # not in __all__

_ANSWER_WITHIN_S: Final = 30.0
_LOGGER: Final = logging.getLogger("librdkafka")


class GroupLag:
    """Reads the progress of one consumer group.

    Args:
        servers: The bootstrap servers.
        group: The scorers' consumer group.
        topics: The names of the topics by kind.
    """

    def __init__(self, servers: str, group: str, topics: Mapping[str, str]) -> None:
        self.group = group
        self.topics = topics
        self._admin = AdminClient({"bootstrap.servers": servers}, logger=_LOGGER)
        self._offsets = Consumer(
            {
                "bootstrap.servers": servers,
                "group.id": group,
                # Return what is committed so far, without waiting for an open transaction.
                "isolation.level": "read_uncommitted",
                "logger": _LOGGER,
            }
        )

    def close(self) -> None:
        """Disconnect."""
        self._offsets.close()

    def committed(self) -> dict[int, int]:
        """Return the group's committed offset of each partition, without pending transactions."""
        topic = self.topics["events"]
        partitions = self._offsets.list_topics(topic, _ANSWER_WITHIN_S).topics[topic].partitions
        wanted = [TopicPartition(topic, partition) for partition in partitions]
        return {at.partition: max(at.offset, 0) for at in self._offsets.committed(wanted, _ANSWER_WITHIN_S)}

    def ends(self, kind: str = "events", *, stable: bool = False) -> dict[int, int]:
        """Return the end of each partition: the last stable offset, or the end of the log."""
        topic = self.topics[kind]
        partitions = self._admin.list_topics(topic, _ANSWER_WITHIN_S).topics[topic].partitions
        level = IsolationLevel.READ_COMMITTED if stable else IsolationLevel.READ_UNCOMMITTED
        latest: OffsetSpec = OffsetSpec.latest()  # type: ignore[no-untyped-call]  # the client has no types here
        answers = self._admin.list_offsets(
            dict.fromkeys((TopicPartition(topic, partition) for partition in partitions), latest),
            isolation_level=level,
            request_timeout=_ANSWER_WITHIN_S,
        )
        return {at.partition: answer.result().offset for at, answer in answers.items()}

    def delete_before(self, offsets: Mapping[tuple[str, int], int]) -> None:
        """Delete the records before an offset, by topic and partition."""
        wanted = [TopicPartition(topic, partition, offset) for (topic, partition), offset in offsets.items()]
        for deleted in self._admin.delete_records(wanted, request_timeout=_ANSWER_WITHIN_S).values():
            deleted.result()

    def owned(self, instance: str) -> frozenset[int]:
        """Return the partitions that the group has given to an instance."""
        asked = self._admin.describe_consumer_groups([self.group], request_timeout=_ANSWER_WITHIN_S)
        group = asked[self.group].result()
        if group.state != ConsumerGroupState.STABLE:
            return frozenset()
        return frozenset(
            at.partition
            for member in group.members
            if member.group_instance_id == f"{self.group}-{instance}"
            for at in member.assignment.topic_partitions
        )
