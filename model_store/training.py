"""Train the default model: fit, choose the threshold, measure the quality, compute the baseline.

Classes are neither weighted nor resampled. The natural class ratio keeps the probabilities
calibrated; the threshold accounts for the imbalance.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict, train_test_split
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from model_store.baseline import Baseline, freeze_baseline
from model_store.errors import TrainingDataError
from model_store.estimator import probability_model
from model_store.evaluation import least_cost_threshold, max_f1_threshold, measure
from model_store.features import EngagementFeatures
from model_store.inputs import EngagementWeights
from model_store.manifest import Metrics, Threshold, TrainingData
from model_store.self_test import SelfTestRow, choose_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from model_store.training_data import TrainingTable

FOLDS: Final = 5
HELD_OUT_RATIO: Final = 0.2
MIN_ROWS_PER_CLASS: Final = 20
"""With fewer rows of a class, a fold has too few of them to measure anything."""


@dataclass(frozen=True, slots=True, eq=False)
class TrainedModel:
    """A fitted pipeline with everything that a version in the store records.

    Attributes:
        pipeline: The pipeline, fitted on all rows.
        threshold: The threshold, chosen without the held-out rows.
        metrics: The quality of equal pipelines on rows that they were not fitted on.
        baseline: The baseline of all rows, with out-of-fold scores.
        self_test: Rows with this pipeline's probabilities.
        training_data: Where the rows came from.
        engagement_weights: The weights of the engagement score.
    """

    pipeline: Any = field(repr=False)
    threshold: Threshold
    metrics: Metrics
    baseline: Baseline = field(repr=False)
    self_test: tuple[SelfTestRow, ...] = field(repr=False)
    training_data: TrainingData
    engagement_weights: EngagementWeights


def train(
    table: TrainingTable,
    *,
    weights: EngagementWeights | None = None,
    criterion: Literal["max_f1", "cost"] = "max_f1",
    false_positive_cost: float = 1.0,
    false_negative_cost: float = 1.0,
    seed: int = 0,
) -> TrainedModel:
    """Train on a table; equal tables and arguments give equal models.

    1. Hold out a stratified fifth of the rows.
    2. Choose the threshold on out-of-fold probabilities of the other rows.
    3. Measure on the held-out rows, and on out-of-fold probabilities of all rows.
    4. Fit on all rows.

    Args:
        table: The students.
        weights: The weights of the engagement score.
        criterion: How to choose the threshold: the largest F1, or the least expected cost.
        false_positive_cost: For ``cost``: the cost of flagging a student who will not buy.
        false_negative_cost: For ``cost``: the cost of missing a student who will buy, same unit.
        seed: The seed of the splits.

    Raises:
        TrainingDataError: A class has too few rows.
        ValueError: A cost is not a finite number greater than 0.
    """
    weights = weights or EngagementWeights()
    inputs, purchased = table.inputs, table.purchased
    _check_classes(table)
    fitting, held_out = train_test_split(
        np.arange(table.rows), test_size=HELD_OUT_RATIO, stratify=purchased, random_state=seed
    )
    chosen_on = purchased[fitting], _out_of_fold(inputs[fitting], purchased[fitting], weights, seed)
    if criterion == "cost":
        threshold = least_cost_threshold(*chosen_on, false_positive_cost, false_negative_cost)
    else:
        threshold = max_f1_threshold(*chosen_on)
    held_out_pipeline = _pipeline(weights).fit(inputs[fitting], purchased[fitting])
    held_out_probabilities = probability_model(held_out_pipeline).predict_probability(inputs[held_out])
    out_of_fold = _out_of_fold(inputs, purchased, weights, seed)
    pipeline = _pipeline(weights).fit(inputs, purchased)
    return TrainedModel(
        pipeline=pipeline,
        threshold=threshold,
        metrics=Metrics(
            cross_validated=measure(purchased, out_of_fold, threshold.value),
            folds=FOLDS,
            held_out=measure(purchased[held_out], held_out_probabilities, threshold.value),
        ),
        baseline=freeze_baseline(inputs, purchased, out_of_fold, threshold.value),
        self_test=choose_rows(inputs, probability_model(pipeline)),
        training_data=TrainingData(
            source=table.source, sha256=table.sha256, rows=table.rows, positives=table.positives
        ),
        engagement_weights=weights,
    )


def _pipeline(weights: EngagementWeights) -> Pipeline:
    return Pipeline(
        [
            (
                "features",
                EngagementFeatures(
                    weight_minutes_watched=weights.minutes_watched,
                    weight_days_on_platform=weights.days_on_platform,
                    weight_courses_started=weights.courses_started,
                ),
            ),
            # With standardised features the solver converges and the penalty is even.
            ("scaler", StandardScaler()),
            ("regression", LogisticRegression(max_iter=2000)),
        ]
    )


def _out_of_fold(
    inputs: NDArray[np.float64], purchased: NDArray[np.int8], weights: EngagementWeights, seed: int
) -> NDArray[np.float64]:
    """Return out-of-fold probabilities, float64 (n,): each row's from a pipeline fitted without its fold."""
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    columns = cross_val_predict(_pipeline(weights), inputs, purchased, cv=folds, method="predict_proba")
    probabilities: NDArray[np.float64] = columns[:, 1]
    return probabilities


def _check_classes(table: TrainingTable) -> None:
    for count, outcome in ((table.positives, "bought"), (table.rows - table.positives, "did not buy")):
        if count < MIN_ROWS_PER_CLASS:
            raise TrainingDataError(
                f"{table.source} has {count} students who {outcome}; at least {MIN_ROWS_PER_CLASS} are needed"
            )
