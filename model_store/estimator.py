"""Fitted scikit-learn estimators as probability models.

:func:`probability_model` folds the default pipeline into a :class:`~model_store.linear.LinearModel`.
Every other classifier is called through its ``predict_proba``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from model_store.features import EngagementFeatures
from model_store.inputs import NUMERIC_FEATURE_NAMES, input_matrix
from model_store.linear import LinearModel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from model_store.linear import ProbabilityModel


@dataclass(frozen=True, slots=True, eq=False)
class EstimatorModel:
    """A fitted classifier on the seven inputs; its second class is a purchase.

    The estimator decides whether a row's last bits depend on the other rows of its batch.
    """

    estimator: Any

    def predict_probability(self, inputs: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the probability of a purchase, float64 (m,), for inputs float64 (m, 7)."""
        return np.ascontiguousarray(self.estimator.predict_proba(input_matrix(inputs))[:, 1])


def probability_model(estimator: Any) -> ProbabilityModel:
    """Return the fastest probability model for a fitted estimator on the seven inputs."""
    steps = _steps(estimator)
    if [type(step) for step in steps] == [EngagementFeatures, LogisticRegression]:
        return _fold(steps[0], None, steps[1])
    if [type(step) for step in steps] == [EngagementFeatures, StandardScaler, LogisticRegression]:
        return _fold(*steps)
    return EstimatorModel(estimator)


def engineered_names(estimator: Any) -> tuple[str, ...]:
    """Return the names of the features that our transformer engineers; empty without the transformer."""
    first = _steps(estimator)[0]
    return tuple(first.get_feature_names_out()) if isinstance(first, EngagementFeatures) else ()


def estimator_class(estimator: Any) -> str:
    """Return the dotted name of an estimator's class; for a pipeline, of its last step."""
    last = type(_steps(estimator)[-1])
    return f"{last.__module__}.{last.__qualname__}"


def _steps(estimator: Any) -> list[Any]:
    return [step for _, step in estimator.steps] if isinstance(estimator, Pipeline) else [estimator]


def _fold(
    features: EngagementFeatures, scaler: StandardScaler | None, regression: LogisticRegression
) -> LinearModel:
    """Fold scaler and regression: w·(f - mean)/scale + b = (w/scale)·f + (b - w·mean/scale)."""
    coefficients = np.array(regression.coef_[0], dtype=np.float64)
    intercept = float(regression.intercept_[0])
    if scaler is not None:
        if scaler.scale_ is not None:
            coefficients /= scaler.scale_
        if scaler.mean_ is not None:
            intercept -= float(np.sum(coefficients * scaler.mean_))
    numeric = len(NUMERIC_FEATURE_NAMES)
    return LinearModel(
        weights=features.weights,
        coefficients=tuple(coefficients[:numeric].tolist()),
        country_log_odds=intercept + coefficients[numeric:][features.country_columns()],
    )
