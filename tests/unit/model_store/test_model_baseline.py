"""Drift bins frozen at training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from model_store.baseline import Baseline, NumericBins, freeze_baseline
from model_store.countries import country_code
from model_store.inputs import INPUT_NAMES

if TYPE_CHECKING:
    from model_store.training import TrainedModel
    from model_store.training_data import TrainingTable


def _baseline(column: list[float]) -> NumericBins:
    """Bins of one numeric input."""
    inputs = np.zeros((len(column), 7), order="F")
    inputs[:, 2] = column
    flat = np.zeros(len(column))
    bins = freeze_baseline(inputs, flat.astype(np.int8), flat, 0.5).features["minutes_watched"]
    assert isinstance(bins, NumericBins)
    return bins


def test_training_rows_fill_the_bins(students: TrainingTable, trained: TrainedModel) -> None:
    """Counting the training rows again gives the frozen counts; each feature's ratios sum to 1."""
    baseline = trained.baseline
    scores = np.full(students.rows, 0.5)
    counts = baseline.bin_counts(students.inputs, scores)
    for name, bins in baseline.features.items():
        assert counts[name].tolist() == list(bins.counts), name
        assert bins.ratios.sum() == pytest.approx(1), name
        assert (bins.ratios > 0).all(), name
    assert sum(baseline.score.counts) == counts["score"].sum() == baseline.rows == students.rows


def test_json_round_trip(trained: TrainedModel) -> None:
    """A baseline read back from its JSON is the same."""
    assert Baseline.model_validate_json(trained.baseline.model_dump_json()) == trained.baseline
    assert tuple(trained.baseline.features) == INPUT_NAMES


def test_continuous_column_gets_deciles() -> None:
    """Without ties, ten bins hold a tenth each."""
    bins = _baseline([float(value) for value in range(1, 1001)])
    assert bins.labels == ("b1", "b2", "b3", "b4", "b5", "b6", "b7", "b8", "b9", "b10")
    assert bins.counts == (100,) * 10


def test_frequent_zero_gets_its_own_bin() -> None:
    """Where zeros are frequent they are one bin, and positive values are cut no finer than 2 %."""
    bins = _baseline([0.0] * 900 + [float(value) for value in range(1, 101)])
    assert bins.labels == ("zero", "b1", "b2", "b3", "b4", "b5")
    assert bins.counts == (900, 20, 20, 20, 20, 20)


def test_coinciding_edges_merge() -> None:
    """A value that spans several deciles makes one bin of them, and no bin is empty."""
    bins = _baseline([1.0] * 870 + [2.0] * 90 + [5.0] * 40)
    assert bins.edges == (1.0, 2.0)
    assert bins.counts == (870, 90, 40)


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_constant_column_has_one_bin(value: float) -> None:
    """A column of one value is one bin."""
    bins = _baseline([value] * 50)
    assert bins.counts == (50,)
    assert bins.edges == ()


@given(st.floats(allow_nan=False))
def test_every_value_has_a_bin(value: float) -> None:
    """Outer bins are open: values never seen in training have a bin too."""
    bins = _baseline([0.0] * 20 + [float(v) for v in range(100)])
    assert 0 <= bins.bin_indices(np.array([value]))[0] < len(bins.labels)


def test_countries_fall_into_frequent_other_and_unknown(students: TrainingTable) -> None:
    """Frequent countries have bins of their own, at most 20; the rest is other or unknown."""
    flat = np.zeros(students.rows)
    bins = freeze_baseline(students.inputs, flat.astype(np.int8), flat, 0.5).features["student_country"]
    assert bins.labels[0] == "IN"
    assert len(bins.labels) <= 22
    codes = np.array([country_code("IN"), country_code("Tuvalu"), -1], dtype=np.float64)
    assert [bins.labels[i] for i in bins.bin_indices(codes)] == ["IN", "other", "unknown"]


def test_rates_are_recorded(students: TrainingTable) -> None:
    """The share predicted at the threshold and the share that bought are both kept."""
    scores = np.linspace(0, 1, students.rows)
    baseline = freeze_baseline(students.inputs, students.purchased, scores, 0.75)
    assert baseline.predicted_positive_ratio == pytest.approx(0.25, abs=0.001)
    assert baseline.actual_positive_ratio == pytest.approx(students.purchased.mean())


def test_inconsistent_json_is_refused(trained: TrainedModel) -> None:
    """Bins whose labels and counts do not match are no baseline."""
    text = trained.baseline.model_dump_json()
    with pytest.raises(ValidationError, match="labels and"):
        Baseline.model_validate_json(text.replace('"labels":["b1",', '"labels":[', 1))
