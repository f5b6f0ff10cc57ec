"""How far live data stands from training data, and how far is too far. Arrays in, numbers out.

Drift is judged against a null that a person would sign: not "nothing at all has changed", which every
large enough sample refutes, but "the change is below what we tolerate".
"""

from __future__ import annotations

from functools import lru_cache
from math import isfinite, sqrt
from statistics import NormalDist
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from consumer.columnar.arrays import FloatArray, IntArray

_SMOOTHING: Final = 0.5
"""Added to every bin (Jeffreys' prior), so that an empty bin has a finite logarithm."""


def smoothed_ratios(counts: NDArray[Any], sizes: IntArray | None = None) -> FloatArray:
    """Return the share of each bin, float64 (B,): (c + 0.5) / (n + 0.5 b) for a series of b bins.

    Args:
        counts: (B,), the bins of one series, or of several one after the other.
        sizes: int64 (k,), bins of each series; one series without it.
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
        observed_ratios: float64 (B,), none of them 0; the series stand one after the other.
        expected_ratios: float64 (B,), likewise.
        sizes: int64 (k,), bins of each series; one series without it.
    """
    if sizes is None:
        sizes = np.array([len(observed_ratios)])
    terms = (observed_ratios - expected_ratios) * np.log(observed_ratios / expected_ratios)
    return np.add.reduceat(terms, np.cumsum(sizes) - sizes)


@lru_cache(maxsize=1024)
def psi_threshold(n_observed: int, n_expected: int, bins: int, tolerated_psi: float, z: float) -> float:
    """Return the index that a sample exceeds with probability alpha if the true one is the tolerated one.

    Under no change the index is about h·χ² with k = bins - 1 degrees of freedom and h = 1/n + 1/N
    (Yurdakul and Naranjo, Journal of Risk Model Validation); with a true index δ, about
    h·χ²(k, λ = δ/h), noncentral. Its quantile is taken by Patnaik's central χ² of
    f = (k + λ)² / (k + 2λ) degrees of freedom (Biometrika 36, 1949), and that one's by Wilson and
    Hilferty's cube (PNAS 17, 1931): a formula that PromQL can compute, too.

    Args:
        n_observed: n, live students.
        n_expected: N, training rows.
        bins: number of bins, at least 2.
        tolerated_psi: δ, at least 0.
        z: standard normal quantile of 1 - alpha (see :func:`alarm_z`).
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
    """Return how far a share may lie from training's, either way.

    The tolerated shift plus z standard errors of the difference of two shares, the live one's taken
    at the tolerated edge that is nearer to one half, where it is larger.

    Args:
        n_observed: live students.
        n_expected: training rows.
        expected_ratio: the share in training, 0 to 1.
        tolerated_shift_ratio: a true difference of so much is no alarm; 0.01 is one point.
        z: standard normal quantile of 1 - alpha/2.
    """
    towards_half = tolerated_shift_ratio if expected_ratio < 0.5 else -tolerated_shift_ratio  # noqa: PLR2004 - a half
    edge = min(max(expected_ratio + towards_half, 0.0), 1.0)
    variance = edge * (1 - edge) / n_observed + expected_ratio * (1 - expected_ratio) / n_expected
    return tolerated_shift_ratio + z * sqrt(variance)


@lru_cache(maxsize=64)
def alarm_z(windows_per_false_alarm: float, n_series: int, sides: int = 1) -> float:
    """Return the standard normal quantile that keeps a false-alarm budget.

    alpha = 1 / (windows · series) for each look at each series (Bonferroni): on stable data less than
    one window in ``windows_per_false_alarm`` has any alarm. It holds for one look per window.
    """
    return NormalDist().inv_cdf(1 - 1 / (windows_per_false_alarm * n_series * sides))


def mean_shift_sd(total: float, n_observed: int, mean: float, sd: float) -> float | None:
    """Return how many of training's standard deviations the live mean lies from training's mean.

    ``None`` where there is nothing to compare, or training's values were all the same, or live ones
    are beyond all measure.
    """
    if n_observed == 0 or sd == 0:
        return None
    shift = (total / n_observed - mean) / sd
    return shift if isfinite(shift) else None


def digitize(column: FloatArray, edges: tuple[float, ...]) -> IntArray:
    """Return the bin of each value, int64 (m,): how many edges lie below it.

    A few edges are compared with the whole column faster than each value is searched among them, and
    bytes are counted up faster than longer numbers.
    """
    bins: NDArray[Any] = np.zeros(len(column), np.int8 if len(edges) <= np.iinfo(np.int8).max else np.int64)
    for edge in edges:
        bins += (column > edge).view(np.int8)
    return bins.astype(np.int64)


def previous_occurrence(ids: NDArray[np.uint64]) -> IntArray:
    """Return in which row each id stood before, int64 (m,); -1 where it stands for the first time.

    Args:
        ids: uint64 (m,).
    """
    previous = np.full(len(ids), -1, np.int64)
    order = np.argsort(ids)  # five times as fast as one that keeps the order of equals
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


def unseen(ids: NDArray[np.uint64], seen: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Tell which ids are not among those seen, bool (m,).

    Args:
        ids: uint64 (m,).
        seen: uint64 (s,), sorted.
    """
    if not len(seen):
        return np.ones(len(ids), np.bool_)
    new: NDArray[np.bool_] = seen[np.minimum(np.searchsorted(seen, ids), len(seen) - 1)] != ids
    return new
