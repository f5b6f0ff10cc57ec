"""Opens everything that the ``monitor`` role is made of, each where it was left.

1. Open the audit log, which locks it, and the predictions topic where the log is.
2. Read the state of drift and outcomes, which is never ahead of the log.
3. Follow the outcomes topic from where that state is.
4. Let drift catch up with the log. From here on both are shown the same batches.

Opens the page: what it watches, and where it is served.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from consumer.dashboard.routes import page_routes
from consumer.kafka import client_config
from consumer.kafka.admin import TopicProbe
from consumer.kafka.background_producer import ControlProducer
from consumer.monitor.catch_up import catch_up
from consumer.monitor.drift.baselines import Baselines
from consumer.monitor.drift.tracker import Drift
from consumer.monitor.loop import Monitor, View, open_monitor
from consumer.monitor.metrics import MonitorTelemetry
from consumer.monitor.monitoring import Monitoring
from consumer.monitor.outcomes.join import OutcomeJoin
from consumer.monitor.outcomes.reader import OutcomesFeed, follow
from consumer.monitor.recent import RecentPredictions
from consumer.monitor.retraining import RetrainingNotifier
from consumer.monitor.snapshot import ModelSnapshot, MonitorSnapshot
from consumer.monitor.state import SavedState, read_state
from consumer.monitor.stream_status import StreamStatusPoller
from consumer.monitor.view import drift_answer, page_view, trigger_answer
from consumer.pipeline.decode import Decoder
from consumer.pipeline.framing import WriterSchemas
from model_store.countries import country_code
from model_store.errors import ModelStoreError
from model_store.store import ModelStore
from schemas.repository import purchase_outcome, purchase_prediction

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from numpy.typing import NDArray
    from prometheus_client import CollectorRegistry

    from consumer.runtime.readiness import Readiness
    from consumer.settings import Settings

from typing import TYPE_CHECKING, Any

from prometheus_client import (
    CollectorRegistry,
)

from consumer.kafka.writer_schemas import writer_schemas
from consumer.roles.shared import role_registry
from consumer.runtime.http import HttpServer, health_routes
from consumer.runtime.lifecycle import running, stopping_on_signals
from consumer.runtime.memory import tune_gc_and_malloc
from consumer.runtime.readiness import Readiness
from consumer.settings import DriftSettings, OutcomeSettings, Settings

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class OpenedMonitor:
    """The role, ready to run.

    Attributes:
        monitor: the loop.
        monitoring: drift, outcomes and what follows from them.
        routes: the endpoints that tell of it, and the page.
        watch: what the page shows of the scorers; runs beside the loop.
    """

    monitor: Monitor
    monitoring: Monitoring
    routes: Sequence[BaseRoute]
    watch: StreamStatusPoller
    _feed: OutcomesFeed | None
    _control: ControlProducer

    def run(self) -> None:
        """Work until told to stop, then save the state and disconnect.

        Raises:
            StartupError: the topic or the log is not what it was; a person has to decide.
            FatalError: the Kafka client cannot go on.
        """
        try:
            self.monitor.run()
        finally:
            self.monitoring.save()
            self._control.close()
            if self._feed is not None:
                self._feed.close()


def open_all(
    settings: Settings, writers: WriterSchemas, conditions: Readiness, registry: CollectorRegistry
) -> OpenedMonitor:
    """Open the role.

    Args:
        settings: everything that can be set.
        writers: where the schemas of predictions and outcomes come from.
        conditions: what keeps the monitor from being ready.
        registry: where its metrics are shown.

    Raises:
        StartupError: the topic is missing, the log is another's, or records in between are lost.
        Unavailable: Kafka or the disk is away.
    """
    telemetry = MonitorTelemetry(registry, settings.drift)
    views: list[View] = []

    def after_round(n_records: int) -> None:
        monitoring.after_round(n_records)

    monitor = open_monitor(
        settings,
        writers,
        conditions,
        views=views,
        observe=telemetry.round_done,
        after_round=after_round,
    )
    kafka, topics = client_config.common(settings.kafka), settings.topics
    source = TopicProbe(kafka, topics.predictions).identity()
    state_path = settings.audit.path.with_name(settings.audit.path.name + ".drift")
    saved = _state(state_path, source, monitor.next_offsets)
    outcome_offsets = saved[0].outcomes.next_offsets if saved and saved[0].outcomes else {}
    join = OutcomeJoin(settings.outcomes)
    feed = follow(kafka, topics.outcomes, outcome_offsets, Decoder(purchase_outcome(), writers), join)
    store = ModelStore(settings.model_store.path, settings.model_store.model)
    control = ControlProducer(client_config.producer(settings.kafka), topics.control)

    def made() -> Monitoring:
        return Monitoring(
            drift=Drift(Baselines(store), country_code, settings.drift),
            join=None if feed is None else join,
            feed=feed,
            announcer=RetrainingNotifier(control, store.model, settings.drift.cooldown_h),
            telemetry=telemetry,
            settings=settings.drift,
            state_path=state_path,
            source=source,
            look_s=settings.model_store.poll_s,
        )

    monitoring = made()
    if saved is not None:
        monitoring.restore(*saved)
        complete = catch_up(
            kafka,
            topics.predictions,
            saved[0].next_offsets,
            monitor.next_offsets,
            Decoder(purchase_prediction(), writers),
            lambda predictions: monitoring.take(predictions, counted=False),
        )
        if not complete:
            log.warning("drift begins anew")
            monitoring = made()
    monitoring.begin_at(monitor.next_offsets)
    page = open_page(settings, conditions, monitoring.findings, store)
    views += [monitoring, page.recent]
    routes = [*monitoring_routes(monitoring.findings, settings.drift, settings.outcomes), *page.routes]
    return OpenedMonitor(monitor, monitoring, routes, page.watch, feed, control)


def monitoring_routes(
    snapshot: Callable[[], ModelSnapshot], drift: DriftSettings, outcomes: OutcomeSettings
) -> list[BaseRoute]:
    """Return the routes of ``/monitoring/drift`` and ``/monitoring/retraining_trigger``.

    Args:
        snapshot: returns the latest snapshot; called from the HTTP thread.
        drift: the drift settings.
        outcomes: the outcome settings.
    """

    async def answer_drift(_: Request) -> Response:
        return JSONResponse(drift_answer(snapshot(), drift))

    async def answer_trigger(_: Request) -> Response:
        return JSONResponse(trigger_answer(snapshot(), drift, outcomes))

    return [
        Route("/monitoring/drift", answer_drift),
        Route("/monitoring/retraining_trigger", answer_trigger),
    ]


def _state(
    path: Path, source: dict[str, str], log_offsets: dict[int, int]
) -> tuple[SavedState, dict[str, NDArray[Any]]] | None:
    """Read the state, if it is of this topic and not ahead of the log."""
    found = read_state(path)
    if found is None:
        return None
    state, _ = found
    ahead = any(offset > log_offsets.get(p, 0) for p, offset in state.next_offsets.items())
    if state.source != source or ahead:
        why = "it is ahead of the audit log" if state.source == source else "it is of another topic"
        log.warning("drift begins anew: its state does not fit", path=str(path), reason=why)
        return None
    return found


_CHAMPION: Final = "champion"


@dataclass(frozen=True, slots=True)
class OpenedPage:
    """The page, ready to be served.

    Attributes:
        recent: a view of the predictions, to be shown every batch.
        watch: to be started and stopped.
        routes: where it is served.
    """

    recent: RecentPredictions
    watch: StreamStatusPoller
    routes: Sequence[BaseRoute]


def open_page(
    settings: Settings, conditions: Readiness, findings: Callable[[], ModelSnapshot], store: ModelStore
) -> OpenedPage:
    """Open the page.

    Args:
        settings: everything that can be set.
        conditions: what keeps the monitor from being ready.
        findings: returns the latest.
        store: where the history of aliases is.
    """
    topics = settings.topics
    recent = RecentPredictions(topics.events, topics.predictions)
    watch = StreamStatusPoller(
        client_config.common(settings.kafka), settings.kafka.group_id, topics.events, topics.dead_letters
    )

    def view() -> dict[str, Any]:
        model = findings()
        snapshot = MonitorSnapshot(
            at_s=time.time(),
            conditions=conditions.active(),
            model=model,
            recent=recent.snapshot(),
            stream=watch.snapshot(),
            champion_since=champion_since(store, model.drift.model_version),
        )
        return page_view(snapshot, settings.drift, settings.outcomes)

    return OpenedPage(recent, watch, page_routes(view))


def champion_since(store: ModelStore, version: str | None) -> str | None:
    """Return since when a version is the champion, or ``None`` if it is not or cannot be told."""
    try:
        if version is None or store.resolve(_CHAMPION).version != version:
            return None
        switches = [switch for switch in store.history() if switch.get("alias") == _CHAMPION]
    except ModelStoreError:
        return None
    last = switches[-1] if switches else {}
    at = last.get("at")
    return at if last.get("to") == version and isinstance(at, str) else None


def run_monitor(settings: Settings) -> None:
    """Run the ``monitor`` role until told to stop.

    Args:
        settings: everything that can be set.

    Raises:
        StartupError: the topic is missing, the log is another's or incomplete, a port is in use.
        Unavailable: the broker did not answer at the start.
        FatalError: the Kafka client cannot go on.
    """
    conditions = Readiness(time.time)
    registry = role_registry(conditions)
    opened = open_all(settings, writer_schemas(settings), conditions, registry)
    routes = [*health_routes(conditions, registry), *opened.routes]
    http = HttpServer(routes, settings.http.host, settings.http.monitor_port)
    tune_gc_and_malloc()
    with stopping_on_signals(opened.monitor.stop), running(opened.watch, http):
        opened.run()
