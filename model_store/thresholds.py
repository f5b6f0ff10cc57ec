"""Where to draw the line between "will buy" and "won't", by a stated criterion."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from sklearn.metrics import precision_recall_curve

from model_store.manifest import Threshold

if TYPE_CHECKING:
    from numpy.typing import NDArray

_DECIMALS = 4
"""Of a threshold: finer ones only pretend to know more, and are hard to say aloud."""


def max_f1_threshold(purchased: NDArray[np.int8], probabilities: NDArray[np.float64]) -> Threshold:
    """Return the threshold with the largest F1, the harmonic mean of precision and recall.

    Args:
        purchased: int8 (n,), 0 or 1.
        probabilities: float64 (n,), of models that had not seen the row.
    """
    precision, recall, values = precision_recall_curve(purchased, probabilities)
    # The curve's last point, recall 0, belongs to no threshold. The tiny term only keeps 0/0 away.
    f1 = 2 * precision[:-1] * recall[:-1] / (precision[:-1] + recall[:-1] + np.finfo(np.float64).tiny)
    step = 10.0**-_DECIMALS
    value = float(np.clip(round(float(values[np.argmax(f1)]), _DECIMALS), step, 1 - step))
    return _described(purchased, probabilities, value, "max_f1")


def least_cost_threshold(
    purchased: NDArray[np.int8],
    probabilities: NDArray[np.float64],
    false_positive_cost: float,
    false_negative_cost: float,
) -> Threshold:
    """Return the threshold with the least expected cost: C_FP / (C_FP + C_FN).

    Holds for calibrated probabilities (Elkan, "The Foundations of Cost-Sensitive Learning", 2001).

    Args:
        purchased: int8 (n,), 0 or 1.
        probabilities: float64 (n,), of models that had not seen the row.
        false_positive_cost: of flagging a student who won't buy; greater than 0.
        false_negative_cost: of missing one who will, in the same unit; greater than 0.

    Raises:
        ValueError: a cost is not a finite number greater than 0.
    """
    costs = (false_positive_cost, false_negative_cost)
    if not all(0 < cost < np.inf for cost in costs):
        raise ValueError(f"costs must be finite and greater than 0, but are {costs}")
    value = false_positive_cost / (false_positive_cost + false_negative_cost)
    return _described(purchased, probabilities, value, "cost").model_copy(
        update={"false_positive_cost": false_positive_cost, "false_negative_cost": false_negative_cost}
    )


def precision_and_recall(
    purchased: NDArray[np.int8], probabilities: NDArray[np.float64], threshold: float
) -> tuple[float, float]:
    """Return precision and recall of ``probability >= threshold``; 0 where they are undefined."""
    predicted = probabilities >= threshold
    hits = int(np.sum(predicted & (purchased == 1)))
    flagged, bought = int(predicted.sum()), int(purchased.sum())
    return (hits / flagged if flagged else 0.0), (hits / bought if bought else 0.0)


def _described(
    purchased: NDArray[np.int8], probabilities: NDArray[np.float64], value: float, criterion: str
) -> Threshold:
    precision, recall = precision_and_recall(purchased, probabilities, value)
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return Threshold.model_validate(
        {"value": value, "criterion": criterion, "precision": precision, "recall": recall, "f1": f1}
    )
