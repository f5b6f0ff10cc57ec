"""Explain a probability: how much each input adds to the score of a reference student.

The amounts add up to the score, whatever the model:

- The linear model is a sum of log-odds, so its terms are the reasons. Its reference is a student
  without activity from an unknown country.
- Every other model gets the exact Shapley values of its probability. Its reference is a typical
  student of the training data: the median of each number, and the most frequent country. The value of
  a coalition S of inputs is the probability of the student with the inputs of S, and with the
  reference's inputs otherwise. With n = 7 inputs these are 128 predictions, and input i gets
  the sum over all S without i of ``|S|! (n - |S| - 1)! / n! * (v(S + i) - v(S))``
  (L. S. Shapley, "A value for n-person games", 1953; with one reference: M. Sundararajan and A. Najmi,
  "The many Shapley values for model explanation", 2020, "baseline Shapley").

A coalition may mix inputs that no student has together, such as exams passed without exams started.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import factorial
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from model_store.baseline import NumericBins
from model_store.countries import ALPHA2, UNKNOWN_COUNTRY, alpha2_number, country_alpha2, country_code
from model_store.inputs import INPUT_NAMES, NUMERIC_FEATURE_NAMES, country_indices, numeric_features
from model_store.linear import LinearModel

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from model_store.baseline import Baseline
    from model_store.loading import LoadedModel

UNKNOWN: Final = "unknown"
"""The value of a country that is not recognised."""

_COALITIONS: Final = (np.arange(2 ** len(INPUT_NAMES))[:, np.newaxis] >> np.arange(len(INPUT_NAMES))) & 1 == 1
"""Bool (128, 7): whether coalition number k has input i, which is bit i of k."""


@dataclass(frozen=True, slots=True)
class Contribution:
    """What one feature adds to the score.

    Attributes:
        feature: An input, or a feature that the linear model engineers from the inputs.
        value: The feature's value; the country as alpha-2 code, or :data:`UNKNOWN`.
        amount: The amount that the feature adds, in the unit of the reasons.
    """

    feature: str
    value: float | str
    amount: float


@dataclass(frozen=True, slots=True)
class Reasons:
    """The reasons for one probability.

    Attributes:
        model_version: The version that made the prediction.
        probability: The probability of the student.
        unit: The unit of the amounts.
        reference: The seven inputs of the reference student.
        base: The score of the reference student, in the unit.
        contributions: The contribution of each feature, the country first.
    """

    model_version: str
    probability: float
    unit: Literal["log_odds", "probability"]
    reference: Mapping[str, float | str]
    base: float
    contributions: tuple[Contribution, ...]

    @property
    def total(self) -> float:
        """The sum of the base and all amounts: the student's score, up to rounding."""
        return self.base + sum(item.amount for item in self.contributions)

    def as_json(self) -> dict[str, Any]:
        """Return the reasons as JSON values."""
        return {
            "model_version": self.model_version,
            "unit": self.unit,
            "reference": dict(self.reference),
            "base": self.base,
            "contributions": [
                {"feature": item.feature, "value": item.value, self.unit: item.amount}
                for item in self.contributions
            ],
            "total": self.total,
        }


def explain(model: LoadedModel, student: Mapping[str, Any]) -> Reasons:
    """Return the reasons for the probability of one student.

    Args:
        model: The loaded version.
        student: The seven inputs as received, by name; other keys are ignored.
    """
    row = _row(student)
    probability = float(model.predict_probability(row)[0])
    if isinstance(model.probability_model, LinearModel):
        reference = np.array([[UNKNOWN_COUNTRY, 0, 0, 0, 0, 0, 0]], np.float64, order="F")
        base, contributions = _linear_terms(model.probability_model, row)
        return Reasons(model.version, probability, "log_odds", _as_student(reference), base, contributions)
    reference = typical_student(model.baseline)
    base, amounts = shapley_values(model.predict_probability, row, reference)
    contributions = tuple(
        Contribution(name, value, amount)
        for (name, value), amount in zip(_as_student(row).items(), amounts, strict=True)
    )
    return Reasons(model.version, probability, "probability", _as_student(reference), base, contributions)


