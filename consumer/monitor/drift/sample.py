"""Decoded predictions → columns for drift, without making a string for each prediction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from consumer.columnar.arrays import FloatArray, IntArray
from consumer.columnar.dictionary import DictionaryColumn
from consumer.columnar.text import all_equal, hash_strings
from consumer.monitor.drift.window import SCORE
from consumer.pipeline.batch import RecordBatch
from model_store.inputs import INPUT_NAMES

_COUNTRY: Final = "features.student_country"
_SLOT_BITS: Final = 16
"""With 2¹⁶ slots, few of some 250 usual spellings share one."""


class Countries:
    """A cache from the spelling of a country to its number: a direct-mapped hash table.

    The top 16 bits of a spelling's hash select its slot, and the latest spelling in a slot replaces the
    one before: a flood of made-up countries costs time, but no memory::

        hash("DE") = 0x3F9A…  ->  slot 0x3F9A  [hash 0x3F9A…, number of DE]

    Two spellings with the same 64-bit hash would get the same number; see
    :func:`~consumer.columnar.text.hash_strings` for how unlikely that is.

    Args:
        number_of: Returns a country's number for its spelling.
    """

    def __init__(self, number_of: Callable[[str], int]) -> None:
        self._number_of = number_of
        self._hashes = np.zeros(1 << _SLOT_BITS, np.uint64)
        self._hashes[0] = ~np.uint64(0)  # a hash of 0 belongs in slot 0, ~0 does not: every slot is empty
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


def student_hashes(predictions: RecordBatch) -> NDArray[np.uint64]:
    """Return a hash of each prediction's student id, uint64 (m,)."""
    return hash_strings(predictions.data, *predictions.span("student_id"))


def naming_a_student(predictions: RecordBatch) -> RecordBatch:
    """Return the predictions that name a student.

    A call of ``serve`` without a student id is no student to compare with training. Its prediction has the
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


def decisions_of(predictions: RecordBatch) -> IntArray:
    """Return the decisions, int64 (m,), 0 or 1; any other number in a record counts as 1."""
    decisions: IntArray = (predictions.numbers["predicted_purchase"] != 0).astype(np.int64)
    return decisions
