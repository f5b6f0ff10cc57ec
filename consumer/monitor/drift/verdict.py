"""Judge a window: compare its counts with the baseline, and give a verdict with its evidence.

A window is judged once, when it closes. Judging it repeatedly while it fills would make false alarms
about eight times as frequent. A running window is shown without a verdict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import lru_cache
from typing import Final

import numpy as np

from consumer.columnar.arrays import FloatArray, IntArray
from consumer.monitor.drift.statistics import (
    alarm_z,
    mean_shift_sd,
    psi,
    psi_threshold,
    ratio_threshold,
    smoothed_ratios,
    tail_threshold,
)
from consumer.monitor.drift.window import PREDICTED_PURCHASE, SCORE, SERIES, WindowCounts
from consumer.settings import DriftSettings
from model_store.baseline import Baseline, Bins, NumericBins
from model_store.input_profile import NUMERIC_INPUTS, InputProfile, Sums
from model_store.inputs import INPUT_NAMES

UNKNOWN_COUNTRY_LABEL = "unknown"


class DriftStatus(StrEnum):
    """The status in a verdict on a series or a window."""

    OK = "ok"
    DRIFT = "drift"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareVerdict:
    """A share of the students in one window.

    Attributes:
        ratio: The live share.
        training_ratio: The share in training.
        threshold: For zeros, the absolute difference above which there is drift; for a tail, the live share.
        drifted: Whether it is exceeded.
    """

    ratio: float
    training_ratio: float
    threshold: float
    drifted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class JointVerdict:
    """All numeric inputs together, in one window.

    Attributes:
        index: The squared Mahalanobis distance from training.
        threshold: The index above which there is drift.
        input_name: The input that adds most, among those that have drifted by themselves if there are any.
        drifted: Whether the threshold is exceeded.
    """

    index: float
    threshold: float
    input_name: str
    drifted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesVerdict:
    """One input, or the score, in one window.

    Attributes:
        status: Whether the series has drifted.
        psi: Population stability index, nats; ``None`` for an empty window.
        threshold: The index above which the series has drifted, given the number of observations.
        observations: Distinct students.
        mean_shift_sd: Live mean minus training mean, in standard deviations of training; ``None`` for
            countries.
        counts: Students in each bin.
        zeros: The share of students with a zero; ``None`` if it is not checked.
        tail: The share of students above the 99.9 % quantile of training; ``None`` if it is not checked.
        found_by: The checks that found drift: ``distribution``, ``zeros``, ``tail``, ``means`` and
            ``correlation``. The last two are about all numeric inputs and name the one that adds most.
    """

    status: DriftStatus
    psi: float | None
    threshold: float | None
    observations: int
    mean_shift_sd: float | None
    counts: list[int]
    zeros: ShareVerdict | None = None
    tail: ShareVerdict | None = None
    found_by: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class RateVerdict:
    """The share of students predicted to buy, in one window.

    Attributes:
        status: Whether the share has drifted.
        predicted_positive_ratio: The live share; ``None`` for an empty window.
        training_positive_ratio: The share in training, of students held out from the model.
        threshold: The absolute difference above which the share has drifted.
        observations: Distinct students.
    """

    status: DriftStatus
    predicted_positive_ratio: float | None
    training_positive_ratio: float
    threshold: float | None
    observations: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowVerdict:
    """The verdict on one window.

    Attributes:
        number: 1 for the first window of the model version.
        closed: Whether the window is closed. Before that, every status is ``unknown``.
        students: Distinct students.
        predictions: Predictions read, including repeated ones.
        opened_ms: Time of the window's first prediction, ms since the epoch.
        last_ms: Time of the window's latest prediction.
        features: The seven inputs by name.
        score: The predicted probability.
        rate: The share of students predicted to buy.
        unknown_country_ratio: Share of students with an unrecognised country.
        joint: The verdicts on all numeric inputs together, ``means`` and ``correlation``. Empty if the
            baseline has no profile of them.
    """

    number: int
    closed: bool
    students: int
    predictions: int
    opened_ms: int | None
    last_ms: int | None
    features: dict[str, SeriesVerdict]
    score: SeriesVerdict
    rate: RateVerdict
    unknown_country_ratio: float | None
    joint: dict[str, JointVerdict] = field(default_factory=dict)

    @property
    def judged(self) -> bool:
        """Whether the window is closed and had enough students for a verdict."""
        return self.rate.status != DriftStatus.UNKNOWN

    @property
    def status(self) -> DriftStatus:
        """The status of the window: ``drift`` if any series has drifted."""
        if not self.judged:
            return DriftStatus.UNKNOWN
        return DriftStatus.DRIFT if self.drifted_features or self.predictions_shifted else DriftStatus.OK

    @property
    def drifted_features(self) -> list[str]:
        """The inputs that have drifted, in the order of the inputs."""
        return [name for name, series in self.features.items() if series.status == DriftStatus.DRIFT]

    @property
    def predictions_shifted(self) -> bool:
        """Whether the score or the share of students predicted to buy has drifted."""
        return DriftStatus.DRIFT in {self.score.status, self.rate.status}

    @property
    def max_abs_mean_shift_sd(self) -> float | None:
        """The largest absolute shift of an input's mean, in standard deviations of training."""
        shifts = [s.mean_shift_sd for s in self.features.values() if s.mean_shift_sd is not None]
        return max(map(abs, shifts), default=None)


