"""Store a replay's progress as the committed offsets, with metadata, of a group that has one member.

The member is static. A new run takes the place of a killed run at once, and fences a run that is still
alive. A fenced run cannot commit, so no two runs publish the same event.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from confluent_kafka import Consumer, KafkaException, TopicPartition

from consumer.errors import FatalError, RightMissing, Unavailable
from consumer.kafka.admin import Committed
from consumer.kafka.errors import format_error, kafka_error, missing_right, unwrap_callback_errors

_JOIN_TIMEOUT_S: Final = 30.0
"""Longer than the session of a killed member, and than the broker waits for other members to join."""

_ANSWER_TIMEOUT_S: Final = 10.0
_POLL_S: Final = 0.1


class ReplayOffsets:
    """The group's only member. It reads no records; the replay reads them outside the group.

    Args:
        config: The configuration of a consumer (see :mod:`consumer.kafka.client_config`).
        group: The group, and the member's instance id.
        topic: The topic that is replayed.
    """

    def __init__(self, config: Mapping[str, Any], group: str, topic: str) -> None:
        self.group = group
        self.topic = topic
        self._assigned: set[int] = set()
        self._lost = False
        self._config = config
        own = {
            "group.id": group,
            "group.instance.id": group,
            "group.protocol": "classic",
            "partition.assignment.strategy": "range",
        }
        self.client = Consumer({**config, **own})

    def join(self, partitions: Sequence[int]) -> Committed:
        """Join the group, get all partitions, and return what is committed.

        Raises:
            RightMissing: The broker refuses the group.
            Unavailable: The broker did not assign the partitions within half a minute.
            FatalError: Another run took this one's place.
        """
        self.client.subscribe(
            [self.topic], on_assign=self._on_assign, on_revoke=self._on_lost, on_lost=self._on_lost
        )
        deadline_s = time.monotonic() + _JOIN_TIMEOUT_S
        while not self._assigned >= set(partitions):
            if time.monotonic() > deadline_s:
                raise Unavailable(
                    f"group {self.group} could not be joined within {_JOIN_TIMEOUT_S:.0f} s; try again"
                )
            self._poll(_POLL_S)
        try:
            found = self.client.committed(
                [TopicPartition(self.topic, p) for p in partitions], _ANSWER_TIMEOUT_S
            )
        except KafkaException as exception:
            raise Unavailable(
                f"committed offsets unknown: {format_error(kafka_error(exception))}; try again"
            ) from exception
        return {at.partition: (at.offset, at.metadata) for at in found if at.offset >= 0}

    def stay(self) -> None:
        """Stay in the group by serving the client's events.

        Raises:
            FatalError: Another run took this one's place.
        """
        self._poll(0)

    def offsets(self, next_offsets: Mapping[int, tuple[int, str]]) -> list[TopicPartition]:
        """Return offsets and metadata texts in the form that the client commits."""
        return [TopicPartition(self.topic, part, at, text) for part, (at, text) in next_offsets.items()]

    def close(self) -> None:
        """Disconnect. The member stays in the group until its session times out."""
        self.client.close()

    def _poll(self, timeout_s: float) -> None:
        try:
            message = unwrap_callback_errors(self.client.poll, timeout_s)
        except KafkaException as exception:
            raise self._taken(format_error(kafka_error(exception))) from exception
        error = message.error() if message is not None else None
        if error is not None and error.fatal():
            raise self._taken(format_error(error))
        if error is not None and (
            missing := missing_right(error, f"Read on group {self.group}", self._config)
        ):
            raise RightMissing(missing)
        if self._lost:
            raise self._taken("its partitions were revoked")

    def _taken(self, why: str) -> FatalError:
        return FatalError(
            f"group {self.group}: {why}; if no other replay runs, run it again: it continues where it stopped"
        )

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        # Assign them, so that the group knows the owner, and pause them, so that nothing is read.
        at_start = [TopicPartition(at.topic, at.partition, 0) for at in partitions]
        consumer.assign(at_start)
        consumer.pause(at_start)
        self._assigned |= {at.partition for at in partitions}

    def _on_lost(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._lost = self._lost or bool(partitions)
