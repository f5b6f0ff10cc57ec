"""Ends the transactions of members who are gone from the group, so that nobody waits until they time out.

A scorer that dies after it has sent its offsets and before the end of its commit leaves them pending:
its successor is not told where to go on before the broker times the transaction out and sweeps it away,
10 to 20 s later. Whoever takes the same transactional id ends it at once, which is how an instance's own
restart goes on. So each member notes at every rebalance who else is in the group, and takes the ids
of those who are there no longer. A member that was only suspended finds its producer fenced when
it wakes up, as after any other transaction that was ended for it.
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

_ANSWER_WITHIN_S: Final = 2.0
"""Each call takes milliseconds. A broker that is away costs a rebalance so much once, and no more."""


class ZombieFencer:
    """Follows who is in the group.

    Args:
        kafka: the group, and who we are in it.
        ask: asks for the client ids of who is in the group, and does not wait; the answer raises
            ``KafkaException``.
        fence: takes a transactional id and so ends its transaction; raises ``KafkaException``.
    """

    def __init__(
        self,
        kafka: KafkaSettings,
        *,
        ask: Callable[[], Future[set[str]]] | None = None,
        fence: Callable[[str], None] | None = None,
    ) -> None:
        config = transactional_producer(kafka)
        self._ours: str = config["transactional.id"]
        self._ask = ask or _Group(kafka).ask
        self._fence = fence or _Fence(config)
        self._asked: Future[set[str]] | None = None
        self._others: set[str] = set()

    def end_transactions(self) -> None:
        """Note who is in the group now, and end what those who have left it may have left open.

        The answer is waited for only if there was anybody else before: a first start, and a restart,
        lose no time. Without an answer nothing is lost but time; the next rebalance tries again.
        """
        before, self._asked = self._asked, self._ask()
        if before is not None:
            with contextlib.suppress(KafkaException):
                self._others |= self._others_in(before)
        try:
            if not self._others:
                return
            for gone in sorted(self._others - self._others_in(self._asked)):
                self._fence(gone)
                self._others.remove(gone)
                log.info("ended what a member that is gone may have left open", instance=gone)
        except KafkaException as exception:
            log.warning("members that are gone cannot be told", error=format_error(kafka_error(exception)))

    def _others_in(self, answer: Future[set[str]]) -> set[str]:
        present = answer.result()
        if self._ours not in present:  # the group's coordinator was not among the brokers that answered
            raise KafkaException(KafkaError(KafkaError.COORDINATOR_NOT_AVAILABLE))
        return present - {self._ours}


class _Group:
    def __init__(self, kafka: KafkaSettings) -> None:
        self._kafka = kafka
        self._asking = ThreadPoolExecutor(1, thread_name_prefix="group-members")

    def ask(self) -> Future[set[str]]:
        return self._asking.submit(self._client_ids)

    def _client_ids(self) -> set[str]:
        # Not describe_consumer_groups: its requests end the process, an assertion of
        # rd_kafka_enq_once_del_source_return, when a broker goes away at the wrong moment.
        # Made for the question, which is seldom asked: a client is threads and connections to each broker.
        admin = AdminClient(common(self._kafka))
        groups = admin.list_groups(self._kafka.group_id, timeout=_ANSWER_WITHIN_S)
        return {str(member.client_id) for group in groups for member in group.members}


class _Fence:
    def __init__(self, config: dict[str, Any]) -> None:
        self._config = config

    def __call__(self, transactional_id: str) -> None:
        # An instance's transactional id is its client id (client_config.py).
        producer = Producer(self._config | {"transactional.id": transactional_id})
        acquire_producer_id(producer, _ANSWER_WITHIN_S)
