"""A file is scored as the stream would, and every row is in the output."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pytest

from consumer.cli import main
from consumer.ops.bench import pipeline_of
from consumer.ops.score_file import RESULT_COLUMNS
from consumer.scorer.processing import BatchProcessor
from consumer.simulator.events import encode_event
from model_store.store import ModelStore
from model_store.synthetic import generate_students
from model_store.training import train
from tests.support.events import event, raw_batch

HEADER = (
    "note,student_country,days_on_platform,minutes_watched,courses_started,"
    "practice_exams_started,practice_exams_passed,minutes_spent_on_exams"
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    """A store with a champion."""
    store = ModelStore(tmp_path_factory.mktemp("models"), "purchase")
    store.promote(store.add(train(generate_students(500))))
    return store


def run(store: ModelStore, *arguments: str | Path) -> int:
    """Run the command; return its exit code."""
    try:
        main(["--set", f"model_store.path={store.folder.parent}", "score-file", *map(str, arguments)])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_a_row_gets_the_probability_of_the_stream(store: ModelStore, tmp_path: Path) -> None:
    """To the last bit, and its other columns are kept."""
    source, target = tmp_path / "in.csv", tmp_path / "out.jsonl"
    rows = [f"n-{n},NA,{n},{n * 7.25},{n % 5},{n % 7},{n % 3 if n % 7 > 2 else 0},1e2" for n in range(2500)]
    source.write_text("\n".join([HEADER, *rows, "", ""]), "utf-8-sig")
    assert run(store, source, target) == 0
    scored = [json.loads(line) for line in target.read_text().splitlines()]
    assert [row["note"] for row in scored] == [f"n-{n}" for n in range(2500)]
    names = HEADER.split(",")[1:]
    values = []
    for row in scored:
        numbers = {name: float(row[name]) for name in names[1:]}
        whole = {name: int(value) if "minutes" not in name else value for name, value in numbers.items()}
        values.append(encode_event(event(student_country=row["student_country"], **whole)))
    expected = BatchProcessor(pipeline_of(store.load("champion"))).process(raw_batch(values)).scored
    assert [row["predicted_purchase_probability"] for row in scored] == expected.probabilities.tolist()
    assert [row["predicted_purchase"] for row in scored] == expected.decisions.tolist()


def test_bad_rows_are_named_and_stay_in_the_output(
    store: ModelStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They have the reason, in the input's order, and the exit code is that of bad data."""
    source, target = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text(
        f"{HEADER}\n"
        "a,DE,1,2.5,3.0,4,2,5\n"
        "b,DE,-1,2.5,3,4,2,5\n"
        "c,DE,1.5,2.5,3,4,2,5\n"
        "d,DE,1,nan,3,4,2,5\n"
        "e,DE,1,2.5,3,1,2,5\n"
        "f,DE,1\n"
        "g,DE,1,much,3,1,0,5\n"
        "h,DE,99999999999999999999,2.5,3,1,0,5\n"
        "i,DE,1,2.5,3,4,2,5\n"
    )
    assert run(store, source, target) == 65
    with target.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["note"] for row in rows] == list("abcdefghi")
    assert [row["note"] for row in rows if row["predicted_purchase"]] == ["a", "i"]
    assert all(bool(row["error"]) != bool(row["predicted_purchase_probability"]) for row in rows)
    assert rows[4]["error"] == "practice_exams_passed cannot exceed practice_exams_started."
    said = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[0] for line in said[:7]] == [f"{source}, line {n}" for n in range(3, 10)]
    assert "days_on_platform: '1.5' is not an integer" in said[1]
    assert said[-1] == "purchase-stream: 7 of 9 rows could not be scored; see above"


@pytest.mark.parametrize(
    ("content", "target", "code", "word"),
    [
        (f"{HEADER}\n", "out.txt", 64, ".parquet"),
        ("student_country\nDE\n", "out.csv", 65, "days_on_platform"),
        (f"{HEADER},note\n", "out.csv", 65, "note"),
        (f"{HEADER},error\n", "out.csv", 65, "error"),
        ('a,"b\n', "out.csv", 65, "line"),
        (None, "out.csv", 65, "cannot be read"),
        (f"{HEADER}\n", "nowhere/out.csv", 78, "cannot be written"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(
    store: ModelStore,
    tmp_path: Path,
    content: str | None,
    target: str,
    code: int,
    word: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And no file is left behind."""
    if content is not None:
        (tmp_path / "in.csv").write_text(content)
    assert run(store, tmp_path / "in.csv", tmp_path / target) == code
    said = capsys.readouterr().err
    assert word in said
    assert said.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == (["in.csv"] if content is not None else [])


def test_parquet(store: ModelStore, tmp_path: Path) -> None:
    """The input's cells as text, the results as numbers."""
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra parquet")
    source, target = tmp_path / "in.csv", tmp_path / "out.parquet"
    source.write_text(f"{HEADER}\na,DE,1,2.5,3,4,2,5\nb,DE,-1,2.5,3,4,2,5\n")
    assert run(store, source, target) == 65
    table = parquet.read_table(target)
    assert table.column_names == [*HEADER.split(","), *RESULT_COLUMNS]
    good, bad = table.to_pylist()
    assert 0 < good["predicted_purchase_probability"] < 1
    assert bad["predicted_purchase"] is None
    assert bad["error"]


def test_without_the_extra_it_says_which_to_install(
    store: ModelStore, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing extra is a wrong configuration, not an internal error."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "in.csv").write_text(f"{HEADER}\n")
    assert run(store, tmp_path / "in.csv", tmp_path / "out.parquet") == 78
    assert "pip install 'purchase-stream[parquet]'" in capsys.readouterr().err
