"""Recommend whether to train again, and announce changes of the recommendation on the control topic.

A recommendation is advice: nothing here trains a model. The outward contract fixes the reasons and their
order.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

import orjson
import structlog

from consumer.monitor.drift.tracker import DriftSnapshot
from consumer.monitor.drift.verdict import DriftStatus, WindowVerdict
from consumer.monitor.drift.window import PREDICTED_PURCHASE, SCORE, SERIES
from consumer.monitor.outcomes.join import OutcomesSnapshot

log = structlog.get_logger(__name__)

REASONS: Final = {
    "baseline_not_loaded": "run_training_to_generate_baseline",
    "no_predictions_observed": "collect_inference_samples",
    "insufficient_samples": "collect_more_samples",
    "feature_distribution_drift": "trigger_retraining_pipeline",
    "prediction_rate_shift": "trigger_retraining_pipeline",
    "performance_decay": "trigger_retraining_pipeline",
    "below_threshold": "continue_monitoring",
}
"""The recommended action of each reason. The first reason that holds, in this order, is given."""

RETRAIN: Final = "trigger_retraining_pipeline"


@dataclass(frozen=True, slots=True)
class Recommendation:
    """Whether to train again, and why.

    Attributes:
        reason: One of :data:`REASONS`.
        causes: The series that caused the reason: features, ``score``, ``predicted_purchase``,
            ``precision``, ``recall``.
    """

    reason: str
    causes: tuple[str, ...] = ()

    @property
    def action(self) -> str:
        """The recommended action."""
        return REASONS[self.reason]

    @property
    def should_retrain(self) -> bool:
        """Whether the action is to train again."""
        return self.action == RETRAIN


def recommend(
    drift: DriftSnapshot,
    outcomes: OutcomesSnapshot,
    windows_to_confirm: int,
    previous: Recommendation | None = None,
) -> Recommendation:
    """Return the first reason that holds, in the order of :data:`REASONS`.

    One drifted window is not a reason yet: the same series has to drift in several windows in a row. A
    recommendation to retrain lasts until as many windows in a row have no drift of its kind.

    Args:
        drift: Live students against training.
        outcomes: Realised against expected quality.
        windows_to_confirm: The number of windows in a row.
        previous: The recommendation so far.
    """
    missing = _missing_data(drift)
    if missing is not None:
        return Recommendation(missing)
    windows = [window for window in drift.recent if window.judged][-windows_to_confirm:]
    for reason, drifted_series in (
        ("feature_distribution_drift", _drifted_features),
        ("prediction_rate_shift", _shifted_predictions),
    ):
        in_each = [drifted_series(window) for window in windows]
        confirmed = set.intersection(*in_each) if len(windows) == windows_to_confirm else set()
        lasting = set.union(*in_each) if previous is not None and previous.reason == reason else set()
        causes = confirmed or lasting
        if causes:
            return Recommendation(reason, tuple(name for name in SERIES if name in causes))
    decayed = _decayed_measures(outcomes)
    if decayed:
        return Recommendation("performance_decay", decayed)
    return Recommendation("below_threshold")


def _missing_data(drift: DriftSnapshot) -> str | None:
    """Return the reason why drift cannot be judged yet, if it cannot."""
    if drift.baseline is None:
        return "baseline_not_loaded"
    if drift.predictions == 0:
        return "no_predictions_observed"
    if drift.latest is None or not drift.latest.judged:
        return "insufficient_samples"
    return None


def _drifted_features(window: WindowVerdict) -> set[str]:
    return set(window.drifted_features)


def _shifted_predictions(window: WindowVerdict) -> set[str]:
    series = {SCORE: window.score.status, PREDICTED_PURCHASE: window.rate.status}
    return {name for name, status in series.items() if status == DriftStatus.DRIFT}


def _decayed_measures(outcomes: OutcomesSnapshot) -> tuple[str, ...]:
    if outcomes.verdict is None:
        return ()
    measures = {"precision": outcomes.verdict.precision, "recall": outcomes.verdict.recall}
    return tuple(name for name, measure in measures.items() if measure.decayed)


RETRY_S: Final = 60.0
"""Interval between attempts while the topic is missing or the broker is unavailable."""

_S_PER_H: Final = 3600


class ControlTopic(Protocol):
    """The topic to which announcements are sent."""

    def send(self, key: bytes, value: bytes, on_delivered: Callable[[str | None], None]) -> None:
        """Send a record. :meth:`poll` later calls ``on_delivered`` with the error, or ``None``."""

    def poll(self) -> None:
        """Call the delivery callbacks that are due, without waiting."""


@dataclass(frozen=True, slots=True)
class Announced:
    """The last announcement. Survives a restart.

    Attributes:
        action: The announced action; empty before the first announcement.
        at_s: The time of the announcement, seconds since the epoch.
        retrain_version: The model version for which retraining was last announced.
        retrain_at_s: The time of that announcement.
    """

    action: str = ""
    at_s: float = 0.0
    retrain_version: str | None = None
    retrain_at_s: float = 0.0


class RetrainingNotifier:
    """Announces changes of the recommended action.

    Args:
        topic: The control topic.
        model: The model name, the key of every announcement.
        cooldown_h: Hours during which retraining is not announced again for the same model version.
        now_s: Wall clock, seconds since the epoch.

    Attributes:
        announced: The last announcement.
    """

    def __init__(
        self, topic: ControlTopic, model: str, cooldown_h: float, now_s: Callable[[], float] = time.time
    ) -> None:
        self._topic = topic
        self._model = model
        self._cooldown_s = cooldown_h * _S_PER_H
        self._now_s = now_s
        self._in_flight = False
        self._retry_at_s = 0.0
        self.announced = Announced()

    def cooldown_until_s(self, version: str | None) -> float | None:
        """Return the end of the cooldown for a version, seconds since the epoch, or ``None``."""
        until_s = self.announced.retrain_at_s + self._cooldown_s
        same_version = self.announced.retrain_version == version and version is not None
        return until_s if same_version and until_s > self._now_s() else None

    def notify_if_changed(
        self, recommendation: Recommendation, version: str | None, evidence: Callable[[], Mapping[str, Any]]
    ) -> None:
        """Announce a recommendation if its action differs from the last announced one.

        Args:
            recommendation: The current recommendation.
            version: The model version it is about.
            evidence: Returns the fields of the announcement other than the time and the previous action.
        """
        self._topic.poll()
        now_s, action = self._now_s(), recommendation.action
        if self._in_flight or action == self.announced.action or now_s < self._retry_at_s:
            return
        if action == RETRAIN and self.cooldown_until_s(version) is not None:
            return
        announced = Announced(action, now_s, self.announced.retrain_version, self.announced.retrain_at_s)
        if action == RETRAIN:
            announced = replace(announced, retrain_version=version, retrain_at_s=now_s)
        value = {
            "model": self._model,
            "announced_at_s": now_s,
            "previous_action": self.announced.action or None,
            **evidence(),
        }
        self._in_flight = True

        def on_delivered(problem: str | None) -> None:
            self._in_flight = False
            if problem is None:
                self.announced = announced
            elif not self._retry_at_s:  # log it once, however often it fails
                log.warning("cannot announce the recommendation; retrying", action=action, reason=problem)
            self._retry_at_s = 0.0 if problem is None else self._now_s() + RETRY_S

        self._topic.send(self._model.encode(), orjson.dumps(value), on_delivered)
