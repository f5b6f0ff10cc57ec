"""Read training data from a CSV file: students with a known outcome.

The rules are the same as for events: training data may not contain what a scorer would reject.
"""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from model_store.countries import country_code
from model_store.errors import TrainingDataError
from model_store.inputs import (
    COUNTRY_MAX_CHARACTERS,
    COUNTRY_MIN_CHARACTERS,
    INPUT_NAMES,
    INTEGER_INPUTS,
)
from model_store.manifest import digest

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

LABEL: Final = "purchased"
_LABELS: Final = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1}
_LARGEST_LONG: Final = 2**63 - 1


@dataclass(frozen=True, slots=True, eq=False)
class TrainingTable:
    """Students and whether they bought.

    Attributes:
        countries: The countries as written, n texts.
        inputs: The inputs, float64 (n, 7), Fortran order; column 0 is the country's number.
        purchased: The labels, int8 (n,), 0 or 1.
        sha256: The digest of the file's bytes, or of the generated columns.
        source: Where the rows came from, for people.
    """

    countries: Sequence[str] = field(repr=False)
    inputs: NDArray[np.float64] = field(repr=False)
    purchased: NDArray[np.int8] = field(repr=False)
    sha256: str
    source: str

    @property
    def rows(self) -> int:
        """The number of students."""
        return len(self.purchased)

    @property
    def positives(self) -> int:
        """The number of students who bought."""
        return int(self.purchased.sum())


def read_training_csv(path: Path) -> TrainingTable:
    """Read a CSV file in UTF-8, with or without a byte order mark.

    The header names the columns: the seven inputs and ``purchased`` (0/1 or true/false). Other
    columns are ignored. The text ``NA`` is a country, not a missing value.

    Raises:
        TrainingDataError: The file or a value in it is unusable; the message names the file, the
            line and the column.
    """
    try:
        content = path.read_bytes()
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise TrainingDataError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise TrainingDataError(f"{path} is not UTF-8: byte {error.start} is invalid; convert it") from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    countries: list[str] = []
    values: list[list[float]] = []
    try:
        positions = _positions(path, next(reader, []))
        for cells in reader:
            if cells:  # skip blank lines; the last line often is
                row = _row(f"{path}, line {reader.line_num}", cells, positions)
                countries.append(cells[positions[INPUT_NAMES[0]]].strip())
                values.append(row)
    except csv.Error as error:
        raise TrainingDataError(f"{path}, line {reader.line_num}: {error}") from error
    if not values:
        raise TrainingDataError(f"{path} has no rows below its header")
    table = np.array(values, dtype=np.float64, order="F")
    return TrainingTable(
        countries=countries,
        inputs=table[:, :-1],
        purchased=table[:, -1].astype(np.int8),
        sha256=digest(content),
        source=path.name,
    )


def _positions(path: Path, header: list[str]) -> dict[str, int]:
    names = [name.strip() for name in header]
    required = (*INPUT_NAMES, LABEL)
    missing = [name for name in required if name not in names]
    if missing:
        raise TrainingDataError(f"{path}, line 1: column {', '.join(missing)} is missing")
    for name in required:
        if names.count(name) > 1:
            raise TrainingDataError(f"{path}, line 1: column {name} appears twice")
    return {name: names.index(name) for name in required}


def _row(where: str, cells: list[str], positions: dict[str, int]) -> list[float]:
    """Return the seven inputs and the label as numbers."""
    if len(cells) <= max(positions.values()):
        raise TrainingDataError(f"{where}: {len(cells)} columns, fewer than the header")
    country = cells[positions[INPUT_NAMES[0]]].strip()
    if not COUNTRY_MIN_CHARACTERS <= len(country) <= COUNTRY_MAX_CHARACTERS:
        raise TrainingDataError(
            f"{where}, column {INPUT_NAMES[0]}: {country!r} must have "
            f"{COUNTRY_MIN_CHARACTERS} to {COUNTRY_MAX_CHARACTERS} characters"
        )
    numbers = [_number(where, name, cells[positions[name]].strip()) for name in INPUT_NAMES[1:]]
    if numbers[4] > numbers[3]:
        raise TrainingDataError(f"{where}: practice_exams_passed cannot exceed practice_exams_started.")
    label = _LABELS.get(cells[positions[LABEL]].strip().lower())
    if label is None:
        raise TrainingDataError(f"{where}, column {LABEL}: {cells[positions[LABEL]]!r} is neither 0 nor 1")
    return [float(country_code(country)), *numbers, float(label)]


def _number(where: str, name: str, cell: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        raise TrainingDataError(f"{where}, column {name}: {cell!r} is not a number") from None
    if not (math.isfinite(value) and value >= 0):
        raise TrainingDataError(f"{where}, column {name}: {cell} must be finite and at least 0")
    if name in INTEGER_INPUTS and not (value.is_integer() and value <= _LARGEST_LONG):
        raise TrainingDataError(f"{where}, column {name}: {cell} must be a whole number below 2^63")
    return value
