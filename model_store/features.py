"""Engineer the features of the default pipeline, as a scikit-learn transformer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin

from model_store.countries import COUNTRY_CODES, UNKNOWN_COUNTRY, country_alpha2
from model_store.inputs import (
    NUMERIC_FEATURE_NAMES,
    EngagementWeights,
    country_indices,
    input_matrix,
    numeric_features,
)

if TYPE_CHECKING:
    from typing import Self

    from numpy.typing import NDArray


class EngagementFeatures(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # sklearn is untyped
    """Engineer a student's features: float64 (m, 7) inputs to float64 (m, k).

    The country is one-hot encoded. Every country with a share of at least ``min_country_ratio`` in
    training has its own column; all other countries and unknown texts share the last column.

    Attributes:
        country_codes_: The numbers of the countries with their own column, ascending.
    """

    def __init__(
        self,
        weight_minutes_watched: float = 0.5,
        weight_days_on_platform: float = 0.3,
        weight_courses_started: float = 0.2,
        min_country_ratio: float = 0.01,
    ) -> None:
        self.weight_minutes_watched = weight_minutes_watched
        self.weight_days_on_platform = weight_days_on_platform
        self.weight_courses_started = weight_courses_started
        self.min_country_ratio = min_country_ratio

    @property
    def weights(self) -> EngagementWeights:
        """The weights of the engagement score."""
        return EngagementWeights(
            self.weight_minutes_watched, self.weight_days_on_platform, self.weight_courses_started
        )

    def fit(self, X: Any, y: object = None) -> Self:  # noqa: ARG002, N803 - sklearn's signature
        """Learn which countries get their own column."""
        codes, counts = np.unique(country_indices(input_matrix(X)), return_counts=True)
        frequent = counts >= self.min_country_ratio * counts.sum()
        self.country_codes_ = [int(code) for code in codes[frequent] if code != UNKNOWN_COUNTRY]
        return self

    def transform(self, X: Any) -> NDArray[np.float64]:  # noqa: N803 - sklearn's signature
        """Return the engineered features, float64 (m, k) in Fortran order."""
        inputs = input_matrix(X)
        features = np.empty((len(inputs), len(self.get_feature_names_out())), order="F")
        for index, column in enumerate(numeric_features(inputs, self.weights)):
            features[:, index] = column
        country_column = self.country_columns()[country_indices(inputs)]
        for index in range(len(self.country_codes_) + 1):
            features[:, len(NUMERIC_FEATURE_NAMES) + index] = country_column == index
        return features

    def country_columns(self) -> NDArray[np.intp]:
        """Return the index of the one-hot column for each country number, intp (677,); unknown is last."""
        columns = np.full(COUNTRY_CODES + 1, len(self.country_codes_), dtype=np.intp)
        columns[self.country_codes_] = np.arange(len(self.country_codes_))
        return columns

    def get_feature_names_out(self, input_features: object = None) -> NDArray[np.object_]:  # noqa: ARG002 - sklearn's signature
        """Return the names of the engineered features, object (k,)."""
        countries = [f"country_{country_alpha2(code)}" for code in self.country_codes_]
        return np.array([*NUMERIC_FEATURE_NAMES, *countries, "country_other"], dtype=object)
