"""Define the seven inputs of a prediction, and the numeric features that the linear model computes from them.

An input matrix is float64 of shape (m, 7) in Fortran order, so that every column is contiguous.
Column 0 is the country's number (:func:`model_store.countries.country_code`); the other columns are
counts, days and minutes as received.

Every operation is elementwise on one column. A row's features therefore have the same bits alone
and in any batch. (BLAS does not guarantee this, because its kernels depend on the batch size.)

This module needs NumPy only: a scorer with a linear model never imports scikit-learn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

INPUT_NAMES: Final = (
    "student_country",
    "days_on_platform",
    "minutes_watched",
    "courses_started",
    "practice_exams_started",
    "practice_exams_passed",
    "minutes_spent_on_exams",
)

INTEGER_INPUTS: Final = frozenset(
    {"days_on_platform", "courses_started", "practice_exams_started", "practice_exams_passed"}
)
"""The inputs that the event schema declares as integers."""

COUNTRY_MIN_CHARACTERS: Final = 2
COUNTRY_MAX_CHARACTERS: Final = 64

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
"""The names of the features that :func:`numeric_features` yields, in order."""

EXAMS_EPSILON: Final = 1e-9
"""Added to the exams started: passed / started is then 0, not undefined, when no exam was started."""

DAYS_EPSILON: Final = 1.0
"""Added to the days on the platform, so that the day of joining counts; smaller values were not better."""

_LARGEST: Final = np.finfo(np.float64).max


@dataclass(frozen=True, slots=True)
class EngagementWeights:
    """The weights of the engagement score: each finite and at least 0, not all 0.

    Raises:
        ValueError: The weights break this rule.
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


def input_matrix(X: Any) -> NDArray[np.float64]:  # noqa: N803 - scikit-learn's name for it
    """Convert an array-like to float64 (m, 7) in Fortran order; copy only if necessary.

    Raises:
        ValueError: X does not have seven columns.
    """
    inputs = np.asfortranarray(X, dtype=np.float64)
    if inputs.ndim != 2 or inputs.shape[1] != len(INPUT_NAMES):  # noqa: PLR2004 - a matrix has 2
        raise ValueError(f"expected a matrix of {len(INPUT_NAMES)} inputs, got shape {inputs.shape}")
    return inputs


def numeric_features(
    inputs: NDArray[np.float64], weights: EngagementWeights
) -> Iterator[NDArray[np.float64]]:
    """Yield the features of :data:`NUMERIC_FEATURE_NAMES`, float64 (m,) each.

    Counts and minutes are heavy-tailed, hence log(1 + x).

    Args:
        inputs: The inputs as :func:`input_matrix` returns them, float64 (m, 7).
        weights: The weights of the engagement score, a weighted sum of minutes, days and courses.
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
    """Return the country numbers as indices, intp (m,).

    An unknown country is -1, which selects a table's last entry:

    >>> table = np.array([10, 20, 99])
    >>> table[country_indices(np.array([[0.0], [1.0], [-1.0]]))].tolist()
    [10, 20, 99]
    """
    return inputs[:, 0].astype(np.intp)
