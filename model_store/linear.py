"""The linear model: a logistic regression on the engineered features as one weighted sum.

It is fast, gives a row the same bits alone and in any batch, and its log-odds can be split into one
contribution per feature. This module needs NumPy only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from model_store.inputs import (
    INPUT_NAMES,
    NUMERIC_FEATURE_NAMES,
    EngagementWeights,
    country_indices,
    input_matrix,
    numeric_features,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

BASE: Final = "base"
"""The contribution of a student without activity from an unknown country: the intercept."""


class ProbabilityModel(Protocol):
    """A model that predicts the probability of a purchase from the seven inputs."""

    def predict_probability(self, inputs: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the probability of a purchase, float64 (m,), for inputs float64 (m, 7)."""


@dataclass(frozen=True, slots=True)
class Contribution:
    """The part of the log-odds that one feature adds.

    Attributes:
        feature: The name: :data:`BASE`, the country, or an engineered feature.
        value: The feature's value: 0 for the base, the country's number for the country.
        log_odds: The amount that the feature adds to the log-odds.
    """

    feature: str
    value: float
    log_odds: float


@dataclass(frozen=True, slots=True, eq=False)
class LinearModel:
    """A logistic regression on the engineered features.

    Attributes:
        weights: The weights of the engagement score.
        coefficients: The log-odds per unit of each numeric feature, in their order.
        country_log_odds: The intercept plus the country's coefficient for each country number,
            float64 (677,); the last entry is the unknown country's.
    """

    weights: EngagementWeights
    coefficients: tuple[float, ...]
    country_log_odds: NDArray[np.float64]

    def predict_probability(self, inputs: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the probability of a purchase, float64 (m,), for inputs float64 (m, 7).

        The sum is accumulated column by column in a fixed order. BLAS is not used because its result
        for a row depends on the number of rows.
        """
        inputs = input_matrix(inputs)
        log_odds = self.country_log_odds[country_indices(inputs)]
        for coefficient, column in zip(
            self.coefficients, numeric_features(inputs, self.weights), strict=True
        ):
            log_odds += coefficient * column
        with np.errstate(over="ignore"):  # exp overflows to infinity where the probability is 0
            return 1.0 / (1.0 + np.exp(-log_odds))

    def contributions(self, inputs: Sequence[float]) -> list[Contribution]:
        """Return one student's contributions, in the order in which the model adds them up.

        Args:
            inputs: The seven inputs, the country as its number.
        """
        row = input_matrix(np.array([inputs], dtype=np.float64))
        base = float(self.country_log_odds[-1])
        country = float(self.country_log_odds[country_indices(row)[0]])
        parts = [
            Contribution(BASE, 0.0, base),
            Contribution(INPUT_NAMES[0], float(row[0, 0]), country - base),
        ]
        for name, coefficient, column in zip(
            NUMERIC_FEATURE_NAMES, self.coefficients, numeric_features(row, self.weights), strict=True
        ):
            parts.append(Contribution(name, float(column[0]), float(coefficient * column[0])))
        return parts
