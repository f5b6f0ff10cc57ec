"""Reading training data: what is accepted, and how precisely the rest is refused."""

from __future__ import annotations

import bz2
import gzip
import hashlib
from typing import TYPE_CHECKING

import numpy as np
import pytest

from model_store.countries import UNKNOWN_COUNTRY, country_code
from model_store.errors import TrainingDataError
from model_store.training_data import TrainingTable, read_training_csv

if TYPE_CHECKING:
    from pathlib import Path

_HEADER = (
    "student_country,days_on_platform,minutes_watched,courses_started,"
    "practice_exams_started,practice_exams_passed,minutes_spent_on_exams,purchased"
)
_GOOD = "IN,12,3.5,1,2,1,9.25,0"


def _read(folder: Path, *lines: str, prefix: bytes = b"") -> TrainingTable:
    path = folder / "students.csv"
    path.write_bytes(prefix + "\n".join(lines).encode() + b"\n")
    return read_training_csv(path)


def test_rows_become_columns(tmp_path: Path) -> None:
    """Inputs come in their order as contiguous columns, with the label and the file's digest."""
    table = _read(tmp_path, _HEADER, _GOOD, "NA,0,0.1,1,0,0,0,1")
    assert table.inputs.tolist() == [
        [country_code("IN"), 12, 3.5, 1, 2, 1, 9.25],
        [country_code("Namibia"), 0, 0.1, 1, 0, 0, 0],
    ]
    assert table.inputs.flags.f_contiguous
    assert table.inputs.dtype == np.float64
    assert table.purchased.tolist() == [0, 1]
    assert (table.rows, table.positives, table.countries) == (2, 1, ["IN", "NA"])
    assert table.sha256 == hashlib.sha256((tmp_path / "students.csv").read_bytes()).hexdigest()


def test_columns_are_found_by_name(tmp_path: Path) -> None:
    """Order does not matter, other columns are ignored, and a byte order mark is tolerated."""
    header = ",".join(["note", *reversed(_HEADER.split(","))])
    row = ",".join(['"a, b"', *reversed(_GOOD.split(","))])
    table = _read(tmp_path, header, row, "", prefix=b"\xef\xbb\xbf")
    assert table.inputs[0].tolist() == [country_code("IN"), 12, 3.5, 1, 2, 1, 9.25]


def test_unknown_country_is_accepted(tmp_path: Path) -> None:
    """An unknown country is valid data and is scored as unknown."""
    assert _read(tmp_path, _HEADER, _GOOD.replace("IN", "Atlantis")).inputs[0, 0] == UNKNOWN_COUNTRY


def _file(*rows: str, header: str = _HEADER) -> bytes:
    return "\n".join([header, *rows, ""]).encode()


_GOOD_FILE = _file(_GOOD)
_SEMICOLON_HEADER = _HEADER.replace(",", ";")

