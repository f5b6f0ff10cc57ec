"""Generate students with realistic marginals, zeros, correlations and purchase rate.

Each student has one latent standard normal engagement, which drives minutes watched, courses started
and practice exams (a one-factor Gaussian copula). A logistic model draws the purchase. The constants
were fitted once to aggregates of about 12,000 real students; none of them describes a person.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np
import pycountry
from scipy.special import expit, ndtr, ndtri  # type: ignore[import-untyped]  # scipy has no types

from model_store.countries import country_code
from model_store.manifest import digest
from model_store.training_data import TrainingTable

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Country: its share of the students, and its effect on the log-odds of a purchase.
_COUNTRIES: Final = {
    "IN": (0.190, -0.4),
    "US": (0.140, 0.9),
    "EG": (0.082, -0.9),
    "NG": (0.050, -0.1),
    "GB": (0.047, -0.2),
    "CA": (0.030, 0.6),
    "DE": (0.027, -0.3),
    "PK": (0.022, -0.8),
    "SA": (0.019, -0.4),
    "ID": (0.018, -0.3),
    "MA": (0.014, -2.0),
    "FR": (0.013, -1.3),
    "NL": (0.013, 0.4),
    "TR": (0.013, -0.2),
    "AU": (0.012, 0.8),
    "BR": (0.012, 0.8),
    "VN": (0.012, -0.1),
    "PT": (0.012, -1.4),
    "KE": (0.011, 0.2),
    "BD": (0.011, -0.6),
    "PH": (0.010, 0.1),
}
"""The number of other countries, which share the rest evenly and have no effect."""

_JOINED_TODAY_RATIO: Final = 0.04
# Quantiles of the other students' days: nearly uniform over ten months.
_DAYS_QUANTILES: Final = ((0, 0.05, 0.25, 0.5, 0.75, 1), (1, 5, 52, 120, 207, 293))
# Quantiles of the minutes watched; interpolated on a logarithmic scale, since both tails are long.
_MINUTES_QUANTILES: Final = (
    (0, 0.05, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1),
    (0.1, 0.11, 1.1, 6.7, 34, 71, 117, 336, 5000),
)
_NEW_STUDENT_DAYS: Final = 8
_NEW_STUDENT_SHIFT: Final = 0.5
"""Students in their first week watch more (a shift of the latent normal)."""
_MORE_COURSES_RATIO: Final = 0.13
_MOST_COURSES: Final = 16
_OLD_STUDENT_DAYS: Final = 150
_EXAM_TAKERS_RATIO: Final = 0.13
"""The share among students of the last 150 days."""
_OLD_STUDENT_EXAM_SHIFT: Final = -1.0
"""Practice exams are a recent feature: students who joined earlier seldom took one."""
_MOST_EXAMS: Final = 76
_LONGEST_EXAM_MIN: Final = 25.0


def generate_students(count: int, seed: int = 0) -> TrainingTable:
    """Generate students; equal counts and seeds give equal students.

    Args:
        count: The number of students, at least 1.
        seed: The seed of the random generator.
    """
    random = np.random.default_rng(seed)
    days = _days(random, count)
    engagement = random.standard_normal(count)
    minutes = _minutes(engagement, days)
    courses = _courses(random, engagement)
    started, passed, exam_minutes = _exams(random, engagement, days)
    names, shares, effects = _country_table()
    country = random.choice(len(names), size=count, p=shares)
    log_odds = (
        -0.76
        - 1.55 * np.log1p(days)
        + 0.6 * (days == 0)
        + 0.9 * np.log1p(minutes)
        + 0.9 * np.log1p(courses)
        - 0.95 * np.log1p(started)
        + effects[country]
    )
    codes = np.array([country_code(name) for name in names], dtype=np.float64)[country]
    inputs = np.empty((count, 7), order="F")
    for index, column in enumerate((codes, days, minutes, courses, started, passed, exam_minutes)):
        inputs[:, index] = column
    purchased = (random.random(count) < expit(log_odds)).astype(np.int8)
    return TrainingTable(
        countries=np.array(names, dtype=object)[country].tolist(),
        inputs=inputs,
        purchased=purchased,
        sha256=digest(inputs.tobytes(order="F") + purchased.tobytes()),
        source=f"{count} generated students, seed {seed}",
    )


def _days(random: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Draw whole days on the platform, float64 (n,)."""
    days = np.floor(np.interp(random.random(count), *_DAYS_QUANTILES))
    joined_today = random.random(count) < _JOINED_TODAY_RATIO
    return np.where(joined_today, 0.0, days)


def _minutes(engagement: NDArray[np.float64], days: NDArray[np.float64]) -> NDArray[np.float64]:
    """Derive minutes watched in tenths, float64 (n,)."""
    quantile = ndtr(engagement + _NEW_STUDENT_SHIFT * (days < _NEW_STUDENT_DAYS))
    logarithm = np.interp(quantile, _MINUTES_QUANTILES[0], np.log(_MINUTES_QUANTILES[1]))
    minutes: NDArray[np.float64] = np.round(np.exp(logarithm), 1)
    return minutes


def _courses(random: np.random.Generator, engagement: NDArray[np.float64]) -> NDArray[np.float64]:
    """Draw courses started, float64 (n,): usually one; P(more than k) = 0.13 / k²."""
    upper_tail: NDArray[np.float64] = ndtr(-_correlated(random, engagement, 0.65))
    courses = 1 + np.floor(np.sqrt(_MORE_COURSES_RATIO / np.maximum(upper_tail, 1e-12)))
    capped: NDArray[np.float64] = np.minimum(courses, _MOST_COURSES)
    return capped


def _exams(
    random: np.random.Generator, engagement: NDArray[np.float64], days: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Draw practice exams started and passed, and minutes spent on them, float64 (n,) each."""
    count = len(engagement)
    old = _OLD_STUDENT_EXAM_SHIFT * (days >= _OLD_STUDENT_DAYS)
    takers = _correlated(random, engagement, 0.65) + old > ndtri(1 - _EXAM_TAKERS_RATIO)
    # Exam takers are the engaged students; their engagement has about this mean and spread.
    among_takers = _correlated(random, (engagement - 1.1) / 0.85, 0.5)
    started = np.clip(np.floor(np.exp(0.94 + 0.83 * among_takers)), 1, _MOST_EXAMS) * takers
    passed = random.binomial(started.astype(np.int64), random.beta(1.5, 0.95, count))
    minutes_each = np.minimum(4 * np.exp(0.75 * random.standard_normal(count)), _LONGEST_EXAM_MIN)
    return started, passed.astype(np.float64), np.round(started * minutes_each, 2)


def _correlated(
    random: np.random.Generator, latent: NDArray[np.float64], correlation: float
) -> NDArray[np.float64]:
    """Draw standard normals with a given correlation to a standard normal, float64 (n,)."""
    own = random.standard_normal(len(latent))
    return correlation * latent + math.sqrt(1 - correlation**2) * own


def _country_table() -> tuple[list[str], NDArray[np.float64], NDArray[np.float64]]:
    """Return the alpha-2 codes, their shares, float64 (c,), and their effects, float64 (c,)."""
    others = sorted({country.alpha_2 for country in pycountry.countries} - set(_COUNTRIES))
    rest = 1 - sum(share for share, _ in _COUNTRIES.values())
    shares = [share for share, _ in _COUNTRIES.values()] + [rest / len(others)] * len(others)
    effects = [effect for _, effect in _COUNTRIES.values()] + [0.0] * len(others)
    return [*_COUNTRIES, *others], np.array(shares), np.array(effects)
