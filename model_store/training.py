"""Train the default model, or assess a classifier that was fitted elsewhere.

Both measure on students whom the model was not fitted on, choose the threshold and compute the
baseline. Classes are neither weighted nor resampled in training: the natural class ratio keeps the
probabilities calibrated, and the threshold accounts for the imbalance.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from model_store.baseline import Baseline, freeze_baseline
from model_store.errors import ModelStoreError, TrainingDataError
from model_store.estimator import (
    candidate_formats,
    check_classifier,
    format_inputs,
    is_batch_invariant,
    leaf_numbers,
    measure_cost,
    one_line,
    probability_model,
)
from model_store.evaluation import (
    MAX_F1,
    Evaluation,
    ThresholdCriterion,
    evaluate,
    measure,
    threshold_curve,
)
from model_store.features import EngagementFeatures
from model_store.inputs import EngagementWeights
from model_store.manifest import Cost, InputFormat, Metrics, Threshold, TrainingData
from model_store.self_test import SelfTestRow, choose_rows
from model_store.splits import FOLDS, Split, duplicate_groups, fold_splits, hold_out

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from model_store.linear import ProbabilityModel
    from model_store.training_data import TrainingTable

_LEAF_ROWS: Final = 20_000
"""The number of rows in which the self-test searches for a row for every leaf."""
_REPEATED_ROWS: Final = 1000
MIN_ROWS_PER_CLASS: Final = 20
"""The least number of rows of a class. With fewer, a fold could not be measured."""


@dataclass(frozen=True, slots=True, eq=False)
class TrainedModel:
    """A fitted estimator with everything that a version in the store records.

    Attributes:
        estimator: The classifier or pipeline, fitted.
        threshold: The threshold, chosen without the held-out rows.
        metrics: The quality on rows that the model was not fitted on.
        baseline: The baseline of all rows, with out-of-fold scores.
        evaluation: The threshold curve, calibration and slices.
        self_test: Rows with this estimator's probabilities.
        training_data: The origin of the rows.
        engagement_weights: The weights of the engagement score; ``None`` for an estimator without one.
        input_format: How the estimator receives the inputs.
        batch_invariant: Whether a row's probability has the same bits alone and in a batch.
        cost: How long a prediction takes.
    """

    estimator: Any = field(repr=False)
    threshold: Threshold
    metrics: Metrics
    baseline: Baseline = field(repr=False)
    evaluation: Evaluation = field(repr=False)
    self_test: tuple[SelfTestRow, ...] = field(repr=False)
    training_data: TrainingData
    engagement_weights: EngagementWeights | None
    input_format: InputFormat
    batch_invariant: bool
    cost: Cost


def train(
    table: TrainingTable,
    *,
    weights: EngagementWeights | None = None,
    criterion: ThresholdCriterion = MAX_F1,
    seed: int = 0,
) -> TrainedModel:
    """Train on a table; equal tables and arguments give equal models.

    1. Hold out a fifth of the rows: the latest ones, or without times a stratified random fifth.
    2. Choose the threshold on out-of-fold probabilities of the other rows.
    3. Measure on the held-out rows, and on out-of-fold probabilities of all rows (with times: of all
       but the earliest sixth, since a model is fitted on earlier rows).
    4. Fit on all rows.

    Args:
        table: The students.
        weights: The weights of the engagement score.
        criterion: How to choose the threshold.
        seed: The seed of the splits.

    Raises:
        TrainingDataError: A class has too few rows, or no threshold fulfils the criterion.
    """
    weights = weights or EngagementWeights()
    _check_classes(table)

    def fit(rows: NDArray[np.intp]) -> ProbabilityModel:
        return probability_model(_pipeline(weights).fit(table.inputs[rows], table.purchased[rows]))

    estimator = _pipeline(weights).fit(table.inputs, table.purchased)
    return _assess(table, estimator, InputFormat(), fit, FOLDS, criterion, seed, weights)


def assess(
    table: TrainingTable,
    estimator: Any,
    *,
    unseen: bool = False,
    input_format: InputFormat | None = None,
    criterion: ThresholdCriterion = MAX_F1,
    seed: int = 0,
) -> TrainedModel:
    """Assess a fitted classifier.

    Its quality is that of clones, each fitted on four fifths of the rows and measured on the rest,
    unless the rows are unseen: then the classifier itself is measured.

    Args:
        table: Labelled students.
        estimator: The classifier or pipeline.
        unseen: Whether the classifier was fitted without these rows.
        input_format: How the classifier receives the inputs; ``None`` tries all formats.
        criterion: How to choose the threshold.
        seed: The seed of the splits.

    Raises:
        ModelStoreError: The estimator is not a fitted classifier with the classes 0 and 1 over the seven
            inputs, or it fails on valid inputs, or it cannot be fitted again.
        TrainingDataError: A class has too few rows, or no threshold fulfils the criterion.
    """
    check_classifier(estimator)
    _check_classes(table)
    formats = [input_format] if input_format else candidate_formats(estimator, table.inputs, table.purchased)
    fitted = probability_model(estimator, formats[0])

    def fit_again(rows: NDArray[np.intp]) -> ProbabilityModel:
        refusals = []
        for tried in formats:  # some estimators predict from more formats than they fit
            try:
                copy = _unfitted_copy(estimator).fit(
                    format_inputs(table.inputs[rows], tried), table.purchased[rows]
                )
            except Exception as error:  # noqa: BLE001 - any estimator, any reason
                refusals.append(one_line(error))
            else:
                return probability_model(copy, tried)
        raise ModelStoreError(
            f"{type(estimator).__name__} cannot be fitted again to be measured ({refusals[0]}); "
            "give --unseen and rows that it was not fitted on"
        )

    fit = (lambda _: fitted) if unseen else fit_again
    try:
        folds = 1 if unseen else FOLDS
        return _assess(table, estimator, formats[0], fit, folds, criterion, seed, None)
    except (ModelStoreError, TrainingDataError):
        raise
    except Exception as error:
        raise ModelStoreError(
            f"{type(estimator).__name__} fails on valid inputs: {one_line(error)}; it must accept every "
            "country, also unknown ones (for example OneHotEncoder(handle_unknown='ignore'))"
        ) from error


def _assess(
    table: TrainingTable,
    estimator: Any,
    input_format: InputFormat,
    fit: Callable[[NDArray[np.intp]], ProbabilityModel],
    folds: int,
    criterion: ThresholdCriterion,
    seed: int,
    weights: EngagementWeights | None,
) -> TrainedModel:
    """Measure and describe an estimator; ``fit`` fits an equal one on a part of the rows."""

    def splits(rows: NDArray[np.intp]) -> list[Split]:
        return fold_splits(table, rows, seed + 1) if folds > 1 else [Split(rows[:0], rows)]

    def measured(splits: list[Split]) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """Return rows in ascending order with the probabilities of models that were not fitted on them."""
        rows = np.concatenate([split.measured for split in splits])
        probabilities = np.concatenate(
            [fit(split.fitted).predict_probability(table.inputs[split.measured]) for split in splits]
        )
        _check_probabilities(estimator, probabilities)
        order = np.argsort(rows)
        return rows[order], probabilities[order]

    held_out = hold_out(table, seed)
    fitting, fitting_probabilities = measured(splits(held_out.fitted))
    chosen_on = threshold_curve(table.purchased[fitting], fitting_probabilities)
    try:
        threshold = chosen_on.threshold(criterion)
    except ValueError as error:
        raise TrainingDataError(f"{table.source}: {error}") from error
    unseen, unseen_probabilities = measured([held_out])
    rows, probabilities = measured(splits(np.arange(table.rows)))
    inputs, purchased = np.asfortranarray(table.inputs[rows]), table.purchased[rows]
    model = probability_model(estimator, input_format)
    _check_repeatable(estimator, model, table.inputs[:_REPEATED_ROWS])
    return TrainedModel(
        estimator=estimator,
        threshold=threshold,
        metrics=Metrics(
            cross_validated=measure(purchased, probabilities, threshold.value),
            folds=folds,
            split="random" if table.times_ms is None else "time",
            held_out=measure(table.purchased[unseen], unseen_probabilities, threshold.value),
        ),
        baseline=freeze_baseline(inputs, purchased, probabilities, threshold.value),
        evaluation=evaluate(
            inputs,
            purchased,
            probabilities,
            threshold.value,
            threshold_curve(table.purchased[unseen], unseen_probabilities),
        ),
        self_test=choose_rows(table.inputs, model, _leaves(estimator, table.inputs, input_format)),
        training_data=TrainingData(
            source=table.source, sha256=table.sha256, rows=table.rows, positives=table.positives
        ),
        engagement_weights=weights,
        input_format=input_format,
        batch_invariant=is_batch_invariant(model, table.inputs),
        cost=measure_cost(model, table.inputs),
    )


def _leaves(
    estimator: Any, inputs: NDArray[np.float64], input_format: InputFormat
) -> NDArray[np.intp] | None:
    """Return the leaves that the first rows reach, or ``None`` if the estimator has no trees that we know."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return leaf_numbers(estimator, format_inputs(inputs[:_LEAF_ROWS], input_format))
    except Exception:  # noqa: BLE001 - any estimator; the self-test does without
        return None