PLANTED: dict[str, tuple[bytes, str]] = {
    "negative": (_file("IN,-1,3.5,1,2,1,9,0"), "days_on_platform: -1 must be finite and at least 0"),
    "infinity": (_file("IN,1,inf,1,2,1,9,0"), "minutes_watched: inf must be finite and at least 0"),
    "nan": (_file("IN,1,nan,1,2,1,9,0"), "minutes_watched: nan must be finite and at least 0"),
    "empty-cell": (_file("IN,1,,1,2,1,9,0"), "minutes_watched: '' is not a number"),
    "fraction": (_file("IN,1.5,3,1,2,1,9,0"), "days_on_platform: 1.5 must be a whole number"),
    "beyond-long": (_file("IN,1,3,99999999999999999999,2,1,9,0"), "courses_started: .* below 2"),
    "1e308": (_file("IN,1,1e308,1,2,1,9,0"), "minutes_watched: 1e308 is too large to train on"),
    "underscore": (_file("IN,1_000,3,1,2,1,9,0"), "days_on_platform: '1_000' is not a number"),
    "arabic-digit": (_file("IN,٣,3,1,2,1,9,0"), "days_on_platform: '٣' is not a number"),
    "hexadecimal": (_file("IN,1,0x10,1,2,1,9,0"), "minutes_watched: '0x10' is not a number"),
    "percent": (_file("IN,1,50%,1,2,1,9,0"), "minutes_watched: '50%' is not a number$"),
    "decimal-comma-in-commas": (
        _file('IN,1,"3,5",1,2,1,9,0'),
        r"minutes_watched: '3,5' is not a number \(write a decimal point, and no thousands separator\)",
    ),
    "thousands-separator": (
        _file("IN;1;1.234,5;1;2;1;9;0", header=_SEMICOLON_HEADER),
        r"minutes_watched: '1.234,5' is not a number \(write a decimal point",
    ),
    "more-passed-than-started": (
        _file("IN,1,3,1,2,3,9,0"),
        "line 2: practice_exams_passed cannot exceed practice_exams_started.",
    ),
    "maybe": (_file("IN,1,3,1,2,1,9,maybe"), "purchased: 'maybe' is neither 0 nor 1"),
    "probability-as-label": (_file("IN,1,3,1,2,1,9,0.7"), "purchased: '0.7' is neither 0 nor 1"),
    "short-country": (_file("I,1,3,1,2,1,9,0"), "student_country: 'I' must have 2 to 64 characters"),
    "no-country": (_file(",1,3,1,2,1,9,0"), "student_country: '' must have 2 to 64 characters"),
    "too-few-cells": (_file("IN,1,3"), "line 2: 3 columns, fewer than the header's 8"),
    "too-many-cells": (_file("IN,1,3,1,2,1,9,0,0"), "line 2: 9 columns, more than the header's 8"),
    "other-delimiter": (_file("IN;1;3;1;2;1;9;0"), "line 2: 1 columns, fewer than the header's 8"),
    "open-quote": (_file('IN,"1,3'), "line 2: unexpected end of data"),
    "missing-columns": (
        b"student_country,purchased\n",
        "line 1: column days_on_platform, .* is missing; the first line names student_country, purchased",
    ),
    "misspelt-column": (
        _GOOD_FILE.replace(b"minutes_watched", b"minutes_watchd"),
        "line 1: column minutes_watched is missing; the first line names .*minutes_watchd",
    ),
    "no-header": (_file(header=_GOOD), "line 1: .* is missing; the first line names IN, 12, 3.5"),
    "column-twice": (_file(header=f"{_HEADER},purchased"), "line 1: column purchased appears twice"),
    "header-only": (_file(), "has no rows below its header"),
    "empty": (b"", "is empty: its first line must name the columns"),
    "latin-1": (_GOOD_FILE + b"C\xf4te", "is not UTF-8: byte 0xf4 after line . is invalid; convert it"),
    "utf-16-without-mark": (
        _GOOD_FILE.decode().encode("utf-16-le"),
        "is binary, or UTF-16 without a byte order mark; save it as UTF-8",
    ),
    "zip": (b"PK\x03\x04rest", "is a ZIP archive or an Excel workbook; save it as CSV"),
    "zstandard": (b"\x28\xb5\x2f\xfdrest", "is Zstandard; save it as CSV"),
    "torn-gzip": (gzip.compress(_GOOD_FILE)[:-12], "cannot be decompressed"),
    "torn-parquet": (b"PAR1 and no more", "Parquet"),
}
"""Files that are refused, each with the sentence that it gets."""


@pytest.mark.parametrize("name", PLANTED)
def test_planted_file_gets_its_sentence(tmp_path: Path, name: str) -> None:
    """The message names the file, says where the fault is and what would be right, on one line."""
    content, sentence = PLANTED[name]
    path = tmp_path / "students.csv"
    path.write_bytes(content)
    with pytest.raises(TrainingDataError, match=sentence) as caught:
        read_training_csv(path)
    assert "students.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_times_are_read_from_a_named_column(tmp_path: Path) -> None:
    """RFC 3339 with any offset, a date, or milliseconds; anything else is a fault of its line."""
    path = tmp_path / "a.csv"
    times = ["2026-11-28T13:30:00Z", "2026-11-28T14:30:00+01:00", "2026-11-28", "1795872600000"]
    path.write_bytes(_file(*[f"{_GOOD},{time}" for time in times], header=f"{_HEADER},seen"))
    table = read_training_csv(path, time_column="seen")
    assert table.times_ms is not None
    assert table.times_ms.tolist() == [1795872600000, 1795872600000, 1795824000000, 1795872600000]
    assert read_training_csv(path).times_ms is None
    path.write_bytes(_file(f"{_GOOD},1795872600", f"{_GOOD},yesterday", header=f"{_HEADER},seen"))
    with pytest.raises(
        TrainingDataError, match=r"2 faults .*line 2, column seen: '1795872600' is not a time"
    ):
        read_training_csv(path, time_column="seen")
    with pytest.raises(TrainingDataError, match="column occurred_at is missing"):
        read_training_csv(path, time_column="occurred_at")


