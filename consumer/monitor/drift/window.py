"""Count the students of a drift window in each bin. Each student counts once.

Windows are tumbling and close at a number of distinct students, for two reasons: the drift threshold
depends on that number, and a student with many events must not look like many similar students, which is
the most common false alarm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import PlainValidator

from consumer.columnar.arrays import DictionaryColumn, FloatArray, IntArray
from consumer.columnar.text import all_equal, hash_strings
from consumer.monitor.audit.hashed_ids import IdHasher
from consumer.monitor.drift.statistics import digitize, not_in_sorted, previous_occurrence
from consumer.pipeline.batch import RecordBatch
from model_store.baseline import Baseline, NumericBins
from model_store.input_profile import NUMERIC_INPUTS, InputProfile
from model_store.inputs import INPUT_NAMES

SCORE: Final = "score"
PREDICTED_PURCHASE: Final = "predicted_purchase"
SERIES: Final = (*INPUT_NAMES, SCORE, PREDICTED_PURCHASE)
"""The series that are compared with training: the seven inputs, the score and the decision."""

NUMERIC: Final = (*INPUT_NAMES[1:], SCORE)
"""The series with a mean."""

DECISION_BINS: Final = ("0", "1")

Counts = Annotated[NDArray[np.int64], PlainValidator(lambda counts: np.array(counts, np.int64))]
"""The count of each bin, int64 (B,); read from a list in the saved state."""

Totals = Annotated[NDArray[np.float64], PlainValidator(lambda totals: np.array(totals, np.float64))]
"""Sums, float64 (k,); read from a list in the saved state."""

_MIN_CHUNK_ROWS: Final = 512
"""Minimum number of rows to examine together, even if the window needs fewer students."""


@dataclass(frozen=True)
class Sample:
    """m predictions of one model version, binned.

    Attributes:
        students: Hashes of the student ids, uint64 (m,).
        bins: The bin of each prediction in each of :data:`SERIES`, int64 (9, m). The bins of all series
            are numbered consecutively.
        values: The values of each of :data:`NUMERIC`, float64 (7, m).
        scored_at_ms: Milliseconds since the epoch, int64 (m,).
        profile: Sums up zeros, tails and correlations; ``None`` for an older baseline.
    """

    students: NDArray[np.uint64]
    bins: NDArray[np.int64] = field(repr=False)
    values: FloatArray = field(repr=False)
    scored_at_ms: NDArray[np.int64] = field(repr=False)
    profile: InputProfile | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.students)

    @cached_property
    def previous_occurrence(self) -> IntArray:
        """The row of each student's previous prediction in this sample, int64 (m,), or -1."""
        return previous_occurrence(self.students)


