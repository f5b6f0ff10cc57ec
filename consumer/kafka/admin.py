"""Create and describe topics, and ask a Kafka whether it is there.

Each call owns a short-lived admin client. librdkafka's own log lines go to the logger
``librdkafka``, never to standard error, so that a failed command stays one line.

Asks the brokers what one topic looks like now.

Asks the brokers what there is: topics with their settings, a group's state.

Asks the brokers how far a consumer group has come in a topic.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from confluent_kafka import (
    ConsumerGroupTopicPartitions,
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

from consumer.errors import StartupError, Unavailable
from consumer.kafka.errors import format_error, is_outage, kafka_error

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from concurrent.futures import Future

    from confluent_kafka.admin import (  # type: ignore[attr-defined]  # not in __all__
        ClusterMetadata,
        TopicDescription,
    )

_BROKER_DEFAULT: Final = -1
_LOOK_AGAIN_S: Final = 0.05
_UNREACHABLE: Final = frozenset(
    {
        KafkaError._TRANSPORT,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._TIMED_OUT,
        KafkaError._RESOLVE,
        KafkaError._TIMED_OUT_QUEUE,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.BROKER_NOT_AVAILABLE,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
    }
)


@dataclass(frozen=True, kw_only=True)
class TopicSpec:
    """A topic as it should be created; ``config`` overrides the broker's defaults."""

    name: str
    partitions: int
    config: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TopicInfo:
    """A topic as the broker describes it."""

    partitions: int
    replicas: int
    max_message_bytes: int


@dataclass(frozen=True, kw_only=True)
class TopicCreation:
    """What became of one requested topic."""

    created: bool
    """False if the topic existed; it was left as it is."""
    partitions: int
    """How many it has, which for an existing topic need not be how many were asked for."""


def create_topics(
    client_config: Mapping[str, Any], specs: Sequence[TopicSpec], timeout_s: float = 15.0
) -> dict[str, TopicCreation]:
    """Create the topics that don't exist yet and wait until every partition has a leader.

    Raises:
        Unavailable: no broker answered in time.
        StartupError: the broker refuses a topic (no right to, an invalid setting).
    """
    deadline_s = time.monotonic() + timeout_s
    admin = _admin(client_config)
    new = [NewTopic(spec.name, spec.partitions, _BROKER_DEFAULT, config=dict(spec.config)) for spec in specs]
    created: dict[str, bool] = {}
    for name, outcome in admin.create_topics(
        new, operation_timeout=timeout_s, request_timeout=timeout_s
    ).items():
        created[name] = _was_created(client_config, name, outcome)
    partitions = _await_leaders(admin, client_config, list(created), deadline_s)
    return {
        name: TopicCreation(created=created[name], partitions=count) for name, count in partitions.items()
    }


def describe_topics(
    client_config: Mapping[str, Any], names: Iterable[str], timeout_s: float
) -> dict[str, TopicInfo]:
    """Look the topics up.

    Raises:
        Unavailable: no broker answered in time.
        StartupError: a topic is missing, or we may not look at it.
    """
    wanted = list(dict.fromkeys(names))
    admin = _admin(client_config)
    topics = _metadata(admin, client_config, timeout_s).topics
    missing = [name for name in wanted if name not in topics or topics[name].error is not None]
    if missing:
        servers = client_config["bootstrap.servers"]
        raise StartupError(
            f"no topic {', '.join(missing)} on {servers}; create it with: purchase-stream topics create"
        )
    resources = [ConfigResource(ConfigResource.Type.TOPIC, name) for name in wanted]
    limits: dict[str, int] = {}
    for resource, answer in admin.describe_configs(resources, request_timeout=timeout_s).items():
        try:
            limits[resource.name] = int(answer.result()["max.message.bytes"].value)
        except KafkaException as error:
            raise _translated(client_config, error, f"topic {resource.name} cannot be described") from error
    return {
        name: TopicInfo(
            partitions=len(topics[name].partitions),
            replicas=len(topics[name].partitions[0].replicas),
            max_message_bytes=limits[name],
        )
        for name in wanted
    }


def broker_ids(client_config: Mapping[str, Any], timeout_s: float) -> set[int]:
    """Return the ids of the brokers that are up.

    Raises:
        Unavailable: no broker answered in time.
    """
    return set(_metadata(_admin(client_config), client_config, timeout_s).brokers)


