"""A consumer group of one, which remembers how far a replay has come: offsets, and a text beside each.

Static membership: a run that is started again takes the place of one that was killed, at once, and one
that is started beside another fences it. Whoever was fenced cannot commit any more, so no two runs ever
publish the same.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from confluent_kafka import Consumer, KafkaException, TopicPartition

from consumer.errors import FatalError, Unavailable
from consumer.kafka.admin import Committed
from consumer.kafka.errors import format_error, kafka_error, unwrap_callback_errors

_JOIN_TIMEOUT_S: Final = 30.0
"""Longer than the session of a member that was killed, and than a broker waits for others to join."""

_ANSWER_TIMEOUT_S: Final = 10.0
_POLL_S: Final = 0.1


class ReplayOffsets:
    """The group's only member. It reads no records: whoever replays reads them without a group.

    Args:
        config: of a consumer (see :mod:`consumer.kafka.client_config`).
        group: the group, and the member's name in it.
        topic: what is replayed.
    """

    def __init__(self, config: Mapping[str, Any], group: str, topic: str) -> None:
        self.group = group
        self.topic = topic
        self._assigned: set[int] = set()
        self._lost = False
        own = {"group.id": group, "group.instance.id": group, "partition.assignment.strategy": "range"}
        self.client = Consumer({**config, **own})

    def join(self, partitions: Sequence[int]) -> Committed:
        """Become the one that has all partitions, and return what is committed.

        Raises:
            Unavailable: the broker did not let us in within half a minute.
            FatalError: somebody else took our place.
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
        """Let the client work.

        Raises:
            FatalError: somebody else took our place.
        """
        self._poll(0)

    def offsets(self, next_offsets: Mapping[int, tuple[int, str]]) -> list[TopicPartition]:
        """Return offsets and texts in the form in which they are committed."""
        return [TopicPartition(self.topic, part, at, text) for part, (at, text) in next_offsets.items()]

    def close(self) -> None:
        """Disconnect; the place in the group stays ours until the session times out."""
        self.client.close()

    def _poll(self, timeout_s: float) -> None:
        try:
            message = unwrap_callback_errors(self.client.poll, timeout_s)
        except KafkaException as exception:
            raise self._taken(format_error(kafka_error(exception))) from exception
        error = message.error() if message is not None else None
        if error is not None and error.fatal():
            raise self._taken(format_error(error))
        if self._lost:
            raise self._taken("its partitions were taken away")

    def _taken(self, why: str) -> FatalError:
        return FatalError(
            f"group {self.group}: {why}; if no other replay runs, run it again: it goes on where it was"
        )

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        # Assigned, so that the group counts us as the one that has them, and paused: nothing is read.
        at_begin = [TopicPartition(at.topic, at.partition, 0) for at in partitions]
        consumer.assign(at_begin)
        consumer.pause(at_begin)
        self._assigned |= {at.partition for at in partitions}

    def _on_lost(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._lost = self._lost or bool(partitions)