def _check_probabilities(estimator: Any, probabilities: NDArray[np.float64]) -> None:
    wrong = probabilities[~((probabilities >= 0) & (probabilities <= 1))]
    if len(wrong):
        raise ModelStoreError(
            f"{type(estimator).__name__} predicts {wrong[0]:g} for {len(wrong)} of {len(probabilities)} "
            "students; a probability lies between 0 and 1"
        )


def _check_repeatable(estimator: Any, model: ProbabilityModel, inputs: NDArray[np.float64]) -> None:
    first, second = (model.predict_probability(inputs) for _ in range(2))
    if not np.array_equal(first, second):
        raise ModelStoreError(
            f"{type(estimator).__name__} predicts other probabilities when asked again for the same "
            "students; set its random_state"
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


def _unfitted_copy(estimator: Any) -> Any:
    """Return a copy to fit. Where clone's check fails, as on some of CatBoost's parameters, skip it."""
    try:
        return clone(estimator)
    except RuntimeError:
        return type(estimator)(**estimator.get_params(deep=False))


def _check_classes(table: TrainingTable) -> None:
    group = duplicate_groups(table.inputs)
    for label, outcome in ((1, "bought"), (0, "did not buy")):
        rows = np.flatnonzero(table.purchased == label)
        counts = {"students": len(rows), "different students": len(np.unique(group[rows]))}
        for what, count in counts.items():
            if count < MIN_ROWS_PER_CLASS:
                raise TrainingDataError(
                    f"{table.source} has {count} {what} who {outcome}; "
                    f"at least {MIN_ROWS_PER_CLASS} are needed"
                )
