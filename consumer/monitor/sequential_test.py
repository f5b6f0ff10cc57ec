"""Decide after every outcome which of two models predicts better, with a stated error.

Both models predict the same student. When the outcome is known, the difference of their squared errors,
``d = (p - y)² - (q - y)²``, is above 0 if q, the contender's probability, was closer. The mean of d is the
difference of the Brier scores.

The test bets on the sign of d. A bettor starts with the capital 1 and stakes the share s of it each time:
the capital becomes ``∏(1 + s·d)``, which stays above 0 because ``|d| ≤ 1`` and ``s < 1``. While the
contender is not expected to be better, no such bet gains on average, so by Ville's inequality the capital
ever reaches ``1 / error`` with a probability of at most ``error``, however often somebody looks. That holds
for the mean of several bettors with fixed shares too, and needs no model of the data. Since
``log(1 + s·d) ≤ s·d``, the capital is at most 1 while the contender's total squared error is not smaller: the
test never prefers a model that did worse so far.

Sources: Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", Journal of the
Royal Statistical Society B 86 (2024), doi:10.1093/jrsssb/qkad009; Choe and Ramdas, "Comparing sequential
forecasters", Operations Research 72 (2024), doi:10.1287/opre.2021.0792.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from math import exp, log
from typing import Final

import numpy as np

from consumer.columnar.arrays import FloatArray, IntArray

_SHARES: Final = np.array([0.02, 0.06, 0.18, 0.5, 0.9])
"""The share of its capital that each bettor stakes. The best share is about mean(d) / mean(d²), which lies in
this range for models that differ enough to matter."""

_LARGEST_LOG: Final = 700.0
"""``exp`` overflows above 709."""


class Preference(StrEnum):
    """The result of the test for the contender."""

    BETTER = "better"
    WORSE = "worse"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True, kw_only=True)
class SequentialTest:
    """The test after some outcomes. Immutable; :meth:`add` returns the next state.

    Attributes:
        outcomes: The number of outcomes.
        champion_squared_error: Σ(p - y)².
        contender_squared_error: Σ(q - y)².
        log_capital_better: Logarithm of the capital of each bettor on "the contender is better".
        log_capital_worse: Logarithm of the capital of each bettor on "the contender is worse".
        peak_better: The largest evidence so far that the contender is better.
        peak_worse: The largest evidence so far that it is worse.
    """

    outcomes: int = 0
    champion_squared_error: float = 0.0
    contender_squared_error: float = 0.0
    log_capital_better: tuple[float, ...] = (0.0,) * len(_SHARES)
    log_capital_worse: tuple[float, ...] = (0.0,) * len(_SHARES)
    peak_better: float = 1.0
    peak_worse: float = 1.0

    def add(self, champion: FloatArray, contender: FloatArray, purchased: IntArray) -> SequentialTest:
        """Return the test after further outcomes.

        Args:
            champion: The champion's probabilities, 0 to 1, float64 (k,).
            contender: The contender's probabilities for the same students, 0 to 1, float64 (k,).
            purchased: Whether each student bought, 0 or 1, int64 (k,).
        """
        champion_errors, contender_errors = (champion - purchased) ** 2, (contender - purchased) ** 2
        differences = champion_errors - contender_errors
        better, peak_better = _bet(self.log_capital_better, differences, self.peak_better)
        worse, peak_worse = _bet(self.log_capital_worse, -differences, self.peak_worse)
        return SequentialTest(
            outcomes=self.outcomes + len(differences),
            champion_squared_error=self.champion_squared_error + float(champion_errors.sum()),
            contender_squared_error=self.contender_squared_error + float(contender_errors.sum()),
            log_capital_better=better,
            log_capital_worse=worse,
            peak_better=peak_better,
            peak_worse=peak_worse,
        )

    def preference(self, error_ratio: float) -> Preference:
        """Return the preference that the evidence so far shows.

        Args:
            error_ratio: The chance of ever calling a contender better that is not, and of ever calling
                one worse that is not.
        """
        needed = 1 / error_ratio
        if self.peak_better >= needed:
            return Preference.BETTER
        return Preference.WORSE if self.peak_worse >= needed else Preference.UNDECIDED


def _bet(
    log_capital: tuple[float, ...], differences: FloatArray, peak: float
) -> tuple[tuple[float, ...], float]:
    """Return the bettors' capital after these bets, and the largest mean capital so far.

    >>> capital, peak = _bet((0.0,) * 5, np.array([1.0, -1.0]), 1.0)
    >>> [round(exp(log_capital), 4) for log_capital in capital]  # (1 + s)(1 - s) for each share s
    [0.9996, 0.9964, 0.9676, 0.75, 0.19]
    >>> round(peak, 3)  # after the first bet: the mean of 1 + s
    1.332
    """
    # (k + 1, bettors): the logarithms of the capital before the first and after each bet
    steps = np.log1p(np.outer(differences, _SHARES))
    logs = np.cumsum(np.vstack([np.array(log_capital), steps]), axis=0)
    means = np.logaddexp.reduce(logs, axis=1) - log(len(_SHARES))
    return tuple(logs[-1].tolist()), max(peak, exp(min(float(means.max()), _LARGEST_LOG)))
