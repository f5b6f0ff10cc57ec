"""Abort the transactions of members that have left the group, before anybody waits for them.

A scorer that dies between sending its offsets and the end of its commit leaves the offsets pending. The
member that takes its partitions over cannot read the committed offsets until the broker has timed the
transaction out, 10 to 20 s later. A producer that opens with the same transactional id ends the
transaction at once; a restart of the same instance does that anyway. So every member notes at each
rebalance which other members there are, and opens a producer with the id of each member that has gone.

A member that was only suspended finds its producer fenced when it wakes up, and recovers from that like
from any other aborted transaction.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

import structlog
from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient

from consumer.kafka.client_config import common, transactional_producer
from consumer.kafka.errors import format_error, kafka_error
from consumer.kafka.producer import acquire_producer_id
from consumer.settings import KafkaSettings

log = structlog.get_logger(__name__)

_TIMEOUT_S: Final = 2.0
"""The limit of each call, which usually takes milliseconds. A broker that is away delays a rebalance by
this, once."""


class ZombieFencer:
    """Tracks the members of the group, and fences those that have gone.

    Args:
        kafka: The group, and the name of this instance in it.
        list_members: Asks for the client ids of the group's members, without waiting. The answer may raise
            ``KafkaException``.
        fence: Opens a producer with a transactional id. It may raise ``KafkaException``.
    """

    def __init__(
        self,
        kafka: KafkaSettings,
        *,
        list_members: Callable[[], Future[set[str]]] | None = None,
        fence: Callable[[str], None] | None = None,
    ) -> None:
        config = transactional_producer(kafka)
        self._own_id: str = config["transactional.id"]
        self._list_members = list_members or _GroupMembers(kafka).request
        self._fence = fence or _Fence(config)
        self._last_answer: Future[set[str]] | None = None
        self._other_ids: set[str] = set()

    def abort_transactions(self) -> None:
        """Note who is in the group now, and abort what members that have gone may have left open.

        The answer is waited for only if other members were known before, so that a first start and a
        restart lose no time. Without an answer only time is lost: the next rebalance tries again.
        """
        previous, self._last_answer = self._last_answer, self._list_members()
        if previous is not None:
            with contextlib.suppress(KafkaException):
                self._other_ids |= self._others_in(previous)
        if not self._other_ids:
            return
        try:
            for transactional_id in sorted(self._other_ids - self._others_in(self._last_answer)):
                self._fence(transactional_id)
                self._other_ids.remove(transactional_id)
                log.info("aborted what a departed member may have left open", instance=transactional_id)
        except KafkaException as exception:
            log.warning(
                "cannot fence members that have left the group", error=format_error(kafka_error(exception))
            )

    def _others_in(self, answer: Future[set[str]]) -> set[str]:
        present = answer.result()
        if self._own_id not in present:  # The group's coordinator was not among the brokers that answered.
            raise KafkaException(KafkaError(KafkaError.COORDINATOR_NOT_AVAILABLE))
        return present - {self._own_id}


class _GroupMembers:
    def __init__(self, kafka: KafkaSettings) -> None:
        self._kafka = kafka
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="group-members")

    def request(self) -> Future[set[str]]:
        return self._executor.submit(self._client_ids)

    def _client_ids(self) -> set[str]:
        # Not describe_consumer_groups: when a broker goes away at the wrong moment, its requests end the
        # process with an assertion of rd_kafka_enq_once_del_source_return.
        # The client is created for each request, which is rare: it costs threads and connections.
        admin = AdminClient(common(self._kafka))
        groups = admin.list_groups(self._kafka.group_id, timeout=_TIMEOUT_S)
        return {str(member.client_id) for group in groups for member in group.members}


class _Fence:
    def __init__(self, config: dict[str, Any]) -> None:
        self._config = config

    def __call__(self, transactional_id: str) -> None:
        # The transactional id of an instance is its client id (client_config.py).
        producer = Producer(self._config | {"transactional.id": transactional_id})
        acquire_producer_id(producer, _TIMEOUT_S)