def sample_of(
    columns: Mapping[str, FloatArray],
    decisions: NDArray[np.int64],
    students: NDArray[np.uint64],
    scored_at_ms: NDArray[np.int64],
    baseline: Baseline,
) -> Sample:
    """Bin predictions.

    Args:
        columns: The seven inputs (country as a number) and ``score``, float64 (m,) by name.
        decisions: The predicted classes, 0 or 1, int64 (m,).
        students: Hashes of the student ids, uint64 (m,).
        scored_at_ms: Milliseconds since the epoch, int64 (m,).
        baseline: The bins.
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
    values = np.stack([columns[name] for name in NUMERIC])
    return Sample(students, bins, values, scored_at_ms, baseline.profile)


@dataclass(slots=True)
class WindowCounts:
    """The counts of a window.

    Attributes:
        number: 1 for the first window of the model version.
        students: Distinct students counted.
        predictions: Predictions read, including repeated ones of counted students.
        opened_ms: Time of the window's first prediction, ms since the epoch; ``None`` while empty.
        last_ms: Time of the window's latest prediction.
        bins: Students in each bin, for each of :data:`SERIES`, int64 (B,).
        totals: Sum of each of :data:`NUMERIC`.
        profile_sums: Sums of the profile of the numeric inputs, see
            :class:`~model_store.input_profile.InputProfile`. Empty if the baseline has no profile, or if a
            release without profiles opened the window.
    """

    number: int
    bins: dict[str, Counts]
    totals: dict[str, float]
    students: int = 0
    predictions: int = 0
    opened_ms: int | None = None
    last_ms: int | None = None
    profile_sums: Totals = field(default_factory=lambda: np.empty(0))

    @classmethod
    def empty(cls, number: int, baseline: Baseline) -> WindowCounts:
        """Return the counts of an empty window."""
        labels = bin_labels(baseline)
        return cls(
            number=number,
            bins={name: np.zeros(len(labels[name]), np.int64) for name in SERIES},
            totals=dict.fromkeys(NUMERIC, 0.0),
        )

    def copy(self) -> WindowCounts:
        """Return an independent copy."""
        bins = {name: counts.copy() for name, counts in self.bins.items()}
        return WindowCounts(
            self.number,
            bins,
            dict(self.totals),
            self.students,
            self.predictions,
            self.opened_ms,
            self.last_ms,
            self.profile_sums.copy(),
        )


def bin_labels(baseline: Baseline) -> dict[str, tuple[str, ...]]:
    """Return the bin labels of each series."""
    return {
        **{name: bins.labels for name, bins in baseline.features.items()},
        SCORE: baseline.score.labels,
        PREDICTED_PURCHASE: DECISION_BINS,
    }


class Window:
    """The window that is being filled.

    Args:
        counts: The counts so far.
        target_students: Number of distinct students that closes the window.
        max_age_ms: Age that closes the window.
        seen: The students counted so far, sorted, uint64 (s,).

    Attributes:
        counts: The counts so far.
        flat_counts: The bins of all series, int64 (B,); ``counts.bins`` are views of its parts.
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
        self.flat_counts = flatten_counts(counts.bins)

    @property
    def seen(self) -> NDArray[np.uint64]:
        """The students counted so far, uint64 (s,), sorted."""
        if self._just_seen:
            self._seen = np.sort(np.concatenate([self._seen, *self._just_seen]))
            self._just_seen.clear()
        return self._seen

    @property
    def is_full(self) -> bool:
        """Whether the window has enough students, or is too old."""
        return self._expired or self.counts.students >= self._target_students

    def add(self, sample: Sample, start: int) -> int:
        """Count the rows from ``start`` on, until the sample ends or the window is full.

        Students A, B and C arrive at a window for two that has already counted A::

            row      0  1  2  3  4        row 0: A was counted before
            student  A  B  B  C  A        row 1: B is new and fills the window
            add(sample, 0) returns 2; the next window starts at row 2, where B counts again

        Returns:
            The first row that was not counted. If the window is full, it belongs to the next window.
        """
        if start >= len(sample) or self.is_full:
            return start
        known, stop, new = self.seen, start, np.empty(0, np.int64)
        lacking = self._target_students - self.counts.students
        while stop < len(sample) and len(new) < lacking and not self._expired:
            chunk_start, chunk_rows = stop, max(lacking - len(new), _MIN_CHUNK_ROWS)
            stop = self._within_age(sample.scored_at_ms, stop, min(stop + chunk_rows, len(sample)))
            # A student is new if the window has not counted them, and this is their first row from start on.
            first_here = sample.previous_occurrence[chunk_start:stop] < start
            rows = chunk_start + np.flatnonzero(first_here)
            new = np.concatenate([new, rows[not_in_sorted(sample.students[rows], known)]])
        if len(new) >= lacking:
            new = new[:lacking]
            stop = int(new[-1]) + 1  # the student who fills the window also closes it
        if stop > start:
            all_new = len(new) == stop - start  # the usual case: a slice needs no copy
            self._count(sample, slice(start, stop) if all_new else new)
            counts = self.counts
            counts.predictions += stop - start
            counts.last_ms = max(int(sample.scored_at_ms[start:stop].max()), counts.last_ms or 0)
        return stop

    def _within_age(self, times_ms: NDArray[np.int64], start: int, stop: int) -> int:
        """Return the first row from ``start`` on that is too late, else ``stop``. Opens an empty window."""
        if self.counts.opened_ms is None:
            self.counts.opened_ms = int(times_ms[start])
        late = times_ms[start:stop] >= self.counts.opened_ms + self._max_age_ms
        if not late.any():
            return stop
        self._expired = True
        return start + int(late.argmax())

    def _count(self, sample: Sample, rows: IntArray | slice) -> None:
        counts, students = self.counts, sample.students[rows]
        if sample.profile is not None and (not counts.students or len(counts.profile_sums)):
            sums = sample.profile.sums(sample.values[: len(NUMERIC_INPUTS), rows])
            counts.profile_sums = sums + counts.profile_sums if len(counts.profile_sums) else sums
        counts.students += len(students)
        self._just_seen.append(students)
        bins = sample.bins[:, rows]
        self.flat_counts += np.bincount(bins.ravel(), minlength=len(self.flat_counts))
        with np.errstate(over="ignore", invalid="ignore"):  # see mean_shift_sd
            totals = sample.values[:, rows].sum(axis=1).tolist()
        for name, total in zip(NUMERIC, totals, strict=True):
            counts.totals[name] += total


def flatten_counts(bins: dict[str, Counts]) -> NDArray[np.int64]:
    """Copy the bins of all series into one array, int64 (B,), and make ``bins`` views of its parts."""
    flat = np.concatenate(list(bins.values()))
    stop = 0
    for name, counts in bins.items():
        start, stop = stop, stop + len(counts)
        bins[name] = flat[start:stop]
    return flat


_COUNTRY: Final = "features.student_country"
_SLOT_BITS: Final = 16
"""With 2¹⁶ slots, hardly any of the roughly 250 usual spellings share a slot."""


