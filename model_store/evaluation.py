"""Measure the quality of probabilities, and choose the decision threshold by a criterion."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    log_loss,
    precision_recall_curve,
    roc_auc_score,
)

from model_store.manifest import Quality, Threshold

if TYPE_CHECKING:
    from numpy.typing import NDArray

_DECIMALS = 4
"""The decimals of a threshold; the data does not justify more."""


def max_f1_threshold(purchased: NDArray[np.int8], probabilities: NDArray[np.float64]) -> Threshold:
    """Return the threshold with the largest F1, the harmonic mean of precision and recall.

    Args:
        purchased: The labels, int8 (n,), 0 or 1.
        probabilities: Out-of-fold probabilities, float64 (n,).
    """
    precision, recall, values = precision_recall_curve(purchased, probabilities)
    # The curve's last point, recall 0, has no threshold. The tiny term prevents 0/0.
    f1 = 2 * precision[:-1] * recall[:-1] / (precision[:-1] + recall[:-1] + np.finfo(np.float64).tiny)
    step = 10.0**-_DECIMALS
    value = float(np.clip(round(float(values[np.argmax(f1)]), _DECIMALS), step, 1 - step))
    return _measured_threshold(purchased, probabilities, value, "max_f1")


def least_cost_threshold(
    purchased: NDArray[np.int8],
    probabilities: NDArray[np.float64],
    false_positive_cost: float,
    false_negative_cost: float,
) -> Threshold:
    """Return the threshold with the least expected cost: C_FP / (C_FP + C_FN).

    Valid for calibrated probabilities (Elkan, "The Foundations of Cost-Sensitive Learning", 2001).

    Args:
        purchased: The labels, int8 (n,), 0 or 1.
        probabilities: Out-of-fold probabilities, float64 (n,).
        false_positive_cost: The cost of flagging a student who will not buy, greater than 0.
        false_negative_cost: The cost of missing a student who will buy, in the same unit, greater
            than 0.

    Raises:
        ValueError: A cost is not a finite number greater than 0.
    """
    costs = (false_positive_cost, false_negative_cost)
    if not all(0 < cost < np.inf for cost in costs):
        raise ValueError(f"costs must be finite and greater than 0, but are {costs}")
    value = false_positive_cost / (false_positive_cost + false_negative_cost)
    return _measured_threshold(purchased, probabilities, value, "cost").model_copy(
        update={"false_positive_cost": false_positive_cost, "false_negative_cost": false_negative_cost}
    )


def precision_and_recall(
    purchased: NDArray[np.int8], probabilities: NDArray[np.float64], threshold: float
) -> tuple[float, float]:
    """Return the precision and recall of ``probability >= threshold``; undefined values are 0.

    >>> precision_and_recall(np.array([0, 1, 1], np.int8), np.array([0.6, 0.7, 0.2]), 0.5)
    (0.5, 0.5)
    """
    predicted = probabilities >= threshold
    true_positives = int(np.sum(predicted & (purchased == 1)))
    flagged, bought = int(predicted.sum()), int(purchased.sum())
    return (true_positives / flagged if flagged else 0.0), (true_positives / bought if bought else 0.0)


def measure(purchased: NDArray[np.int8], probabilities: NDArray[np.float64], threshold: float) -> Quality:
    """Measure probabilities, float64 (n,), against labels, int8 (n,), and the decisions at a threshold."""
    precision, recall = precision_and_recall(purchased, probabilities, threshold)
    return Quality(
        rows=len(purchased),
        positives=int(purchased.sum()),
        average_precision=float(average_precision_score(purchased, probabilities)),
        roc_auc=float(roc_auc_score(purchased, probabilities)),
        brier_score=float(brier_score_loss(purchased, probabilities)),
        log_loss=float(log_loss(purchased, probabilities)),
        precision=precision,
        recall=recall,
    )


def _measured_threshold(
    purchased: NDArray[np.int8], probabilities: NDArray[np.float64], value: float, criterion: str
) -> Threshold:
    precision, recall = precision_and_recall(purchased, probabilities, value)
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return Threshold.model_validate(
        {"value": value, "criterion": criterion, "precision": precision, "recall": recall, "f1": f1}
    )
