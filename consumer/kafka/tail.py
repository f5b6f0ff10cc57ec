"""Reads the committed records of a topic from given offsets on, in no consumer group.

Where to read on is the caller's to remember; nothing is committed to Kafka. An offset that the topic
no longer has, or does not have yet, is an error for a person to decide on, never a silent jump.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from consumer.conditions import Conditions, Name
from consumer.core.batch import IntArray
from consumer.errors import FatalError, StartupError, Unavailable
from consumer.kafka.client_config import FETCH
from consumer.kafka.policy import describe, error_of, is_outage
from consumer.kafka.topic_probe import GONE_CODES, TopicProbe, facts_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from concurrent.futures import Future

    from confluent_kafka.admin import TopicDescription  # type: ignore[attr-defined]  # it is exported

GROUP_ID: Final = "purchase-stream-tail"
"""The client asks for one; no offset is ever committed under it."""

LOOK_AGAIN_S: Final = 3.0
"""Seconds between looks at the topic, which find new partitions, an outage and its end, and a topic
created anew under our feet: of the latter, records may be returned until the look."""

_STUCK_CODES: Final = (KafkaError._BAD_COMPRESSION, KafkaError._BAD_MSG)


@dataclass(frozen=True, slots=True)
class TailBatch:
    """n committed records.

    Attributes:
        partitions: partition of each record, int64 (n,).
        offsets: offset of each record, int64 (n,); rising within a partition.
        values: n record values; ``None`` is a tombstone.
        next_offsets: where to read on after this batch, for every partition of the topic.
    """

    partitions: IntArray = field(repr=False)
    offsets: IntArray = field(repr=False)
    values: Sequence[bytes | None] = field(repr=False)
    next_offsets: Mapping[int, int]

    def __len__(self) -> int:
        return len(self.values)


class CommittedTail:
    """Follows all partitions of a topic, those included that are added later.

    Args:
        client_config: of every client (see :mod:`consumer.kafka.client_config`).
        topic: the topic.
        start_offsets: where to begin, by partition. If it names any partition, one that it does not
            name is read from its first record; if it is empty, all are read from the first record
            that the topic still has.
        conditions: where an outage or a stuck partition is noted.

    Raises:
        Unavailable: no broker answered in time.
        StartupError: the topic does not exist or does not have a start offset any more.
    """

    def __init__(
        self,
        client_config: Mapping[str, Any],
        topic: str,
        start_offsets: Mapping[int, int],
        conditions: Conditions,
    ) -> None:
        self._topic = topic
        self._conditions = conditions
        self._probe = TopicProbe(client_config, topic)
        facts = self._probe.facts()
        self._topic_id = facts.topic_id
        self._next_offsets = self._starts(facts.partitions, start_offsets)
        self._stuck: set[int] = set()
        self._look: Future[TopicDescription] | None = None
        self._look_at_s = time.monotonic() + LOOK_AGAIN_S
        self._consumer = Consumer(
            {
                **FETCH,
                **client_config,
                "group.id": GROUP_ID,
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "isolation.level": "read_committed",
                "auto.offset.reset": "error",
                "check.crcs": True,
                "error_cb": self._on_error,
            }
        )
        self._consumer.assign([TopicPartition(topic, *start) for start in self._next_offsets.items()])

    @property
    def next_offsets(self) -> dict[int, int]:
        """Where to read on, for every partition of the topic."""
        return dict(self._next_offsets)

    def poll(self, max_records: int, max_wait_s: float) -> TailBatch | None:
        """Return the next records, or ``None`` if there are none.

        Args:
            max_records: at most so many.
            max_wait_s: how long to wait for so many.

        Raises:
            StartupError: the topic, or the offset to go on from, is gone.
            FatalError: the client cannot go on.
        """
        self._look_for_changes()
        try:
            messages = self._consumer.consume(max_records, max_wait_s)
        except KafkaException as exception:
            raise FatalError(f"{self._topic} cannot be read: {describe(error_of(exception))}") from exception
        if any(map(Message.error, messages)):
            troubled = [message for message in messages if message.error() is not None]
            messages = [message for message in messages if message.error() is None]
            for message in troubled:
                self._on_message_error(message, message.error())  # type: ignore[arg-type]  # not None, see above
        if not messages:
            return None
        self._conditions.clear(Name.BROKER)
        # The client's types allow for a message without coordinates; a record has them.
        partitions = np.fromiter(map(Message.partition, messages), np.int64, len(messages))
        offsets = np.fromiter(map(Message.offset, messages), np.int64, len(messages))
        last_offsets = np.full(int(partitions.max()) + 1, -1)
        last_offsets[partitions] = offsets  # of those of one partition, the last stays
        read = {part: offset + 1 for part, offset in enumerate(last_offsets.tolist()) if offset >= 0}
        self._next_offsets |= read
        self._stuck -= read.keys()
        if not self._stuck:
            self._conditions.clear(Name.PARTITION)
        return TailBatch(
            partitions=partitions,
            offsets=offsets,
            values=list(map(Message.value, messages)),
            next_offsets=self.next_offsets,
        )

    def close(self) -> None:
        """Disconnect."""
        self._consumer.close()

    def _starts(self, partitions: Sequence[int], start_offsets: Mapping[int, int]) -> dict[int, int]:
        """Return where to begin in each partition.

        Raises:
            StartupError: records from there on are gone, or were never there.
        """
        firsts, ends = self._probe.first_offsets(partitions), self._probe.end_offsets(partitions)
        missing = start_offsets.keys() - set(partitions)
        if missing:
            raise StartupError(
                f"{self._topic} has no partition {min(missing)} any more; was it created anew?"
            )
        starts = firsts if not start_offsets else {p: start_offsets.get(p, 0) for p in partitions}
        for partition, start in starts.items():
            if not firsts[partition] <= start <= ends[partition]:
                raise self._gap(partition, start, firsts[partition], ends[partition])
        return starts

    def _not_there(self, partition: int) -> StartupError | FatalError:
        start = self._next_offsets[partition]
        try:
            first = self._probe.first_offsets([partition])[partition]
            end = self._probe.end_offsets([partition])[partition]
        except Unavailable:
            return FatalError(
                f"{self._topic}[{partition}] does not have offset {start}; start again to see why"
            )
        return self._gap(partition, start, first, end)

    def _gap(self, partition: int, start: int, first: int, end: int) -> StartupError:
        lost = f"{first - start} records are lost" if start < first else "was the topic cut or created anew?"
        return StartupError(
            f"{self._topic}[{partition}] should be read on from offset {start}, but has {first} to {end}"
            f" ({lost}); set what was made of it aside to begin anew at {first}"
        )

    def _look_for_changes(self) -> None:
        """Ask for the topic's description every few seconds, without waiting for the answer."""
        if self._look is None:
            if time.monotonic() >= self._look_at_s:
                self._look = self._probe.look()
            return
        if not self._look.done():
            return
        look, self._look = self._look, None
        self._look_at_s = time.monotonic() + LOOK_AGAIN_S
        try:
            facts = facts_of(look.result())
        except KafkaException as exception:
            self._conditions.set(Name.BROKER, f"{self._topic}: {describe(error_of(exception))}")
            return
        self._conditions.clear(Name.BROKER)
        if facts.topic_id != self._topic_id:
            raise StartupError(
                f"{self._topic} was deleted and created anew; set what was made of the old one aside to"
                " begin anew"
            )
        added = [part for part in facts.partitions if part not in self._next_offsets]
        if added:
            self._next_offsets |= dict.fromkeys(added, 0)
            self._consumer.incremental_assign([TopicPartition(self._topic, part, 0) for part in added])

    def _on_error(self, error: KafkaError) -> None:
        if is_outage(error):
            self._conditions.set(Name.BROKER, describe(error))

    def _on_message_error(self, message: Message, error: KafkaError) -> None:
        """Note what keeps a partition from being read; raise what does not pass."""
        partition = message.partition()
        where = f"{message.topic()}[{partition}]"
        if error.fatal():
            raise FatalError(f"{where} cannot be read: {describe(error)}")
        if error.code() == KafkaError._AUTO_OFFSET_RESET and partition is not None:
            raise self._not_there(partition)
        if error.code() in GONE_CODES:
            raise StartupError(f"{where} is gone: {describe(error)}")
        if error.code() in _STUCK_CODES and partition is not None:
            self._stuck.add(partition)
            reason = f"{where} at offset {message.offset()} cannot be read: {describe(error)}"
            self._conditions.set(Name.PARTITION, reason)
        else:
            self._conditions.set(Name.BROKER, f"{where} cannot be read: {describe(error)}")
