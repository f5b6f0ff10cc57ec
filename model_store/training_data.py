"""Read training data from a CSV file: students with a known outcome.

The rules are the same as for events: training data may not contain what a scorer would reject.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import hashlib
import io
import lzma
import math
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from model_store.countries import country_code
from model_store.errors import TrainingDataError
from model_store.inputs import (
    COUNTRY_MAX_CHARACTERS,
    COUNTRY_MIN_CHARACTERS,
    INPUT_NAMES,
    INTEGER_INPUTS,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

LABEL: Final = "purchased"
_LABELS: Final = {
    **dict.fromkeys(("0", "0.0", "false", "no", "n", "f"), 0),
    **dict.fromkeys(("1", "1.0", "true", "yes", "y", "t"), 1),
}
_DELIMITERS: Final = ",;\t|"
_OPENERS: Final = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
"""The compressions, by their first bytes."""
_UNSUPPORTED: Final = {b"PK\x03\x04": "a ZIP archive or an Excel workbook", b"\x28\xb5\x2f\xfd": "Zstandard"}
_CHUNK_ROWS: Final = 50_000
_SHOWN_FAULTS: Final = 10
_LARGEST_NUMBER: Final = 1e12
"""The largest accepted number. A larger one cannot be a student's, and would swamp a sum of squares."""
_PLAIN_NUMBER: Final = re.compile(
    r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|[+-]?inf(inity)?|nan", re.IGNORECASE
)
_LARGEST_LONG: Final = 2**63 - 1
_FIRST_TIME_MS: Final = 946_684_800_000
"""2000-01-01, as for an event's ``occurred_at``: earlier times are seconds, or wrong."""
_LAST_TIME_MS: Final = 253_402_300_799_999


@dataclass(frozen=True, slots=True, eq=False)
class TrainingTable:
    """Students and whether they bought.

    Attributes:
        countries: The countries as written, n texts.
        inputs: The inputs, float64 (n, 7), Fortran order; column 0 is the country's number.
        purchased: The labels, int8 (n,), 0 or 1.
        sha256: The digest of the file's bytes, or of the generated columns.
        source: The origin of the rows, for people.
        dialect: How the file was read, for people, such as ``UTF-8, delimiter ;, decimal comma``.
        times_ms: When each student was seen, int64 (n,), in milliseconds since the epoch; ``None`` if the
            times are not known.
    """

    countries: Sequence[str] = field(repr=False)
    inputs: NDArray[np.float64] = field(repr=False)
    purchased: NDArray[np.int8] = field(repr=False)
    sha256: str
    source: str
    dialect: str = ""
    times_ms: NDArray[np.int64] | None = field(default=None, repr=False)

    @property
    def rows(self) -> int:
        """The number of students."""
        return len(self.purchased)

    @property
    def positives(self) -> int:
        """The number of students who bought."""
        return int(self.purchased.sum())


def read_training_csv(
    path: Path, on_progress: Callable[[int], None] = lambda _: None, time_column: str | None = None
) -> TrainingTable:
    """Read a CSV file with a header, or a Parquet file.

    The encoding (UTF-8, or UTF-16 with a byte order mark), the delimiter (comma, semicolon, tab or
    bar), the decimal comma and the compression (gzip, bzip2, xz) are recognised. The header names
    the columns: the seven inputs and ``purchased`` (0/1, true/false or yes/no). Other columns are
    ignored. The text ``NA`` is a country, not a missing value. Memory grows by 80 bytes per row.

    Args:
        path: The file.
        on_progress: Called with the number of rows that were read, after every 50,000.
        time_column: The column with the times: RFC 3339 (UTC without an offset), or milliseconds
            since the epoch.

    Raises:
        TrainingDataError: The file or a value in it is unusable; the message names the file, and the
            line and the column of the first ten faults.
    """
    try:
        with path.open("rb") as file:
            start = file.read(8)
        sha256 = _digest_of(path)
    except OSError as error:
        raise TrainingDataError(f"{path} cannot be read: {error.strerror}") from error
    for magic, what in _UNSUPPORTED.items():
        if start.startswith(magic):
            raise TrainingDataError(f"{path} is {what}; save it as CSV (plain or gzip)")
    faults = _Faults(path)
    if start.startswith(b"PAR1"):
        lines: Iterator[tuple[int, list[str]]] = _parquet_rows(path)
        dialect, decimal_comma = "Parquet", False
        header = next(lines)[1]
    else:
        opener = next((opener for magic, opener in _OPENERS.items() if start.startswith(magic)), io.open)
        encoding, delimiter = _sniff(path, opener)
        decimal_comma = delimiter != ","
        dialect = f"{encoding}, delimiter {delimiter if delimiter != chr(9) else 'tab'}"
        lines = _csv_rows(path, opener, encoding, delimiter)
        header = next(lines, (1, []))[1]
    columns = _columns(path, header, time_column)
    chunks: list[NDArray[np.float64]] = []
    countries: list[str] = []
    spelling: dict[str, str] = {}  # one object for each distinct text
    rows: list[list[float]] = []
    n_rows = 0
    for line, cells in lines:
        if not cells:  # skip blank lines; the last line often is
            continue
        n_rows += 1
        row = _row(faults, line, cells, columns, decimal_comma=decimal_comma)
        if row is not None and not faults.count:
            rows.append(row)
            country = cells[columns.inputs[0]].strip()
            countries.append(spelling.setdefault(country, country))
        if n_rows % _CHUNK_ROWS == 0:
            chunks.append(np.array(rows, np.float64).reshape(-1, len(columns)))
            rows = []
            on_progress(n_rows)
    faults.raise_if_any(n_rows)
    if not n_rows:
        raise TrainingDataError(f"{path} has no rows below its header")
    chunks.append(np.array(rows, np.float64).reshape(-1, len(columns)))
    table = _joined(chunks, n_rows, len(columns))
    return TrainingTable(
        countries=countries,
        inputs=table[:, : len(INPUT_NAMES)],
        purchased=table[:, -1].astype(np.int8),
        sha256=sha256,
        source=path.name,
        dialect=dialect + (", decimal comma" if decimal_comma else ""),
        times_ms=table[:, len(INPUT_NAMES)].astype(np.int64) if time_column else None,
    )


