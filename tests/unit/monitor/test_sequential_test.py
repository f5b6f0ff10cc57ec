"""The sequential test keeps its error, and finds real differences."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from consumer.monitor.sequential_test import Preference, SequentialTest

ERROR_RATIO = 0.05

chances = st.floats(0, 1)


@given(
    st.integers(0, 40).flatmap(lambda n: st.tuples(*(arrays(np.float64, n, elements=chances),) * 2)),
    st.data(),
)
def test_batches_do_not_matter(probabilities: tuple[np.ndarray, np.ndarray], data: st.DataObject) -> None:
    """The evidence is the same, however the outcomes are split into batches."""
    p, q = probabilities
    y = data.draw(arrays(np.int64, len(p), elements=st.integers(0, 1)))
    cut = data.draw(st.integers(0, len(p)))
    whole = SequentialTest().add(p, q, y)
    parts = SequentialTest().add(p[:cut], q[:cut], y[:cut]).add(p[cut:], q[cut:], y[cut:])
    assert parts.outcomes == whole.outcomes
    assert np.allclose(parts.log_capital_better, whole.log_capital_better)
    assert np.allclose(parts.log_capital_worse, whole.log_capital_worse)
    assert np.isclose(parts.peak_better, whole.peak_better)
    assert np.isclose(parts.peak_worse, whole.peak_worse)


@given(
    st.integers(1, 60).flatmap(lambda n: st.tuples(*(arrays(np.float64, n, elements=chances),) * 2)),
    st.data(),
)
def test_a_model_that_did_worse_has_no_evidence(
    probabilities: tuple[np.ndarray, np.ndarray], data: st.DataObject
) -> None:
    """The capital is at most 1 while the contender's total squared error is not smaller."""
    p, q = probabilities
    y = data.draw(arrays(np.int64, len(p), elements=st.integers(0, 1)))
    test = SequentialTest().add(p, q, y)
    mean_capital = np.mean(np.exp(test.log_capital_better))
    if test.contender_squared_error >= test.champion_squared_error:
        assert mean_capital <= 1 + 1e-9


def runs(n_runs: int, contender_noise: float, champion_noise: float) -> list[Preference]:
    """Return what the test says after 3,000 outcomes, in runs with errors in the log-odds of each model."""
    random = np.random.default_rng(3)
    preferences = []
    for _ in range(n_runs):
        odds = random.normal(-3, 2, 3000)

        def probabilities(noise: float, odds: np.ndarray = odds) -> np.ndarray:
            return np.asarray(1 / (1 + np.exp(-odds - random.normal(0, noise, len(odds)))))

        purchased = (random.random(len(odds)) < probabilities(0)).astype(np.int64)
        test = SequentialTest().add(probabilities(champion_noise), probabilities(contender_noise), purchased)
        preferences.append(test.preference(ERROR_RATIO))
    return preferences


def test_equally_good_models_are_seldom_told_apart() -> None:
    """In 400 runs of equally good models, at most the stated error calls the contender better, or worse."""
    preferences = runs(400, 1.0, 1.0)
    allowed = 400 * ERROR_RATIO
    assert preferences.count(Preference.BETTER) <= allowed
    assert preferences.count(Preference.WORSE) <= allowed


def test_clear_differences_are_found() -> None:
    """A clearly better contender is called better, a clearly worse one worse."""
    assert runs(50, 0.0, 1.5).count(Preference.BETTER) == 50
    assert runs(50, 1.5, 0.0).count(Preference.WORSE) == 50


def test_a_decision_stays() -> None:
    """Evidence that was sufficient once stays sufficient: the error covers every moment."""
    zeros, ones, purchased = np.zeros(60), np.ones(60), np.ones(60, np.int64)
    test = SequentialTest().add(zeros, ones, purchased)
    assert test.preference(0.01) == Preference.BETTER
    assert test.add(ones, zeros, purchased).preference(0.01) == Preference.BETTER
