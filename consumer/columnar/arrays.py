"""Array types, dictionary-encoded columns as in Apache Arrow, and the selection of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeAlias, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

IntArray: TypeAlias = NDArray[np.int64]
"""Rows, offsets, counts, milliseconds."""

FloatArray: TypeAlias = NDArray[np.float64]
"""Probabilities, minutes, features."""

_T = TypeVar("_T")
_U = TypeVar("_U")


@overload
def select_rows(column: IntArray, rows: IntArray) -> IntArray: ...
@overload
def select_rows(column: Sequence[_T], rows: Sequence[int]) -> Sequence[_T]: ...
def select_rows(column: Any, rows: Any) -> Any:
    """Select rows (sorted, unique). Returns ``column`` itself, uncopied, when all rows are selected."""
    if len(rows) == len(column):
        return column
    return column[rows] if isinstance(column, np.ndarray) else [column[row] for row in rows]


@dataclass(frozen=True, slots=True)
class DictionaryColumn(Generic[_T]):
    """A column of m values: row i holds ``dictionary[indices[i]]``.

    >>> column = DictionaryColumn(["US", "DE"], np.array([0, 1, 0]))
    >>> column.to_list()
    ['US', 'DE', 'US']
    >>> column.map(str.lower).to_list()
    ['us', 'de', 'us']

    Attributes:
        dictionary: The values; it may contain duplicates and unused entries.
        indices: The index of each row's value in ``dictionary``, int64 (m,).
    """

    dictionary: Sequence[_T]
    indices: IntArray = field(repr=False)

    @classmethod
    def encode(cls, values: Iterable[_T]) -> DictionaryColumn[_T]:
        """Encode hashable values; the dictionary is in the order of first use.

        >>> DictionaryColumn.encode("abba")
        DictionaryColumn(dictionary=['a', 'b'])
        """
        index_of: dict[_T, int] = {}
        indices = [index_of.setdefault(value, len(index_of)) for value in values]
        return cls(list(index_of), np.array(indices, np.int64))

    @classmethod
    def concatenate(cls, columns: Sequence[DictionaryColumn[_T]]) -> DictionaryColumn[_T]:
        """Append columns to each other. Their dictionaries are appended too, duplicates included."""
        sizes = [len(column.dictionary) for column in columns]
        shifts = np.cumsum([0, *sizes[:-1]])
        return cls(
            [value for column in columns for value in column.dictionary],
            np.concatenate([column.indices + shift for column, shift in zip(columns, shifts, strict=True)]),
        )

    def __len__(self) -> int:
        return len(self.indices)

    def to_list(self) -> list[_T]:
        """Return the value of each row."""
        # Object arrays gather twice as fast as a list comprehension.
        dictionary = np.fromiter(self.dictionary, np.object_, len(self.dictionary))
        values: list[_T] = dictionary[self.indices].tolist()
        return values

    def map(self, function: Callable[[_T], _U]) -> DictionaryColumn[_U]:
        """Apply a function to each value of the dictionary."""
        return DictionaryColumn([function(value) for value in self.dictionary], self.indices)

    def select_rows(self, indexes: IntArray) -> DictionaryColumn[_T]:
        """Return the column of the rows at these indexes, with the same dictionary."""
        return DictionaryColumn(self.dictionary, self.indices[indexes])