def shapley_values(
    predict: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    row: NDArray[np.float64],
    reference: NDArray[np.float64],
) -> tuple[float, list[float]]:
    """Return the reference's score, and the exact Shapley value of each input.

    For a sum, each value is the difference of one term:

    >>> row, reference = np.arange(7.0)[np.newaxis], np.ones((1, 7))
    >>> base, amounts = shapley_values(lambda rows: rows.sum(axis=1), row, reference)
    >>> base, np.round(amounts, 9).tolist()
    (7.0, [-1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0])

    Args:
        predict: Returns the scores, float64 (m,), of inputs, float64 (m, 7).
        row: The inputs of the student, float64 (1, 7).
        reference: The inputs of the reference student, float64 (1, 7).
    """
    n = len(INPUT_NAMES)
    scores = predict(np.asfortranarray(np.where(_COALITIONS, row, reference)))
    sizes = _COALITIONS.sum(axis=1)
    weights = np.array([factorial(size) * factorial(n - size - 1) / factorial(n) for size in range(n)])
    amounts = []
    for i in range(n):
        without = np.flatnonzero(~_COALITIONS[:, i])
        gains = scores[without + 2**i] - scores[without]
        amounts.append(float(np.sum(weights[sizes[without]] * gains)))
    return float(scores[0]), amounts


def typical_student(baseline: Baseline) -> NDArray[np.float64]:
    """Return the inputs of a typical student, float64 (1, 7): medians, and the most frequent country.

    A median is the upper edge of the bin with the middle row, which is a value of the training data.
    """
    typical = [float(UNKNOWN_COUNTRY)] * len(INPUT_NAMES)
    for index, name in enumerate(INPUT_NAMES):
        bins = baseline.features[name]
        if not isinstance(bins, NumericBins):
            if ALPHA2.fullmatch(bins.labels[0]):
                typical[index] = float(alpha2_number(bins.labels[0]))
        elif not bins.edges:  # all values are equal
            typical[index] = bins.mean
        else:
            middle = int(np.searchsorted(np.cumsum(bins.counts), sum(bins.counts) / 2))
            typical[index] = bins.edges[min(middle, len(bins.edges) - 1)]
    return np.array([typical], order="F")


def _linear_terms(model: LinearModel, row: NDArray[np.float64]) -> tuple[float, tuple[Contribution, ...]]:
    """Return the intercept, and the terms in the order in which the model adds them up."""
    base = float(model.country_log_odds[UNKNOWN_COUNTRY])
    country = float(model.country_log_odds[country_indices(row)[0]])
    numbers = zip(
        NUMERIC_FEATURE_NAMES, model.coefficients, numeric_features(row, model.weights), strict=True
    )
    return base, (
        Contribution(INPUT_NAMES[0], _as_student(row)[INPUT_NAMES[0]], country - base),
        *(
            Contribution(name, float(column[0]), float(coefficient * column[0]))
            for name, coefficient, column in numbers
        ),
    )


def _row(student: Mapping[str, Any]) -> NDArray[np.float64]:
    """Return a student's inputs, float64 (1, 7)."""
    country, *numbers = (student[name] for name in INPUT_NAMES)
    return np.array([[country_code(str(country)), *map(float, numbers)]], order="F")


def _as_student(row: NDArray[np.float64]) -> dict[str, float | str]:
    """Return inputs, float64 (1, 7), by name, with the country as text."""
    code, *numbers = row[0].tolist()
    country = UNKNOWN if code == UNKNOWN_COUNTRY else str(country_alpha2(int(code)))
    return dict(zip(INPUT_NAMES, [country, *numbers], strict=True))
