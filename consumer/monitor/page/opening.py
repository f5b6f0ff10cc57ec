"""Opens the page: what it watches, and where it is served."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from consumer.kafka import client_config
from consumer.monitor.page.facts import PageFacts
from consumer.monitor.page.recent import RecentPredictions
from consumer.monitor.page.routes import page_routes
from consumer.monitor.page.stream_watch import StreamWatch
from model_store.errors import ModelStoreError

if TYPE_CHECKING:
    from starlette.routing import BaseRoute

    from consumer.conditions import Conditions
    from consumer.monitor.endpoints import Findings
    from consumer.settings import Settings
    from model_store.store import ModelStore

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
    watch: StreamWatch
    routes: Sequence[BaseRoute]


def open_page(
    settings: Settings, conditions: Conditions, findings: Callable[[], Findings], store: ModelStore
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
    watch = StreamWatch(
        client_config.common(settings.kafka), settings.kafka.group_id, topics.events, topics.dead_letters
    )

    def facts() -> PageFacts:
        now = findings()
        return PageFacts(
            at_s=time.time(),
            conditions=conditions.active(),
            findings=now,
            recent=recent.snapshot(),
            stream=watch.snapshot(),
            champion_since=champion_since(store, now.drift.model_version),
            drift=settings.drift,
            outcomes=settings.outcomes,
        )

    return OpenedPage(recent, watch, page_routes(facts))


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
