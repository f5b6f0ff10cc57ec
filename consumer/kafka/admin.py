"""Ask the brokers about topics, offsets and consumer groups; create and delete topics."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent import futures
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, NamedTuple

from confluent_kafka import (
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # not in __all__
    AdminClient,
    ConfigResource,
    NewTopic,
    OffsetSpec,
)

from consumer.errors import ServiceError, StartupError, Unavailable
from consumer.kafka.errors import (
    ClientLog,
    Refusal,
    examine,
    explain_settings,
    format_error,
    is_outage,
    kafka_error,
    missing_right,
)

GONE_CODES: Final = (
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError._UNKNOWN_PARTITION,
)
"""The topic or the partition does not exist."""

_NEW_LEADER_CODES: Final = (
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError._NOENT,
)
"""The partition has just changed its leader. Ask again in a moment."""

_BROKER_DEFAULT: Final = -1
_ASK_AGAIN_S: Final = 0.05
_COMMITTED_SLICE_S: Final = 2.0
"""How long a request for committed offsets may take before it is repeated; coordinators load faster."""
_SLICE_S: Final = 0.2
"""How often a wait checks whether the brokers refuse the client."""

Ranges = dict[int, tuple[int, int]]
"""First offset and end (exclusive) by partition."""

Committed = dict[int, tuple[int, str | None]]
"""Committed offset and its metadata text by partition, for partitions that have one."""


@dataclass(frozen=True, kw_only=True)
class TopicSpec:
    """A topic to create; ``config`` overrides the broker's defaults."""

    name: str
    partitions: int
    config: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TopicCreation:
    """The result of a request to create a topic.

    Attributes:
        created: False if the topic existed; it was left unchanged.
        partitions: The topic's partitions, which for an existing topic may differ from the request.
    """

    created: bool
    partitions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """A topic and the health of its partitions.

    Attributes:
        topic_id: The unique id; a topic that is deleted and created again has another one.
        partitions: The number of partitions, which are numbered from 0.
        replicas: The smallest number of replicas of a partition.
        without_leader: The number of partitions that nobody can read or write now.
        under_replicated: The number of partitions with a replica out of sync.
        operations: What the client may do with it, in Kafka's words, such as ``READ``; empty if unknown.
    """

    topic_id: str = ""
    partitions: int
    replicas: int = 1
    without_leader: int = 0
    under_replicated: int = 0
    operations: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicSetup(Topic):
    """A topic with its configuration. The defaults are Kafka's.

    Attributes:
        cleanup_policy: ``delete``, ``compact`` or both.
        retention_ms: How long records are kept; -1 keeps them forever.
        max_message_bytes: The largest record batch.
        min_insync_replicas: The replicas that must have a record before it is acknowledged.
    """

    cleanup_policy: str = "delete"
    retention_ms: int = 7 * 24 * 3_600_000
    max_message_bytes: int = 1_048_588
    min_insync_replicas: int = 1


class Cluster(NamedTuple):
    """The id of the cluster, and the ids of the brokers that are up."""

    cluster_id: str
    broker_ids: frozenset[int]


class GroupMember(NamedTuple):
    """A member of a consumer group.

    Attributes:
        client_id: Its ``client.id``.
        host: Its address, as the broker sees it.
        partitions: The topics and partitions that are assigned to it.
    """

    client_id: str
    host: str
    partitions: Sequence[tuple[str, int]]


class GroupState(NamedTuple):
    """A consumer group.

    Attributes:
        state: Its state, as Kafka names it (``STABLE``, ``EMPTY``, …).
        members: Its members.
        operations: What the client may do with it, in Kafka's words, such as ``READ``; empty if unknown.
    """

    state: str
    members: Sequence[GroupMember]
    operations: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class GroupLag:
    """The progress of a group in a topic, by partition.

    Attributes:
        next_offsets: The committed offsets; the first offset where nothing is committed.
        end_offsets: The offset after the last record.
        without_events: The number of offsets between the two that hold no event, as far as it is known (see
            :class:`consumer.kafka.lag.LagReader`).
    """

    next_offsets: Mapping[int, int]
    end_offsets: Mapping[int, int]
    without_events: Mapping[int, int] = field(default_factory=dict)

    @property
    def by_partition(self) -> dict[int, int]:
        """The number of events that the group has not committed yet, by partition."""
        return {
            part: max(end - self.next_offsets[part] - self.without_events.get(part, 0), 0)
            for part, end in self.end_offsets.items()
        }

    @property
    def lag_events(self) -> int:
        """The number of events that the group has not committed yet."""
        return sum(self.by_partition.values())


