"""Choose and run the self-test: rows with their expected probabilities.

A model that predicts other probabilities is not the model that was trained, even if its digest is
right: a library, the processor or the feature code differs. Countries are stored as text, so the
self-test covers the country table as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from pydantic import BaseModel, ConfigDict

from model_store.countries import UNKNOWN_COUNTRY, country_alpha2, country_code, iso_country_numbers
from model_store.inputs import INPUT_NAMES
from model_store.linear import LinearModel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from model_store.linear import ProbabilityModel


TOLERANCE: Final = 1e-9
"""The largest accepted difference: above rounding errors, too small to change a decision."""

_ROWS: Final = 64
_MAX_ROWS: Final = 4096
"""The largest number of rows, which take a fraction of a second."""
_UNKNOWN_TEXT: Final = "??"
_EDGES: Final = ((0, 0, 0, 0, 0, 0), (1e6, 1e9, 1e6, 1e6, 1e6, 1e9))


class SelfTestRow(BaseModel):
    """The seven inputs, the country as text, and the expected probability."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    student_country: str
    numbers: tuple[float, float, float, float, float, float]
    expected_probability: float


def choose_rows(
    inputs: NDArray[np.float64], model: ProbabilityModel, leaves: NDArray[np.intp] | None = None
) -> tuple[SelfTestRow, ...]:
    """Choose rows from the whole range of scores, from every leaf, and from the edges of the input space.

    Args:
        inputs: The training data, float64 (n, 7).
        model: The trained model, which gives the expected probabilities.
        leaves: For a model of trees: the leaf that a row reaches in each tree, intp (k, trees), for
            the first k rows.
    """
    by_score = np.argsort(model.predict_probability(inputs), kind="stable")
    n_rows = _ROWS if isinstance(model, LinearModel) else _ROWS * 8
    chosen = by_score[np.unique(np.linspace(0, len(inputs) - 1, n_rows).astype(np.intp))]
    if leaves is not None:
        chosen = np.concatenate([chosen, rows_of_every_leaf(leaves)[: _MAX_ROWS - len(chosen)]])
    unseen = np.setdiff1d(iso_country_numbers(), inputs[:, 0])[:1]
    edges = np.array(
        [(country, *numbers) for country in (UNKNOWN_COUNTRY, *unseen) for numbers in _EDGES], np.float64
    )
    rows = np.asfortranarray(np.vstack([inputs[np.unique(chosen)], edges]))
    return tuple(
        SelfTestRow(
            student_country=country_alpha2(int(country)) or _UNKNOWN_TEXT,
            numbers=tuple(numbers),
            expected_probability=probability,
        )
        for (country, *numbers), probability in zip(
            rows.tolist(), model.predict_probability(rows).tolist(), strict=True
        )
    )


def rows_of_every_leaf(leaves: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return rows that reach, together, every leaf that any row reaches.

    >>> rows_of_every_leaf(np.array([[0, 5], [0, 6], [1, 5]])).tolist()
    [0, 2, 1]

    Args:
        leaves: The leaf that each row reaches in each tree, intp (k, trees).
    """
    chosen = np.empty(0, np.intp)
    for column in leaves.T:
        numbers, first = np.unique(column, return_index=True)
        chosen = np.concatenate([chosen, first[~np.isin(numbers, column[chosen])]])
    return chosen


def to_lines(rows: tuple[SelfTestRow, ...]) -> bytes:
    """Return the rows as JSON lines."""
    return "".join(row.model_dump_json() + "\n" for row in rows).encode()


def from_lines(content: bytes) -> tuple[SelfTestRow, ...]:
    """Parse the rows.

    Raises:
        ValueError: A line is not a self-test row (pydantic's ValidationError), or there are no rows.
    """
    rows = tuple(SelfTestRow.model_validate_json(line) for line in content.splitlines())
    if not rows:
        raise ValueError("it holds no rows")
    return rows


def input_rows(rows: tuple[SelfTestRow, ...]) -> NDArray[np.float64]:
    """Return the inputs of the rows, float64 (n, 7)."""
    return np.array(
        [(country_code(row.student_country), *row.numbers) for row in rows], dtype=np.float64, order="F"
    ).reshape(-1, len(INPUT_NAMES), order="F")


def differences(rows: tuple[SelfTestRow, ...], model: ProbabilityModel) -> NDArray[np.float64]:
    """Score the rows; return each distance from the expected probability, float64 (n,), NaN for NaN."""
    inputs = input_rows(rows)
    expected = np.array([row.expected_probability for row in rows])
    distances: NDArray[np.float64] = np.abs(model.predict_probability(inputs) - expected)
    return distances