class Countries:
    """A cache from the spelling of a country to its number: a direct-mapped hash table.

    The top 16 bits of a spelling's hash select its slot, and the latest spelling in a slot replaces the
    previous one. A flood of invented countries costs time, but no memory::

        hash("DE") = 0x3F9A…  ->  slot 0x3F9A  [hash 0x3F9A…, number of DE]

    Two spellings with the same 64-bit hash would get the same number; see
    :func:`~consumer.columnar.text.hash_strings` for how unlikely that is.

    Args:
        number_of: Returns a country's number for its spelling.
    """

    def __init__(self, number_of: Callable[[str], int]) -> None:
        self._number_of = number_of
        self._hashes = np.zeros(1 << _SLOT_BITS, np.uint64)
        self._hashes[0] = ~np.uint64(0)  # a hash of 0 belongs in slot 0, ~0 does not: all slots are empty
        self._numbers = np.zeros(1 << _SLOT_BITS, np.float64)

    def numbers(self, data: bytes, starts: IntArray, stops: IntArray) -> FloatArray:
        """Return the number of each country ``data[starts[i]:stops[i]]``, float64 (m,)."""
        hashes = hash_strings(data, starts, stops)
        slots = hashes >> np.uint64(64 - _SLOT_BITS)
        numbers: FloatArray = self._numbers[slots]
        missing = np.flatnonzero(self._hashes[slots] != hashes)
        if len(missing):
            distinct, first, indexes = np.unique(hashes[missing], return_index=True, return_inverse=True)
            rows = missing[first]
            found = np.array([self._number_of(data[starts[i] : stops[i]].decode()) for i in rows.tolist()])
            self._hashes[slots[rows]], self._numbers[slots[rows]] = distinct, found
            numbers[missing] = found[indexes]
        return numbers


def student_hashes(records: RecordBatch, hasher: IdHasher | None = None) -> NDArray[np.uint64]:
    """Return a hash of each prediction's or outcome's student id, uint64 (m,).

    Args:
        records: Predictions or outcomes.
        hasher: Hashes with a secret key, so that the saved state does not reveal who was in it.
    """
    hashes = hash_strings if hasher is None else hasher.numbers
    return hashes(records.data, *records.span("student_id"))


def naming_a_student(predictions: RecordBatch) -> RecordBatch:
    """Return the predictions that name a student.

    A call of ``serve`` may name no student, so it cannot be compared with training. Its prediction has the
    event id as student id, and no source offset.
    """
    calls = np.flatnonzero(predictions.numbers["source_offset"] < 0)
    if not len(calls):  # the usual case
        return predictions
    served = predictions.select_rows(calls)
    anonymous = hash_strings(served.data, *served.span("student_id")) == hash_strings(
        served.data, *served.span("event_id")
    )
    return predictions.select_rows(np.delete(np.arange(len(predictions)), calls[anonymous]))


def versions_of(predictions: RecordBatch) -> DictionaryColumn[str]:
    """Return the model version of each prediction; the dictionary is ordered by last prediction.

    Predictions of versions ``b a b a a`` give the dictionary ``["b", "a"]`` and the indices
    ``[0, 1, 0, 1, 1]``: b predicted last in row 2, a in row 4. The rows are hashed in reverse, so that
    ``np.unique``, which returns first occurrences, finds the last ones.
    """
    data, (starts, stops) = predictions.data, predictions.span("model_version")
    if all_equal(data, starts, stops):  # the usual case
        return DictionaryColumn([data[starts[0] : stops[0]].decode()], np.zeros(len(starts), np.int64))
    reversed_hashes = hash_strings(data, starts, stops)[::-1]
    _, first, indexes = np.unique(reversed_hashes, return_index=True, return_inverse=True)
    order = np.argsort(-first)
    rank = np.argsort(order)
    last_rows = len(reversed_hashes) - 1 - first[order]
    names = [data[starts[i] : stops[i]].decode() for i in last_rows.tolist()]
    return DictionaryColumn(names, rank[indexes[::-1]])


def columns_of(predictions: RecordBatch, countries: Countries) -> dict[str, FloatArray]:
    """Return the seven inputs (country as a number) and ``score``, float64 (m,), by name."""
    numbers = predictions.numbers
    columns: dict[str, FloatArray] = {
        INPUT_NAMES[0]: countries.numbers(predictions.data, *predictions.span(_COUNTRY)),
        SCORE: numbers["predicted_purchase_probability"],
    }
    for name in INPUT_NAMES[1:]:
        columns[name] = numbers[f"features.{name}"].astype(np.float64, copy=False)
    return columns


def inputs_of(predictions: RecordBatch, countries: Countries) -> FloatArray:
    """Return the model's inputs, float64 (m, 7), Fortran-ordered, the country as a number."""
    columns = columns_of(predictions, countries)
    inputs = np.empty((len(predictions), len(INPUT_NAMES)), np.float64, order="F")
    for j, name in enumerate(INPUT_NAMES):
        inputs[:, j] = columns[name]
    return inputs


def decisions_of(predictions: RecordBatch) -> IntArray:
    """Return the decisions, int64 (m,), 0 or 1; any other number in a record counts as 1."""
    decisions: IntArray = (predictions.numbers["predicted_purchase"] != 0).astype(np.int64)
    return decisions
