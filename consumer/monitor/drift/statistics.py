"""Measure how far live data differs from training data, and how far is too far. Pure.

The null hypothesis is not "nothing has changed", which every large enough sample refutes, but "the change
is smaller than we tolerate".
"""

from __future__ import annotations

from functools import lru_cache
from math import exp, isfinite, log, log1p, sqrt
from statistics import NormalDist
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from consumer.columnar.arrays import FloatArray, IntArray

_SMOOTHING: Final = 0.5
"""The pseudo-count of every bin (Jeffreys' prior), so that an empty bin has a finite logarithm."""


def smoothed_ratios(counts: NDArray[Any], sizes: IntArray | None = None) -> FloatArray:
    """Return the share of each bin, float64 (B,): (c + 0.5) / (n + 0.5 b) for a series of b bins.

    Args:
        counts: (B,), the bins of one series, or of several series one after the other.
        sizes: The number of bins of each series, int64 (k,); ``None`` for a single series.
    """
    if sizes is None:
        sizes = np.array([len(counts)])
    totals = np.add.reduceat(counts, np.cumsum(sizes) - sizes) + _SMOOTHING * sizes
    smoothed: FloatArray = (counts + _SMOOTHING) / np.repeat(totals, sizes)
    return smoothed


def psi(
    observed_ratios: FloatArray, expected_ratios: FloatArray, sizes: IntArray | None = None
) -> FloatArray:
    """Return the population stability index of each series, float64 (k,).

    Σ (p - q) ln(p / q), which is Jeffreys' divergence, in nats.

    Args:
        observed_ratios: The bins of all series, one after the other, above 0, float64 (B,).
        expected_ratios: The same of the baseline, above 0, float64 (B,).
        sizes: The number of bins of each series, int64 (k,); ``None`` for a single series.
    """
    if sizes is None:
        sizes = np.array([len(observed_ratios)])
    terms = (observed_ratios - expected_ratios) * np.log(observed_ratios / expected_ratios)
    return np.add.reduceat(terms, np.cumsum(sizes) - sizes)


@lru_cache(maxsize=1024)
def psi_threshold(n_observed: int, n_expected: int, bins: int, tolerated_psi: float, z: float) -> float:
    """Return the index that a sample exceeds with probability alpha if the true index is the tolerated one.

    Without a change, the index is distributed about as h·χ² with k = bins - 1 degrees of freedom and
    h = 1/n + 1/N (Yurdakul and Naranjo, Journal of Risk Model Validation); with a true index δ, about
    as noncentral h·χ²(k, λ = δ/h). Its quantile is approximated by Patnaik's central χ² with
    f = (k + λ)² / (k + 2λ) degrees of freedom (Biometrika 36, 1949), and the quantile of that by the cube
    of Wilson and Hilferty (PNAS 17, 1931). PromQL can compute the same formula.

    Args:
        n_observed: Number of live students.
        n_expected: Number of training rows.
        bins: Number of bins, at least 2.
        tolerated_psi: Δ, at least 0.
        z: Standard normal quantile of 1 - alpha (see :func:`alarm_z`).
    """
    scale = 1 / n_observed + 1 / n_expected
    degrees = bins - 1
    noncentrality = tolerated_psi / scale
    mean = degrees + noncentrality
    patnaik_degrees = mean**2 / (degrees + 2 * noncentrality)
    spread = 2 / (9 * patnaik_degrees)
    return float(scale * mean * (1 - spread + z * sqrt(spread)) ** 3)


@lru_cache(maxsize=256)
def ratio_threshold(
    n_observed: int, n_expected: int, expected_ratio: float, tolerated_shift_ratio: float, z: float
) -> float:
    """Return how far a live share may differ from the share in training, in either direction.

    The tolerated shift plus z standard errors of the difference between the two shares. The variance of
    the live share is taken at the tolerated edge nearer to one half, where it is larger.

    Args:
        n_observed: Live students.
        n_expected: Training rows.
        expected_ratio: The share in training, 0 to 1.
        tolerated_shift_ratio: True difference that is not drift; 0.01 is one percentage point.
        z: Standard normal quantile of 1 - alpha/2.
    """
    towards_half = tolerated_shift_ratio if expected_ratio < 0.5 else -tolerated_shift_ratio  # noqa: PLR2004 - a half
    edge = min(max(expected_ratio + towards_half, 0.0), 1.0)
    variance = edge * (1 - edge) / n_observed + expected_ratio * (1 - expected_ratio) / n_expected
    return tolerated_shift_ratio + z * sqrt(variance)


