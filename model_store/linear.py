"""Inputs to probabilities.

A pipeline of :class:`EngagementFeatures`, an optional scaler and a logistic regression is folded
into one weighted sum (:class:`LinearScorer`), which is fast and gives a row the same bits alone
and in any batch. Any other estimator is asked for ``predict_proba`` (:class:`GenericScorer`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from model_store.features import (
    NUMERIC_FEATURE_NAMES,
    EngagementFeatures,
    EngagementWeights,
    country_indices,
    input_matrix,
    numeric_columns,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray


class ProbabilityModel(Protocol):
    """Whatever turns inputs into probabilities."""

    def predict_probability(self, inputs: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the probability of a purchase, float64 (m,), for inputs float64 (m, 7)."""


@dataclass(frozen=True, slots=True, eq=False)
class LinearScorer:
    """A logistic regression on the engineered features, as one weighted sum.

    Attributes:
        weights: of the engagement score.
        coefficients: log-odds per unit of each numeric feature, in their order.
        country_log_odds: float64 (677,): intercept plus the country's share of the log-odds, by
            country number, unknown last.
    """

    weights: EngagementWeights
    coefficients: tuple[float, ...]
    country_log_odds: NDArray[np.float64]

    def predict_probability(self, inputs: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the probability of a purchase, float64 (m,), for inputs float64 (m, 7).

        The sum is accumulated column by column in a fixed order: no BLAS, whose result for a row
        depends on how many rows stand around it.
        """
        inputs = input_matrix(inputs)
        log_odds = self.country_log_odds[country_indices(inputs)]
        for coefficient, column in zip(self.coefficients, numeric_columns(inputs, self.weights), strict=True):
            log_odds += coefficient * column
        with np.errstate(over="ignore"):  # exp overflows to infinity where the probability is 0
            return 1.0 / (1.0 + np.exp(-log_odds))


@dataclass(frozen=True, slots=True, eq=False)
class GenericScorer:
    """Any fitted classifier on the seven inputs; its second class is a purchase.

    Whether a row's last bits depend on its batch is then up to the estimator.
    """

    estimator: Any

    def predict_probability(self, inputs: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the probability of a purchase, float64 (m,), for inputs float64 (m, 7)."""
        return np.ascontiguousarray(self.estimator.predict_proba(input_matrix(inputs))[:, 1])


def scorer_of(estimator: Any) -> ProbabilityModel:
    """Return the fastest scorer for a fitted estimator on the seven inputs."""
    steps = _steps(estimator)
    if [type(step) for step in steps] == [EngagementFeatures, LogisticRegression]:
        return _folded(steps[0], None, steps[1])
    if [type(step) for step in steps] == [EngagementFeatures, StandardScaler, LogisticRegression]:
        return _folded(*steps)
    return GenericScorer(estimator)


def engineered_names(estimator: Any) -> tuple[str, ...]:
    """Return the names of the features that a fitted estimator engineers, none for a foreign one."""
    first = _steps(estimator)[0]
    return tuple(first.get_feature_names_out()) if isinstance(first, EngagementFeatures) else ()


def estimator_class(estimator: Any) -> str:
    """Return the dotted name of an estimator's class, of a pipeline's last step."""
    last = type(_steps(estimator)[-1])
    return f"{last.__module__}.{last.__qualname__}"


def _steps(estimator: Any) -> list[Any]:
    return [step for _, step in estimator.steps] if isinstance(estimator, Pipeline) else [estimator]


def _folded(
    features: EngagementFeatures, scaler: StandardScaler | None, regression: LogisticRegression
) -> LinearScorer:
    """Fold scaler and regression: w·(f - mean)/scale + b = (w/scale)·f + (b - w·mean/scale)."""
    coefficients = np.array(regression.coef_[0], dtype=np.float64)
    intercept = float(regression.intercept_[0])
    if scaler is not None:
        if scaler.scale_ is not None:
            coefficients /= scaler.scale_
        if scaler.mean_ is not None:
            intercept -= float(np.sum(coefficients * scaler.mean_))
    numeric = len(NUMERIC_FEATURE_NAMES)
    by_country = intercept + coefficients[numeric:][features.country_columns()]
    return LinearScorer(
        weights=features.weights,
        coefficients=tuple(coefficients[:numeric].tolist()),
        country_log_odds=by_country,
    )