class ClusterAdmin:
    """An admin client. Safe to use from several threads.

    Every method that waits raises :class:`Unavailable` if no broker answers in time, and
    :class:`StartupError` if the brokers refuse the request or a topic does not exist.

    Args:
        client_config: The configuration of every client (see :mod:`consumer.kafka.client_config`).
        timeout_s: How long the brokers may take to answer. The default exceeds the time that a
            change of leaders takes.

    Raises:
        StartupError: A client setting is wrong.
    """

    def __init__(self, client_config: Mapping[str, Any], timeout_s: float = 10.0) -> None:
        self._config = client_config
        self._servers = client_config.get("bootstrap.servers")
        self._timeout_s = timeout_s
        self._log = ClientLog()
        self._all_down = False
        self._examined: tuple[Refusal, Refusal] | None = None
        """The refusal that was examined last, and what was found out."""
        self._lock = threading.Lock()
        self._offset_readers: dict[str, Consumer] = {}
        self._admin = self._new_client()

    def _new_client(self) -> AdminClient:
        # Find a broker that has just started at the next attempt, not after 10 s.
        defaults: dict[str, Any] = {
            "reconnect.backoff.ms": 50,
            "reconnect.backoff.max.ms": 500,
        }
        own: dict[str, Any] = {"logger": self._log, "error_cb": self._on_error}
        try:
            return AdminClient({**defaults, **self._config, **own})
        except KafkaException as exception:
            reason = explain_settings(kafka_error(exception).str(), self._config)
            raise StartupError(f"Kafka client settings: {reason}; correct kafka.client") from exception

    # Cluster and topics

    def cluster(self) -> Cluster:
        """Describe the cluster."""
        deadline_s = time.monotonic() + self._timeout_s
        while True:
            try:
                # Not describe_cluster, which asks the controller only: it may be the broker that is down.
                found = self._admin.list_topics(timeout=min(self._timeout_s, _SLICE_S))
                break
            except KafkaException as exception:
                error = kafka_error(exception)
                self._serve_callbacks()
                if not is_outage(error) or self._is_refused() or time.monotonic() >= deadline_s:
                    raise self._translated(error, "Describe on the cluster", None) from exception
        return Cluster(str(found.cluster_id), frozenset(found.brokers))

    def create_topics(self, specs: Sequence[TopicSpec]) -> dict[str, TopicCreation]:
        """Create the topics that don't exist yet and wait until every partition has a leader."""
        deadline_s = time.monotonic() + self._timeout_s
        new = [
            NewTopic(spec.name, spec.partitions, _BROKER_DEFAULT, config=dict(spec.config)) for spec in specs
        ]
        answers = self._admin.create_topics(
            new, operation_timeout=self._timeout_s, request_timeout=self._timeout_s
        )
        created = {name: self._created(name, answer) for name, answer in answers.items()}
        while True:
            topics = self.describe_topics(list(created))
            if len(topics) == len(created) and not any(topic.without_leader for topic in topics.values()):
                return {
                    name: TopicCreation(created=created[name], partitions=topic.partitions)
                    for name, topic in topics.items()
                }
            if time.monotonic() > deadline_s:
                raise Unavailable(
                    f"Kafka at {self._servers} has no leader for a partition of {', '.join(created)}; wait"
                )
            time.sleep(_ASK_AGAIN_S)

    def _created(self, name: str, answer: Future[None]) -> bool:
        """Return whether a topic was created; false if it existed."""
        try:
            self._wait(answer, f"Create on topic {name}")
        except StartupError as error:
            if _code_of(error) == KafkaError.TOPIC_ALREADY_EXISTS:
                return False
            raise
        return True

    def delete_topics(self, names: Sequence[str]) -> None:
        """Delete the topics."""
        for name, answer in self._admin.delete_topics(list(names), request_timeout=self._timeout_s).items():
            self._wait(answer, f"Delete on topic {name}")

    def describe_topics(self, names: Iterable[str]) -> dict[str, Topic]:
        """Describe the topics; leave out those that do not exist."""
        answers = self._ask_topics(names)
        found: dict[str, Topic] = {}
        for name, answer in answers.items():
            try:
                found[name] = answer.wait()
            except _NoTopicError:
                continue
        return found

    def describe_topic(self, name: str) -> Topic:
        """Describe a topic."""
        return self.ask_topic(name).wait()

    def ask_topic(self, name: str) -> PendingTopic:
        """Ask for the description of a topic without waiting for it."""
        return self._ask_topics([name])[name]

    def topic_identity(self, name: str) -> dict[str, str]:
        """Return a topic's identity: ``cluster_id``, ``topic`` and ``topic_id``."""
        return {
            "cluster_id": self.cluster().cluster_id,
            "topic": name,
            "topic_id": self.describe_topic(name).topic_id,
        }

    def topic_setups(self, names: Iterable[str]) -> dict[str, TopicSetup]:
        """Describe the topics with their configuration; leave out those that do not exist."""
        return self._with_configs(self.describe_topics(names))

    def _with_configs(self, topics: Mapping[str, Topic]) -> dict[str, TopicSetup]:
        if not topics:
            return {}
        resources = [ConfigResource(ConfigResource.Type.TOPIC, name) for name in topics]
        answers = self._admin.describe_configs(resources, request_timeout=self._timeout_s)
        configs = {
            resource.name: self._wait(answer, f"DescribeConfigs on topic {resource.name}")
            for resource, answer in answers.items()
        }
        return {name: _with_config(topic, configs[name]) for name, topic in topics.items()}

    def max_message_bytes(self, name: str) -> int:
        """Return the size of the largest record batch that a topic accepts."""
        return self._with_configs({name: self.describe_topic(name)})[name].max_message_bytes

    def require_topics(self, names: Iterable[str]) -> dict[str, Topic]:
        """Describe the topics; all of them must exist."""
        names = list(names)
        found = self.describe_topics(names)
        missing = [name for name in names if name not in found]
        if missing:
            raise self._no_topic(", ".join(missing))
        return found

    def _ask_topics(self, names: Iterable[str]) -> dict[str, PendingTopic]:
        names = list(dict.fromkeys(names))
        if not names:
            return {}
        answers = self._admin.describe_topics(
            TopicCollection(names), request_timeout=self._timeout_s, include_authorized_operations=True
        )
        return {
            name: PendingTopic(answer, partial(self._wait, right=f"Describe on topic {name}", topic=name))
            for name, answer in answers.items()
        }

    # Offsets

    def first_offsets(self, topic: str, partitions: Iterable[int]) -> dict[int, int]:
        """Return the first offset that each partition still has."""
        return self._ends(topic, partitions, OffsetSpec.earliest())  # type: ignore[no-untyped-call]

    def end_offsets(self, topic: str, partitions: Iterable[int]) -> dict[int, int]:
        """Return the offset after the last record of each partition, uncommitted records included."""
        return self._ends(topic, partitions, OffsetSpec.latest())  # type: ignore[no-untyped-call]

    def offsets_since(self, topic: str, partitions: Iterable[int], time_ms: int) -> dict[int, int]:
        """Return the first offset of each partition whose record has at least this timestamp.

        Partitions without such a record are left out.

        Args:
            topic: The topic.
            partitions: Partitions of the topic.
            time_ms: Milliseconds since the epoch.
        """
        found = self._list_offsets(topic, partitions, OffsetSpec.for_timestamp(time_ms))
        return {partition: offset for partition, offset in found.items() if offset >= 0}

    def committed_ranges(self, topic: str) -> Ranges:
        """Return the offsets of each partition that a reader of committed records can read now.

        The end is the last stable offset: before the first record of a transaction that is still open.
        """
        partitions = range(self.describe_topic(topic).partitions)
        starts = self.first_offsets(topic, partitions)
        ends = self.stable_ends(topic, partitions)
        return {partition: (starts[partition], ends[partition]) for partition in partitions}

    def stable_ends(self, topic: str, partitions: Iterable[int]) -> dict[int, int]:
        """Return the last stable offset of each partition: the end for a reader of committed records."""
        latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
        return self._ends(topic, partitions, latest, IsolationLevel.READ_COMMITTED)

    def newest_timestamp_ms(self, topic: str, partition: int) -> int | None:
        """Return the largest timestamp of a partition's records, or ``None`` if it has no records."""
        at = TopicPartition(topic, partition)
        spec = OffsetSpec.max_timestamp()  # type: ignore[no-untyped-call]
        answer = self._admin.list_offsets({at: spec}, request_timeout=self._timeout_s)[at]
        timestamp_ms: int = self._wait(answer, f"Describe on topic {topic}").timestamp
        return timestamp_ms if timestamp_ms >= 0 else None

    def _ends(
        self,
        topic: str,
        partitions: Iterable[int],
        spec: OffsetSpec,
        isolation: IsolationLevel = IsolationLevel.READ_UNCOMMITTED,
    ) -> dict[int, int]:
        """Return the first or the last offset of each partition."""
        found = self._list_offsets(topic, partitions, spec, isolation)
        # The client reports a leader that did not answer in time as the offset -1001, and as no error.
        silent = [partition for partition, offset in found.items() if offset < 0]
        if silent:
            raise Unavailable(f"the leader of {topic}[{silent[0]}] does not answer")
        return found

    def _list_offsets(
        self,
        topic: str,
        partitions: Iterable[int],
        spec: OffsetSpec,
        isolation: IsolationLevel = IsolationLevel.READ_UNCOMMITTED,
    ) -> dict[int, int]:
        wanted = {TopicPartition(topic, partition): spec for partition in partitions}
        deadline_s = time.monotonic() + self._timeout_s
        while wanted:
            answers = self._admin.list_offsets(
                wanted, isolation_level=isolation, request_timeout=self._timeout_s
            )
            right = f"Describe on topic {topic}"
            try:
                return {
                    at.partition: self._wait(answer, right, topic).offset for at, answer in answers.items()
                }
            except (StartupError, Unavailable) as error:
                code = _code_of(error)
                if code == KafkaError._NOENT:  # The client found no leader, and does not say why.
                    self.describe_topic(topic)
                if code not in _NEW_LEADER_CODES or time.monotonic() > deadline_s:
                    raise
            time.sleep(_ASK_AGAIN_S)
        return {}

    # Consumer groups

    def describe_group(self, group: str) -> GroupState:
        """Describe a consumer group."""
        answers = self._admin.describe_consumer_groups(
            [group], request_timeout=self._timeout_s, include_authorized_operations=True
        )
        found = self._wait_for_coordinator(answers[group], f"Describe on group {group}")
        members = [
            GroupMember(
                member.client_id,
                member.host.removeprefix("/"),
                [(at.topic, at.partition) for at in member.assignment.topic_partitions],
            )
            for member in found.members
        ]
        operations = frozenset(operation.name for operation in found.authorized_operations or ())
        return GroupState(str(found.state.name), members, operations)

    def committed_offsets(self, group: str, topic: str, partitions: Iterable[int]) -> Committed:
        """Return what a group has committed, without joining it."""
        wanted = [TopicPartition(topic, partition) for partition in partitions]
        if not wanted:
            return {}
        reader = self._offset_reader(group)
        deadline_s = time.monotonic() + self._timeout_s
        while True:
            try:
                found = reader.committed(wanted, timeout=_COMMITTED_SLICE_S)
                break
            except KafkaException as exception:
                error = self._group_refusal(group) or kafka_error(exception)
                if not is_outage(error) or self._is_refused() or time.monotonic() > deadline_s:
                    raise self._translated(error, f"Describe on group {group}", None) from exception
        for at in found:
            if at.error is not None:
                raise self._translated(at.error, f"Describe on topic {topic}", topic)
        return {at.partition: (at.offset, at.metadata) for at in found if at.offset >= 0}

    def _offset_reader(self, group: str) -> Consumer:
        """Return a consumer that reads a group's committed offsets and never joins the group.

        The admin client's own request ends the process with a segmentation fault if the group has no
        coordinator for the moment (librdkafka 2.16, ``rd_kafka_handle_OffsetFetch``).
        """
        with self._lock:
            if group not in self._offset_readers:
                own = {
                    "group.id": group,
                    "enable.auto.commit": False,
                    "isolation.level": "read_uncommitted",  # do not wait for offsets of open transactions
                    "logger": self._log,
                    "error_cb": self._on_error,
                }
                self._offset_readers[group] = Consumer({**self._config, **own})
            return self._offset_readers[group]

    def _group_refusal(self, group: str) -> KafkaError | None:
        """Return the error with which the broker refuses a group, if it does.

        The client waits for the group's coordinator even if it may not know it. It reports the refusal once,
        in place of a message, so the next request gets a new client.
        """
        with self._lock:
            reader = self._offset_readers[group]
            message = reader.poll(0)
            error = None if message is None else message.error()
            if error is None or error.code() != KafkaError.GROUP_AUTHORIZATION_FAILED:
                return None
            del self._offset_readers[group]
        reader.close()
        return error

    def lag(self, group: str, topic: str) -> GroupLag:
        """Return a group's committed offsets in a topic, and the end offsets."""
        partitions = range(self.describe_topic(topic).partitions)
        # In this order: events that arrive in between make the lag too large, never negative.
        committed = {part: at for part, (at, _) in self.committed_offsets(group, topic, partitions).items()}
        ends = self.end_offsets(topic, partitions)
        starts = self.first_offsets(topic, [part for part in partitions if part not in committed])
        return GroupLag(starts | committed, ends)

    def delete_group(self, group: str) -> None:
        """Delete a consumer group that has no members."""
        answers = self._admin.delete_consumer_groups([group], request_timeout=self._timeout_s)
        self._wait_for_coordinator(answers[group], f"Delete on group {group}")

    # Answers

    def _wait_for_coordinator(self, answer: Future[Any], right: str) -> Any:
        """Wait for the answer of a group's coordinator; see :meth:`_wait`.

        After a coordinator's restart, a client that had reached it before never reaches it again: each
        request to it times out (seen with librdkafka 2.16). The next request goes through a new client.
        """
        try:
            return self._wait(answer, right)
        except Unavailable:
            self._admin = self._new_client()
            raise

    def _wait(self, answer: Future[Any], right: str, topic: str | None = None) -> Any:
        """Wait for an answer and translate errors.

        Args:
            answer: The client's future.
            right: The right that the request needs, such as ``Describe on topic t``.
            topic: The topic to name in the error if a broker does not know it.
        """
        deadline_s = time.monotonic() + self._timeout_s + 1.0
        while not futures.wait([answer], _SLICE_S).done:
            self._serve_callbacks()
            if self._is_refused() or time.monotonic() > deadline_s:
                raise self._translated(None, right, topic)
        try:
            return answer.result()
        except KafkaException as exception:
            raise self._translated(kafka_error(exception), right, topic) from exception

    def _translated(self, error: KafkaError | None, right: str, topic: str | None) -> ServiceError:
        if error is None or is_outage(error):
            self._serve_callbacks()
            refusal = self._refusal()
            if refusal is not None:
                kind = StartupError if refusal.is_lasting else Unavailable
                return kind(f"Kafka at {self._servers}: {refusal.reason}")
            why = "no answer in time" if error is None else error.name()
            return Unavailable(
                f"no Kafka answers at {self._servers} ({why});"
                " check kafka.bootstrap_servers and whether it runs"
            )
        if topic is not None and error.code() in GONE_CODES:
            return self._no_topic(topic)
        missing = missing_right(error, right, self._config)
        return StartupError(missing or f"{right} fails: {format_error(error)}")

    def _is_refused(self) -> bool:
        """Return whether all brokers refuse this client, so that waiting is useless."""
        if not self._all_down:
            return False
        refusal = self._refusal()
        return refusal is not None and refusal.is_lasting

    def _refusal(self) -> Refusal | None:
        """Return why the latest connection was refused, if the reason is known. Examine each reason once."""
        reported = self._log.refusal
        if reported is None:
            return None
        if self._examined is None or self._examined[0] != reported:
            self._examined = reported, examine(reported, self._log.server, self._config)
        return self._examined[1]

    def _on_error(self, error: KafkaError) -> None:
        self._all_down = self._all_down or error.code() == KafkaError._ALL_BROKERS_DOWN

    def _serve_callbacks(self) -> None:
        """Let the client deliver its errors and log lines; it does so only when it is polled."""
        while self._admin.poll(0):
            pass

    def _no_topic(self, name: str) -> _NoTopicError:
        return _NoTopicError(
            f"no topic {name} on {self._servers}; create it with: purchase-stream topics create"
        )


