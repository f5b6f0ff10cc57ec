"""Decoded events → the JSON of their fields, as dead letters show them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from consumer.columnar.json import Piece, each_joined, each_number, numbers, strings
from consumer.pipeline.batch import EVENT_FIELDS, RecordBatch


def events_json(events: RecordBatch) -> list[bytes]:
    """Return the fields of each event as a JSON object, in the schema's order.

    NaN and the infinities, which JSON lacks, become text: a ``null`` would hide what was wrong.
    """
    m = len(events)
    if m == 0:
        return []
    characters = events.data.decode("latin-1")
    pieces: list[Piece] = []
    for j, name in enumerate(EVENT_FIELDS):
        label = f'{"," if j else "{"}"{name}":'
        if name in events.texts:
            inside = strings(events.data, characters, events.texts[name], events.starts[:, j + 1])
            pieces += [label + '"', inside, '"']
        else:
            pieces += [label, _numbers(events.numbers[name])]
    return [text.encode("latin-1") for text in each_joined([*pieces, "}"], m)]


def _numbers(column: NDArray[Any]) -> Piece:
    not_finite = np.flatnonzero(~np.isfinite(column))
    if not len(not_finite):
        return numbers(column)
    texts = each_number(column.tolist())
    for i in not_finite.tolist():
        texts[i] = f'"{column[i]}"'
    return texts
