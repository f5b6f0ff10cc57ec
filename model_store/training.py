"""Fit, choose the threshold, measure on students the model has not seen, freeze the baseline.

Classes are not weighted or resampled: the natural share of buyers keeps the probabilities
calibrated, and the threshold does the rest.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, brier_score_loss, log_loss, roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict, train_test_split
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from model_store.baseline import Baseline, freeze_baseline
from model_store.errors import TrainingDataError
from model_store.features import EngagementFeatures, EngagementWeights
from model_store.linear import scorer_of
from model_store.manifest import Metrics, Quality, Threshold, TrainingData
from model_store.self_test import SelfTestRow, choose_rows
from model_store.thresholds import least_cost_threshold, max_f1_threshold, precision_and_recall

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from model_store.training_data import TrainingTable

FOLDS: Final = 5
HELD_OUT_RATIO: Final = 0.2
MIN_ROWS_PER_CLASS: Final = 20
"""Fewer buyers, or fewer others, leave folds of a handful, whose figures mean nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class TrainedModel:
    """A fitted pipeline with everything that a version in the store records.

    Attributes:
        pipeline: fitted on every row.
        threshold: chosen without the held-out rows.
        metrics: of pipelines like this one on rows they had not seen.
        baseline: of every row, with out-of-fold scores.
        self_test: rows and the probabilities that this pipeline gives them.
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
    """Train on a table; the same table and arguments give the same model.

    1. Set a stratified fifth of the rows aside.
    2. Choose the threshold on the out-of-fold probabilities of the others.
    3. Measure on the fifth, and on the out-of-fold probabilities of every row.
    4. Fit on every row.

    Args:
        table: the students.
        weights: of the engagement score.
        criterion: how to choose the threshold: the largest F1, or the least expected cost.
        false_positive_cost: for ``cost``: what flagging a student who won't buy costs.
        false_negative_cost: for ``cost``: what missing one who will costs, in the same unit.
        seed: of the splits.

    Raises:
        TrainingDataError: too few buyers, or too few others.
        ValueError: a cost is not a finite number greater than 0.
    """
    weights = weights or EngagementWeights()
    inputs, purchased = table.inputs, table.purchased
    _check_classes(table)
    fitting, held_out = train_test_split(
        np.arange(table.rows), test_size=HELD_OUT_RATIO, stratify=purchased, random_state=seed
    )
    seen = purchased[fitting], _out_of_fold(inputs[fitting], purchased[fitting], weights, seed)
    if criterion == "cost":
        threshold = least_cost_threshold(*seen, false_positive_cost, false_negative_cost)
    else:
        threshold = max_f1_threshold(*seen)
    held_out_pipeline = _pipeline(weights).fit(inputs[fitting], purchased[fitting])
    held_out_probabilities = scorer_of(held_out_pipeline).predict_probability(inputs[held_out])
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
        self_test=choose_rows(inputs, scorer_of(pipeline)),
        training_data=TrainingData(
            source=table.source, sha256=table.sha256, rows=table.rows, positives=table.positives
        ),
        engagement_weights=weights,
    )


def measure(purchased: NDArray[np.int8], probabilities: NDArray[np.float64], threshold: float) -> Quality:
    """Measure probabilities, int8 (n,) against float64 (n,), and the decisions at a threshold."""
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
            # Features of one scale let the solver converge, and the penalty treat them alike.
            ("scaler", StandardScaler()),
            ("regression", LogisticRegression(max_iter=2000)),
        ]
    )


def _out_of_fold(
    inputs: NDArray[np.float64], purchased: NDArray[np.int8], weights: EngagementWeights, seed: int
) -> NDArray[np.float64]:
    """Return each row's probability from a pipeline fitted without the row's fold, float64 (n,)."""
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    both = cross_val_predict(_pipeline(weights), inputs, purchased, cv=folds, method="predict_proba")
    probabilities: NDArray[np.float64] = both[:, 1]
    return probabilities


def _check_classes(table: TrainingTable) -> None:
    for count, who in ((table.positives, "bought"), (table.rows - table.positives, "did not buy")):
        if count < MIN_ROWS_PER_CLASS:
            raise TrainingDataError(
                f"{table.source} has {count} students who {who}; at least {MIN_ROWS_PER_CLASS} are needed"
            )
