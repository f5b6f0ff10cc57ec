"""The reasons for a probability add up to it, whatever the model."""

from __future__ import annotations

from itertools import permutations
from math import exp, factorial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import HistGradientBoostingClassifier

from model_store.inputs import INPUT_NAMES, NUMERIC_FEATURE_NAMES
from model_store.reasons import explain, shapley_values, typical_student
from model_store.store import ModelStore
from model_store.training import assess

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from model_store.loading import LoadedModel
    from model_store.training import TrainedModel
    from model_store.training_data import TrainingTable

_COUNTS = st.integers(0, 100_000)
_STUDENTS = st.builds(
    lambda country, days, minutes, courses, started, passed, spent: dict(
        zip(INPUT_NAMES, (country, days, minutes, courses, started, min(passed, started), spent), strict=True)
    ),
    st.sampled_from(["IN", "us", "Namibia", "Atlantis"]),
    *[_COUNTS] * 6,
)


@pytest.fixture(scope="module")
def linear(trained: TrainedModel, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """The default model."""
    store = ModelStore(tmp_path_factory.mktemp("linear"), "purchase")
    return store.load(store.add(trained))


@pytest.fixture(scope="module")
def boosted(students: TrainingTable, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """Boosted trees."""
    store = ModelStore(tmp_path_factory.mktemp("boosted"), "purchase")
    estimator = HistGradientBoostingClassifier(max_iter=20).fit(students.inputs, students.purchased)
    return store.load(store.add(assess(students, estimator, unseen=True)))


@given(student=_STUDENTS)
def test_terms_of_the_linear_model_add_up(linear: LoadedModel, student: dict[str, Any]) -> None:
    """Base and terms are the log-odds of the probability."""
    reasons = explain(linear, student)
    assert [item.feature for item in reasons.contributions] == ["student_country", *NUMERIC_FEATURE_NAMES]
    assert 1 / (1 + exp(-reasons.total)) == pytest.approx(reasons.probability, rel=1e-9)


@given(student=_STUDENTS)
@settings(max_examples=50, deadline=None)
def test_shapley_values_add_up(boosted: LoadedModel, student: dict[str, Any]) -> None:
    """Base and values are the probability; an input that equals the reference's adds nothing."""
    reasons = explain(boosted, student)
    assert reasons.unit == "probability"
    assert tuple(item.feature for item in reasons.contributions) == INPUT_NAMES
    assert reasons.total == pytest.approx(reasons.probability, abs=1e-12)
    for item in reasons.contributions:
        if item.value == reasons.reference[item.feature]:
            assert item.amount == pytest.approx(0, abs=1e-15)


def test_shapley_values_are_means_over_all_orders() -> None:
    """The weights agree with Shapley's own definition, on a function with interactions."""

    def product(rows: NDArray[np.float64]) -> NDArray[np.float64]:
        result: NDArray[np.float64] = np.prod(rows[:, :5], axis=1) + rows[:, 5]
        return result

    row, reference = np.arange(2.0, 9.0)[np.newaxis], np.ones((1, 7))
    sums = np.zeros(7)
    for order in permutations(range(7)):
        current = reference.copy()
        for i in order:
            before = product(current)[0]
            current[0, i] = row[0, i]
            sums[i] += product(current)[0] - before
    base, amounts = shapley_values(product, row, reference)
    assert base == 2
    assert amounts == pytest.approx(sums / factorial(7))


def test_unknown_country_adds_nothing_to_the_linear_model(linear: LoadedModel) -> None:
    """The reference of the linear model is a student of an unknown country."""
    student = dict.fromkeys(INPUT_NAMES[1:], 0) | {"student_country": "Atlantis"}
    reasons = explain(linear, student)
    assert {item.amount for item in reasons.contributions} == {0}
    assert reasons.reference == student | {"student_country": "unknown"}


def test_typical_student_is_in_the_middle(boosted: LoadedModel, students: TrainingTable) -> None:
    """Medians of the training data, and its most frequent country."""
    typical = typical_student(boosted.baseline)[0]
    codes, counts = np.unique(students.inputs[:, 0], return_counts=True)
    assert typical[0] == codes[counts.argmax()]
    for value, column in zip(typical[1:], students.inputs.T[1:], strict=True):
        assert np.mean(column < value) <= 0.55
        assert np.mean(column <= value) >= 0.45
