"""Scores a prediction's inputs again with the version that it names, and takes the result apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from model_store.countries import UNKNOWN_COUNTRY, country_alpha2, country_code
from model_store.errors import ModelStoreError
from model_store.inputs import INPUT_NAMES
from model_store.linear import Contribution, LinearModel

if TYPE_CHECKING:
    from model_store.store import ModelStore


@dataclass(frozen=True, slots=True)
class Scoring:
    """How a probability came about.

    Attributes:
        problem: why this cannot be told, or ``None``.
        country: the country that the text was taken for, ISO 3166 alpha-2; ``None`` is unknown.
        probability: of the same inputs, scored again now.
        contributions: summands of the log-odds; empty where the model is not linear.
    """

    problem: str | None = None
    country: str | None = None
    probability: float | None = None
    contributions: Sequence[Contribution] = ()

    @property
    def log_odds(self) -> float:
        """The sum."""
        return sum(one.log_odds for one in self.contributions)

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "problem": self.problem,
            "country": self.country,
            "probability_now": self.probability,
            "log_odds": self.log_odds if self.contributions else None,
            "contributions": [
                {"feature": one.feature, "value": one.value, "log_odds": one.log_odds}
                for one in self.contributions
            ],
        }


def scoring(store: ModelStore, version: str, features: Mapping[str, Any]) -> Scoring:
    """Score again.

    Args:
        store: where versions are.
        version: the one that the prediction names.
        features: the seven inputs as received.
    """
    try:
        model = store.load(version)
    except ModelStoreError as error:
        return Scoring(problem=str(error))
    number = country_code(str(features[INPUT_NAMES[0]]))
    inputs = [float(number), *(float(features[name]) for name in INPUT_NAMES[1:])]
    probability = float(model.predict_probability(np.array([inputs], order="F"))[0])
    country = None if number == UNKNOWN_COUNTRY else country_alpha2(number)
    if not isinstance(model.probability_model, LinearModel):
        what = model.manifest.estimator_class
        return Scoring(f"{what} is no sum that could be taken apart", country, probability)
    return Scoring(None, country, probability, model.probability_model.contributions(inputs))
