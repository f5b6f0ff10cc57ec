"""Asks the brokers what there is: topics with their settings, a group's state."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from confluent_kafka import KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # they are exported
    AdminClient,
    ConfigResource,
)

from consumer.errors import StartupError, Unavailable
from consumer.kafka.policy import describe, error_of, is_outage

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
                f"Kafka client settings: {error_of(exception).str()}; correct kafka.client"
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
        error = error_of(exception)
        if is_outage(error):
            return Unavailable(f"no Kafka answers at {self._servers} ({error.name()})")
        return StartupError(f"{what}: {describe(error)}")


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
