"""Decoded predictions → samples for drift, column by column: no string is made per prediction."""

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
"""Of some 250 usual spellings hardly two share one of so many slots."""


class Countries:
    """Numbers of countries by the hash of their spelling.

    Each spelling has one slot, by the first bits of its hash, and the latest to come there stays: a
    flood of made-up countries costs time, and no memory.

    Args:
        number_of: from a text to a country's number.
    """

    def __init__(self, number_of: Callable[[str], int]) -> None:
        self._number_of = number_of
        self._hashes = np.zeros(1 << _SLOT_BITS, np.uint64)
        self._hashes[0] = ~np.uint64(0)  # belongs elsewhere, as 0 does in every other slot: all are free
        self._numbers = np.zeros(1 << _SLOT_BITS, np.float64)

    def numbers(self, data: bytes, begins: IntArray, ends: IntArray) -> FloatArray:
        """Return the number of each country ``data[begins[i]:ends[i]]``, float64 (m,)."""
        hashes = hash_strings(data, begins, ends)
        slots = hashes >> np.uint64(64 - _SLOT_BITS)
        numbers: FloatArray = self._numbers[slots]
        new = np.flatnonzero(self._hashes[slots] != hashes)
        if len(new):
            distinct, first, which = np.unique(hashes[new], return_index=True, return_inverse=True)
            rows = new[first]
            learnt = np.array([self._number_of(data[begins[i] : ends[i]].decode()) for i in rows.tolist()])
            self._hashes[slots[rows]], self._numbers[slots[rows]] = distinct, learnt
            numbers[new] = learnt[which]
        return numbers


def student_hashes(predictions: RecordBatch) -> NDArray[np.uint64]:
    """Return a hash of each prediction's student id, uint64 (m,)."""
    return hash_strings(predictions.data, *predictions.span("student_id"))


def versions_of(predictions: RecordBatch) -> DictionaryColumn[str]:
    """Return the model version of each prediction; the dictionary is sorted by last prediction."""
    data, (starts, stops) = predictions.data, predictions.span("model_version")
    if all_equal(data, starts, stops):  # the usual case
        return DictionaryColumn([data[starts[0] : stops[0]].decode()], np.zeros(len(starts), np.int64))
    hashes = hash_strings(data, starts, stops)[::-1]
    _, first, indexes = np.unique(hashes, return_index=True, return_inverse=True)
    order = np.argsort(-first)
    last_rows = len(hashes) - 1 - first[order]
    names = [data[starts[i] : stops[i]].decode() for i in last_rows.tolist()]
    return DictionaryColumn(names, np.argsort(order)[indexes[::-1]])


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
    """Return the decisions, int64 (m,), 0 or 1 whatever stands in the record."""
    decisions: IntArray = (predictions.numbers["predicted_purchase"] != 0).astype(np.int64)
    return decisions
