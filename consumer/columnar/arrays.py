"""Array types, and the selection of rows from a column."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

IntArray: TypeAlias = NDArray[np.int64]
"""Rows, offsets, counts, milliseconds."""

FloatArray: TypeAlias = NDArray[np.float64]
"""Probabilities, minutes, features."""

_T = TypeVar("_T")


@overload
def select_rows(column: IntArray, rows: IntArray) -> IntArray: ...
@overload
def select_rows(column: Sequence[_T], rows: Sequence[int]) -> Sequence[_T]: ...
def select_rows(column: Any, rows: Any) -> Any:
    """Select rows (sorted, unique). Returns ``column`` itself, uncopied, when all rows are selected."""
    if len(rows) == len(column):
        return column
    return column[rows] if isinstance(column, np.ndarray) else [column[row] for row in rows]
