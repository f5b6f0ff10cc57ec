"""What each feature of a student adds to the log-odds of a purchase, where the model is linear."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from model_store.features import NUMERIC_FEATURE_NAMES, country_indices, input_matrix, numeric_columns
from model_store.inputs import INPUT_NAMES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from model_store.linear import LinearScorer

BASE = "base"
"""A student of no known country who has done nothing; everything else is counted from here."""


@dataclass(frozen=True, slots=True)
class Contribution:
    """One summand of the log-odds.

    Attributes:
        feature: :data:`BASE`, the country, or an engineered feature.
        value: of the feature; 0 for the base, the model's number for a country.
        log_odds: what it adds.
    """

    feature: str
    value: float
    log_odds: float


def contributions(scorer: LinearScorer, inputs: Sequence[float]) -> list[Contribution]:
    """Return the summands, in the order in which the model adds them up.

    Args:
        scorer: the model.
        inputs: the seven inputs of one student, the country as a number.
    """
    row = input_matrix(np.array([inputs], dtype=np.float64))
    base = float(scorer.country_log_odds[-1])
    country = float(scorer.country_log_odds[country_indices(row)[0]])
    summands = [Contribution(BASE, 0.0, base), Contribution(INPUT_NAMES[0], float(row[0, 0]), country - base)]
    for name, coefficient, column in zip(
        NUMERIC_FEATURE_NAMES, scorer.coefficients, numeric_columns(row, scorer.weights), strict=True
    ):
        summands.append(Contribution(name, float(column[0]), float(coefficient * column[0])))
    return summands
