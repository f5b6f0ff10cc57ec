"""Score the students of a CSV file with the stream's own pipeline, in bounded memory."""

from __future__ import annotations

import contextlib
import csv
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from io import TextIOWrapper
from pathlib import Path
from typing import Any, Final, Protocol, Self

import orjson

from consumer.errors import BadInputError, StartupError, UsageError
from consumer.ops.bench import pipeline_of
from consumer.pipeline.batch import RawBatch
from consumer.pipeline.dead_letter import summarize_detail
from consumer.scorer.processing import BatchProcessor
from consumer.simulator.events import encode_event
from model_store.inputs import INPUT_NAMES, INTEGER_INPUTS
from model_store.loading import LoadedModel

BATCH_ROWS: Final = 1000
_LONG_MAX: Final = 2**63 - 1
_ID_COLUMNS: Final = ("event_id", "student_id")
RESULT_COLUMNS: Final = (
    "predicted_purchase_probability", "predicted_purchase", "threshold", "model_version", "error",
)  # fmt: skip
"""The columns that are added to those of the input. A row has either a prediction or an error."""


@dataclass(frozen=True, slots=True)
class InputRow:
    """A row of the input.

    Attributes:
        line: The line number in the file, from 1.
        cells: The cells by column, as text.
        problem: The reason why the cells do not fit the header, or ``None``.
    """

    line: int
    cells: Mapping[str, str]
    problem: str | None = None

    @classmethod
    def of(cls, line: int, header: Sequence[str], cells: Sequence[str]) -> Self:
        """Assign cells to columns; missing cells are empty."""
        fits = len(cells) == len(header)
        problem = None if fits else f"{len(cells)} cells, but the header has {len(header)} columns"
        return cls(line, dict(itertools.zip_longest(header, cells[: len(header)], fillvalue="")), problem)

    def event(self) -> dict[str, Any]:
        """Return the row as an engagement event; a column for an id is optional.

        Raises:
            ValueError: The row does not fit the header, or a cell is not a number.
        """
        if self.problem is not None:
            raise ValueError(self.problem)
        event: dict[str, Any] = {
            name: (self.cells.get(name) or f"line-{self.line}").strip() for name in _ID_COLUMNS
        }
        event["occurred_at"] = time.time_ns() // 1_000_000
        for name in INPUT_NAMES:
            text = self.cells[name].strip()
            if name == INPUT_NAMES[0]:
                event[name] = text
            else:
                event[name] = _integer(name, text) if name in INTEGER_INPUTS else _number(name, text)
        return event


@dataclass(slots=True)
class FileScore:
    """The result of scoring a file.

    Attributes:
        rows: The number of rows.
        positive: The number of students who are predicted to buy.
        bad: Line number and reason of each row that could not be scored.
    """

    rows: int = 0
    positive: int = 0
    bad: list[tuple[int, str]] = field(default_factory=list)


def score_file(
    source: Path, target: Path, model: LoadedModel, on_progress: Callable[[int, int], None]
) -> FileScore:
    """Score a file and write the result; the target appears only when it is complete.

    Args:
        source: A CSV file in UTF-8, whose header names the seven inputs. Other columns are copied.
        target: The file to write: ``.csv``, ``.jsonl`` or ``.parquet``.
        model: The model version.
        on_progress: Called with the rows scored and the bytes read so far.

    Raises:
        BadInputError: The source is not such a CSV file.
        UsageError: The target has another suffix.
        StartupError: The target cannot be written, or an extra is not installed.
    """
    processor, score = BatchProcessor(pipeline_of(model)), FileScore()
    part = target.with_name(f".{target.name}.part")
    if target.suffix not in _WRITERS:
        raise UsageError(f"{target}: the output's suffix must be one of {', '.join(_WRITERS)}")
    try:
        file = source.open("rb")
    except OSError as error:
        raise BadInputError(f"{source} cannot be read: {error.strerror}") from error
    with file:
        text = TextIOWrapper(file, "utf-8-sig", newline="")  # closes the file when it is collected
        header, rows = _read_rows(source, text)
        try:
            with contextlib.closing(_WRITERS[target.suffix](part, header)) as writer:
                while batch := list(itertools.islice(rows, BATCH_ROWS)):
                    writer.write(_score_rows(processor, model, batch, score))
                    on_progress(score.rows, file.tell())
            part.replace(target)
        except OSError as error:
            raise StartupError(f"{target} cannot be written: {error.strerror}; name another file") from error
        finally:
            part.unlink(missing_ok=True)
    return score