@lru_cache(maxsize=256)
def tail_threshold(
    n_observed: int, n_expected: int, n_in_tail: int, tolerated_ratio: float, z: float
) -> float:
    """Return the share of live students in a tail above which there are too many.

    The counts are binomial. The tolerated share is at least what the training data allow: if c of N training
    rows are in the tail, its true share is hardly above (c + 1 + 3 √(c + 1)) / N.

    Args:
        n_observed: Live students.
        n_expected: Training rows.
        n_in_tail: Training rows in the tail.
        tolerated_ratio: True share that is not drift.
        z: Standard normal quantile of 1 - alpha.
    """
    c = n_in_tail + 1
    ratio = min(max(tolerated_ratio, (c + 3 * sqrt(c)) / n_expected), 1.0)
    return binomial_quantile(n_observed, ratio, NormalDist().cdf(-z)) / n_observed


def binomial_quantile(n: int, ratio: float, alpha: float) -> int:
    """Return the smallest count that a binomial variable exceeds with a probability of at most alpha.

    >>> binomial_quantile(10, 0.5, 0.01), binomial_quantile(10, 0.0, 0.01), binomial_quantile(10, 1.0, 0.01)
    (9, 0, 10)
    """
    if not 0 < ratio < 1:
        return round(n * ratio)
    log_odds = log(ratio) - log1p(-ratio)
    log_probability = n * log1p(-ratio)
    below = exp(log_probability)
    count = 0
    while 1 - below > alpha and count < n:
        log_probability += log(n - count) - log(count + 1) + log_odds
        count += 1
        below += exp(log_probability)
    return count


@lru_cache(maxsize=64)
def alarm_z(windows_per_false_alarm: float, n_tests: int, sides: int = 1) -> float:
    """Return the standard normal quantile that keeps a false-alarm budget.

    Each test is made once per window with alpha = 1 / (windows · tests) (Bonferroni). On stable
    data, fewer than one window in ``windows_per_false_alarm`` then raises any alarm.
    """
    return NormalDist().inv_cdf(1 - 1 / (windows_per_false_alarm * n_tests * sides))


def mean_shift_sd(total: float, n_observed: int, mean: float, sd: float) -> float | None:
    """Return the live mean minus the training mean, in standard deviations of training.

    ``None`` if there are no live values, all training values were equal, or the live mean overflows.
    """
    if n_observed == 0 or sd == 0:
        return None
    shift = (total / n_observed - mean) / sd
    return shift if isfinite(shift) else None


def digitize(column: FloatArray, edges: tuple[float, ...]) -> IntArray:
    """Return the bin of each value, int64 (m,): the number of edges below it.

    >>> digitize(np.array([0.0, 0.5, 1.0, 7.0]), edges=(0.0, 1.0))
    array([0, 1, 1, 2])

    With few edges, comparing each edge with the whole column is faster than a binary search for each
    value, and int8 sums are faster than int64 sums.
    """
    bins: NDArray[Any] = np.zeros(len(column), np.int8 if len(edges) <= np.iinfo(np.int8).max else np.int64)
    for edge in edges:
        bins += (column > edge).view(np.int8)
    return bins.astype(np.int64)


def previous_occurrence(ids: NDArray[np.uint64]) -> IntArray:
    """Return the row of each id's previous occurrence, int64 (m,), or -1 for its first one.

    >>> previous_occurrence(np.array([7, 8, 7, 9, 7], np.uint64))
    array([-1, -1,  0, -1,  2])

    A quick unstable sort finds the ids that occur more than once. Usually these are few, so that sorting
    their rows by id and row is cheap; each row is then next to the previous one of the same id.

    Args:
        ids: The ids, uint64 (m,).
    """
    previous = np.full(len(ids), -1, np.int64)
    order = np.argsort(ids)  # five times as fast as a stable sort
    equal = ids[order[1:]] == ids[order[:-1]]
    if equal.any():
        repeated = np.zeros(len(ids), np.bool_)
        repeated[1:] = equal
        repeated[:-1] |= equal
        rows = np.sort(order[repeated])
        rows = rows[np.argsort(ids[rows], kind="stable")]
        again = np.flatnonzero(ids[rows[1:]] == ids[rows[:-1]])
        previous[rows[again + 1]] = rows[again]
    return previous


def not_in_sorted(ids: NDArray[np.uint64], known: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Return which ids are not in ``known``, bool (m,).

    >>> not_in_sorted(np.array([5, 6], np.uint64), known=np.array([1, 5], np.uint64))
    array([False,  True])

    Args:
        ids: The ids, uint64 (m,).
        known: The known ids, sorted, uint64 (s,).
    """
    if not len(known):
        return np.ones(len(ids), np.bool_)
    new: NDArray[np.bool_] = known[np.minimum(np.searchsorted(known, ids), len(known) - 1)] != ids
    return new
