"""A probability taken apart adds up to itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_store.inputs import NUMERIC_FEATURE_NAMES, EngagementWeights
from model_store.linear import BASE, LinearModel

MODEL = LinearModel(
    weights=EngagementWeights(),
    coefficients=tuple(0.3 * (-1) ** n * (n + 1) for n in range(len(NUMERIC_FEATURE_NAMES))),
    country_log_odds=np.linspace(-2.0, 1.0, 677),
)


@given(
    country=st.integers(-1, 675),
    numbers=st.lists(st.integers(0, 100_000), min_size=6, max_size=6),
)
def test_the_summands_make_the_probability(country: int, numbers: list[int]) -> None:
    """Whatever the student, to within rounding."""
    inputs: Any = [country, *numbers]
    parts = MODEL.contributions(inputs)
    assert [part.feature for part in parts] == [BASE, "student_country", *NUMERIC_FEATURE_NAMES]
    probability = MODEL.predict_probability(np.array([inputs], dtype=np.float64))[0]
    log_odds = sum(part.log_odds for part in parts)
    with np.errstate(over="ignore"):  # more exams passed than started: no event, and a probability of 0
        assert 1 / (1 + np.exp(-log_odds)) == pytest.approx(probability, rel=1e-9)


def test_a_country_that_is_not_known_adds_nothing() -> None:
    """It is the base that everything else is counted from."""
    _, country, *_ = MODEL.contributions([-1, 0, 0, 0, 0, 0, 0])
    assert country.log_odds == 0