def _score_rows(
    processor: BatchProcessor, model: LoadedModel, batch: Sequence[InputRow], score: FileScore
) -> list[dict[str, Any]]:
    """Return the batch with :data:`RESULT_COLUMNS`, and count the results."""
    results: list[dict[str, Any]] = [dict.fromkeys(RESULT_COLUMNS) for _ in batch]
    encoded: list[bytes] = []
    encoded_rows: list[int] = []
    for i, row in enumerate(batch):
        try:
            encoded.append(encode_event(row.event()))
            encoded_rows.append(i)
        except ValueError as error:
            results[i]["error"] = str(error)
    processed = processor.process(_raw_batch(encoded))
    scored = processed.scored
    for index, probability, decision in zip(
        processed.rows, scored.probabilities.tolist(), scored.decisions.tolist(), strict=True
    ):
        results[encoded_rows[index]] |= {
            "predicted_purchase_probability": probability,
            "predicted_purchase": int(decision),
            "threshold": model.threshold,
            "model_version": model.version,
        }
        score.positive += int(decision)
    for rejection in processed.rejections:
        results[encoded_rows[rejection.row]]["error"] = summarize_detail(rejection.detail)
    score.rows += len(batch)
    paired = list(zip(batch, results, strict=True))
    score.bad += [(row.line, result["error"]) for row, result in paired if result["error"]]
    return [{**row.cells, **result} for row, result in paired]


def _raw_batch(values: Sequence[bytes]) -> RawBatch:
    n = len(values)
    return RawBatch(
        topic="",
        partitions=[-1] * n,
        offsets=range(n),
        keys=[None] * n,
        values=values,
        timestamps_ms=lambda rows: [-1] * len(rows),
        headers=lambda rows: [[] for _ in rows],
    )


def _read_rows(source: Path, file: TextIOWrapper) -> tuple[list[str], Iterator[InputRow]]:
    """Return the header, and an iterator over the rows below it.

    Raises:
        BadInputError: The header lacks an input, or repeats a name.
    """
    lines = _read_cells(source, csv.reader(file, strict=True))
    header = [name.strip() for name in next(lines, (1, []))[1]]
    missing = [name for name in INPUT_NAMES if name not in header]
    if missing:
        raise BadInputError(f"{source}, line 1: column {', '.join(missing)} is missing")
    ambiguous = [name for name in header if header.count(name) > 1 or name in RESULT_COLUMNS]
    if ambiguous:
        raise BadInputError(
            f"{source}, line 1: column {ambiguous[0]} would be twice in the output; rename it"
        )
    return header, (InputRow.of(line, header, cells) for line, cells in lines if cells)


def _read_cells(source: Path, reader: _CsvReader) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and cells of each row.

    Raises:
        BadInputError: The file is not CSV in UTF-8.
    """
    try:
        for cells in reader:
            yield reader.line_num, cells
    except (csv.Error, UnicodeDecodeError) as error:
        raise BadInputError(f"{source}, after line {reader.line_num}: {error}") from error


class _CsvReader(Protocol):
    line_num: int

    def __iter__(self) -> Iterator[list[str]]: ...


class _RowWriter(Protocol):
    """Writes rows to an open file."""

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write rows that have all columns."""

    def close(self) -> None:
        """Finish the file."""


class _CsvWriter:
    def __init__(self, path: Path, header: Sequence[str]) -> None:
        self._file = path.open("w", encoding="utf-8", newline="")
        self._writer = csv.DictWriter(self._file, [*header, *RESULT_COLUMNS])
        self._writer.writeheader()

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self._writer.writerows(rows)

    def close(self) -> None:
        self._file.close()


class _JsonLinesWriter:
    def __init__(self, path: Path, _header: Sequence[str]) -> None:
        self._file = path.open("wb")

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self._file.writelines(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows)

    def close(self) -> None:
        self._file.close()


class _ParquetWriter:
    """Writes the input's cells as text and the results as numbers."""

    def __init__(self, path: Path, header: Sequence[str]) -> None:
        from pyarrow import float64, int8, parquet, schema, string  # noqa: PLC0415 - an extra

        types = dict(zip(RESULT_COLUMNS, (float64(), int8(), float64(), string(), string()), strict=True))
        self._schema = schema([*((name, string()) for name in header), *types.items()])
        self._writer = parquet.ParquetWriter(path, self._schema)

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        from pyarrow import RecordBatch  # noqa: PLC0415 - an extra

        self._writer.write_batch(RecordBatch.from_pylist(list(rows), self._schema))

    def close(self) -> None:
        self._writer.close()


_WRITERS: Final[Mapping[str, Callable[[Path, Sequence[str]], _RowWriter]]] = {
    ".csv": _CsvWriter,
    ".jsonl": _JsonLinesWriter,
    ".parquet": _ParquetWriter,
}


def _integer(name: str, text: str) -> int:
    """Parse an integer; ``12.0`` is one.

    Raises:
        ValueError: The text is not an integer of 64 bits.
    """
    try:
        value = int(text) if text.removeprefix("-").isdecimal() else int(Decimal(text))
        if not -_LONG_MAX <= value <= _LONG_MAX or Decimal(text) != value:
            raise ValueError  # noqa: TRY301 - handled like the other faults
    except (ArithmeticError, ValueError) as error:
        raise ValueError(f"{name}: {text!r} is not an integer") from error
    return value


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(f"{name}: {text!r} is not a number") from error
