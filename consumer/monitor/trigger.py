"""From drift and outcomes to a recommendation: should the model be trained again?

Advice, not an order: nothing here trains. The reasons and their order are the outward contract's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from consumer.monitor.drift_verdict import Status, WindowVerdict
from consumer.monitor.drift_window import PREDICTED_PURCHASE, SCORE, SERIES
from consumer.monitor.snapshot import DriftSnapshot, OutcomesSnapshot

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
    return {name for name, status in series.items() if status == Status.DRIFT}
