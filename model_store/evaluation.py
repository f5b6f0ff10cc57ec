"""Measure out-of-fold probabilities: quality with intervals, threshold curve, calibration, slices."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
from pydantic import Field

from model_store.countries import UNKNOWN_COUNTRY, country_alpha2
from model_store.inputs import INPUT_NAMES
from model_store.manifest import Quality, Ratio, Record, Threshold
from model_store.splits import duplicate_groups

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

Criterion = Literal["max_f1", "cost", "precision", "fixed"]

_SLICE_RESAMPLES: Final = 50
_FEWEST_RESAMPLES: Final = 40
_RESAMPLED_ROWS: Final = 20_000_000
"""The total number of resampled rows. Large tables get fewer resamples, so that an interval takes seconds."""

CONFIDENCE: Final = 0.95
_Z: Final = 1.959963984540054
"""The normal quantile of a two-sided interval at :data:`CONFIDENCE`."""

_THRESHOLD_STEPS: Final = 10_000
"""Thresholds are multiples of 1/10,000; the data does not justify finer ones."""

_RELIABILITY_BINS: Final = 10
_MIN_SLICE_POSITIVES: Final = 20
_MAX_COUNTRY_SLICES: Final = 10


@dataclass(frozen=True, slots=True)
class ThresholdCriterion:
    """How to choose the decision threshold; it is rounded to four decimals.

    Attributes:
        name: ``max_f1``: the largest F1. ``cost``: the least expected cost. ``precision``: the
            largest recall with at least a given precision. ``fixed``: a given value.
        false_positive_cost: For ``cost``: the cost of flagging a student who will not buy.
        false_negative_cost: For ``cost``: the cost of missing a student who will buy, same unit.
        min_precision: For ``precision``: the smallest accepted precision.
        value: For ``fixed``: the threshold.

    Raises:
        ValueError: A cost, the precision or the value is out of range.
    """

    name: Criterion = "max_f1"
    false_positive_cost: float = 1.0
    false_negative_cost: float = 1.0
    min_precision: float = 0.5
    value: float = 0.5

    def __post_init__(self) -> None:
        """Check the numbers."""
        costs = (self.false_positive_cost, self.false_negative_cost)
        if not all(0 < cost < math.inf for cost in costs):
            raise ValueError(f"costs must be finite and greater than 0, but are {costs}")
        for name, ratio in (("min_precision", self.min_precision), ("value", self.value)):
            if not 0 < ratio < 1:
                raise ValueError(f"{name} must be between 0 and 1, but is {ratio}")


MAX_F1: Final = ThresholdCriterion()


class ThresholdCurve(Record):
    """The decisions at every threshold of four decimals. A run of equal decisions is one entry.

    Attributes:
        rows: The number of rows.
        positives: The number of students who bought.
        thresholds: The thresholds, ascending: the largest one of each run.
        true_positives: The buyers at or above each threshold.
        false_positives: The other students at or above each threshold.
    """

    rows: int
    positives: int
    thresholds: tuple[Ratio, ...]
    true_positives: tuple[int, ...]
    false_positives: tuple[int, ...]

    def threshold(self, criterion: ThresholdCriterion) -> Threshold:
        """Choose a threshold.

        Raises:
            ValueError: No threshold reaches the precision.
        """
        precision, recall = self._precision_and_recall()
        if criterion.name == "max_f1":
            # The tiny term prevents 0/0.
            f1 = 2 * precision * recall / (precision + recall + np.finfo(np.float64).tiny)
            return self._described(self.thresholds[int(np.argmax(f1))], criterion)
        if criterion.name == "precision":
            candidates = np.flatnonzero((precision >= criterion.min_precision) & (recall > 0))
            if not len(candidates):
                raise ValueError(
                    f"no threshold has a precision of {criterion.min_precision:g}; "
                    f"the largest is {precision.max():.3f}"
                )
            best = candidates[np.argmax(recall[candidates])]
            return self._described(self.thresholds[int(best)], criterion)
        if criterion.name == "cost":
            # Valid for calibrated probabilities (Elkan, "The Foundations of Cost-Sensitive Learning").
            costs = criterion.false_positive_cost + criterion.false_negative_cost
            return self._described(_on_grid(criterion.false_positive_cost / costs), criterion)
        return self._described(_on_grid(criterion.value), criterion)

    def counts_at(self, threshold: float) -> tuple[int, int]:
        """Return the true and false positives at a threshold of four decimals."""
        index = int(np.searchsorted(np.array(self.thresholds), threshold - 1e-12, side="left"))
        if index == len(self.thresholds):
            return 0, 0
        return self.true_positives[index], self.false_positives[index]

    def _precision_and_recall(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        hits = np.array(self.true_positives, np.float64)
        flagged = hits + np.array(self.false_positives, np.float64)
        return hits / np.maximum(flagged, 1), hits / max(self.positives, 1)

    def _described(self, value: float, criterion: ThresholdCriterion) -> Threshold:
        hits, false_alarms = self.counts_at(value)
        precision = hits / (hits + false_alarms) if hits else 0.0
        recall = hits / self.positives if self.positives else 0.0
        cost = criterion.name == "cost"
        return Threshold(
            value=value,
            criterion=criterion.name,
            false_positive_cost=criterion.false_positive_cost if cost else None,
            false_negative_cost=criterion.false_negative_cost if cost else None,
            min_precision=criterion.min_precision if criterion.name == "precision" else None,
            precision=precision,
            recall=recall,
            f1=2 * precision * recall / (precision + recall) if hits else 0.0,
        )


def _on_grid(value: float) -> float:
    """Round to four decimals, but neither to 0 nor to 1."""
    steps = min(max(round(value * _THRESHOLD_STEPS), 1), _THRESHOLD_STEPS - 1)
    return steps / _THRESHOLD_STEPS


class ReliabilityBin(Record):
    """Rows with similar probabilities: their mean probability, and the share that bought."""

    rows: int
    mean_probability: Ratio
    positive_ratio: Ratio


class Slice(Record):
    """The quality in one group of students, such as one country.

    Attributes:
        feature: The input that defines the group.
        group: The group's name.
        mean_probability: The mean predicted probability.
        quality: The quality in the group; ``None`` if it has too few buyers to tell.
    """

    feature: str
    group: str
    rows: int
    positives: int
    mean_probability: Ratio
    quality: Quality | None


class Evaluation(Record):
    """Everything that was measured on students whom the model was not fitted on.

    Attributes:
        curve: The decisions at every threshold, on all rows.
        held_out_curve: The decisions at every threshold, on the held-out rows.
        reliability: Bins of equally many rows, by probability.
        slices: The quality by country and activity.
        duplicate_rows: The rows whose inputs equal those of an earlier row.
        unknown_country_rows: The rows with an unknown country.
        separating_input: An input that alone separates buyers from others almost perfectly, which
            hints at a leaked label.
    """

    schema_version: Literal[1] = Field(default=1)
    curve: ThresholdCurve
    held_out_curve: ThresholdCurve
    reliability: tuple[ReliabilityBin, ...]
    slices: tuple[Slice, ...]
    duplicate_rows: int
    unknown_country_rows: int
    separating_input: str | None = None

    def to_bytes(self) -> bytes:
        """Return the compact JSON."""
        return f"{self.model_dump_json()}\n".encode()


def threshold_curve(purchased: NDArray[np.int8], probabilities: NDArray[np.float64]) -> ThresholdCurve:
    """Count the decisions at every threshold.

    >>> curve = threshold_curve(np.array([0, 1, 1], np.int8), np.array([0.2, 0.2, 0.7]))
    >>> curve.thresholds, curve.true_positives, curve.false_positives
    ((0.2, 0.7, 0.9999), (2, 1, 0), (1, 0, 0))

    Args:
        purchased: The labels, int8 (n,), 0 or 1.
        probabilities: Out-of-fold probabilities, float64 (n,).
    """
    grid = np.arange(1, _THRESHOLD_STEPS) / _THRESHOLD_STEPS
    order = np.argsort(probabilities, kind="stable")
    positives_below = np.concatenate([[0], np.cumsum(purchased[order], dtype=np.int64)])
    below = np.searchsorted(probabilities[order], grid, side="left")
    hits = positives_below[-1] - positives_below[below]
    false_alarms = (len(purchased) - below) - hits
    last_of_run = np.append((np.diff(hits) != 0) | (np.diff(false_alarms) != 0), True)
    return ThresholdCurve(
        rows=len(purchased),
        positives=int(positives_below[-1]),
        thresholds=tuple(grid[last_of_run].tolist()),
        true_positives=tuple(hits[last_of_run].tolist()),
        false_positives=tuple(false_alarms[last_of_run].tolist()),
    )


def measure(
    purchased: NDArray[np.int8],
    probabilities: NDArray[np.float64],
    threshold: float,
    *,
    resamples: int = 200,
) -> Quality:
    """Measure probabilities, float64 (n,), against labels, int8 (n,), and the decisions at a threshold."""
    ranking = Ranking(probabilities)
    weights = np.ones(len(purchased))
    bootstrap = np.array(
        [
            (*ranking.scores(purchased, drawn), brier_score(purchased, probabilities, drawn))
            for drawn in _resamples(len(purchased), resamples)
        ]
    )
    low, high = np.quantile(bootstrap, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0)
    names = ("average_precision", "roc_auc", "brier_score")
    intervals = {n: (float(a), float(b)) for n, a, b in zip(names, low, high, strict=True)}
    average_precision, roc_auc = ranking.scores(purchased, weights)
    quality = Quality(
        rows=len(purchased),
        positives=int(purchased.sum()),
        average_precision=average_precision,
        roc_auc=roc_auc,
        brier_score=brier_score(purchased, probabilities, weights),
        log_loss=_log_loss(purchased, probabilities),
        precision=0,
        recall=0,
        intervals=intervals,
    )
    predicted = probabilities >= threshold
    hits = int(purchased[predicted].sum())
    return with_decisions(quality, hits, int(predicted.sum()) - hits)


def with_decisions(quality: Quality, hits: int, false_alarms: int) -> Quality:
    """Return the quality with precision and recall (0 where undefined) from true and false positives."""
    flagged, positives = hits + false_alarms, quality.positives
    intervals = {"precision": wilson_interval(hits, flagged), "recall": wilson_interval(hits, positives)}
    return quality.model_copy(
        update={
            "precision": hits / flagged if flagged else 0.0,
            "recall": hits / positives if positives else 0.0,
            "intervals": quality.intervals | intervals,
        }
    )


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """Return the Wilson score interval of a ratio (E. B. Wilson, 1927).

    >>> [round(bound, 3) for bound in wilson_interval(8, 10)]
    [0.49, 0.943]
    """
    if trials == 0:
        return 0.0, 1.0
    ratio, z2 = successes / trials, _Z * _Z / trials
    middle = (ratio + z2 / 2) / (1 + z2)
    half = _Z * math.sqrt(ratio * (1 - ratio) / trials + z2 / (4 * trials)) / (1 + z2)
    return max(0.0, middle - half), min(1.0, middle + half)


class Ranking:
    """Probabilities sorted once, so that a bootstrap resample costs two cumulative sums.

    Args:
        probabilities: The scores, float64 (n,).
    """

    def __init__(self, probabilities: NDArray[np.float64]) -> None:
        self._order = np.argsort(-probabilities, kind="stable")
        ranked = probabilities[self._order]
        self._ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
        """The last row of each run of equal probabilities."""

    def scores(self, purchased: NDArray[np.int8], weights: NDArray[np.float64]) -> tuple[float, float]:
        """Return average precision and ROC AUC for weighted rows, as scikit-learn defines them.

        >>> Ranking(np.array([0.9, 0.8, 0.1])).scores(np.array([1, 0, 1], np.int8), np.ones(3))
        (0.8333333333333333, 0.5)
        """
        weighted = weights[self._order]
        bought = weighted * purchased[self._order]
        hits = np.cumsum(bought)[self._ends]
        flagged = np.cumsum(weighted)[self._ends]
        positives, negatives = hits[-1], flagged[-1] - hits[-1]
        if positives == 0 or negatives == 0:
            return 0.0, 0.5
        gained = np.diff(hits, prepend=0.0)
        precision = hits / np.maximum(flagged, np.finfo(np.float64).tiny)
        false_alarms = flagged - hits
        missed = np.diff(false_alarms, prepend=0.0)
        area = float(np.sum(missed * (hits - gained / 2)) / (positives * negatives))
        return float(np.sum(gained * precision) / positives), area


def brier_score(
    purchased: NDArray[np.int8], probabilities: NDArray[np.float64], weights: NDArray[np.float64]
) -> float:
    """Return the weighted mean squared error of the probabilities."""
    return float(np.average((probabilities - purchased) ** 2, weights=weights))


def difference_interval(
    purchased: NDArray[np.int8], candidate: NDArray[np.float64], champion: NDArray[np.float64]
) -> tuple[float, float, float]:
    """Return candidate minus champion in average precision on the same rows, with its interval.

    Both are measured on the same resamples (a paired bootstrap), so the interval is much narrower
    than the difference of two separate intervals.

    Args:
        purchased: The labels, int8 (n,), 0 or 1.
        candidate: The candidate's probabilities, float64 (n,).
        champion: The champion's probabilities, float64 (n,).
    """
    first, second = Ranking(candidate), Ranking(champion)

    def difference(weights: NDArray[np.float64]) -> float:
        return first.scores(purchased, weights)[0] - second.scores(purchased, weights)[0]

    drawn = [difference(weights) for weights in _resamples(len(purchased))]
    low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]).tolist()
    return difference(np.ones(len(purchased))), low, high


def evaluate(
    inputs: NDArray[np.float64],
    purchased: NDArray[np.int8],
    probabilities: NDArray[np.float64],
    threshold: float,
    held_out_curve: ThresholdCurve,
) -> Evaluation:
    """Evaluate out-of-fold probabilities.

    Args:
        inputs: The inputs, float64 (n, 7).
        purchased: The labels, int8 (n,), 0 or 1.
        probabilities: Out-of-fold probabilities, float64 (n,).
        threshold: The probability at or above which a purchase is predicted.
        held_out_curve: The curve of the held-out rows.
    """
    return Evaluation(
        curve=threshold_curve(purchased, probabilities),
        held_out_curve=held_out_curve,
        reliability=_reliability(purchased, probabilities),
        slices=tuple(
            _slice(feature, group, purchased[rows], probabilities[rows], threshold)
            for feature, group, rows in _groups(inputs)
        ),
        duplicate_rows=len(inputs) - len(np.unique(duplicate_groups(inputs))),
        unknown_country_rows=int(np.sum(inputs[:, 0] == UNKNOWN_COUNTRY)),
        separating_input=_separating_input(inputs, purchased),
    )


_SEPARATION: Final = 0.995
"""A ROC AUC that no single input reaches in real behaviour."""


def _separating_input(inputs: NDArray[np.float64], purchased: NDArray[np.int8]) -> str | None:
    ones = np.ones(len(purchased))
    for name, column in list(zip(INPUT_NAMES, inputs.T, strict=True))[1:]:
        area = Ranking(column).scores(purchased, ones)[1]
        if max(area, 1 - area) >= _SEPARATION:
            return name
    return None


def _resamples(rows: int, most: int = 200) -> Iterator[NDArray[np.float64]]:
    """Yield bootstrap weights, float64 (n,): how often each row was drawn, Poisson with mean 1."""
    random = np.random.default_rng(0)
    affordable = max(_RESAMPLED_ROWS // max(rows, 1), _FEWEST_RESAMPLES)
    for _ in range(min(affordable, most)):
        yield random.poisson(1.0, rows).astype(np.float64)


def _log_loss(purchased: NDArray[np.int8], probabilities: NDArray[np.float64]) -> float:
    epsilon = np.finfo(np.float64).eps
    clipped = np.clip(probabilities, epsilon, 1 - epsilon)
    return float(-np.mean(np.where(purchased == 1, np.log(clipped), np.log1p(-clipped))))


def _reliability(
    purchased: NDArray[np.int8], probabilities: NDArray[np.float64]
) -> tuple[ReliabilityBin, ...]:
    parts = np.array_split(np.argsort(probabilities, kind="stable"), _RELIABILITY_BINS)
    return tuple(
        ReliabilityBin(
            rows=len(rows),
            mean_probability=float(probabilities[rows].mean()),
            positive_ratio=float(purchased[rows].mean()),
        )
        for rows in parts
        if len(rows)
    )


def _groups(inputs: NDArray[np.float64]) -> Iterator[tuple[str, str, NDArray[np.bool_]]]:
    """Yield the groups of the slices: the feature, the group's name, and the rows, bool (n,)."""
    countries, days, minutes, _, exams, _, _ = inputs.T
    codes, counts = np.unique(countries.astype(np.intp), return_counts=True)
    ranked = [int(code) for code in codes[np.argsort(-counts, kind="stable")] if code != UNKNOWN_COUNTRY]
    for code in ranked[:_MAX_COUNTRY_SLICES]:
        yield INPUT_NAMES[0], str(country_alpha2(code)), countries == code
    yield INPUT_NAMES[0], "other", np.isin(countries, ranked[_MAX_COUNTRY_SLICES:])
    yield INPUT_NAMES[0], "unknown", countries == UNKNOWN_COUNTRY
    yield "days_on_platform", "under 8", days < 8  # noqa: PLR2004 - the first week
    yield "days_on_platform", "8 or more", days >= 8  # noqa: PLR2004
    low, high = np.quantile(minutes, [1 / 3, 2 / 3]).tolist()
    yield "minutes_watched", f"lowest third (to {low:g})", minutes <= low
    yield "minutes_watched", f"middle third (to {high:g})", (minutes > low) & (minutes <= high)
    yield "minutes_watched", f"highest third (above {high:g})", minutes > high
    yield "practice_exams_started", "none", exams == 0
    yield "practice_exams_started", "1 or more", exams > 0


def _slice(
    feature: str,
    group: str,
    purchased: NDArray[np.int8],
    probabilities: NDArray[np.float64],
    threshold: float,
) -> Slice:
    rows, positives = len(purchased), int(purchased.sum())
    enough = min(positives, rows - positives) >= _MIN_SLICE_POSITIVES
    return Slice(
        feature=feature,
        group=group,
        rows=rows,
        positives=positives,
        mean_probability=float(probabilities.mean()) if rows else 0.0,
        quality=(
            measure(purchased, probabilities, threshold, resamples=_SLICE_RESAMPLES) if enough else None
        ),
    )
