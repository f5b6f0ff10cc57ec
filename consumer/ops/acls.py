"""The rights on Kafka that each role and verb needs, and no more. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal

from consumer.settings import Settings

Resource = Literal["topic", "group", "transactional-id"]
Operation = Literal["Create", "Delete", "Describe", "DescribeConfigs", "Read", "Write"]
"""The operations by Kafka's names. ``Read``, ``Write`` and ``Delete`` include ``Describe``."""


class User(StrEnum):
    """A role or a verb that connects to Kafka."""

    SCORE = "score"
    MONITOR = "monitor"
    SERVE = "serve"
    PRODUCE = "produce"
    TOPICS_CREATE = "topics create"
    AUDIT_VERIFY = "audit verify"
    AUDIT_REBUILD = "audit rebuild"
    REPORT_TOPIC = "report --topic"
    WHY = "why"
    DLQ_LIST = "dlq list"
    DLQ_STATS = "dlq stats"
    DLQ_SHOW = "dlq show"
    DLQ_REPLAY = "dlq replay"
    DLQ_REPLAY_SKIP_STALE = "dlq replay --skip-stale"
    DLQ_REPAIR = "dlq repair"
    DOCTOR = "doctor"
    ERASE = "erase"
    MODELS_REPLAY = "models replay --topic"
    TRAIN_FROM_OUTCOMES = "train --from-outcomes --topic"


@dataclass(frozen=True, slots=True, order=True)
class Grant:
    """The right to do something with a resource.

    Attributes:
        resource: The kind of the resource.
        name: The name of the resource, or the beginning of the name if ``prefixed``.
        operation: The allowed operation.
        prefixed: Whether the right is for all resources whose names begin with ``name``.
    """

    resource: Resource
    name: str
    operation: Operation
    prefixed: bool = False


def grants(settings: Settings, user: User) -> list[Grant]:
    """Return the rights that a role or verb needs with these settings."""
    topics, group = settings.topics, settings.kafka.group_id
    replay = f"{group}-dlq-replay"
    outputs = [topics.predictions, topics.dead_letters]
    exactly_once = settings.kafka.delivery == "exactly_once"
    dead_letters = [Grant("topic", topics.dead_letters, "Read")]
    resend = [
        *dead_letters,
        Grant("topic", topics.events, "Write"),
        Grant("topic", topics.events, "DescribeConfigs"),
        Grant("group", replay, "Read"),
        Grant("transactional-id", replay, "Write"),
    ]
    past = [Grant("topic", topic, "Read") for topic in [topics.predictions, topics.outcomes]]
    table: Mapping[User, Sequence[Grant]] = {
        User.SCORE: [
            Grant("topic", topics.events, "Read"),
            *[Grant("topic", topic, "Write") for topic in outputs],
            # Read, because a group without offsets resumes behind the last outputs.
            *[Grant("topic", topic, "Read") for topic in outputs],
            Grant("topic", topics.dead_letters, "DescribeConfigs"),
            Grant("group", group, "Read"),
            # Prefixed, because a scorer fences the transactional ids of scorers that have left the group.
            *([Grant("transactional-id", f"{group}-", "Write", prefixed=True)] if exactly_once else []),
        ],
        User.MONITOR: [
            # Reads only the last events, to distinguish them from transaction markers.
            *[Grant("topic", topic, "Read") for topic in [*outputs, topics.outcomes, topics.events]],
            Grant("topic", topics.control, "Write"),
            Grant("group", group, "Describe"),
        ],
        User.SERVE: [Grant("topic", topics.predictions, "Write")],
        User.PRODUCE: [Grant("topic", topics.events, "Write")],
        User.TOPICS_CREATE: [
            Grant("topic", topic, operation)
            for topic in topics.model_dump().values()
            for operation in ("Create", "Describe")
        ],
        User.AUDIT_VERIFY: [Grant("topic", topic, "Read") for topic in [topics.events, *outputs]],
        User.AUDIT_REBUILD: [Grant("topic", topics.predictions, "Read")],
        User.REPORT_TOPIC: [Grant("topic", topics.predictions, "Read")],
        User.WHY: [
            *[Grant("topic", topic, "Read") for topic in [topics.events, *outputs]],
            Grant("group", group, "Describe"),
            Grant("group", replay, "Describe"),
        ],
        User.DLQ_LIST: dead_letters,
        User.DLQ_STATS: dead_letters,
        User.DLQ_SHOW: dead_letters,
        User.DLQ_REPLAY: resend,
        User.DLQ_REPLAY_SKIP_STALE: [*resend, Grant("topic", topics.events, "Read")],
        User.DLQ_REPAIR: resend,
        User.ERASE: [
            *[
                Grant("topic", topic, operation)
                for topic in [topics.events, *outputs, topics.outcomes]
                for operation in ("Read", "DescribeConfigs")
            ],
            # For tombstones, where the topic is compacted.
            *[Grant("topic", topic, "Write") for topic in outputs],
        ],
        User.MODELS_REPLAY: past,
        User.TRAIN_FROM_OUTCOMES: past,
        User.DOCTOR: [
            *[Grant("topic", topic, "DescribeConfigs") for topic in topics.model_dump().values()],
            # It resolves where a scorer would resume, as the scorer does.
            *[Grant("topic", topic, "Read") for topic in [topics.events, *outputs]],
            *[Grant("topic", topic, "Describe") for topic in [topics.outcomes, topics.control]],
            Grant("topic", "__consumer_offsets", "Describe"),
            Grant("group", group, "Describe"),
            Grant("group", f"{group}-doctor", "Read"),
            Grant("group", f"{group}-doctor", "Delete"),
            *([Grant("transactional-id", f"{group}-doctor", "Write")] if exactly_once else []),
        ],
    }
    return list(table[user])


