"""Build and run the ``score`` role."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from consumer.errors import Condition, StartupError
from consumer.kafka import client_config
from consumer.kafka.admin import ClusterAdmin
from consumer.kafka.consumer import EventConsumer
from consumer.kafka.producer import AtLeastOnceProducer, TransactionalProducer
from consumer.kafka.schema_registry import writer_schemas
from consumer.kafka.session import Publisher, Session, ZombieFencer
from consumer.kafka.starting_offsets import ChooseStarts
from consumer.roles.shared import pipeline, role_registry, secret_files, watch_model
from consumer.runtime.http import HttpServer, health_routes
from consumer.runtime.lifecycle import running, stopping_on_signals
from consumer.runtime.memory import tune_gc_and_malloc
from consumer.runtime.readiness import Readiness
from consumer.runtime.watchdog import COMMIT_MARGIN_S, Watchdog
from consumer.scorer.breaker import Breaker
from consumer.scorer.commit import Committer
from consumer.scorer.loop import Heartbeat, Scorer
from consumer.scorer.metrics import ScorerTelemetry
from consumer.scorer.outputs import OutputTopics
from consumer.scorer.processing import BatchProcessor
from consumer.scorer.resume import OffsetMarker, start_resolver
from consumer.settings import ResumeFrom, Settings

if TYPE_CHECKING:
    from consumer.scorer.tracing import BatchTracer


def run_scorer(settings: Settings, worker: int = 0, *, resume_from: ResumeFrom | None = None) -> None:
    """Run the ``score`` role until told to stop.

    Args:
        settings: The settings; their instance id belongs to this scorer alone.
        worker: The number of this scorer on this machine, added to its HTTP port.
        resume_from: Where to resume if the group's committed offsets and the outputs do not tell.

    Raises:
        StartupError: There is no usable model, a topic is missing, or a port is in use.
        Unavailable: The broker did not answer at the start.
        FatalError: The broker does not accept this instance any more.
    """
    common_config = client_config.common(settings.kafka)
    admin = ClusterAdmin(common_config)
    topics = admin.require_topics(
        [settings.topics.events, settings.topics.predictions, settings.topics.dead_letters]
    )
    readiness = Readiness(time.time)
    registry = role_registry(readiness)
    telemetry, watchdog = ScorerTelemetry(registry), Watchdog()
    models = watch_model(settings, readiness, telemetry)
    heartbeat = Heartbeat(watchdog.beat)
    events = topics[settings.topics.events]
    marker = OffsetMarker(events.topic_id, events.partitions)
    resolver = start_resolver(
        settings, common_config, marker, writer_schemas(settings), heartbeat, resume_from
    )
    session = open_session(settings, readiness, telemetry, heartbeat, marker, resolver)
    tracer = batch_tracer(settings)
    committer = Committer(
        session=session,
        processor=BatchProcessor(pipeline(settings, models)),
        topics=OutputTopics(
            predictions=settings.topics.predictions,
            dead_letters=settings.topics.dead_letters,
            partition_counts={name: description.partitions for name, description in topics.items()},
            group=settings.kafka.group_id,
        ),
        max_dead_letter_bytes=min(
            admin.max_message_bytes(settings.topics.dead_letters),
            client_config.max_message_bytes(settings.kafka),
        ),
        telemetry=telemetry,
        readiness=readiness,
        heartbeat=heartbeat,
        limit_commit=partial(
            watchdog.limited, client_config.transaction_timeout_s(settings.kafka) + COMMIT_MARGIN_S
        ),
        breaker=None if settings.breaker.action == "off" else Breaker(settings.breaker, telemetry),
        on_committed=(lambda _: None) if tracer is None else tracer.batch_committed,
    )
    scorer = Scorer(
        session=session,
        committer=committer,
        telemetry=telemetry,
        limits=settings.batch,
        heartbeat=heartbeat,
    )
    routes = health_routes(readiness, registry, watchdog.stalled_for_s)
    port = settings.http.score_port + worker if settings.http.score_port else 0
    http = HttpServer(routes, settings.http.host, port, allowed_hosts=settings.http.allowed_hosts)
    tune_gc_and_malloc()
    secrets = secret_files(settings, heartbeat.stop)
    tracers = [] if tracer is None else [tracer]
    with stopping_on_signals(heartbeat.stop), running(http, watchdog, models, secrets, *tracers):
        scorer.run()
    secrets.raise_if_changed()


def batch_tracer(settings: Settings) -> BatchTracer | None:
    """Return what makes the spans that the settings ask for.

    Raises:
        StartupError: OpenTelemetry is not installed.
    """
    if settings.tracing.exporter == "none":
        return None
    try:
        from consumer.scorer.tracing import BatchTracer  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise StartupError("tracing.exporter needs: pip install 'purchase-stream[otel]'") from error
    kafka = settings.kafka
    return BatchTracer.over_otlp(settings.topics.events, kafka.group_id, kafka.instance_id)


def open_session(
    settings: Settings,
    readiness: Readiness,
    telemetry: ScorerTelemetry,
    heartbeat: Heartbeat,
    marker: OffsetMarker,
    choose_starts: ChooseStarts,
) -> Session:
    """Return the scorer's connection to Kafka, for the delivery that the settings ask for."""

    def report_outage(reason: str) -> None:
        readiness.set(Condition.BROKER, reason)

    publisher: Publisher
    before_start: Callable[[], None] | None = None
    if settings.kafka.delivery == "exactly_once":
        # With the protocol of KIP-848 a dead member keeps its partitions for 45 s or longer (the broker's
        # group.consumer.min.session.timeout.ms). Until then the broker has aborted its transaction.
        if not client_config.uses_consumer_protocol(settings.kafka):
            before_start = ZombieFencer(settings.kafka).abort_transactions
        publisher = TransactionalProducer(
            client_config.transactional_producer(settings.kafka),
            heartbeat=heartbeat,
            on_outage=report_outage,
        )
    else:
        publisher = AtLeastOnceProducer(
            client_config.producer(settings.kafka), heartbeat=heartbeat, on_outage=report_outage
        )
    consumer = EventConsumer(
        client_config.consumer(settings.kafka),
        settings.topics.events,
        readiness,
        on_rebalance=telemetry.rebalanced,
        before_start=before_start,
        choose_starts=choose_starts,
        offset_metadata=str(marker),
    )
    return Session(consumer, publisher)
