"""Compute the linear model: a logistic regression on the engineered features, as one weighted sum.

It is fast, gives a row the same bits alone and in any batch, and its log-odds are a sum of one term
per feature. It is stored as numbers (JSON), so loading it runs no code and needs neither
pickle nor scikit-learn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from model_store.countries import COUNTRY_CODES, alpha2_number, country_alpha2
from model_store.inputs import (
    NUMERIC_FEATURE_NAMES,
    EngagementWeights,
    country_indices,
    input_matrix,
    numeric_features,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray


class ProbabilityModel(Protocol):
    """A model that predicts the probability of a purchase from the seven inputs."""

    def predict_probability(self, inputs: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the probability of a purchase, float64 (m,), for inputs float64 (m, 7)."""


class _Numbers(BaseModel):
    """The content of ``linear.json``."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    weights: EngagementWeights
    coefficients: dict[str, float]
    country_log_odds: dict[Annotated[str, Field(pattern="^[A-Z]{2}$")], float]
    other_country_log_odds: float


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

    def to_json(self) -> bytes:
        """Return the numbers as JSON; :meth:`from_json` restores them to the last bit."""
        other = float(self.country_log_odds[-1])
        numbers = _Numbers(
            weights=self.weights,
            coefficients=dict(zip(NUMERIC_FEATURE_NAMES, self.coefficients, strict=True)),
            country_log_odds={
                str(country_alpha2(code)): float(log_odds)
                for code, log_odds in enumerate(self.country_log_odds[:-1])
                if log_odds != other
            },
            other_country_log_odds=other,
        )
        return f"{numbers.model_dump_json(indent=2)}\n".encode()

    @classmethod
    def from_json(cls, content: bytes) -> LinearModel:
        """Restore a model.

        Raises:
            ValueError: The content is not a linear model (pydantic's ValidationError), or it has
                other features than this release computes.
        """
        numbers = _Numbers.model_validate_json(content)
        if set(numbers.coefficients) != set(NUMERIC_FEATURE_NAMES):
            raise ValueError("it has other engineered features than this release computes")
        country_log_odds = np.full(COUNTRY_CODES + 1, numbers.other_country_log_odds)
        for alpha_2, log_odds in numbers.country_log_odds.items():
            country_log_odds[alpha2_number(alpha_2)] = log_odds
        return cls(
            weights=numbers.weights,
            coefficients=tuple(numbers.coefficients[name] for name in NUMERIC_FEATURE_NAMES),
            country_log_odds=country_log_odds,
        )
