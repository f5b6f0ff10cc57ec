"""Engineered features, and the scorer folded from a pipeline on them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from model_store.countries import country_code
from model_store.estimator import EstimatorModel, probability_model
from model_store.features import EngagementFeatures
from model_store.inputs import NUMERIC_FEATURE_NAMES, EngagementWeights
from model_store.linear import LinearModel
from model_store.synthetic import generate_students

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from model_store.training import TrainedModel
    from model_store.training_data import TrainingTable

_STUDENTS = generate_students(1500, seed=3)


def _fitted(*scaler: tuple[str, Any]) -> Pipeline:
    steps = [("features", EngagementFeatures()), *scaler, ("regression", LogisticRegression(max_iter=5000))]
    return Pipeline(steps).fit(_STUDENTS.inputs, _STUDENTS.purchased)


_SCALED = _fitted(("scaler", StandardScaler()))
_UNSCALED = _fitted()

_whole = st.integers(0, 2**63 - 1).map(float)
_real = st.floats(0, allow_nan=False, allow_infinity=False)
_row = st.tuples(st.integers(-1, 675).map(float), _whole, _real, _whole, _whole, _whole, _real)
_rows = st.lists(_row, min_size=1, max_size=70).map(lambda rows: np.array(rows, order="F"))


def test_features_are_what_their_names_say() -> None:
    """Score, success rate and efficiency follow their formulas."""
    row = np.array([[country_code("IN"), 9.0, 30.0, 2.0, 4.0, 3.0, 12.0]])
    features = EngagementFeatures().fit(row)
    values = dict(zip(features.get_feature_names_out(), features.transform(row)[0], strict=True))
    assert values["log_engagement_score"] == pytest.approx(np.log1p(0.5 * 30 + 0.3 * 9 + 0.2 * 2))
    assert values["exam_success_rate"] == pytest.approx(0.75)
    assert values["log_efficiency"] == pytest.approx(np.log1p(30 / 10))
    assert values["log_minutes_spent_on_exams"] == pytest.approx(np.log1p(12))
    assert (values["country_IN"], values["country_other"]) == (1, 0)


def test_success_rate_is_zero_without_exams() -> None:
    """Who started no exam has success rate 0, not a division by zero."""
    row = np.zeros((1, 7))
    values = EngagementFeatures().fit(row).transform(row)[0]
    assert values[NUMERIC_FEATURE_NAMES.index("exam_success_rate")] == 0


def test_rare_and_unknown_countries_share_a_column(students: TrainingTable) -> None:
    """Each row sets exactly one country column; rare countries and unknown texts set the last."""
    features = EngagementFeatures().fit(students.inputs)
    rows = np.zeros((3, 7))
    rows[:, 0] = country_code("IN"), country_code("Tuvalu"), -1
    one_hot = features.transform(rows)[:, len(NUMERIC_FEATURE_NAMES) :]
    assert one_hot.sum(axis=1).tolist() == [1, 1, 1]
    assert one_hot[:, -1].tolist() == [0, 1, 1]


def test_transformer_can_be_cloned() -> None:
    """scikit-learn can copy the transformer with its settings, as cross-validation does."""
    copy = clone(EngagementFeatures(weight_minutes_watched=0.9, min_country_ratio=0.2))
    assert copy.weights.minutes_watched == 0.9
    assert copy.min_country_ratio == 0.2


@pytest.mark.parametrize("weights", [(-1, 1, 1), (0, 0, 0), (np.nan, 1, 1), (np.inf, 1, 1)])
def test_senseless_weights_are_refused(weights: tuple[float, float, float]) -> None:
    """Weights must be finite, at least 0 and not all 0."""
    with pytest.raises(ValueError, match="engagement weights must be"):
        EngagementWeights(*weights)


def test_wrong_width_is_refused() -> None:
    """A matrix of other than seven columns is an error, not a guess."""
    with pytest.raises(ValueError, match="7 inputs"):
        EngagementFeatures().fit(np.zeros((2, 6)))


@given(_rows)
def test_scorer_agrees_with_the_pipeline(rows: NDArray[np.float64]) -> None:
    """The folded sum is the pipeline's probability, with a scaler and without."""
    for pipeline in (_SCALED, _UNSCALED):
        scorer = probability_model(pipeline)
        assert isinstance(scorer, LinearModel)
        difference = scorer.predict_probability(rows) - pipeline.predict_proba(rows)[:, 1]
        assert np.abs(difference).max() <= 1e-12


@given(_rows, st.data())
def test_row_has_the_same_bits_in_any_batch(rows: NDArray[np.float64], data: st.DataObject) -> None:
    """Splitting a batch anywhere, or scoring a row alone, changes not a bit of any probability."""
    scorer = probability_model(_SCALED)
    whole = scorer.predict_probability(rows)
    cut = data.draw(st.integers(0, len(rows)))
    parts = [scorer.predict_probability(part) for part in (rows[:cut], rows[cut:])]
    assert np.concatenate(parts).tobytes() == whole.tobytes()
    alone = [scorer.predict_probability(rows[i : i + 1])[0] for i in range(len(rows))]
    assert np.array(alone).tobytes() == whole.tobytes()
    in_c_order = scorer.predict_probability(np.ascontiguousarray(rows))
    assert in_c_order.tobytes() == whole.tobytes()


@given(_rows)
def test_probability_is_between_0_and_1(rows: NDArray[np.float64]) -> None:
    """For every valid input, even the largest numbers, the score is a probability."""
    probabilities = probability_model(_SCALED).predict_probability(rows)
    assert np.all((probabilities >= 0) & (probabilities <= 1))


def test_large_weights_do_not_overflow_the_score() -> None:
    """An engagement score beyond the largest double still gives a finite feature."""
    row = np.array([[0, 2**62, 1.7e308, 9, 0, 0, 0]], dtype=np.float64)
    features = EngagementFeatures(weight_minutes_watched=1e6).fit(row)
    assert np.isfinite(features.transform(row)).all()


def test_unknown_country_counts_as_other(trained: TrainedModel) -> None:
    """An unknown country scores as a country too rare for a column of its own."""
    rows = np.tile(np.array([0, 5, 40, 1, 0, 0, 0], dtype=np.float64), (2, 1))
    rows[:, 0] = -1, country_code("Tuvalu")
    unknown, rare = probability_model(trained.estimator).predict_probability(rows)
    assert unknown == rare


def test_empty_batch_has_no_probabilities() -> None:
    """No rows give no probabilities, not an error."""
    assert probability_model(_SCALED).predict_probability(np.empty((0, 7), order="F")).shape == (0,)


def test_other_estimators_are_asked_for_probabilities(students: TrainingTable) -> None:
    """An estimator that cannot be folded scores through its own predict_proba."""
    estimator = DummyClassifier(strategy="prior").fit(students.inputs, students.purchased)
    scorer = probability_model(estimator)
    assert isinstance(scorer, EstimatorModel)
    assert scorer.predict_probability(students.inputs[:3]) == pytest.approx([students.purchased.mean()] * 3)
