"""Create and describe topics, and ask a Kafka whether it is there.

Each call owns a short-lived admin client. librdkafka's own log lines go to the logger
``librdkafka``, never to standard error, so that a failed command stays one line.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic  # type: ignore[attr-defined]  # not in __all__

from consumer.errors import StartupError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from concurrent.futures import Future

    from confluent_kafka.admin import ClusterMetadata  # type: ignore[attr-defined]  # not in __all__

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
