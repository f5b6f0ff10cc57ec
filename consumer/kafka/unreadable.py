"""Partitions that cannot be read, and why: a person has to look."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import Final

from confluent_kafka import KafkaError, Message

from consumer.conditions import Conditions, Name
from consumer.kafka.policy import describe

_STUCK_CODES: Final = (KafkaError._BAD_COMPRESSION, KafkaError._BAD_MSG)
_ABSENT_CODES: Final = (
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError._UNKNOWN_PARTITION,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
)


class Unreadable:
    """The unreadable partitions of one consumer; keeps it from being ready while there are any.

    Args:
        conditions: where the last reason is shown.
    """

    def __init__(self, conditions: Conditions) -> None:
        self._conditions = conditions
        self._partitions: set[int | None] = set()

    def note(self, message: Message, error: KafkaError) -> bool:
        """Note the partition that an error came from; tell whether the error was of this kind."""
        where = place_of(message)
        if error.code() == KafkaError._AUTO_OFFSET_RESET:
            if message.partition() in self._partitions:
                # Behind a damaged batch the client takes some bytes for the next offset, and asks for that.
                return True
            reason = (
                f"{where}: the offset to go on from is not in the topic ({error.str()}); "
                "decide where to go on and reset the group's offset"
            )
        elif error.code() in _STUCK_CODES:
            reason = f"{where} cannot be read: {describe(error)}"
        elif error.code() in _ABSENT_CODES:
            reason = f"{where}: {describe(error)}"
        else:
            return False
        self._partitions.add(message.partition())
        self._conditions.set(Name.PARTITION, reason)
        return True

    def read(self, partitions: AbstractSet[int | None], assigned: AbstractSet[int | None]) -> None:
        """Note what was read; the trouble ends with the last partition that was in it and is still ours."""
        if self._partitions:
            self._partitions = (self._partitions - partitions) & assigned
            if not self._partitions:
                self._conditions.clear(Name.PARTITION)


def place_of(message: Message) -> str:
    """Say where a message, or an error in its place, comes from."""
    return f"{message.topic()}[{message.partition()}] at offset {message.offset()}"
