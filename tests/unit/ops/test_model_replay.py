"""The past with another model: the same scores as the stream's, flips by student, outcomes in time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.columnar.text import hash_strings
from consumer.errors import BadInputError
from consumer.monitor.audit.hashed_ids import IdHasher
from consumer.monitor.audit.lines import audit_lines
from consumer.ops.model_replay import replay_model
from consumer.ops.outcome_training import outcome_table
from consumer.ops.past import NO_OUTCOMES, Outcomes, Past, join_outcomes, past_predictions
from consumer.pipeline.batch import RecordBatch
from consumer.settings import AuditSettings, Settings
from model_store.countries import country_code
from model_store.inputs import INPUT_NAMES
from model_store.training import MIN_ROWS_PER_CLASS, train
from schemas.repository import BundledSchemas
from tests.unit.monitor.conftest import Predict, Trained, predict, trained

__all__ = ["predict", "trained"]


def write_log(path: Path, *batches: RecordBatch, hasher: IdHasher | None = None) -> Path:
    """Write batches to a log."""
    path.write_bytes(
        b"".join(
            audit_lines(
                batch,
                source_topic="e",
                output_topic="p",
                partitions=[0] * len(batch),
                offsets=range(len(batch)),
                hasher=hasher,
            )
            for batch in batches
        )
    )
    return path


def past_of(log: Path, **audit: object) -> Past:
    """Return the whole past of a log."""
    settings = Settings(audit=AuditSettings.model_validate({"path": log, **audit}))
    return Past(settings, BundledSchemas(), None, None, log)


def hashes_of(*students: str) -> np.ndarray:
    """Return the hashes of student ids."""
    stops = np.cumsum([len(student) for student in students])
    starts = stops - np.array([len(student) for student in students])
    return hash_strings("".join(students).encode(), starts, stops)


def test_the_champion_replayed_decides_as_it_did(trained: Trained, predict: Predict, tmp_path: Path) -> None:
    """Every probability is equal to the last bit, so no decision changes."""
    log = write_log(tmp_path / "log.jsonl", predict(range(500)), predict(range(500, 700)))
    replay = replay_model(past_of(log), trained.store.load("champion"), NO_OUTCOMES)
    assert (replay.predictions, replay.all.students, replay.all.flipped) == (700, 700, 0)
    assert (replay.max_abs_difference, replay.failed, replay.damaged) == (0.0, 0, 0)
    assert replay.versions == {trained.version: 700}
    assert sum(replay.probabilities_after) == sum(f.students for f in replay.countries.values()) == 700
    assert "no outcomes" in "\n".join(replay.lines())


def test_the_log_and_the_topic_give_the_same(predict: Predict, tmp_path: Path) -> None:
    """The inputs and students of a line are those of the record."""
    batch = predict(range(300))
    (logged,) = past_of(write_log(tmp_path / "log.jsonl", batch)).predictions()
    stored = past_predictions(batch, None)
    for name in ("students", "scored_at_ms", "probabilities", "decisions"):
        assert (getattr(logged, name) == getattr(stored, name)).all(), name
    for name in INPUT_NAMES[1:]:
        assert (logged.events.numbers[name] == stored.events.numbers[name]).all()
    assert [logged.events.text("student_country", i) for i in range(300)] == [
        stored.events.text("student_country", i) for i in range(300)
    ]


def test_another_threshold_flips_those_in_between(trained: Trained, predict: Predict, tmp_path: Path) -> None:
    """The flips are those whose probability lies between the two thresholds, in their countries."""
    model = trained.store.load("champion")
    lower = replace(model, threshold=model.threshold / 2)
    log = write_log(tmp_path / "log.jsonl", predict(range(1000)))
    replay = replay_model(past_of(log), lower, NO_OUTCOMES)
    p = trained.probabilities[:1000]
    expected = int(((p >= lower.threshold) & (p < model.threshold)).sum())
    assert expected > 0
    assert (replay.all.to_positive, replay.all.to_negative) == (expected, 0)
    assert sum(flips.to_positive for flips in replay.countries.values()) == expected


def test_a_student_counts_once_with_the_last_prediction(
    predict: Predict, trained: Trained, tmp_path: Path
) -> None:
    """Five predictions of a student are one flip; anonymous calls of the API are none."""
    batches = [predict(range(50), scored_at_ms=1000 * n) for n in range(5)]
    log = write_log(tmp_path / "log.jsonl", *batches, predict(range(60, 70), anonymous=True))
    replay = replay_model(past_of(log), trained.store.load("champion"), NO_OUTCOMES)
    assert (replay.predictions, replay.all.students) == (250, 50)


def test_outcomes_say_what_precision_would_have_been(
    trained: Trained, predict: Predict, tmp_path: Path
) -> None:
    """Before and after are measured on the same students."""
    model = trained.store.load("champion")
    lower = replace(model, threshold=model.threshold / 2)
    log = write_log(tmp_path / "log.jsonl", predict(range(400), scored_at_ms=1000))
    p = trained.probabilities[:400]
    bought = (p >= model.threshold).astype(np.int8)
    outcomes = Outcomes(hashes_of(*(f"student-{i}" for i in range(400))), bought, np.full(400, 2000))
    replay = replay_model(past_of(log), lower, outcomes)
    assert (replay.outcomes, replay.purchases) == (400, int(bought.sum()))
    assert replay.quality_before is not None
    assert replay.quality_after is not None
    assert (replay.quality_before.precision, replay.quality_before.recall) == (1.0, 1.0)
    assert replay.quality_after.recall == 1.0
    assert replay.quality_after.precision == pytest.approx(bought.sum() / (p >= lower.threshold).sum())
    assert "precision 1.000" in "\n".join(replay.lines())
    assert replay.as_json()["since"] == "1970-01-01T00:00:01.000Z"


def test_a_log_with_hashed_ids_meets_the_outcomes(predict: Predict, tmp_path: Path) -> None:
    """The outcomes' ids are hashed likewise; lines from before the key are joined as well."""
    key = tmp_path / "key"
    key.write_bytes(b"0123456789abcdef")
    hasher = IdHasher(key.read_bytes())
    log = write_log(tmp_path / "log.jsonl", predict(range(10)), hasher=hasher)
    old = write_log(tmp_path / "old.jsonl", predict(range(10, 20)))
    log.write_bytes(old.read_bytes() + log.read_bytes())
    (found,) = past_of(log, hash_ids_key_file=key).predictions()
    expected = past_predictions(predict(range(20)), hasher)
    assert sorted(found.students.tolist()) == sorted(expected.students.tolist())