def _admin(client_config: Mapping[str, Any]) -> AdminClient:
    config = {
        # A broker that has just started should be found by the next try, not the one in 10 s.
        "reconnect.backoff.ms": 50,
        "reconnect.backoff.max.ms": 500,
        **client_config,
    }
    try:
        return AdminClient(config, logger=logging.getLogger("librdkafka"))
    except KafkaException as error:
        raise StartupError(f"Kafka client settings: {error.args[0].str()}; correct kafka.client") from error


def _metadata(admin: AdminClient, client_config: Mapping[str, Any], timeout_s: float) -> ClusterMetadata:
    try:
        return admin.list_topics(timeout=timeout_s)
    except KafkaException as error:
        raise _translated(client_config, error, "Kafka cannot be asked for its topics") from error


def _was_created(client_config: Mapping[str, Any], name: str, outcome: Future[None]) -> bool:
    try:
        outcome.result()
    except KafkaException as error:
        if error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS:
            return False
        raise _translated(client_config, error, f"topic {name} cannot be created") from error
    return True


def _await_leaders(
    admin: AdminClient, client_config: Mapping[str, Any], names: list[str], deadline_s: float
) -> dict[str, int]:
    """Return the partition counts once all have leaders; a producer's first send would else fail."""
    while True:
        topics = _metadata(admin, client_config, max(deadline_s - time.monotonic(), 1.0)).topics
        known = [topics[name] for name in names if name in topics and topics[name].partitions]
        if len(known) == len(names) and all(
            part.leader >= 0 for topic in known for part in topic.partitions.values()
        ):
            return {name: len(topics[name].partitions) for name in names}
        if time.monotonic() > deadline_s:
            servers = client_config["bootstrap.servers"]
            raise Unavailable(f"Kafka at {servers} has no leader for a partition of {', '.join(names)}; wait")
        time.sleep(_LOOK_AGAIN_S)


def _translated(
    client_config: Mapping[str, Any], error: KafkaException, what_failed: str
) -> StartupError | Unavailable:
    problem: KafkaError = error.args[0]
    if problem.code() in _UNREACHABLE:
        servers = client_config["bootstrap.servers"]
        return Unavailable(
            f"no Kafka answers at {servers} ({problem.name()}); "
            f"check kafka.bootstrap_servers and whether it runs"
        )
    return StartupError(f"{what_failed}: {problem.str()} ({problem.name()})")


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
            error = kafka_error(exception) if isinstance(exception, KafkaException) else None
            if error is None or is_outage(error):
                why = "no answer" if error is None else format_error(error)
                raise Unavailable(
                    f"no Kafka says what topic {self._topic} looks like: {why}; check that it is up"
                ) from exception
            if error.code() in GONE_CODES:
                raise StartupError(
                    f"no topic {self._topic}; create it with: purchase-stream topics create"
                ) from exception
            raise StartupError(
                f"topic {self._topic} cannot be looked at: {format_error(error)}"
            ) from exception


def facts_of(description: TopicDescription) -> TopicFacts:
    """Pick what matters here."""
    return TopicFacts(
        topic_id=str(description.topic_id), partitions=sorted(part.id for part in description.partitions)
    )


_ASK_TIMEOUT_S: Final = 10.0
_WANTED: Final = ("cleanup.policy", "retention.ms", "max.message.bytes", "min.insync.replicas")


@dataclass(frozen=True, slots=True)
class TopicSetup:
    """A topic as it is set up.

    Attributes:
        partitions: how many.
        replicas: of each, the fewest.
        without_leader: partitions that nobody can read or write now.
        under_replicated: partitions with a replica that is behind or away.
        cleanup_policy: ``delete``, ``compact`` or both.
        retention_ms: -1 is for ever.
        max_message_bytes: the largest record batch.
        min_insync_replicas: so many must have a record before it is acknowledged.
    """

    partitions: int
    replicas: int = 1
    without_leader: int = 0
    under_replicated: int = 0
    cleanup_policy: str = "delete"
    retention_ms: int = 7 * 24 * 3_600_000
    max_message_bytes: int = 1_048_588
    min_insync_replicas: int = 1


