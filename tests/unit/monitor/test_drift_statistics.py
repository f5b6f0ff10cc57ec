"""The drift formulas against published values, exact distributions and their definitions."""

from __future__ import annotations

import itertools
import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import ncx2  # type: ignore[import-untyped]  # scipy has no types

from consumer.columnar.text import all_equal, hash_strings
from consumer.monitor.drift.statistics import (
    alarm_z,
    digitize,
    mean_shift_sd,
    not_in_sorted,
    previous_occurrence,
    psi,
    psi_threshold,
    ratio_threshold,
    smoothed_ratios,
)


def test_psi_of_a_published_example() -> None:
    """The index of the worked example in the documentation of psi-inference is 0.0677."""
    base = np.array([253, 302, 204, 134, 72, 26, 8])
    current = np.array([177, 262, 285, 158, 88, 25, 6])
    assert round(psi(current / current.sum(), base / base.sum()).item(), 4) == 0.0677


@given(hnp.arrays(np.int64, st.integers(2, 30), elements=st.integers(0, 10_000)))
def test_psi_is_zero_for_equal_shares_and_finite_for_empty_bins(counts: np.ndarray) -> None:
    """Smoothing leaves no bin empty: equal counts have index 0, and empty counts a finite index."""
    ratios = smoothed_ratios(counts)
    assert math.isclose(float(ratios.sum()), 1.0)
    assert psi(ratios, ratios) == 0
    assert math.isfinite(psi(smoothed_ratios(np.zeros_like(counts)), ratios).item())


@given(
    st.lists(st.tuples(st.integers(0, 900), st.integers(1, 900)), min_size=1, max_size=40),
    st.sets(st.integers(1, 39), max_size=5),
)
def test_series_side_by_side_have_the_index_that_each_has_alone(
    counts: list[tuple[int, int]], cuts: set[int]
) -> None:
    """A series has the same shares and index alone and together with other series."""
    live, training = (np.array(column) for column in zip(*counts, strict=True))
    begins = np.array(sorted({0, *(cut for cut in cuts if cut < len(counts))}))
    sizes = np.diff([*begins.tolist(), len(counts)])
    together = psi(smoothed_ratios(live, sizes), smoothed_ratios(training, sizes), sizes)
    alone = [
        psi(smoothed_ratios(live[b:e]), smoothed_ratios(training[b:e])).item()
        for b, e in itertools.pairwise([*begins.tolist(), len(counts)])
    ]
    assert together.tolist() == pytest.approx(alone, rel=1e-12)


@pytest.mark.parametrize("n", [100, 500, 1000, 10_000])
@pytest.mark.parametrize("bins", [3, 10, 22])
@pytest.mark.parametrize("tolerated", [0.0, 0.02, 0.05])
@pytest.mark.parametrize("alpha", [1e-3, 1e-4])
def test_threshold_keeps_its_promise(n: int, bins: int, tolerated: float, alpha: float) -> None:
    """Under the exact noncentral χ², the approximate threshold is exceeded at most with probability alpha."""
    z = NormalDist().inv_cdf(1 - alpha)
    scale = 1 / n + 1 / 10_000
    threshold = psi_threshold(n, 10_000, bins, tolerated, z)
    exceeded = ncx2.sf(threshold / scale, bins - 1, max(tolerated / scale, 1e-12))
    assert alpha * 0.2 < exceeded < alpha * 1.1


@pytest.mark.parametrize(
    ("n", "tolerated", "z", "expected"),
    [(500, 0.0, 3.719, 0.072), (1000, 0.02, 3.719, 0.086), (10_000, 0.05, 4.265, 0.084)],
)
def test_threshold_values(n: int, tolerated: float, z: float, expected: float) -> None:
    """Ten bins and 10,000 training rows give the tabulated thresholds, which approach the tolerated index."""
    assert round(psi_threshold(n, 10_000, 10, tolerated, z), 3) == expected


def test_false_alarms_are_within_the_budget_by_simulation() -> None:
    """Of 20,000 samples without drift, about 1 % exceed a threshold for 1 %."""
    random = np.random.default_rng(7)
    q = np.full(10, 0.1)
    z = alarm_z(100, 1)
    threshold = psi_threshold(1000, 1_000_000, 10, 0.0, z)
    samples = random.multinomial(1000, q, size=20_000)
    alarms = sum(psi(smoothed_ratios(sample), q).item() > threshold for sample in samples)
    assert 0.005 < alarms / 20_000 < 0.015


