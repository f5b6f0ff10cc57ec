"""Drift, outcomes and the recommendation as one view of the committed predictions.

The loop's thread alone changes anything. After every turn it puts a new :class:`ModelSnapshot` in place,
which HTTP threads read; a reference is swapped in one step, so that none sees half of a state.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import structlog
from numpy.typing import NDArray

from consumer.monitor.drift.sample import decisions_of, student_hashes, versions_of
from consumer.monitor.drift.tracker import Drift
from consumer.monitor.loop import MAX_RECORDS, CommittedBatch
from consumer.monitor.metrics import MonitorTelemetry
from consumer.monitor.outcomes.join import OutcomeJoin, OutcomesSnapshot, SavedOutcomes
from consumer.monitor.outcomes.reader import OutcomesFeed
from consumer.monitor.retraining import Recommendation, RetrainingNotifier, recommend
from consumer.monitor.snapshot import ModelSnapshot
from consumer.monitor.state import SavedState, write_state
from consumer.monitor.view import announcement
from consumer.pipeline.batch import RecordBatch
from consumer.settings import DriftSettings

log = structlog.get_logger(__name__)

SAVE_EVERY_S: Final = 30.0
"""Between saves: what came after the last one is read again from the topic after a kill."""

BEHIND_EVERY_S: Final = 0.25
"""Between two turns whose findings are put in place while there is a backlog: they take as long as
some thousand predictions do."""


class Monitoring:
    """Keeps drift and outcomes, and what follows from them.

    Args:
        drift: drift.
        join: predictions that wait for outcomes, if there is a feed.
        feed: the outcomes.
        announcer: tells the control topic.
        telemetry: shows the metrics.
        settings: when to recommend what.
        state_path: the file that keeps it all over a restart.
        source: what the predictions are read from.
        look_s: seconds between looks at the champion alias.
        now_s: the wall clock, seconds since the epoch.
        clock_s: a monotonic clock, seconds.
    """

    def __init__(
        self,
        *,
        drift: Drift,
        announcer: RetrainingNotifier,
        telemetry: MonitorTelemetry,
        settings: DriftSettings,
        state_path: Path,
        source: dict[str, str],
        look_s: float,
        join: OutcomeJoin | None = None,
        feed: OutcomesFeed | None = None,
        now_s: Callable[[], float] = time.time,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._drift = drift
        self._join = join
        self._feed = feed
        self._announcer = announcer
        self._telemetry = telemetry
        self._settings = settings
        self._state_path = state_path
        self._source = source
        self._look_s = look_s
        self._now_s = now_s
        self._clock_s = clock_s
        self._find_at_s = self._look_at_s = clock_s()
        self._save_at_s = clock_s() + SAVE_EVERY_S
        self._next_offsets: dict[int, int] = {}
        self._recommendation: Recommendation | None = None
        self._changed = False
        self._findings = self._find()

    def findings(self) -> ModelSnapshot:
        """Return what is known; safe to call from any thread."""
        return self._findings

    def begin_at(self, next_offsets: dict[int, int]) -> None:
        """Note how far the audit log has come; save that at once, for a kill before the first save."""
        self._next_offsets = dict(next_offsets)
        self._changed = True
        self.save()

    def restore(self, state: SavedState, arrays: dict[str, NDArray[Any]]) -> None:
        """Go on from a saved state."""
        self._drift.restore(state.drift, arrays["seen"])
        if self._join is not None and state.outcomes is not None:
            self._join.restore(state.outcomes, arrays["waiting"], arrays["immature"])
        self._announcer.announced = state.announced
        self._recommendation = state.recommendation
        self._next_offsets = dict(state.next_offsets)

    def show(self, batch: CommittedBatch) -> None:
        """Take in predictions that are in the audit log."""
        self.take(batch.predictions)
        self._next_offsets = dict(batch.records.next_offsets)

    def take(self, predictions: RecordBatch, *, counted: bool = True) -> None:
        """Take in predictions.

        Args:
            predictions: predictions.
            counted: whether the counters shall move; not for what they counted before a restart.
        """
        if not len(predictions):
            return
        self._changed = True
        students, versions = student_hashes(predictions), versions_of(predictions)
        self._drift.add(predictions, students, versions, counted=counted)
        if self._join is not None:
            numbers = predictions.numbers
            self._join.remember(
                students,
                numbers["predicted_purchase_probability"],
                decisions_of(predictions),
                numbers["scored_at"],
                versions,
            )

    def after_round(self, n_records: int) -> None:
        """Read outcomes, look at the champion, put the findings in place, announce, save; what is due.

        Args:
            n_records: how many predictions the turn took in. While there are more to come at once,
                findings are made now and then, and the outcomes wait: each has to find its student's
                last prediction.
        """
        now_s, behind = self._clock_s(), n_records >= MAX_RECORDS
        if behind and now_s < self._find_at_s:
            return
        self._find_at_s = now_s + BEHIND_EVERY_S
        if now_s >= self._look_at_s:
            self._look_at_s = now_s + self._look_s
            self._drift.look_at_champion()
        if self._feed is not None and not behind:
            before = self._feed.next_offsets
            self._feed.read()
            self._changed |= before != self._feed.next_offsets
        findings = self._find()
        self._findings, self._recommendation = findings, findings.recommendation
        self._telemetry.show(findings.drift, findings.outcomes, findings.recommendation)
        self._announcer.consider(
            findings.recommendation,
            findings.drift.model_version,
            lambda: announcement(findings, self._settings),
        )
        if now_s >= self._save_at_s:
            self._save_at_s = now_s + SAVE_EVERY_S
            self.save()

    def save(self) -> None:
        """Save the state, if there is anything new; a disk that refuses is logged and tried again."""
        if not self._changed:
            return
        drift, seen = self._drift.saved()
        outcomes: SavedOutcomes | None = None
        arrays: dict[str, NDArray[Any]] = {}
        if self._join is not None and self._feed is not None:
            outcomes, arrays = self._join.saved(self._feed.next_offsets)
        state = SavedState(
            source=self._source,
            next_offsets=self._next_offsets,
            drift=drift,
            outcomes=outcomes,
            recommendation=self._recommendation,
            announced=self._announcer.announced,
        )
        try:
            write_state(self._state_path, state, {"seen": seen, **arrays})
        except OSError as error:
            log.warning("the state of drift is not saved", path=str(self._state_path), reason=error.strerror)
        else:
            self._changed = False

    def _find(self) -> ModelSnapshot:
        drift = self._drift.snapshot()
        outcomes = OutcomesSnapshot()
        if self._join is not None and self._feed is not None:
            self._join.mature(drift.model_version)
            outcomes = self._join.snapshot(self._feed.state)
        before = self._recommendation
        return ModelSnapshot(
            drift=drift,
            outcomes=outcomes,
            recommendation=recommend(drift, outcomes, self._settings.windows_to_confirm, before),
            announced_action=self._announcer.announced.action,
            cooldown_until_s=self._announcer.cooldown_until_s(drift.model_version),
            at_s=self._now_s(),
        )
