"""Columns to matrix: the engineered features, the same code in training and in serving.

Every operation is elementwise on one contiguous column, so that a row's features have the same
bits alone and in any batch. (BLAS would not promise that: its kernels depend on the batch size.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin

from model_store.countries import COUNTRY_CODES, UNKNOWN_COUNTRY, country_alpha2
from model_store.inputs import INPUT_NAMES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

    from numpy.typing import NDArray

__all__ = ["INPUT_NAMES", "NUMERIC_FEATURE_NAMES", "EngagementFeatures", "EngagementWeights"]

NUMERIC_FEATURE_NAMES: Final = (
    "log_days_on_platform",
    "log_minutes_watched",
    "log_courses_started",
    "log_practice_exams_started",
    "log_practice_exams_passed",
    "log_minutes_spent_on_exams",
    "log_engagement_score",
    "exam_success_rate",
    "log_efficiency",
)
"""The features before the country's, in the order of :func:`numeric_columns`."""

EXAMS_EPSILON: Final = 1e-9
"""Keeps passed / started defined, and 0, when no exam was started."""

DAYS_EPSILON: Final = 1.0
"""Minutes per day counts the day the student joined; smaller values measured no better."""

_LARGEST: Final = np.finfo(np.float64).max


@dataclass(frozen=True, slots=True)
class EngagementWeights:
    """Weights of the engagement score, each finite and at least 0, not all 0.

    Raises:
        ValueError: a weight is outside of that.
    """

    minutes_watched: float = 0.5
    days_on_platform: float = 0.3
    courses_started: float = 0.2

    def __post_init__(self) -> None:
        """Check the weights."""
        weights = (self.minutes_watched, self.days_on_platform, self.courses_started)
        if not (all(0 <= weight < np.inf for weight in weights) and any(weights)):
            raise ValueError(
                f"engagement weights must be finite, at least 0 and not all 0, but are {weights}"
            )


def input_matrix(X: Any) -> NDArray[np.float64]:  # noqa: N803 - sklearn's array-like, its name
    """Return X as float64 (m, 7) with contiguous columns, without a copy if it is so already.

    Raises:
        ValueError: X does not have seven columns.
    """
    inputs = np.asfortranarray(X, dtype=np.float64)
    if inputs.ndim != 2 or inputs.shape[1] != len(INPUT_NAMES):  # noqa: PLR2004 - a matrix has 2
        raise ValueError(f"expected a matrix of {len(INPUT_NAMES)} inputs, got shape {inputs.shape}")
    return inputs


def numeric_columns(inputs: NDArray[np.float64], weights: EngagementWeights) -> Iterator[NDArray[np.float64]]:
    """Yield the features of :data:`NUMERIC_FEATURE_NAMES` one by one, float64 (m,) each.

    Args:
        inputs: float64 (m, 7) as :func:`input_matrix` returns it.
        weights: of the engagement score. The score is their weighted sum of minutes, days and
            courses; counts and minutes are heavy-tailed, hence log(1 + x).
    """
    days, minutes, courses, started, passed, exam_minutes = inputs.T[1:]
    for column in (days, minutes, courses, started, passed, exam_minutes):
        yield np.log1p(column)
    with np.errstate(over="ignore"):
        engagement = minutes * weights.minutes_watched
        engagement += days * weights.days_on_platform
        engagement += courses * weights.courses_started
    # Minutes near the largest double are valid input; infinity would turn a score into NaN.
    yield np.log1p(np.minimum(engagement, _LARGEST))
    yield passed / (started + EXAMS_EPSILON)
    yield np.log1p(minutes / (days + DAYS_EPSILON))


def country_indices(inputs: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the country numbers as indices, intp (m,); unknown is -1, so a table's last entry."""
    return inputs[:, 0].astype(np.intp)


class EngagementFeatures(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # sklearn is untyped
    """Engineer the features of a student: float64 (m, 7) inputs to float64 (m, k).

    The country becomes one 0/1 column for each country with a share of at least
    ``min_country_ratio`` in training, and one for all others and for texts that are no country.

    Attributes:
        country_codes_: numbers of the countries with a column of their own, ascending.
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
        """Learn which countries get a column of their own."""
        codes, counts = np.unique(country_indices(input_matrix(X)), return_counts=True)
        frequent = counts >= self.min_country_ratio * counts.sum()
        self.country_codes_ = [int(code) for code in codes[frequent] if code != UNKNOWN_COUNTRY]
        return self

    def transform(self, X: Any) -> NDArray[np.float64]:  # noqa: N803 - sklearn's signature
        """Return the engineered features, float64 (m, k) in Fortran order."""
        inputs = input_matrix(X)
        features = np.empty((len(inputs), len(self.get_feature_names_out())), order="F")
        for index, column in enumerate(numeric_columns(inputs, self.weights)):
            features[:, index] = column
        category = self.country_columns()[country_indices(inputs)]
        for index in range(len(self.country_codes_) + 1):
            features[:, len(NUMERIC_FEATURE_NAMES) + index] = category == index
        return features

    def country_columns(self) -> NDArray[np.intp]:
        """Return which country column each number sets to 1: intp (677,), unknown last."""
        columns = np.full(COUNTRY_CODES + 1, len(self.country_codes_), dtype=np.intp)
        columns[self.country_codes_] = np.arange(len(self.country_codes_))
        return columns

    def get_feature_names_out(self, input_features: object = None) -> NDArray[np.object_]:  # noqa: ARG002 - sklearn's signature
        """Return the names of the engineered features, object (k,)."""
        countries = [f"country_{country_alpha2(code)}" for code in self.country_codes_]
        return np.array([*NUMERIC_FEATURE_NAMES, *countries, "country_other"], dtype=object)