def merged(settings: Settings, users: Sequence[User]) -> list[Grant]:
    """Return the rights of several roles and verbs, sorted, each once."""
    return sorted({grant for user in users for grant in grants(settings, user)})


_FLAGS: Final[Mapping[Resource, str]] = {
    "topic": "--topic",
    "group": "--group",
    "transactional-id": "--transactional-id",
}


def kafka_acls(principal: str, servers: str, rights: Sequence[Grant]) -> Iterator[str]:
    """Yield a ``kafka-acls.sh`` command for each resource."""
    for (resource, name, prefixed), operations in _by_resource(rights).items():
        words = ["kafka-acls.sh", "--bootstrap-server", servers, "--add", "--allow-principal", principal]
        for operation in operations:
            words += ["--operation", operation]
        words += [_FLAGS[resource], name]
        if prefixed:
            words += ["--resource-pattern-type", "prefixed"]
        yield shlex.join(words)


def strimzi_user(principal: str, cluster: str, rights: Sequence[Grant]) -> Iterator[str]:
    """Yield the lines of a Strimzi ``KafkaUser`` resource.

    Args:
        principal: ``User:name``; the resource has that name.
        cluster: The name of the Strimzi ``Kafka`` resource.
        rights: The rights.
    """
    yield from (
        "apiVersion: kafka.strimzi.io/v1beta2",
        "kind: KafkaUser",
        "metadata:",
        f"  name: {principal.removeprefix('User:')}",
        "  labels:",
        f"    strimzi.io/cluster: {cluster}",
        "spec:",
        "  authentication:",
        "    type: scram-sha-512",
        "  authorization:",
        "    type: simple",
        "    acls:",
    )
    for (resource, name, prefixed), operations in _by_resource(rights).items():
        kind = "transactionalId" if resource == "transactional-id" else resource
        yield "      - resource:"
        yield f"          type: {kind}"
        yield f"          name: {name}"
        yield f"          patternType: {'prefix' if prefixed else 'literal'}"
        yield f"        operations: [{', '.join(operations)}]"


def _by_resource(rights: Sequence[Grant]) -> dict[tuple[Resource, str, bool], list[Operation]]:
    found: dict[tuple[Resource, str, bool], list[Operation]] = {}
    for grant in rights:
        found.setdefault((grant.resource, grant.name, grant.prefixed), []).append(grant.operation)
    return found
