"""Monitor the model: drift, outcomes and the retraining recommendation.

Only the loop's thread changes anything. After a turn of the loop it replaces the :class:`ModelSnapshot`
that HTTP threads read. Replacing a reference is atomic, so no reader sees a half-changed state.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import structlog

from consumer.columnar.arrays import DictionaryColumn, FloatArray
from consumer.monitor.audit.hashed_ids import IdHasher
from consumer.monitor.challenger import Challengers
from consumer.monitor.drift.tracker import Drift
from consumer.monitor.drift.window import (
    Countries,
    decisions_of,
    inputs_of,
    naming_a_student,
    student_hashes,
    versions_of,
)
from consumer.monitor.loop import CommittedBatch
from consumer.monitor.metrics import MonitorTelemetry
from consumer.monitor.outcomes.join import OutcomesSnapshot
from consumer.monitor.outcomes.reader import OutcomesFeed
from consumer.monitor.retraining import Recommendation, RetrainingNotifier, recommend
from consumer.monitor.snapshot import ModelSnapshot
from consumer.monitor.state import Arrays, SavedState, write_state
from consumer.monitor.view import announcement
from consumer.pipeline.batch import RecordBatch
from consumer.settings import DriftSettings

log = structlog.get_logger(__name__)

SAVE_EVERY_S: Final = 30.0
"""Interval between saves. After a kill, predictions since the last save are read again."""

BACKLOG_REFRESH_S: Final = 0.25
"""Interval between snapshots during a backlog: a snapshot costs as much as a thousand predictions."""


class ModelMonitor:
    """A view of the predictions: how well live data and outcomes fit the model.

    Args:
        drift: Live students against training.
        feed: The outcomes, if there is an outcomes topic.
        challengers: The champion against other versions.
        countries: Returns a country's number for its spelling.
        notifier: Sends changed recommendations to the control topic.
        telemetry: The metrics.
        settings: The drift settings.
        state_path: The file that keeps the state across restarts.
        source: Identity of the predictions topic.
        champion_poll_s: Interval between reads of the champion alias, seconds.
        hasher: Hashes student ids with a secret key.
        now_s: Wall clock, seconds since the epoch.
        clock_s: Monotonic clock, seconds.
    """

    def __init__(
        self,
        *,
        drift: Drift,
        feed: OutcomesFeed | None,
        challengers: Challengers,
        countries: Callable[[str], int],
        notifier: RetrainingNotifier,
        telemetry: MonitorTelemetry,
        settings: DriftSettings,
        state_path: Path,
        source: dict[str, str],
        champion_poll_s: float,
        hasher: IdHasher | None = None,
        now_s: Callable[[], float] = time.time,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._drift = drift
        self._feed = feed
        self._challengers = challengers
        self._countries = Countries(countries)
        self._notifier = notifier
        self._telemetry = telemetry
        self._settings = settings
        self._state_path = state_path
        self._source = source
        self._hasher = hasher
        self._now_s = now_s
        self._refresh_due = _Interval(BACKLOG_REFRESH_S, clock_s)
        self._champion_due = _Interval(champion_poll_s, clock_s)
        self._save_due = _Interval(SAVE_EVERY_S, clock_s)
        self._next_offsets: dict[int, int] = {}
        self._recommendation: Recommendation | None = None
        self._changed = self._save_failing = False
        self._snapshot = self._make_snapshot()

    def snapshot(self) -> ModelSnapshot:
        """Return the latest snapshot. Thread-safe."""
        return self._snapshot

    def restore(self, state: SavedState, arrays: Arrays) -> None:
        """Continue from a saved state."""
        self._drift.restore(state.drift, arrays["seen"])
        if self._feed is not None and state.outcomes is not None:
            self._feed.join.restore(state.outcomes, arrays)
        self._challengers.restore(state.comparisons)
        self._challengers.refresh_aliases()  # so that what is read until the end of the log keeps its inputs
        self._notifier.announced = state.announced
        self._recommendation = state.recommendation
        self._next_offsets = dict(state.next_offsets)

    def start_at(self, next_offsets: dict[int, int]) -> None:
        """Note the audit log's offsets, and save them in case the process is killed before the next save."""
        self._next_offsets = dict(next_offsets)
        self._changed = True
        self.save()

    def observe(self, batch: CommittedBatch) -> None:
        """Add a batch that is in the audit log."""
        self.ingest(batch.predictions)
        self._next_offsets = dict(batch.records.next_offsets)

    def ingest(self, predictions: RecordBatch, *, counted: bool = True) -> None:
        """Add the predictions that name a student.

        Args:
            predictions: The predictions.
            counted: Whether to add them to the counters; false for those counted before a restart.
        """
        predictions = naming_a_student(predictions)
        if not len(predictions):
            return
        self._changed = True
        students, versions = student_hashes(predictions, self._hasher), versions_of(predictions)
        self._drift.add(predictions, students, versions, counted=counted)
        comparing = self._challengers.comparing
        features = inputs_of(predictions, self._countries) if comparing else None
        if self._feed is not None:
            numbers = predictions.numbers
            self._feed.join.remember(
                students,
                numbers["predicted_purchase_probability"],
                decisions_of(predictions),
                numbers["scored_at"],
                versions,
                features,
            )
        if features is not None and counted:
            self._compare(predictions, versions, features)

    def refresh(self, *, backlog: bool) -> None:
        """Do what is due after a turn of the loop: read outcomes, replace the snapshot, announce, save.

        Args:
            backlog: Whether more predictions can be read at once. Then snapshots are made less often,
                and outcomes wait, because each has to be joined to its student's last prediction.
        """
        if backlog and not self._refresh_due():
            return
        if self._champion_due():
            self._drift.refresh_champion()
            self._challengers.refresh_aliases()
        self._changed |= self._challengers.collect()
        if self._feed is not None and not backlog:
            self._changed |= self._feed.read()
        snapshot = self._snapshot = self._make_snapshot()
        self._recommendation = snapshot.recommendation
        self._telemetry.show(snapshot.drift, snapshot.outcomes, snapshot.recommendation)
        self._notifier.notify_if_changed(
            snapshot.recommendation,
            snapshot.drift.model_version,
            lambda: announcement(snapshot, self._settings),
        )
        if self._save_due():
            self.save()

    def save(self) -> None:
        """Save the state if it changed. If the disk refuses, log it once; the next save tries again."""
        if not self._changed:
            return
        drift, seen = self._drift.saved()
        outcomes, arrays = self._feed.saved() if self._feed is not None else (None, {})
        state = SavedState(
            source=self._source,
            next_offsets=self._next_offsets,
            drift=drift,
            outcomes=outcomes,
            recommendation=self._recommendation,
            announced=self._notifier.announced,
            comparisons=self._challengers.saved(),
        )
        try:
            write_state(self._state_path, state, {"seen": seen, **arrays})
        except OSError as error:
            if not self._save_failing:
                log.warning(
                    "cannot save the state of drift; retrying",
                    path=str(self._state_path),
                    reason=error.strerror,
                )
            self._save_failing = True
        else:
            if self._save_failing:
                log.info("the state of drift is saved again", path=str(self._state_path))
            self._changed = self._save_failing = False

    def close(self) -> None:
        """Save the state, stop scoring, and disconnect from the outcomes topic."""
        self.save()
        self._challengers.close()
        if self._feed is not None:
            self._feed.close()

    def _compare(
        self, predictions: RecordBatch, versions: DictionaryColumn[str], features: FloatArray
    ) -> None:
        """Compare the decisions of each version with those of the challenger."""
        probabilities = predictions.numbers["predicted_purchase_probability"]
        decisions = decisions_of(predictions)
        if len(versions.dictionary) == 1:  # the usual case
            self._challengers.observe(features, probabilities, decisions, versions.dictionary[0])
            return
        for i, version in enumerate(versions.dictionary):
            rows = versions.indices == i
            self._challengers.observe(
                np.asfortranarray(features[rows]), probabilities[rows], decisions[rows], version
            )

    def _make_snapshot(self) -> ModelSnapshot:
        drift, outcomes = self._drift.snapshot(), OutcomesSnapshot()
        if self._feed is not None:
            matured = self._feed.join.mature(drift.model_version)
            if matured is not None:
                self._challengers.add_outcomes(matured)
            outcomes = self._feed.snapshot()
        return ModelSnapshot(
            drift=drift,
            outcomes=outcomes,
            recommendation=recommend(
                drift, outcomes, self._settings.windows_to_confirm, self._recommendation
            ),
            announced_action=self._notifier.announced.action,
            cooldown_until_s=self._notifier.cooldown_until_s(drift.model_version),
            comparisons=self._challengers.snapshot(),
            at_s=self._now_s(),
        )


class _Interval:
    """A timer: calling it returns true at most once per interval, and at the first call."""

    def __init__(self, interval_s: float, clock_s: Callable[[], float]) -> None:
        self._interval_s = interval_s
        self._clock_s = clock_s
        self._due_at_s = clock_s()

    def __call__(self) -> bool:
        now_s = self._clock_s()
        if now_s < self._due_at_s:
            return False
        self._due_at_s = now_s + self._interval_s
        return True