class ClusterFacts:
    """Looks at a cluster.

    Every method raises :class:`Unavailable` if no broker answers in time, and :class:`StartupError` if
    the brokers will not tell us.

    Args:
        client_config: of every client (see :mod:`consumer.kafka.client_config`).
    """

    def __init__(self, client_config: Mapping[str, Any]) -> None:
        self._servers = client_config.get("bootstrap.servers")
        try:
            self._admin = AdminClient(dict(client_config), logger=logging.getLogger("librdkafka"))
        except KafkaException as exception:
            raise StartupError(
                f"Kafka client settings: {kafka_error(exception).str()}; correct kafka.client"
            ) from exception

    def cluster(self) -> tuple[str, int]:
        """Return the cluster's id, and how many brokers are up."""
        found = self._wait(
            self._admin.describe_cluster(request_timeout=_ASK_TIMEOUT_S), "the cluster cannot be described"
        )
        return str(found.cluster_id), len(found.nodes)

    def topics(self, names: Sequence[str]) -> dict[str, TopicSetup]:
        """Return how these topics are set up; those that do not exist are left out."""
        try:
            known = self._admin.list_topics(timeout=_ASK_TIMEOUT_S).topics
        except KafkaException as exception:
            raise self._translated(exception, "topics cannot be listed") from exception
        there = [name for name in names if name in known and known[name].error is None]
        resources = [ConfigResource(ConfigResource.Type.TOPIC, name) for name in there]
        settings: dict[str, dict[str, str]] = {}
        if resources:
            answers = self._admin.describe_configs(resources, request_timeout=_ASK_TIMEOUT_S)
            for resource, answer in answers.items():
                entries = self._wait(answer, f"topic {resource.name} cannot be described")
                settings[resource.name] = {key: str(entries[key].value) for key in _WANTED}
        return {name: _setup(known[name], settings[name]) for name in there}

    def group(self, group: str) -> tuple[str, int]:
        """Return a group's state, in Kafka's word, and how many members it has."""
        answers = self._admin.describe_consumer_groups([group], request_timeout=_ASK_TIMEOUT_S)
        found = self._wait(answers[group], f"group {group} cannot be described")
        return str(found.state.name), len(found.members)

    def _wait(self, answer: Any, what: str) -> Any:
        try:
            return answer.result(_ASK_TIMEOUT_S + 1.0)
        except KafkaException as exception:
            raise self._translated(exception, what) from exception
        except TimeoutError as error:
            raise Unavailable(f"no Kafka answers at {self._servers}") from error

    def _translated(self, exception: KafkaException, what: str) -> Unavailable | StartupError:
        error = kafka_error(exception)
        if is_outage(error):
            return Unavailable(f"no Kafka answers at {self._servers} ({error.name()})")
        return StartupError(f"{what}: {format_error(error)}")


def _setup(metadata: Any, settings: Mapping[str, str]) -> TopicSetup:
    parts = metadata.partitions.values()
    return TopicSetup(
        partitions=len(parts),
        replicas=min(len(part.replicas) for part in parts),
        without_leader=sum(part.leader < 0 for part in parts),
        under_replicated=sum(len(part.isrs) < len(part.replicas) for part in parts),
        cleanup_policy=settings["cleanup.policy"],
        retention_ms=int(settings["retention.ms"]),
        max_message_bytes=int(settings["max.message.bytes"]),
        min_insync_replicas=int(settings["min.insync.replicas"]),
    )


@dataclass(frozen=True, slots=True)
class GroupLag:
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

    def read(self) -> GroupLag:
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
        return GroupLag({**firsts, **committed}, ends)

    def _committed(self, partitions: Sequence[int]) -> dict[int, int]:
        wanted = ConsumerGroupTopicPartitions(
            self._group, [TopicPartition(self._topic, partition) for partition in partitions]
        )
        answers = self._admin.list_consumer_group_offsets([wanted], request_timeout=ASK_TIMEOUT_S)
        try:
            found = answers[self._group].result(ASK_TIMEOUT_S + 1.0)
        except (KafkaException, TimeoutError) as exception:
            why = (
                format_error(kafka_error(exception)) if isinstance(exception, KafkaException) else "no answer"
            )
            raise Unavailable(f"no Kafka says how far group {self._group} is: {why}") from exception
        return {part.partition: part.offset for part in found.topic_partitions if part.offset >= 0}
