"""One window of drift: how many students fell into each bin. Each student counts once.

A window is tumbling and closed by its number of distinct students, because the threshold that a
window is held to depends on that number, and because a student who sends many events would else be
taken for many students who are alike, which is the commonest false alarm of all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import PlainValidator

from consumer.columnar.arrays import FloatArray, IntArray
from consumer.monitor.drift.statistics import digitize, previous_occurrence, unseen
from model_store.baseline import Baseline, NumericBins
from model_store.inputs import INPUT_NAMES

SCORE: Final = "score"
PREDICTED_PURCHASE: Final = "predicted_purchase"
SERIES: Final = (*INPUT_NAMES, SCORE, PREDICTED_PURCHASE)
"""Everything that is compared with training: the seven inputs, the score, and the decision."""

NUMERIC: Final = (*INPUT_NAMES[1:], SCORE)
"""Those with a mean."""

DECISION_BINS: Final = ("0", "1")

Counts = Annotated[NDArray[np.int64], PlainValidator(lambda counts: np.array(counts, np.int64))]
"""int64 (B,); read from a list of a state that was saved."""

_LOOK_AHEAD_ROWS: Final = 512
"""At least so many rows are looked at together, however few students a window still lacks."""


@dataclass(frozen=True)
class Sample:
    """m predictions of one model version, as drift looks at them.

    Attributes:
        students: uint64 (m,), a hash of each student's id.
        bins: int64 (9, m), the bin of each of :data:`SERIES`, all bins being numbered in one row.
        values: float64 (7, m), each of :data:`NUMERIC`.
        scored_at_ms: int64 (m,).
    """

    students: NDArray[np.uint64]
    bins: NDArray[np.int64] = field(repr=False)
    values: FloatArray = field(repr=False)
    scored_at_ms: NDArray[np.int64] = field(repr=False)

    def __len__(self) -> int:
        return len(self.students)

    @cached_property
    def previous_occurrence(self) -> IntArray:
        """Where each student stood before in this sample, int64 (m,), -1 for nowhere."""
        return previous_occurrence(self.students)


def sample_of(
    columns: Mapping[str, FloatArray],
    decisions: NDArray[np.int64],
    students: NDArray[np.uint64],
    scored_at_ms: NDArray[np.int64],
    baseline: Baseline,
) -> Sample:
    """Find the bins of predictions.

    Args:
        columns: the seven inputs (country as a number) and ``score``, float64 (m,) by name.
        decisions: int64 (m,), 0 or 1.
        students: uint64 (m,), a hash of each student's id.
        scored_at_ms: int64 (m,).
        baseline: whose bins.
    """
    series = {**baseline.features, SCORE: baseline.score}
    labels = bin_labels(baseline)
    bins = np.empty((len(SERIES), len(students)), np.int64)
    first_bin = 0
    for i, name in enumerate(SERIES):
        if name == PREDICTED_PURCHASE:
            bins[i] = decisions
        elif isinstance(frozen := series[name], NumericBins):
            bins[i] = digitize(columns[name], frozen.edges)
        else:
            bins[i] = frozen.bin_indices(columns[name])
        bins[i] += first_bin
        first_bin += len(labels[name])
    return Sample(students, bins, np.stack([columns[name] for name in NUMERIC]), scored_at_ms)


@dataclass(slots=True)
class WindowCounts:
    """What a window holds.

    Attributes:
        number: 1 for the model version's first window.
        students: distinct students counted.
        predictions: predictions read, those of students already counted included.
        opened_ms: when its first prediction was made, ms since the epoch; ``None`` while empty.
        last_ms: when its latest prediction was made.
        bins: int64 (B,), students in each bin, for each of :data:`SERIES`.
        totals: sum of each numeric input and of the score.
    """

    number: int
    bins: dict[str, Counts]
    totals: dict[str, float]
    students: int = 0
    predictions: int = 0
    opened_ms: int | None = None
    last_ms: int | None = None

    @classmethod
    def empty(cls, number: int, baseline: Baseline) -> WindowCounts:
        """Return a window that nobody is in yet."""
        labels = bin_labels(baseline)
        return cls(
            number=number,
            bins={name: np.zeros(len(labels[name]), np.int64) for name in SERIES},
            totals=dict.fromkeys(NUMERIC, 0.0),
        )

    def copy(self) -> WindowCounts:
        """Return one that no longer changes."""
        bins = {name: counts.copy() for name, counts in self.bins.items()}
        return WindowCounts(
            self.number,
            bins,
            dict(self.totals),
            self.students,
            self.predictions,
            self.opened_ms,
            self.last_ms,
        )


def bin_labels(baseline: Baseline) -> dict[str, tuple[str, ...]]:
    """Return the labels of each series' bins."""
    return {
        **{name: bins.labels for name, bins in baseline.features.items()},
        SCORE: baseline.score.labels,
        PREDICTED_PURCHASE: DECISION_BINS,
    }


