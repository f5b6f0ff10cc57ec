"""Opens everything that the ``monitor`` role is made of, each where it was left.

1. Open the audit log, which locks it, and the predictions topic where the log is.
2. Read the state of drift and outcomes, which is never ahead of the log.
3. Follow the outcomes topic from where that state is.
4. Let drift catch up with the log. From here on both are shown the same batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from consumer.core.decode import Decoder
from consumer.core.unframe import WriterSchemas
from consumer.kafka import client_config
from consumer.kafka.control_producer import ControlProducer
from consumer.kafka.topic_probe import TopicProbe
from consumer.monitor.announcer import Announcer
from consumer.monitor.baselines import Baselines
from consumer.monitor.catch_up import catch_up
from consumer.monitor.drift import Drift
from consumer.monitor.endpoints import monitoring_routes
from consumer.monitor.monitoring import Monitoring
from consumer.monitor.outcomes import OutcomeJoin
from consumer.monitor.outcomes_feed import OutcomesFeed, follow
from consumer.monitor.page.opening import open_page
from consumer.monitor.page.stream_watch import StreamWatch
from consumer.monitor.role import Monitor, View, open_monitor
from consumer.monitor.state import SavedState, read_state
from consumer.monitor.telemetry import MonitorTelemetry
from model_store.countries import country_code
from model_store.store import ModelStore
from schemas.repository import purchase_outcome, purchase_prediction

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from numpy.typing import NDArray
    from prometheus_client import CollectorRegistry
    from starlette.routing import BaseRoute

    from consumer.conditions import Conditions
    from consumer.settings import Settings

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
    watch: StreamWatch
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
    settings: Settings, writers: WriterSchemas, conditions: Conditions, registry: CollectorRegistry
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
            announcer=Announcer(control, store.model, settings.drift.cooldown_h),
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
