"""Duplicates stay on one side of a split, and with times a model is measured on later students."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from model_store.errors import TrainingDataError
from model_store.splits import FOLDS, Split, duplicate_groups, fold_splits, hold_out
from model_store.training import train

if TYPE_CHECKING:
    from model_store.training_data import TrainingTable


@pytest.fixture
def duplicated(students: TrainingTable) -> TrainingTable:
    """Students of whom every tenth occurs twice."""
    copies = np.arange(0, students.rows, 10)
    inputs = np.asfortranarray(np.vstack([students.inputs, students.inputs[copies]]))
    return replace(
        students,
        inputs=inputs,
        purchased=np.concatenate([students.purchased, students.purchased[copies]]),
        countries=[*students.countries, *students.countries[::10]],
    )


@pytest.fixture
def timed(duplicated: TrainingTable) -> TrainingTable:
    """The same students in a random order of time."""
    times_ms = 1_700_000_000_000 + np.random.default_rng(3).permutation(duplicated.rows)
    return replace(duplicated, times_ms=times_ms)


def _check_duplicates(table: TrainingTable, split: Split) -> None:
    group = duplicate_groups(table.inputs)
    assert not set(group[split.fitted].tolist()) & set(group[split.measured].tolist())


def test_random_folds_share_no_duplicates(duplicated: TrainingTable) -> None:
    """Every row is measured once, by a fit without it and without its copies."""
    rows = np.arange(duplicated.rows)
    splits = fold_splits(duplicated, rows, seed=1)
    assert np.array_equal(np.sort(np.concatenate([split.measured for split in splits])), rows)
    for split in [*splits, hold_out(duplicated, seed=1)]:
        assert len(split.fitted) + len(split.measured) == duplicated.rows
        assert len(split.measured) == pytest.approx(duplicated.rows / FOLDS, rel=0.05)
        _check_duplicates(duplicated, split)


def test_with_times_later_students_are_measured(timed: TrainingTable) -> None:
    """No fit sees a student of the measured span or later, nor a copy of one that is measured."""
    assert timed.times_ms is not None
    splits = fold_splits(timed, np.arange(timed.rows), seed=1)
    held_out = hold_out(timed, seed=1)
    for split in [*splits, held_out]:
        assert timed.times_ms[split.fitted].max() < timed.times_ms[split.measured].min()
        _check_duplicates(timed, split)
    measured = np.concatenate([split.measured for split in splits])
    assert len(measured) == len(set(measured)) == timed.rows - -(-timed.rows // (FOLDS + 1))
    assert len(held_out.measured) == timed.rows // FOLDS


def test_training_with_times_is_honest_about_change(students: TrainingTable) -> None:
    """Where the latest students buy for other reasons, only the split by time sees the loss."""
    later = np.arange(students.rows) >= students.rows * 4 // 5
    random = np.random.default_rng(0)
    purchased = np.where(later, random.permutation(students.purchased), students.purchased)
    changed = replace(students, purchased=purchased.astype(np.int8))
    by_chance = train(changed).metrics
    by_time = train(replace(changed, times_ms=1_700_000_000_000 + np.arange(students.rows))).metrics
    assert (by_chance.split, by_time.split) == ("random", "time")
    assert by_time.held_out.average_precision < by_chance.held_out.average_precision - 0.2
    assert by_time.cross_validated.rows == students.rows - -(-students.rows // (FOLDS + 1))


def test_early_students_of_one_outcome_are_refused(students: TrainingTable) -> None:
    """Nothing can be fitted on them."""
    by_label = np.argsort(students.purchased, kind="stable").argsort()
    with pytest.raises(TrainingDataError, match="earliest students have one outcome"):
        train(replace(students, times_ms=1_700_000_000_000 + by_label))