class Window:
    """The window that is being filled.

    Args:
        counts: what it holds already.
        target_students: how many fill it.
        max_age_ms: how old it may get.
        seen: uint64, sorted, the students it holds already.
    """

    def __init__(
        self,
        counts: WindowCounts,
        target_students: int,
        max_age_ms: float,
        seen: NDArray[np.uint64] | None = None,
    ) -> None:
        self.counts = counts
        self._seen = np.empty(0, np.uint64) if seen is None else seen
        self._just_seen: list[NDArray[np.uint64]] = []
        self._target_students = target_students
        self._max_age_ms = max_age_ms
        self._expired = False
        self.flat_counts = flat_counts(counts.bins)
        """The bins of all series, which ``counts`` shows by series; int64 (B,)."""

    @property
    def seen(self) -> NDArray[np.uint64]:
        """The students it holds, uint64, sorted."""
        if self._just_seen:
            self._seen = np.sort(np.concatenate([self._seen, *self._just_seen]))
            self._just_seen.clear()
        return self._seen

    @property
    def is_full(self) -> bool:
        """Whether it has its students, or its time is over."""
        return self._expired or self.counts.students >= self._target_students

    def add(self, sample: Sample, begin: int) -> int:
        """Take in rows from ``begin`` on, until the sample ends or the window is full.

        Returns:
            The row to go on from, in the next window if this one is full.
        """
        if begin >= len(sample) or self.is_full:
            return begin
        seen, end, new = self.seen, begin, np.empty(0, np.int64)
        lacking = self._target_students - self.counts.students
        while end < len(sample) and len(new) < lacking and not self._expired:
            look_ahead = max(lacking - len(new), _LOOK_AHEAD_ROWS)
            part, end = end, self._within_age(sample.scored_at_ms, end, min(end + look_ahead, len(sample)))
            rows = part + np.flatnonzero(sample.previous_occurrence[part:end] < begin)
            new = np.concatenate([new, rows[unseen(sample.students[rows], seen)]])
        if len(new) >= lacking:
            # The window ends with the student who fills it, wherever the batch ends.
            new = new[:lacking]
            end = int(new[-1]) + 1
        if end > begin:
            # Students who are all new, the usual case, are looked at where they lie.
            self._count(sample, slice(begin, end) if len(new) == end - begin else new)
            counts = self.counts
            counts.predictions += end - begin
            counts.last_ms = max(int(sample.scored_at_ms[begin:end].max()), counts.last_ms or 0)
        return end

    def _within_age(self, times_ms: NDArray[np.int64], begin: int, end: int) -> int:
        """Return where the first row between begin and end stands that comes too late; open the window."""
        if self.counts.opened_ms is None:
            self.counts.opened_ms = int(times_ms[begin])
        late = times_ms[begin:end] >= self.counts.opened_ms + self._max_age_ms
        if not late.any():
            return end
        self._expired = True
        return begin + int(late.argmax())

    def _count(self, sample: Sample, rows: IntArray | slice) -> None:
        counts, students = self.counts, sample.students[rows]
        counts.students += len(students)
        self._just_seen.append(students)
        bins = sample.bins[:, rows]
        self.flat_counts += np.bincount(bins.ravel(), minlength=len(self.flat_counts))
        with np.errstate(over="ignore", invalid="ignore"):  # a mean beyond all numbers is no mean
            totals = sample.values[:, rows].sum(axis=1).tolist()
        for name, total in zip(NUMERIC, totals, strict=True):
            counts.totals[name] += total


def flat_counts(bins: dict[str, Counts]) -> NDArray[np.int64]:
    """Lay the bins of all series out in one array, int64 (B,), and let ``bins`` be views of its parts."""
    together = np.concatenate(list(bins.values()))
    end = 0
    for name, counts in bins.items():
        begin, end = end, end + len(counts)
        bins[name] = together[begin:end]
    return together