def _joined(chunks: list[NDArray[np.float64]], rows: int, columns: int) -> NDArray[np.float64]:
    """Join the chunks into one array in Fortran order, and free each once it is copied."""
    table = np.empty((rows, columns), order="F")
    stop = rows
    while chunks:
        chunk = chunks.pop()
        table[stop - len(chunk) : stop] = chunk
        stop -= len(chunk)
    return table


class _Faults:
    """Counts faults and keeps the first ones."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._shown: list[str] = []
        self.count = 0

    def add(self, line: int, complaint: str, column: str | None = None) -> None:
        self.count += 1
        if len(self._shown) < _SHOWN_FAULTS:
            self._shown.append(f"line {line}" + (f", column {column}" if column else "") + f": {complaint}")

    def raise_if_any(self, n_rows: int) -> None:
        """Raise :class:`TrainingDataError` with the first faults and their number."""
        if self.count == 1:
            raise TrainingDataError(f"{self._path}, {self._shown[0]}")
        if self.count:
            rest = self.count - len(self._shown)
            more = f"; and {rest} more" if rest else ""
            raise TrainingDataError(
                f"{self._path} has {self.count} faults in {n_rows} rows: {'; '.join(self._shown)}{more}"
            )


def _digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sniff(path: Path, opener: Any) -> tuple[str, str]:
    """Return the encoding and the delimiter of the header."""
    try:
        with opener(path, "rb") as file:
            first = file.readline(65_536)
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise TrainingDataError(f"{path} cannot be decompressed: {error}") from error
    if b"\0" in first and not first.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise TrainingDataError(f"{path} is binary, or UTF-16 without a byte order mark; save it as UTF-8")
    encoding = "UTF-16" if first.startswith((b"\xff\xfe", b"\xfe\xff")) else "UTF-8"
    text = first.decode("utf-16" if encoding == "UTF-16" else "utf-8", errors="replace")
    return encoding, max(_DELIMITERS, key=text.count)


def _csv_rows(path: Path, opener: Any, encoding: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the line number and the cells of each row."""
    codec = "utf-16" if encoding == "UTF-16" else "utf-8-sig"
    line = 0
    try:
        with opener(path, "rt", encoding=codec, newline="") as file:
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            for cells in reader:
                line = reader.line_num
                yield line, cells
    except csv.Error as error:
        raise TrainingDataError(f"{path}, line {line + 1}: {error}") from error
    except UnicodeDecodeError as error:
        raise TrainingDataError(
            f"{path} is not {encoding}: byte {error.object[error.start]:#04x} after line {line} is invalid; "
            "convert it to UTF-8 (Excel: save as CSV UTF-8)"
        ) from error
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise TrainingDataError(f"{path} cannot be decompressed: {error}") from error


