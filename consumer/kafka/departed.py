"""Ends the transactions of members who are gone from the group, so that nobody waits until they time out.

A scorer that dies after it has sent its offsets and before the end of its commit leaves them pending:
its successor is not told where to go on before the broker times the transaction out and sweeps it away,
10 to 20 s later. Whoever takes the same transactional id ends it at once, which is how an instance's own
restart goes on. So each member notes at every rebalance who else is in the group, and takes the ids
of those who are there no longer. A member that was only suspended finds its producer fenced when
it wakes up, as after any other transaction that was ended for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import structlog
from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import AdminClient

from consumer.kafka.client_config import common, transactional_producer
from consumer.kafka.policy import describe, error_of
from consumer.settings import KafkaSettings

log = structlog.get_logger(__name__)

_ANSWER_WITHIN_S: Final = 2.0
"""Both calls take milliseconds. A broker that is away costs a rebalance so much once, and no more."""


class DepartedMembers:
    """Follows who is in the group.

    Args:
        kafka: the group, and who we are in it.
        present: asks for the instance ids of the group's members; raises ``KafkaException``.
        fence: takes a transactional id and so ends its transaction; raises ``KafkaException``.
    """

    def __init__(
        self,
        kafka: KafkaSettings,
        *,
        present: Callable[[], set[str]] | None = None,
        fence: Callable[[str], None] | None = None,
    ) -> None:
        config = transactional_producer(kafka)
        self._ours: str = config["transactional.id"]
        self._present = present or _Group(kafka).instances
        self._fence = fence or _Fence(config)
        self._known: set[str] = set()

    def end_transactions(self) -> None:
        """Note who is in the group now, and end what those who have left it may have left open.

        Without an answer nothing is lost but time; the next rebalance tries again.
        """
        try:
            present = self._present()
            for gone in sorted(self._known - present - {self._ours}):
                self._fence(gone)
                self._known.remove(gone)
                log.info("ended what a member that is gone may have left open", instance=gone)
        except KafkaException as exception:
            log.warning("members that are gone cannot be told", error=describe(error_of(exception)))
        else:
            self._known = present


class _Group:
    def __init__(self, kafka: KafkaSettings) -> None:
        self._group_id = kafka.group_id
        self._admin = AdminClient(common(kafka))

    def instances(self) -> set[str]:
        answers = self._admin.describe_consumer_groups([self._group_id], request_timeout=_ANSWER_WITHIN_S)
        members = answers[self._group_id].result().members
        return {member.group_instance_id for member in members if member.group_instance_id}


class _Fence:
    def __init__(self, config: dict[str, Any]) -> None:
        self._config = config

    def __call__(self, transactional_id: str) -> None:
        # An instance's transactional id is its group.instance.id (client_config.py).
        Producer(self._config | {"transactional.id": transactional_id}).init_transactions(_ANSWER_WITHIN_S)