@dataclass(frozen=True, slots=True)
class PendingTopic:
    """A topic's description that may not have arrived yet."""

    _future: Future[Any]
    _wait: Callable[[Future[Any]], Any]

    def done(self) -> bool:
        """Return whether :meth:`wait` returns at once."""
        return self._future.done()

    def wait(self) -> Topic:
        """Return the description; raise what the methods of :class:`ClusterAdmin` raise."""
        found = self._wait(self._future)
        return Topic(
            topic_id=str(found.topic_id),
            partitions=len(found.partitions),
            replicas=min(len(part.replicas) for part in found.partitions),
            without_leader=sum(part.leader is None for part in found.partitions),
            under_replicated=sum(len(part.isr) < len(part.replicas) for part in found.partitions),
            operations=frozenset(operation.name for operation in found.authorized_operations or ()),
        )


def _code_of(error: ServiceError) -> int | None:
    """Return the code of the client's error that caused an error, if one did."""
    cause = error.__cause__
    return kafka_error(cause).code() if isinstance(cause, KafkaException) else None


class _NoTopicError(StartupError):
    """A topic does not exist."""


def _with_config(topic: Topic, config: Mapping[str, Any]) -> TopicSetup:
    return TopicSetup(
        topic_id=topic.topic_id,
        partitions=topic.partitions,
        replicas=topic.replicas,
        without_leader=topic.without_leader,
        under_replicated=topic.under_replicated,
        operations=topic.operations,
        cleanup_policy=config["cleanup.policy"].value,
        retention_ms=int(config["retention.ms"].value),
        max_message_bytes=int(config["max.message.bytes"].value),
        min_insync_replicas=int(config["min.insync.replicas"].value),
    )