N_TESTS: Final = len(SERIES) + 2 * len(NUMERIC_INPUTS) + 2
"""Tests per window: one of each series, zeros and tail of each numeric input, their means and correlation."""


def thresholds_z(settings: DriftSettings, sides: int = 1) -> float:
    """Return the standard normal quantile used for every threshold."""
    return alarm_z(settings.windows_per_false_alarm, N_TESTS, sides)


def judge(
    counts: WindowCounts, baseline: Baseline, settings: DriftSettings, *, closed: bool
) -> WindowVerdict:
    """Compare a window with the baseline.

    Args:
        counts: The window.
        baseline: The baseline of the model version that made the predictions.
        settings: The tolerances.
        closed: Whether the window is closed. Only a closed window is judged.
    """
    judged = closed and counts.students >= settings.minimum_students
    series: Mapping[str, Bins] = {**baseline.features, SCORE: baseline.score}
    names = (*INPUT_NAMES, SCORE)
    z = thresholds_z(settings)
    indexes: Sequence[float | None] = [None] * len(names)
    if counts.students:
        expected, sizes = _expected(tuple(series[name].counts for name in names))
        observed = smoothed_ratios(np.concatenate([counts.bins[name] for name in names]), sizes)
        indexes = psi(observed, expected, sizes).tolist()
    verdicts = {
        name: _series(counts, name, series[name], baseline.rows, settings, z, index, judged=judged)
        for name, index in zip(names, indexes, strict=True)
    }
    joint: dict[str, JointVerdict] = {}
    if baseline.profile is not None and len(counts.profile_sums):
        sums = baseline.profile.split(counts.profile_sums)
        for i, name in enumerate(NUMERIC_INPUTS):
            shares = _shares(baseline.profile, sums, i, counts.students, baseline.rows, settings)
            verdicts[name] = _with_shares(verdicts[name], *shares, judged=judged)
        suspects = [name for name in NUMERIC_INPUTS if verdicts[name].status == DriftStatus.DRIFT]
        joint = _joint(baseline.profile, sums, counts.students, baseline.rows, settings, suspects)
        for check, found in joint.items():
            if found.drifted and judged:
                verdicts[found.input_name] = _with_finding(verdicts[found.input_name], check)
    country = baseline.features[INPUT_NAMES[0]]
    unknown = int(counts.bins[INPUT_NAMES[0]][country.labels.index(UNKNOWN_COUNTRY_LABEL)])
    return WindowVerdict(
        number=counts.number,
        closed=closed,
        students=counts.students,
        predictions=counts.predictions,
        opened_ms=counts.opened_ms,
        last_ms=counts.last_ms,
        features={name: verdicts[name] for name in INPUT_NAMES},
        score=verdicts[SCORE],
        rate=_rate(counts, baseline, settings, judged=judged),
        unknown_country_ratio=unknown / counts.students if counts.students else None,
        joint=joint,
    )


def _joint(
    profile: InputProfile, sums: Sums, n: int, rows: int, settings: DriftSettings, suspects: Sequence[str]
) -> dict[str, JointVerdict]:
    """Compare the means and the correlations of the numeric inputs with training.

    Like the stability index, the squared distance of two means is about h·χ² distributed with h = 1/n + 1/N,
    noncentral if the true distance is not 0. So threshold and tolerance are the same.

    Args:
        profile: The profile of training.
        sums: The sums of the window.
        n: Live students.
        rows: Training rows.
        settings: The tolerances.
        suspects: The inputs that have drifted by themselves. If there are any, one of them is named.
    """
    z = thresholds_z(settings)
    candidates = [i for i, name in enumerate(NUMERIC_INPUTS) if not suspects or name in suspects]
    verdicts = {}
    for check, distance in (
        ("means", profile.mean_distance(sums, n)),
        ("correlation", profile.correlation_distance(sums, n)),
    ):
        k = distance.dimensions  # 0 if all inputs were constant in training
        threshold = psi_threshold(n, rows, k + 1, settings.tolerated_psi, z) if k else 0.0
        largest = candidates[int(np.argmax(distance.contributions[candidates]))]
        verdicts[check] = JointVerdict(
            index=distance.squared,
            threshold=threshold,
            input_name=NUMERIC_INPUTS[largest],
            drifted=k > 0 and distance.squared > threshold,
        )
    return verdicts


