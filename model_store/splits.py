"""Split students into those that a model is fitted on and those that it is measured on.

Rows with equal inputs are duplicates and stay on one side. Otherwise a model would be measured on rows
that it has seen. Without times, splits are random and stratified by label. With times, a model is
fitted on earlier students and measured on later ones, as it will be used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from model_store.errors import TrainingDataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from model_store.training_data import TrainingTable

FOLDS: Final = 5


@dataclass(frozen=True, slots=True)
class Split:
    """Rows of a table.

    Attributes:
        fitted: The rows to fit on, intp.
        measured: The rows to measure on, intp.
    """

    fitted: NDArray[np.intp]
    measured: NDArray[np.intp]


def hold_out(table: TrainingTable, seed: int) -> Split:
    """Hold out a fifth of the rows: the latest ones, or without times a stratified random fifth."""
    rows = np.arange(table.rows)
    if table.times_ms is None:
        held_out = fold_numbers(table.inputs, table.purchased, FOLDS, seed) == 0
        return Split(rows[~held_out], rows[held_out])
    by_time = rows[np.argsort(table.times_ms, kind="stable")]
    first = len(rows) - len(rows) // FOLDS
    return _without_duplicates(table, by_time[:first], by_time[first:])


def fold_splits(table: TrainingTable, rows: NDArray[np.intp], seed: int) -> list[Split]:
    """Split rows into five folds, each measured by a fit without it.

    With times, the rows are cut into six spans, and each span but the first is measured by a fit on
    all earlier ones. For example, 12 rows in the order of time give these splits (fitted | measured):
    0-1 | 2-3, 0-3 | 4-5, 0-5 | 6-7, 0-7 | 8-9, 0-9 | 10-11.

    Args:
        table: The students.
        rows: The rows to split, intp (n,).
        seed: The seed of the shuffle, without times.

    Raises:
        TrainingDataError: The first span has students of one label only.
    """
    if table.times_ms is None:
        fold = fold_numbers(table.inputs[rows], table.purchased[rows], FOLDS, seed)
        return [Split(rows[fold != number], rows[fold == number]) for number in range(FOLDS)]
    by_time = rows[np.argsort(table.times_ms[rows], kind="stable")]
    spans = np.array_split(by_time, FOLDS + 1)
    splits = [_without_duplicates(table, np.concatenate(spans[:k]), spans[k]) for k in range(1, FOLDS + 1)]
    for split in splits:
        if len(np.unique(table.purchased[split.fitted])) == 1:
            raise TrainingDataError(
                f"{table.source}: the {len(split.fitted)} earliest students have one outcome, so no model "
                "can be fitted on them; give more students, or no times"
            )
    return splits


def _without_duplicates(table: TrainingTable, fitted: NDArray[np.intp], measured: NDArray[np.intp]) -> Split:
    """Return a split without the fitted rows that are duplicates of a measured row."""
    group = duplicate_groups(table.inputs)
    return Split(fitted[~np.isin(group[fitted], group[measured])], measured)


def fold_numbers(
    inputs: NDArray[np.float64], purchased: NDArray[np.int8], folds: int, seed: int
) -> NDArray[np.intp]:
    """Assign rows to folds: stratified by label, with equal inputs in one fold.

    Args:
        inputs: The inputs, float64 (n, 7).
        purchased: The labels, int8 (n,), 0 or 1.
        folds: The number of folds.
        seed: The seed of the shuffle.

    Returns:
        The number of each row's fold, intp (n,).
    """
    group = duplicate_groups(inputs)
    has_buyer = np.bincount(group, weights=purchased) > 0
    fold_of_group = np.empty(len(has_buyer), np.intp)
    random = np.random.default_rng(seed)
    for stratum in (np.flatnonzero(has_buyer), np.flatnonzero(~has_buyer)):
        fold_of_group[random.permutation(stratum)] = np.arange(len(stratum)) % folds
    return fold_of_group[group]


def duplicate_groups(inputs: NDArray[np.float64]) -> NDArray[np.intp]:
    """Number rows so that equal rows have equal numbers, intp (n,).

    >>> duplicate_groups(np.array([[1.0, 2.0], [3.0, 4.0], [1.0, 2.0]])).tolist()
    [0, 1, 0]
    """
    hashes = np.zeros(len(inputs), np.uint64)
    for column in inputs.T:  # a hash per row: sorting numbers is much faster than sorting rows
        hashes ^= (column + 0.0).view(np.uint64)  # + 0.0 makes -0.0 equal to 0.0
        hashes *= np.uint64(0x9E3779B97F4A7C15)
        hashes ^= hashes >> np.uint64(29)
    _, first, group = np.unique(hashes, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.intp)
    rank[np.argsort(first, kind="stable")] = np.arange(len(first))
    return rank[group]
