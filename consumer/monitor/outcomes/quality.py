"""Compare live precision, recall and Brier score with the expected ones.

If the probabilities are right, a student with probability p buys with probability p. So the expected
figures follow from the same students whose outcomes are known: among the flagged students, Σp should buy. A
gap that chance does not explain means that the same inputs no longer lead to the same purchases. Drift of
the inputs cannot show that. (The estimate is NannyML's CBPE, confidence-based performance estimation; the
test of the Brier score is Spiegelhalter's, Statistics in Medicine 5, 1986.)
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import sqrt
from statistics import NormalDist

import numpy as np

from consumer.columnar.arrays import FloatArray, IntArray
from consumer.settings import OutcomeSettings

_FALSE_ALARM_RATIO = 0.001
"""Probability that one of the two tests raises a false alarm on one set of matured outcomes."""

_MIN_EXPECTED = 20
"""Least number of flagged students, or of expected buyers, for the normal approximation to be good enough."""


@dataclass(frozen=True, slots=True)
class OutcomeSums:
    """Sums over matured outcomes. They can be added over time and over replicas.

    Attributes:
        true_positives: Flagged students who bought.
        false_positives: Flagged students who did not buy.
        false_negatives: Unflagged students who bought.
        true_negatives: Unflagged students who did not buy.
        expected_flagged: Σp of the flagged students.
        expected_unflagged: Σp of the unflagged students.
        variance_flagged: Σp(1-p) of the flagged students; also their expected Brier loss.
        variance_unflagged: Σp(1-p) of the unflagged students; also their expected Brier loss.
        squared_error: Σ(p-y)².
        squared_error_variance: Σp(1-p)(1-2p)², the variance of ``squared_error``.
    """

    true_positives: int = 0
    false_positives: int = 0
    false_negatives: int = 0
    true_negatives: int = 0
    expected_flagged: float = 0.0
    expected_unflagged: float = 0.0
    variance_flagged: float = 0.0
    variance_unflagged: float = 0.0
    squared_error: float = 0.0
    squared_error_variance: float = 0.0

    def __add__(self, other: OutcomeSums) -> OutcomeSums:
        return OutcomeSums(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    @property
    def outcomes(self) -> int:
        """The number of outcomes."""
        return self.true_positives + self.false_positives + self.false_negatives + self.true_negatives

    @property
    def flagged(self) -> int:
        """The number of students predicted to buy."""
        return self.true_positives + self.false_positives

    @property
    def purchases(self) -> int:
        """The number of students who bought."""
        return self.true_positives + self.false_negatives


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One measure of quality.

    Attributes:
        expected: The value if the probabilities are right; ``None`` if undefined.
        realised: The observed value; ``None`` if undefined.
        tolerated_gap: How far ``realised`` may fall below ``expected``, chance included; ``None`` if
            the measure is not judged.
        decayed: Whether it falls further; ``None`` if there are too few outcomes or it is not judged.
    """

    expected: float | None
    realised: float | None
    tolerated_gap: float | None = None
    decayed: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityVerdict:
    """The verdict on a set of matured outcomes of one model version.

    Attributes:
        outcomes: The number of outcomes.
        precision: Share of the flagged students who bought.
        recall: Share of the buyers who were flagged.
        brier: Mean squared error of the probabilities; not judged.
        brier_z: By how many standard errors the Brier score is worse than expected.
    """

    outcomes: int
    precision: Comparison
    recall: Comparison
    brier: Comparison
    brier_z: float | None

    @property
    def decayed(self) -> bool:
        """Whether precision or recall is worse than chance and tolerance can explain."""
        return bool(self.precision.decayed or self.recall.decayed)


def sums_of(probabilities: FloatArray, decisions: IntArray, purchased: IntArray) -> OutcomeSums:
    """Return the sums over outcomes.

    Args:
        probabilities: The predicted probabilities, float64 (m,).
        decisions: The predicted classes, 0 or 1, int64 (m,).
        purchased: Whether each student bought, 0 or 1, int64 (m,).
    """
    cells = np.bincount(2 * decisions + purchased, minlength=4).tolist()
    variance = probabilities * (1 - probabilities)
    flagged = decisions == 1
    return OutcomeSums(
        true_positives=cells[3],
        false_positives=cells[2],
        false_negatives=cells[1],
        true_negatives=cells[0],
        expected_flagged=float(probabilities[flagged].sum()),
        expected_unflagged=float(probabilities[~flagged].sum()),
        variance_flagged=float(variance[flagged].sum()),
        variance_unflagged=float(variance[~flagged].sum()),
        squared_error=float(np.sum((probabilities - purchased) ** 2)),
        squared_error_variance=float(np.sum(variance * (1 - 2 * probabilities) ** 2)),
    )


def compare_quality(sums: OutcomeSums, settings: OutcomeSettings) -> QualityVerdict:
    """Compare realised with expected quality."""
    z = NormalDist().inv_cdf(1 - _FALSE_ALARM_RATIO)
    brier_expected = sums.variance_flagged + sums.variance_unflagged
    brier_z = None
    if sums.squared_error_variance > 0:
        brier_z = (sums.squared_error - brier_expected) / sqrt(sums.squared_error_variance)
    return QualityVerdict(
        outcomes=sums.outcomes,
        precision=_precision(sums, settings.tolerated_drop_ratio, z),
        recall=_recall(sums, settings.tolerated_drop_ratio, z),
        brier=Comparison(
            expected=_share(brier_expected, sums.outcomes), realised=_share(sums.squared_error, sums.outcomes)
        ),
        brier_z=brier_z,
    )


def _precision(sums: OutcomeSums, tolerated: float, z: float) -> Comparison:
    expected, realised = (
        _share(sums.expected_flagged, sums.flagged),
        _share(sums.true_positives, sums.flagged),
    )
    if expected is None or realised is None or sums.flagged < _MIN_EXPECTED:
        return Comparison(expected=expected, realised=realised)
    gap = tolerated + z * sqrt(sums.variance_flagged) / sums.flagged
    return Comparison(
        expected=expected, realised=realised, tolerated_gap=gap, decayed=expected - realised > gap
    )


def _recall(sums: OutcomeSums, tolerated: float, z: float) -> Comparison:
    buyers = sums.expected_flagged + sums.expected_unflagged
    expected, realised = _share(sums.expected_flagged, buyers), _share(sums.true_positives, sums.purchases)
    if expected is None or realised is None or buyers < _MIN_EXPECTED:
        return Comparison(expected=expected, realised=realised)
    # The delta method for a / (a + b), a and b being independent.
    a, b = sums.expected_flagged, sums.expected_unflagged
    variance = (b**2 * sums.variance_flagged + a**2 * sums.variance_unflagged) / buyers**4
    gap = tolerated + z * sqrt(variance)
    return Comparison(
        expected=expected, realised=realised, tolerated_gap=gap, decayed=expected - realised > gap
    )


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None