def test_a_damaged_line_is_counted_and_a_foreign_file_refused(predict: Predict, tmp_path: Path) -> None:
    """One damaged line of many is skipped; a file without a good line is an error."""
    log = write_log(tmp_path / "log.jsonl", predict(range(3)))
    log.write_bytes(b"{torn\n" + log.read_bytes())
    past = past_of(log)
    assert sum(map(len, past.predictions())) == 3
    assert past.damaged == 1
    log.write_bytes(b"{torn\n")
    with pytest.raises(BadInputError, match="line 1"):
        list(past_of(log).predictions())


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), max_size=30),
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9)), max_size=15),
)
def test_an_outcome_is_joined_to_the_last_prediction_before_it(
    made: list[tuple[int, int]], observed: list[tuple[int, int]]
) -> None:
    """As a loop over both would say; never to one of the same time or later."""
    students, times = np.array(made, np.int64).reshape(-1, 2).T
    own, seen = np.array(observed, np.int64).reshape(-1, 2).T
    outcomes = Outcomes(own.astype(np.uint64), np.zeros(len(own), np.int8), seen)
    expected: dict[int, int] = {}
    for i in np.argsort(seen, kind="stable").tolist():
        earlier = [(times[j], j) for j in range(len(made)) if students[j] == own[i] and times[j] < seen[i]]
        if earlier:
            expected.setdefault(max(earlier)[1], i)
    rows, joined = join_outcomes(students.astype(np.uint64), times, outcomes)
    assert dict(zip(rows.tolist(), joined.tolist(), strict=True)) == expected


def test_training_data_has_the_inputs_that_were_known(
    predict: Predict, trained: Trained, tmp_path: Path
) -> None:
    """Later predictions of a student, and outcomes without an earlier prediction, make no row."""
    log = write_log(
        tmp_path / "log.jsonl",
        predict(range(100), scored_at_ms=1000),
        predict(range(100, 200), scored_at_ms=9000),
    )
    n = 150
    purchased = (np.arange(n) % 3 == 0).astype(np.int8)
    outcomes = Outcomes(hashes_of(*(f"student-{i}" for i in range(n))), purchased, np.full(n, 5000))
    table = outcome_table(past_of(log), outcomes, 0.0)
    assert table.rows == 100
    assert (table.purchased == purchased[:100]).all()
    assert (table.inputs[:, 1:] == trained.students[:100, 1:]).all()
    assert (table.inputs[:, 0] == [country_code(country) for country in trained.countries[:100]]).all()
    assert "100 outcomes" in table.source
    assert min(table.positives, table.rows - table.positives) > MIN_ROWS_PER_CLASS
    assert train(table).training_data.rows == 100
    with pytest.raises(BadInputError, match="none of 150 outcomes"):
        outcome_table(past_of(log), outcomes, maturity_days=1.0)
