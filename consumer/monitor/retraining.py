"""From drift and outcomes to a recommendation: should the model be trained again?

Advice, not an order: nothing here trains. The reasons and their order are the outward contract's.

Tells the control topic when the recommendation changes: rarely, and not at all while nothing does.
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
"""Every reason, the first that holds being given, and the action that it leads to."""

RETRAIN: Final = "trigger_retraining_pipeline"


@dataclass(frozen=True, slots=True)
class Recommendation:
    """What to do.

    Attributes:
        reason: one of :data:`REASONS`.
        causes: the series that confirmed windows agree on: features, ``score``,
            ``predicted_purchase``, ``precision``, ``recall``.
    """

    reason: str
    causes: tuple[str, ...] = ()

    @property
    def action(self) -> str:
        """What to do about it."""
        return REASONS[self.reason]

    @property
    def should_retrain(self) -> bool:
        """Whether that is to train again."""
        return self.action == RETRAIN


def recommend(
    drift: DriftSnapshot,
    outcomes: OutcomesSnapshot,
    windows_to_confirm: int,
    before: Recommendation | None = None,
) -> Recommendation:
    """Return the first reason that holds.

    One window that drifts is no reason yet: the same series has to drift in so many windows in a row.
    A recommendation to retrain ends likewise, after so many windows in a row without its kind of drift.

    Args:
        drift: what is known of drift.
        outcomes: what is known of outcomes.
        windows_to_confirm: so many.
        before: the recommendation until now.
    """
    if drift.baseline is None:
        return Recommendation("baseline_not_loaded")
    if drift.predictions == 0:
        return Recommendation("no_predictions_observed")
    if drift.latest is None or not drift.latest.judged:
        return Recommendation("insufficient_samples")
    windows = [window for window in drift.recent if window.judged][-windows_to_confirm:]
    was = before.reason if before else ""
    for reason, series_of in (
        ("feature_distribution_drift", _drifted_features),
        ("prediction_rate_shift", _shifted_predictions),
    ):
        confirmed = (
            set.intersection(*map(series_of, windows)) if len(windows) == windows_to_confirm else set()
        )
        recently = set.union(*map(series_of, windows))
        if confirmed or (was == reason and recently):
            causes = confirmed or recently
            return Recommendation(reason, tuple(name for name in SERIES if name in causes))
    if outcomes.verdict is not None and outcomes.verdict.decayed:
        figures = {"precision": outcomes.verdict.precision, "recall": outcomes.verdict.recall}
        return Recommendation(
            "performance_decay", tuple(name for name, figure in figures.items() if figure.decayed)
        )
    return Recommendation("below_threshold")


def _drifted_features(window: WindowVerdict) -> set[str]:
    return set(window.drifted_features)


def _shifted_predictions(window: WindowVerdict) -> set[str]:
    series = {SCORE: window.score.status, PREDICTED_PURCHASE: window.rate.status}
    return {name for name, status in series.items() if status == DriftStatus.DRIFT}


RETRY_S: Final = 60.0
"""Between tries while the topic is missing or the broker away."""

_S_PER_H: Final = 3600


class ControlTopic(Protocol):
    """Where announcements go."""

    def send(self, key: bytes, value: bytes, on_delivered: Callable[[str | None], None]) -> None:
        """Send one; ``on_delivered`` is later called, from :meth:`poll`, with what went wrong or None."""

    def poll(self) -> None:
        """Serve what has been delivered, without waiting."""


@dataclass(frozen=True, slots=True)
class Announced:
    """What the topic was last told; kept over a restart.

    Attributes:
        action: the recommended action; empty before the first.
        at_s: when, seconds since the epoch.
        retrain_version: the model version that retraining was last recommended for.
        retrain_at_s: when that was.
    """

    action: str = ""
    at_s: float = 0.0
    retrain_version: str | None = None
    retrain_at_s: float = 0.0


class RetrainingNotifier:
    """Announces changes of the recommended action.

    Args:
        topic: the control topic.
        model: the model's name, the key of every announcement.
        cooldown_h: after retraining was recommended, it is not recommended again for so many hours,
            unless another model version has been put on meanwhile.
        now_s: the wall clock, seconds since the epoch.
    """

    def __init__(
        self, topic: ControlTopic, model: str, cooldown_h: float, now_s: Callable[[], float] = time.time
    ) -> None:
        self._topic = topic
        self._model = model
        self._cooldown_s = cooldown_h * _S_PER_H
        self._now_s = now_s
        self._under_way = False
        self._not_before_s = 0.0
        self.announced = Announced()

    def cooldown_until_s(self, version: str | None) -> float | None:
        """Return until when retraining is not announced again, seconds since the epoch, or ``None``."""
        until_s = self.announced.retrain_at_s + self._cooldown_s
        same_version = self.announced.retrain_version == version and version is not None
        return until_s if same_version and until_s > self._now_s() else None

    def consider(
        self, recommendation: Recommendation, version: str | None, evidence: Callable[[], Mapping[str, Any]]
    ) -> None:
        """Announce a recommendation if it is another action than the last one announced.

        Args:
            recommendation: what is recommended now.
            version: the model version that it is about.
            evidence: returns what stands in the announcement beside the time and the action before.
        """
        self._topic.poll()
        now_s, action = self._now_s(), recommendation.action
        if self._under_way or action == self.announced.action or now_s < self._not_before_s:
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
        self._under_way = True

        def on_delivered(problem: str | None) -> None:
            self._under_way = False
            if problem is None:
                self.announced = announced
                return
            self._not_before_s = self._now_s() + RETRY_S
            log.warning("recommendation not announced", action=action, reason=problem, retry_s=RETRY_S)

        self._topic.send(self._model.encode(), orjson.dumps(value), on_delivered)