def test_missing_file_is_refused(tmp_path: Path) -> None:
    """A file that is not there is one line of complaint."""
    with pytest.raises(TrainingDataError, match="cannot be read: No such file"):
        read_training_csv(tmp_path / "nowhere.csv")


_SEMICOLONS = [_HEADER.replace(",", ";"), "IN;12;3,5;1;2;1;9,25;no", "US;1;2;1;0;0;0;Yes"]


@pytest.mark.parametrize(
    ("name", "content", "dialect"),
    [
        ("a.csv", "\n".join(_SEMICOLONS).encode(), "UTF-8, delimiter ;, decimal comma"),
        ("a.tsv", "\n".join(_SEMICOLONS).replace(";", "\t").encode(), "UTF-8, delimiter tab, decimal comma"),
        ("a.csv", "\r\n".join(_SEMICOLONS).encode("utf-16"), "UTF-16, delimiter ;, decimal comma"),
        ("a.csv.gz", gzip.compress("\n".join(_SEMICOLONS).encode()), "UTF-8, delimiter ;, decimal comma"),
        ("a.csv.bz2", bz2.compress("\n".join(_SEMICOLONS).encode()), "UTF-8, delimiter ;, decimal comma"),
    ],
)
def test_other_dialects_are_recognised(tmp_path: Path, name: str, content: bytes, dialect: str) -> None:
    """Delimiter, decimal comma, encoding, compression and yes/no labels are read and named."""
    (tmp_path / name).write_bytes(content)
    table = read_training_csv(tmp_path / name)
    assert table.inputs[0].tolist() == [country_code("IN"), 12, 3.5, 1, 2, 1, 9.25]
    assert table.purchased.tolist() == [0, 1]
    assert table.dialect == dialect


def test_parquet_is_read(tmp_path: Path) -> None:
    """A Parquet file gives the same rows as the CSV file."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = dict(zip(_HEADER.split(","), [["IN"], [12], [3.5], [1], [2], [1], [9.25], [True]], strict=True))
    parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    table = read_training_csv(tmp_path / "a.parquet")
    assert table.inputs.tolist() == [[country_code("IN"), 12, 3.5, 1, 2, 1, 9.25]]
    assert table.purchased.tolist() == [1]


def test_all_faults_are_counted_and_the_first_ten_shown(tmp_path: Path) -> None:
    """Twelve faults in eleven rows are one message with ten of them."""
    bad = ["IN,-1,x,1,2,1,9,0", *["IN,1,3,1,2,1,9,maybe"] * 10]
    with pytest.raises(TrainingDataError, match="has 12 faults in 12 rows: line 3, column days_on") as caught:
        _read(tmp_path, _HEADER, _GOOD, *bad)
    assert str(caught.value).count("column") == 10
    assert str(caught.value).endswith("; and 2 more")


def test_progress_is_told_and_chunks_are_joined(tmp_path: Path) -> None:
    """A file of more than one chunk keeps its order, and progress is reported per chunk."""
    (tmp_path / "a.csv").write_text("\n".join([_HEADER, *([_GOOD] * 60_000), "US,1,1,1,0,0,0,1"]))
    told: list[int] = []
    table = read_training_csv(tmp_path / "a.csv", told.append)
    assert told == [50_000]
    assert table.rows == len(table.countries) == 60_001
    assert (table.countries[-1], table.purchased[-1]) == ("US", 1)
