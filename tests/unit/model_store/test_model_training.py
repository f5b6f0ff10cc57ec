"""Training, its thresholds, and the generated students it can run on."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from model_store.errors import TrainingDataError
from model_store.estimator import probability_model
from model_store.evaluation import MAX_F1, ThresholdCriterion, threshold_curve
from model_store.inputs import EngagementWeights
from model_store.self_test import differences, from_lines, to_lines
from model_store.synthetic import generate_students
from model_store.training import train

if TYPE_CHECKING:
    from model_store.training import TrainedModel
    from model_store.training_data import TrainingTable


def test_quality_is_that_of_a_useful_model() -> None:
    """On 20,000 generated students the model ranks and calibrates as it does on real ones."""
    model = train(generate_students(20_000, seed=1))
    quality, held_out = model.metrics.cross_validated, model.metrics.held_out
    # Mean and three standard deviations over six seeds: the draw of the students moves them this much.
    assert quality.average_precision == pytest.approx(0.852, abs=0.032)
    assert quality.roc_auc == pytest.approx(0.972, abs=0.008)
    assert quality.brier_score == pytest.approx(0.030, abs=0.003)
    # Three standard errors of a fifth of the rows, with some 370 buyers.
    assert held_out.roc_auc == pytest.approx(quality.roc_auc, abs=0.015)
    assert held_out.average_precision == pytest.approx(quality.average_precision, abs=0.06)
    assert model.metrics.cross_validated.rows == 20_000
    assert model.metrics.held_out.rows == pytest.approx(4_000, rel=0.05)  # duplicates stay together
    expected = model.baseline.actual_positive_ratio
    assert model.baseline.score.mean == pytest.approx(expected, rel=0.03)  # calibrated in the large


def test_same_table_gives_the_same_model(students: TrainingTable, trained: TrainedModel) -> None:
    """Training twice gives the same probabilities, threshold, metrics and baseline."""
    again = train(students)
    assert again.threshold == trained.threshold
    assert again.metrics == trained.metrics
    assert again.baseline == trained.baseline
    assert again.self_test == trained.self_test


def test_weights_reach_the_model(students: TrainingTable) -> None:
    """The engagement weights of the caller are used and recorded."""
    weights = EngagementWeights(0.1, 0.1, 0.8)
    model = train(students, weights=weights)
    assert model.engagement_weights == weights
    assert model.estimator["features"].weights == weights


def test_cost_ratio_sets_the_threshold(students: TrainingTable) -> None:
    """A missed buyer nine times as dear as a false alarm puts the threshold at one in ten."""
    model = train(
        students, criterion=ThresholdCriterion("cost", false_positive_cost=1, false_negative_cost=9)
    )
    assert model.threshold.value == pytest.approx(0.1)
    assert (model.threshold.criterion, model.threshold.false_negative_cost) == ("cost", 9)
    assert model.threshold.recall > model.threshold.precision


@pytest.mark.parametrize("costs", [(0, 1), (1, -1), (float("nan"), 1), (1, float("inf"))])
def test_senseless_costs_are_refused(costs: tuple[float, float]) -> None:
    """Costs must be finite and greater than 0."""
    with pytest.raises(ValueError, match="costs must be"):
        ThresholdCriterion("cost", *costs)


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 9999)), min_size=2, max_size=60))
def test_no_threshold_has_a_larger_f1(rows: list[tuple[bool, int]]) -> None:
    """On probabilities of four decimals the chosen threshold's F1 is the largest there is."""
    purchased = np.array([1, *(int(bought) for bought, _ in rows)], dtype=np.int8)
    probabilities = np.array([0.5, *(score / 10_000 for _, score in rows)])
    chosen = threshold_curve(purchased, probabilities).threshold(MAX_F1)
    best = max(f1_score(purchased, probabilities >= value) for value in probabilities)
    assert chosen.f1 == pytest.approx(best)


@pytest.mark.parametrize(("positives", "who"), [(3, "bought"), (3997, "did not buy")])
def test_too_few_of_a_class_are_refused(students: TrainingTable, positives: int, who: str) -> None:
    """A table with a handful of buyers, or of others, is refused with the number it has."""
    purchased = (np.arange(students.rows) < positives).astype(np.int8)
    with pytest.raises(TrainingDataError, match=f"has 3 students who {who}; at least 20"):
        train(replace(students, purchased=purchased))


def test_self_test_detects_another_model(students: TrainingTable, trained: TrainedModel) -> None:
    """The rows pass on their own model, after a round trip, and fail on a slightly different one."""
    rows = from_lines(to_lines(trained.self_test))
    assert rows == trained.self_test
    assert not differences(rows, probability_model(trained.estimator)).any()
    other = train(replace(students, inputs=students.inputs[::-1], purchased=students.purchased[::-1]), seed=1)
    other.estimator["regression"].intercept_ += 1e-6
    assert differences(rows, probability_model(other.estimator)).max() > 1e-9


def test_generated_students_resemble_real_ones() -> None:
    """Share of buyers, zeros, medians and tails are near those of real students."""
    table = generate_students(100_000, seed=1)
    _, days, minutes, courses, started, passed, exam_minutes = table.inputs.T
    assert table.purchased.mean() == pytest.approx(0.092, abs=0.005)
    assert np.mean(days == 0) == pytest.approx(0.040, abs=0.005)
    assert np.median(days) == pytest.approx(113, rel=0.1)
    assert days.max() <= 292
    assert np.median(minutes) == pytest.approx(6.7, rel=0.25)
    assert np.quantile(minutes, 0.95) == pytest.approx(117, rel=0.3)
    assert minutes.min() == pytest.approx(0.1)
    assert np.mean(courses == 1) == pytest.approx(0.87, abs=0.01)
    assert np.mean(started == 0) == pytest.approx(0.914, abs=0.01)
    assert np.mean(passed == 0) == pytest.approx(0.932, abs=0.01)
    assert np.corrcoef(np.log1p(minutes), np.log1p(started))[0, 1] == pytest.approx(0.38, abs=0.05)
    assert np.corrcoef(np.log1p(minutes), np.log1p(courses))[0, 1] == pytest.approx(0.39, abs=0.07)
    assert table.countries.count("IN") / table.rows == pytest.approx(0.19, abs=0.01)
    assert table.purchased[days == 0].mean() == pytest.approx(0.91, abs=0.04)
    assert ((exam_minutes == 0) == (started == 0)).all()


@given(st.integers(0, 2**32), st.integers(1, 200))
def test_generated_students_are_valid_and_repeatable(seed: int, count: int) -> None:
    """Every generated student obeys the rules of the events, and a seed gives the same ones."""
    table = generate_students(count, seed)
    numbers = table.inputs[:, 1:]
    assert np.isfinite(numbers).all()
    assert (numbers >= 0).all()
    assert (numbers[:, [0, 2, 3, 4]] % 1 == 0).all()
    assert (numbers[:, 4] <= numbers[:, 3]).all()
    assert generate_students(count, seed).sha256 == table.sha256
    assert len(table.countries) == table.rows == count
