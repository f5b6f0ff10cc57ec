"""Everything that the page shows, as of one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from consumer.errors import Condition
from consumer.monitor.recent import RecentSnapshot
from consumer.monitor.snapshot import ModelSnapshot
from consumer.monitor.stream_status import StreamSnapshot
from consumer.runtime.readiness import ActiveCondition
from consumer.settings import DriftSettings, OutcomeSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class PageView:
    """What is known.

    Attributes:
        at_s: the moment, seconds since the epoch.
        conditions: what keeps the monitor from its work.
        findings: drift, outcomes, recommendation.
        recent: what was predicted lately.
        stream: what the scorers do.
        champion_since: when the model shown became champion, RFC 3339; ``None`` if it is not, or is
            not known.
        drift: what is tolerated.
        outcomes: likewise.
    """

    at_s: float
    conditions: Mapping[Condition, ActiveCondition]
    findings: ModelSnapshot
    recent: RecentSnapshot
    stream: StreamSnapshot
    champion_since: str | None
    drift: DriftSettings
    outcomes: OutcomeSettings