def test_alarm_z_spreads_the_budget_over_all_series() -> None:
    """One window in 1,000 over nine series gives each series 1/9,000."""
    assert math.isclose(NormalDist().cdf(-alarm_z(1000, 9)), 1 / 9000, rel_tol=1e-9)
    assert alarm_z(1000, 9, sides=2) > alarm_z(1000, 9)


def test_ratio_threshold_covers_the_tolerated_shift() -> None:
    """The threshold of a share is the tolerated shift plus chance, which shrinks with the sample size."""
    assert ratio_threshold(10**9, 10**9, 0.1, 0.01, 3.9) == pytest.approx(0.01, abs=1e-3)
    assert ratio_threshold(500, 6000, 0.1, 0.01, 3.9) > ratio_threshold(1000, 6000, 0.1, 0.01, 3.9)


def test_mean_shift_is_in_standard_deviations_and_may_be_unknown() -> None:
    """The shift is (live mean - mean) / sd, and undefined without rows, variance or a finite sum."""
    assert mean_shift_sd(30.0, 10, 2.0, 0.5) == 2.0
    assert mean_shift_sd(0.0, 0, 2.0, 0.5) is None
    assert mean_shift_sd(30.0, 10, 2.0, 0.0) is None
    assert mean_shift_sd(math.inf, 10, 2.0, 0.5) is None


@given(
    hnp.arrays(np.float64, st.integers(0, 40), elements=st.floats(-100, 100)),
    st.lists(st.floats(-100, 100), max_size=12, unique=True),
)
def test_bins_are_open_below_and_closed_above(column: np.ndarray, edges: list[float]) -> None:
    """Comparing with each edge gives the same bins as a binary search."""
    ascending = tuple(sorted(edges))
    assert np.array_equal(digitize(column, ascending), np.searchsorted(ascending, column, side="left"))


def test_many_bins_are_counted_as_well() -> None:
    """A baseline may have more bins than a byte can count."""
    edges = tuple(float(edge) for edge in range(300))
    assert digitize(np.array([-1.0, 127.5, 300.0]), edges).tolist() == [0, 128, 300]


@given(st.lists(st.integers(0, 8), max_size=300))
def test_previous_rows_are_where_an_id_stood_last(ids: list[int]) -> None:
    """A repeated id has the row of its previous occurrence; a first occurrence has none."""
    expected = [max((j for j in range(i) if ids[j] == x), default=-1) for i, x in enumerate(ids)]
    assert previous_occurrence(np.array(ids, np.uint64)).tolist() == expected


@given(st.lists(st.integers(0, 8), max_size=30), st.sets(st.integers(0, 8)))
def test_not_in_sorted_finds_the_ids_that_are_not_known(ids: list[int], seen: set[int]) -> None:
    """It agrees with a set, also for ids below and above all known ones."""
    found = not_in_sorted(np.array(ids, np.uint64), np.array(sorted(seen), np.uint64))
    assert found.tolist() == [x not in seen for x in ids]


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=30), st.binary(max_size=20))
def test_spans_have_equal_hashes_exactly_if_they_are_equal(texts: list[bytes], between: bytes) -> None:
    """The hash of a text does not depend on its position or on the bytes around it."""
    texts = [*texts, *texts]
    data, begins, ends = between, [], []
    for text in texts:
        begins.append(len(data))
        ends.append(len(data) + len(text))
        data += text + between
    spans = data, np.array(begins, np.int64), np.array(ends, np.int64)
    hashes = hash_strings(*spans).tolist()
    assert len(set(hashes)) == len(set(texts))
    assert dict(zip(texts, hashes, strict=True)) == dict(zip(reversed(texts), reversed(hashes), strict=True))
    assert all_equal(*spans) == (len(set(texts)) == 1)


def test_spans_of_nothing() -> None:
    """Without texts there are no hashes, and all texts are equal."""
    nothing = np.empty(0, np.int64)
    assert hash_strings(b"", nothing, nothing).tolist() == []
    assert all_equal(b"", nothing, nothing)