def _parquet_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the header, then the number and the cells of each row, as texts."""
    try:
        from pyarrow import ArrowInvalid, parquet  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise TrainingDataError(
            f"{path} is Parquet, which needs: pip install 'purchase-stream[parquet]'"
        ) from error
    number = 1
    try:
        file = parquet.ParquetFile(path)
        yield number, list(file.schema_arrow.names)
        for batch in file.iter_batches(_CHUNK_ROWS):
            columns = [column.to_pylist() for column in batch.columns]
            for values in zip(*columns, strict=True):
                number += 1
                yield number, ["" if value is None else str(value) for value in values]
    except (ArrowInvalid, OSError) as error:
        raise TrainingDataError(f"{path} cannot be read as Parquet: {error}") from error


@dataclass(frozen=True, slots=True)
class _Columns:
    """The positions of a row's cells.

    Attributes:
        inputs: The position of each input.
        label: The position of the label.
        time: The name and the position of the time; ``None`` if times are not read.
        width: The number of cells.
    """

    inputs: tuple[int, ...]
    label: int
    time: tuple[str, int] | None
    width: int

    def __len__(self) -> int:
        """Return the number of numbers in a row."""
        return len(self.inputs) + (self.time is not None) + 1


def _columns(path: Path, header: list[str], time_column: str | None) -> _Columns:
    names = [name.strip() for name in header]
    required = (*INPUT_NAMES, LABEL, *filter(None, [time_column]))
    missing = [name for name in required if name not in names]
    if not any(names):
        raise TrainingDataError(f"{path} is empty: its first line must name the columns")
    if missing:
        found = ", ".join(names[:_SHOWN_FAULTS]) + (", …" if len(names) > _SHOWN_FAULTS else "")
        raise TrainingDataError(
            f"{path}, line 1: column {', '.join(missing)} is missing; the first line names {found[:300]}"
        )
    for name in required:
        if names.count(name) > 1:
            raise TrainingDataError(f"{path}, line 1: column {name} appears twice")
    return _Columns(
        inputs=tuple(map(names.index, INPUT_NAMES)),
        label=names.index(LABEL),
        time=(time_column, names.index(time_column)) if time_column else None,
        width=len(header),
    )


def _row(
    faults: _Faults, line: int, cells: list[str], columns: _Columns, *, decimal_comma: bool
) -> list[float] | None:
    """Return the inputs, the time if it is read, and the label; or ``None`` after noting the row's faults."""
    if len(cells) != columns.width:
        fewer = "fewer" if len(cells) < columns.width else "more"
        faults.add(line, f"{len(cells)} columns, {fewer} than the header's {columns.width}")
        return None
    before = faults.count
    country, *texts = (cells[position].strip() for position in columns.inputs)
    if not COUNTRY_MIN_CHARACTERS <= len(country) <= COUNTRY_MAX_CHARACTERS:
        limits = f"{COUNTRY_MIN_CHARACTERS} to {COUNTRY_MAX_CHARACTERS} characters"
        faults.add(line, f"{country!r} must have {limits}", INPUT_NAMES[0])
    numbers = []
    for name, text in zip(INPUT_NAMES[1:], texts, strict=True):
        point = decimal_comma and "," in text and "." not in text
        cell = text.replace(",", ".", 1) if point else text
        if complaint := _complaint(name, cell):
            faults.add(line, complaint, name)
        else:
            numbers.append(float(cell))
    label = _LABELS.get(cells[columns.label].strip().lower())
    if label is None:
        faults.add(line, f"{cells[columns.label]!r} is neither 0 nor 1 (nor yes or no)", LABEL)
    times = _times(faults, line, cells, columns)
    if faults.count > before:
        return None
    if numbers[4] > numbers[3]:
        faults.add(line, "practice_exams_passed cannot exceed practice_exams_started.")
        return None
    return [float(country_code(country)), *numbers, *times, float(label or 0)]


def _times(faults: _Faults, line: int, cells: list[str], columns: _Columns) -> list[float]:
    """Return the row's time, or nothing."""
    if columns.time is None:
        return []
    name, position = columns.time
    time_ms = _time_ms(cells[position].strip())
    if time_ms is None:
        complaint = f"{cells[position]!r} is not a time from 2000 to 9999 (RFC 3339, or milliseconds)"
        faults.add(line, complaint, name)
        return []
    return [time_ms]


def _time_ms(cell: str) -> float | None:
    """Return milliseconds since the epoch, or ``None`` if the cell is not a time that an event may have.

    >>> _time_ms("2026-11-28T13:30:00.5Z") == _time_ms("1795872600500")
    True
    """
    try:
        if cell.isdecimal():
            value = int(cell)
        else:
            time = datetime.fromisoformat(cell)
            value = round((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError):
        return None
    return float(value) if _FIRST_TIME_MS <= value <= _LAST_TIME_MS else None


def _complaint(name: str, cell: str) -> str | None:
    """Say what is wrong with a number, or return ``None``."""
    if cell.isdecimal() and cell.isascii() and len(cell) <= 12:  # noqa: PLR2004 - the usual case, below the limit
        return None
    if not _PLAIN_NUMBER.fullmatch(cell):
        hint = " (write a decimal point, and no thousands separator)" if "," in cell else ""
        return f"{cell!r} is not a number{hint}"
    value = float(cell)
    if not (math.isfinite(value) and value >= 0):
        return f"{cell} must be finite and at least 0"
    if name in INTEGER_INPUTS and not (value.is_integer() and value <= _LARGEST_LONG):
        return f"{cell} must be a whole number below 2^63"
    if value > _LARGEST_NUMBER:
        return f"{cell} is too large to train on; the limit is {_LARGEST_NUMBER:g}"
    return None
