"""The ``score`` role."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from confluent_kafka import Consumer, Producer

from consumer.errors import Condition
from consumer.kafka import client_config
from consumer.kafka.admin import describe_topics
from consumer.kafka.consumer import EventConsumer
from consumer.kafka.fencing import ZombieFencer
from consumer.kafka.producer import AtLeastOnce, Transaction
from consumer.kafka.session import Publisher, Session
from consumer.roles.shared import STARTUP_TIMEOUT_S, pipeline, role_registry, watch_model
from consumer.runtime.http import HttpServer, health_routes
from consumer.runtime.lifecycle import running, stopping_on_signals
from consumer.runtime.memory import tune_gc_and_malloc
from consumer.runtime.readiness import Readiness
from consumer.runtime.watchdog import COMMIT_MARGIN_S, Watchdog
from consumer.scorer.loop import Scorer
from consumer.scorer.metrics import ScorerTelemetry
from consumer.scorer.processing import BatchProcessor
from consumer.settings import Settings


def run_scorer(
    settings: Settings,
    worker: int = 0,
    *,
    producer_factory: Callable[[dict[str, Any]], Producer] = Producer,
    consumer_factory: Callable[[dict[str, Any]], Consumer] = Consumer,
) -> None:
    """Run the ``score`` role until told to stop.

    Args:
        settings: everything that can be set; its instance id is this scorer's own.
        worker: number among the scorers of this machine; its HTTP port is that much higher.
        producer_factory: makes the producer; fault tests pass one that dies at a chosen step.
        consumer_factory: makes the consumer, likewise.

    Raises:
        StartupError: no usable model, a missing topic, a port in use.
        Unavailable: the broker did not answer at the start.
        FatalError: the broker will not have us any more.
    """
    topics = describe_topics(
        client_config.common(settings.kafka),
        [settings.topics.events, settings.topics.predictions, settings.topics.dead_letters],
        STARTUP_TIMEOUT_S,
    )
    conditions = Readiness(time.time)
    registry = role_registry(conditions)
    telemetry, watchdog = ScorerTelemetry(registry), Watchdog()
    models = watch_model(settings, conditions, telemetry)
    exactly_once = settings.kafka.delivery == "exactly_once"
    commit_limit_s = client_config.transaction_timeout_s(settings.kafka) + COMMIT_MARGIN_S
    publisher_config = client_config.transactional_producer if exactly_once else client_config.producer

    def heartbeat() -> None:
        scorer.heartbeat()

    def nothing() -> None:
        pass

    before_start = ZombieFencer(settings.kafka).end_transactions if exactly_once else nothing
    publisher_class: Callable[..., Publisher] = Transaction if exactly_once else AtLeastOnce
    session = Session(
        EventConsumer(
            client_config.consumer(settings.kafka),
            settings.topics.events,
            conditions,
            consumer_factory=consumer_factory,
            on_rebalance=telemetry.rebalanced,
            before_start=before_start,
        ),
        publisher_class(
            publisher_config(settings.kafka),
            producer_factory=producer_factory,
            heartbeat=heartbeat,
            on_outage=lambda reason: conditions.set(Condition.BROKER, reason),
        ),
        predictions_topic=settings.topics.predictions,
        dead_letters_topic=settings.topics.dead_letters,
        partition_counts={name: info.partitions for name, info in topics.items()},
        conditions=conditions,
    )
    scorer = Scorer(
        session=session,
        decider=BatchProcessor(
            pipeline(settings, models),
            settings.kafka.group_id,
            topics[settings.topics.dead_letters].max_message_bytes,
        ),
        telemetry=telemetry,
        conditions=conditions,
        limits=settings.batch,
        heartbeat=watchdog.beat,
        committing=partial(watchdog.limited, commit_limit_s),
    )
    routes = health_routes(conditions, registry, watchdog.stalled_for_s)
    port = settings.http.score_port + worker if settings.http.score_port else 0
    http = HttpServer(routes, settings.http.host, port)
    tune_gc_and_malloc()
    with stopping_on_signals(scorer.stop), running(http, watchdog, models):
        scorer.run()
