"""Build and run the ``monitor`` role: the audit log, model monitoring and the dashboard."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from consumer.dashboard.history import TopicHistory
from consumer.dashboard.records import RecordPages, RecordReader
from consumer.dashboard.routes import DashboardData, page_routes
from consumer.errors import Condition
from consumer.kafka import client_config
from consumer.kafka.admin import ClusterAdmin
from consumer.kafka.background_producer import ControlProducer
from consumer.kafka.schema_registry import writer_schemas
from consumer.monitor.audit.hashed_ids import IdHasher, id_hasher
from consumer.monitor.audit.log import AuditLog
from consumer.monitor.audit.removals import Removals, read_removals
from consumer.monitor.audit.retention import Retention
from consumer.monitor.challenger import Challengers, Scoring
from consumer.monitor.drift.tracker import Baselines, Drift
from consumer.monitor.health import Health, HealthTracker, Level
from consumer.monitor.loop import Monitor, open_log_and_topic
from consumer.monitor.metrics import ChallengerTelemetry, HealthTelemetry, MonitorTelemetry
from consumer.monitor.model_monitor import ModelMonitor
from consumer.monitor.model_process import ModelProcess
from consumer.monitor.outcomes.join import OutcomeJoin
from consumer.monitor.outcomes.reader import OutcomesFeed, follow_outcomes
from consumer.monitor.recent import RecentPredictions
from consumer.monitor.retraining import RetrainingNotifier
from consumer.monitor.snapshot import ModelSnapshot, MonitorSnapshot
from consumer.monitor.state import catch_up, read_state
from consumer.monitor.stream_status import StreamStatusPoller
from consumer.monitor.view import (
    challenger_answer,
    condition_view,
    drift_answer,
    health_view,
    page_view,
    trigger_answer,
    window_answer,
)
from consumer.pipeline.decode import Decoder
from consumer.pipeline.framing import WriterSchemas
from consumer.roles.shared import role_registry, secret_files
from consumer.runtime.http import HttpServer, health_routes
from consumer.runtime.lifecycle import running, stopping_on_signals
from consumer.runtime.memory import tune_gc_and_malloc
from consumer.runtime.readiness import ActiveCondition, Readiness
from model_store.countries import country_code
from model_store.errors import ModelStoreError
from model_store.reasons import explain
from model_store.store import ModelStore
from schemas.repository import purchase_outcome, purchase_prediction

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from consumer.settings import ChallengerSettings, DriftSettings, OutcomeSettings, Settings

_CHAMPION: Final = "champion"


def run_monitor(settings: Settings) -> None:
    """Run the ``monitor`` role until told to stop.

    Raises:
        StartupError: The topic is missing, the log belongs to another topic or lacks records, or the
            port is in use.
        Unavailable: The broker did not answer at the start.
        FatalError: The Kafka client cannot continue.
    """
    readiness = Readiness(time.time)
    registry = role_registry(readiness)
    role = build_monitor(settings, writer_schemas(settings), readiness, registry)
    routes = [*role.routes, *health_routes(readiness, registry)]
    http = HttpServer(
        routes, settings.http.host, settings.http.monitor_port, allowed_hosts=settings.http.allowed_hosts
    )
    tune_gc_and_malloc()
    secrets = secret_files(settings, role.monitor.stop)
    with stopping_on_signals(role.monitor.stop), running(role.stream, role.health, http, secrets):
        role.run()
    secrets.raise_if_changed()


@dataclass(frozen=True, slots=True)
class MonitorRole:
    """The monitor's parts, ready to run.

    Attributes:
        monitor: The loop.
        model_monitor: Drift, outcomes and the recommendation.
        stream: Polls the scorers' progress in its own thread.
        health: Judges the stream in its own thread.
        control: Producer of the control topic.
        routes: The monitoring endpoints and the dashboard.
    """

    monitor: Monitor
    model_monitor: ModelMonitor
    stream: StreamStatusPoller
    health: HealthTracker
    control: ControlProducer
    routes: Sequence[BaseRoute]

    def run(self) -> None:
        """Run the loop until it is stopped, then save the state and disconnect.

        Raises:
            StartupError: The topic or the log is not the one from before; a person has to decide.
            FatalError: The Kafka client cannot continue.
        """
        try:
            self.monitor.run()
        finally:
            self.model_monitor.close()
            self.control.close()


def build_monitor(
    settings: Settings, writers: WriterSchemas, readiness: Readiness, registry: CollectorRegistry
) -> MonitorRole:
    """Open the parts of the role. Each continues where the previous run stopped.

    The saved state of drift and outcomes is never ahead of the audit log. Drift first catches up with
    the log; from then on both get the same batches.

    Args:
        settings: The settings.
        writers: Resolves the writer schemas of predictions and outcomes.
        readiness: The monitor's conditions.
        registry: The registry to export metrics from.

    Raises:
        StartupError: The topic is missing, or the log belongs to another topic or lacks records.
        Unavailable: Kafka or the disk is unavailable.
    """
    topics, kafka = settings.topics, client_config.common(settings.kafka)
    telemetry = MonitorTelemetry(registry, settings.drift)
    store = settings.model_store.open()
    hasher = id_hasher(settings.audit)
    audit_log, tail = open_log_and_topic(settings, readiness)
    control = ControlProducer(client_config.producer(settings.kafka), topics.control)
    removals = read_removals(settings.audit.path)
    model_monitor = open_model_monitor(
        settings, writers, audit_log, removals, hasher, store, control, telemetry
    )
    recent = RecentPredictions(topics.events, topics.predictions)
    stream = StreamStatusPoller(kafka, settings.kafka.group_id, topics.events, topics.dead_letters, removals)
    monitor = Monitor(
        tail=tail,
        audit_log=audit_log,
        decoder=Decoder(purchase_prediction(), writers),
        topics=topics,
        readiness=readiness,
        views=[model_monitor, recent],
        removals=removals,
        hasher=hasher,
        retention=Retention(settings.audit),
        on_batch=telemetry.batch_done,
        on_turn=lambda backlog: model_monitor.refresh(backlog=backlog),
    )

    def snapshot() -> MonitorSnapshot:
        return MonitorSnapshot(
            at_s=time.time(),
            conditions=readiness.active(),
            model=model_monitor.snapshot(),
            recent=recent.snapshot(),
            stream=stream.snapshot(),
            log_backlog_since_s=monitor.backlog_since_s,
        )

    health = HealthTracker(snapshot)
    registry.register(HealthTelemetry(health.current, stream.snapshot, topics.events))
    registry.register(ChallengerTelemetry(lambda: model_monitor.snapshot().comparisons))
    load_version = lru_cache(maxsize=1)(store.load)
    records = RecordPages(
        RecordReader(kafka),
        topics,
        Decoder(purchase_prediction(), writers),
        lambda version, student: explain(load_version(version), student),
        removals,
    )

    def page() -> dict[str, Any]:
        now = snapshot()
        since = champion_since(store, now.model.drift.model_version)
        now = replace(now, champion_since=since)
        return page_view(now, health.current(), settings.drift, settings.outcomes, settings.challenger)

    routes = [
        *status_routes(readiness, health.current, model_monitor.snapshot),
        *monitoring_routes(model_monitor.snapshot, settings.drift, settings.outcomes, settings.challenger),
        *page_routes(
            settings,
            DashboardData(
                page=page,
                window=lambda number: window_answer(model_monitor.snapshot(), settings.drift, number),
                find_rejections=stream.find_rejections,
                records=records,
                history=TopicHistory(lambda: ClusterAdmin(kafka), topics),
            ),
        ),
    ]
    return MonitorRole(monitor, model_monitor, stream, health, control, routes)


def open_model_monitor(
    settings: Settings,
    writers: WriterSchemas,
    audit_log: AuditLog,
    removals: Removals,
    hasher: IdHasher | None,
    store: ModelStore,
    control: ControlProducer,
    telemetry: MonitorTelemetry,
) -> ModelMonitor:
    """Restore model monitoring and let it catch up with the audit log; start over if it cannot."""
    topics, kafka = settings.topics, client_config.common(settings.kafka)
    state_path = settings.audit.path.with_name(settings.audit.path.name + ".drift")
    saved = read_state(state_path, audit_log.source, audit_log.next_offsets)
    outcome_offsets = saved[0].outcomes.next_offsets if saved and saved[0].outcomes else {}

    def new_model_monitor(feed: OutcomesFeed | None) -> ModelMonitor:
        return ModelMonitor(
            drift=Drift(Baselines(store), country_code, settings.drift),
            feed=feed,
            challengers=Challengers(
                store,
                Scoring(
                    ModelProcess(
                        settings.model_store.path, store.model, settings.model_store.public_key_file
                    ),
                    settings.challenger.budget_ratio,
                ),
                settings.challenger,
            ),
            countries=country_code,
            notifier=RetrainingNotifier(control, store.model, settings.drift.cooldown_h),
            telemetry=telemetry,
            settings=settings.drift,
            state_path=state_path,
            source=audit_log.source,
            champion_poll_s=settings.model_store.poll_s,
            hasher=hasher,
        )

    feed = follow_outcomes(
        kafka,
        topics.outcomes,
        outcome_offsets,
        Decoder(purchase_outcome(), writers),
        OutcomeJoin(settings.outcomes),
        hasher,
    )
    model_monitor = new_model_monitor(feed)
    if saved is not None:
        state, arrays = saved
        model_monitor.restore(state, arrays)
        caught_up = catch_up(
            kafka,
            topics.predictions,
            state.next_offsets,
            audit_log.next_offsets,
            Decoder(purchase_prediction(), writers),
            removals,
            lambda predictions: model_monitor.ingest(predictions, counted=False),
        )
        if not caught_up:
            model_monitor = new_model_monitor(feed)
    model_monitor.start_at(audit_log.next_offsets)
    return model_monitor


def ready_answer(active: Mapping[Condition, ActiveCondition], verdict: Health) -> tuple[dict[str, Any], int]:
    """Return the answer of ``/health/ready`` and its status."""
    body = {
        "status": "not ready" if active else "ok" if verdict.level == Level.WELL else "ready",
        "conditions": [condition_view(condition, found) for condition, found in active.items()],
        "stream": health_view(verdict),
    }
    return body, 503 if active else 200


def status_routes(
    readiness: Readiness, health: Callable[[], Health], model: Callable[[], ModelSnapshot]
) -> list[BaseRoute]:
    """Return the routes of ``/health`` and of ``/health/ready`` with the health of the stream.

    The monitor's own conditions decide whether it is ready: a stream that is not well must not take the
    dashboard that explains it out of service.
    """

    async def ready(_: Request) -> Response:
        body, status = ready_answer(readiness.active(), health())
        return JSONResponse(body, status)

    async def summary(_: Request) -> Response:
        drift = model().drift
        return JSONResponse(
            {
                "ready": not readiness.active(),
                "predictor_loaded": drift.champion is not None,
                "drift_baseline_loaded": drift.baseline is not None,
            }
        )

    return [Route("/health", summary), Route("/health/ready", ready)]


def monitoring_routes(
    snapshot: Callable[[], ModelSnapshot],
    drift: DriftSettings,
    outcomes: OutcomeSettings,
    challenger: ChallengerSettings,
) -> list[BaseRoute]:
    """Return the routes below ``/monitoring``.

    Args:
        snapshot: Returns the latest snapshot; called from the HTTP thread.
        drift: The drift settings.
        outcomes: The outcome settings.
        challenger: The challenger settings.
    """

    async def answer_drift(request: Request) -> Response:
        number = request.query_params.get("window")
        if number is None:
            return JSONResponse(drift_answer(snapshot(), drift))
        answer = window_answer(snapshot(), drift, int(number)) if number.isdecimal() else None
        if answer is None:
            return JSONResponse({"detail": f"No recent window has the number {number}."}, 404)
        return JSONResponse(answer)

    async def answer_trigger(_: Request) -> Response:
        return JSONResponse(trigger_answer(snapshot(), drift, outcomes))

    async def answer_challenger(_: Request) -> Response:
        return JSONResponse(challenger_answer(snapshot(), challenger))

    return [
        Route("/monitoring/challenger", answer_challenger),
        Route("/monitoring/drift", answer_drift),
        Route("/monitoring/retraining_trigger", answer_trigger),
    ]


def champion_since(store: ModelStore, version: str | None) -> str | None:
    """Return when a version became champion, RFC 3339, or ``None`` if it is not the champion."""
    try:
        if version is None or store.resolve(_CHAMPION).version != version:
            return None
        switches = [switch for switch in store.history() if switch.get("alias") == _CHAMPION]
    except ModelStoreError:
        return None
    last = switches[-1] if switches else {}
    at = last.get("at")
    return at if last.get("to") == version and isinstance(at, str) else None