def _shares(
    profile: InputProfile, sums: Sums, i: int, n: int, rows: int, settings: DriftSettings
) -> tuple[ShareVerdict, ShareVerdict]:
    """Judge the share of zeros and the share in the tail of the i-th numeric input."""
    training, ratio = profile.zeros[i] / rows, float(sums.zeros[i]) / n
    limit = ratio_threshold(
        n, rows, training, settings.tolerated_rate_shift_ratio, thresholds_z(settings, sides=2)
    )
    zeros = ShareVerdict(
        ratio=ratio, training_ratio=training, threshold=limit, drifted=abs(ratio - training) > limit
    )
    training, ratio = profile.tails[i] / rows, float(sums.tails[i]) / n
    limit = tail_threshold(n, rows, profile.tails[i], settings.tolerated_tail_ratio, thresholds_z(settings))
    tail = ShareVerdict(ratio=ratio, training_ratio=training, threshold=limit, drifted=ratio > limit)
    return zeros, tail


def _with_shares(
    verdict: SeriesVerdict, zeros: ShareVerdict, tail: ShareVerdict, *, judged: bool
) -> SeriesVerdict:
    """Add the checks of zeros and tail to the verdict on an input."""
    verdict = replace(verdict, zeros=zeros, tail=tail)
    for check, share in (("zeros", zeros), ("tail", tail)):
        if share.drifted and judged:
            verdict = _with_finding(verdict, check)
    return verdict


def _with_finding(verdict: SeriesVerdict, check: str) -> SeriesVerdict:
    """Add a check that found drift to the verdict on an input."""
    return replace(verdict, status=DriftStatus.DRIFT, found_by=[*verdict.found_by, check])


def _series(
    counts: WindowCounts,
    name: str,
    bins: Bins,
    rows: int,
    settings: DriftSettings,
    z: float,
    index: float | None,
    *,
    judged: bool,
) -> SeriesVerdict:
    n = counts.students
    threshold = shift = None
    if n:
        if len(bins.labels) > 1:
            threshold = psi_threshold(n, rows, len(bins.labels), settings.tolerated_psi, z)
        if isinstance(bins, NumericBins):
            shift = mean_shift_sd(counts.totals[name], n, bins.mean, bins.sd)
    drifted = index is not None and threshold is not None and index > threshold
    return SeriesVerdict(
        status=_status(drifted=drifted, judged=judged),
        psi=index,
        threshold=threshold,
        observations=n,
        mean_shift_sd=shift,
        counts=counts.bins[name].tolist(),
        found_by=["distribution"] if drifted and judged else [],
    )


@lru_cache(maxsize=64)
def _expected(counts: tuple[tuple[int, ...], ...]) -> tuple[FloatArray, IntArray]:
    """Return the training shares of k series, float64 (B,), and their numbers of bins, int64 (k,)."""
    sizes = np.array([len(series) for series in counts])
    return smoothed_ratios(np.concatenate(counts), sizes), sizes


def _rate(counts: WindowCounts, baseline: Baseline, settings: DriftSettings, *, judged: bool) -> RateVerdict:
    n, training = counts.students, baseline.predicted_positive_ratio
    ratio = threshold = None
    if n:
        ratio = float(counts.bins[PREDICTED_PURCHASE][1] / n)
        z = thresholds_z(settings, sides=2)
        threshold = ratio_threshold(n, baseline.rows, training, settings.tolerated_rate_shift_ratio, z)
    drifted = ratio is not None and threshold is not None and abs(ratio - training) > threshold
    return RateVerdict(
        status=_status(drifted=drifted, judged=judged),
        predicted_positive_ratio=ratio,
        training_positive_ratio=training,
        threshold=threshold,
        observations=n,
    )


def _status(*, drifted: bool, judged: bool) -> DriftStatus:
    if not judged:
        return DriftStatus.UNKNOWN
    return DriftStatus.DRIFT if drifted else DriftStatus.OK
