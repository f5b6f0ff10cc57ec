"""Drift over batches: which model it is compared with, and what survives a restart."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from consumer.columnar.arrays import DictionaryColumn
from consumer.monitor.drift.tracker import Baselines, Drift, SavedDrift, governing_version
from consumer.monitor.drift.verdict import DriftStatus
from consumer.monitor.drift.window import SERIES, Countries, columns_of, student_hashes, versions_of
from consumer.monitor.outcomes.join import OutcomeJoin
from consumer.monitor.retraining import Announced, Recommendation
from consumer.monitor.state import SavedState, erase_from_state, read_state, write_state
from consumer.settings import DriftSettings, OutcomeSettings
from model_store.countries import country_code
from model_store.errors import ModelStoreError
from model_store.inputs import INPUT_NAMES


def drift_of(store: Any, **settings: Any) -> Drift:
    """Return drift that knows its champion."""
    drift = Drift(Baselines(store), country_code, DriftSettings(**settings))
    drift.refresh_champion()
    return drift


def add(drift: Drift, *batches: Any, counted: bool = True) -> None:
    """Add batches."""
    for batch in batches:
        drift.add(batch, student_hashes(batch), versions_of(batch), counted=counted)


@pytest.mark.parametrize(
    ("present", "current", "champion", "expected"),
    [
        (["v1"], None, None, "v1"),
        (["v1"], None, "v1", "v1"),
        (["v1", "v2"], "v1", "v2", "v2"),
        (["v2", "v1"], "v1", "v2", "v2"),
        (["v2"], "v1", "v1", "v1"),
        (["v3"], "v1", "v2", "v3"),
        ([], "v1", "v1", "v1"),
    ],
)
def test_the_champion_governs_once_it_predicts(
    present: list[str], current: str | None, champion: str | None, expected: str
) -> None:
    """Late predictions and challengers do not count beside the champion; without one, the latest counts."""
    assert governing_version(present, current, champion) == expected


def test_columns_are_what_was_predicted_on(trained: Any, predict: Any) -> None:
    """The columns are the inputs of the model, with the country as a number."""
    columns = columns_of(predict(range(300)), Countries(country_code))
    for j, name in enumerate(INPUT_NAMES):
        assert np.array_equal(columns[name], trained.students[:300, j])
    assert np.array_equal(columns["score"], trained.probabilities[:300])


def test_a_flood_of_countries_is_looked_up_rightly_in_bounded_memory() -> None:
    """More spellings than the cache holds still get their numbers."""
    countries = Countries(int)
    for begin in (0, 3000, 6000, 0):
        texts = [str(n).encode() for n in range(begin, begin + 3000)] * 2
        ends = np.cumsum([len(text) for text in texts])
        begins = ends - [len(text) for text in texts]
        numbers = countries.numbers(b"".join(texts), begins, ends)
        assert numbers.tolist() == [*range(begin, begin + 3000)] * 2
    assert len(countries._hashes) == len(countries._numbers) == 1 << 16


def test_versions_are_told_apart(predict: Any, trained: Any) -> None:
    """Each prediction has its version, and the version that predicted last comes last."""
    batch = predict(range(3))
    versions = versions_of(batch)
    names, indexes = versions.dictionary, versions.indices
    assert (names, indexes.tolist()) == ([trained.version], [0, 0, 0])


def test_nothing_is_known_without_a_store(empty_store: Any, predict: Any) -> None:
    """Without a baseline, predictions are counted and the reason is given, but there is no window."""
    drift = drift_of(empty_store)
    add(drift, predict(range(20)))
    snapshot = drift.snapshot()
    assert snapshot.baseline is None
    assert snapshot.running is None
    assert snapshot.predictions == 20
    assert snapshot.problem


def test_the_champion_is_shown_before_it_predicts(trained: Any) -> None:
    """All bins exist at 0, so that the counters start at 0."""
    snapshot = drift_of(trained.store).snapshot()
    assert snapshot.model_version == trained.version
    assert set(snapshot.observations) == set(SERIES)
    assert sum(int(counts.sum()) for counts in snapshot.observations.values()) == 0


def test_windows_follow_each_other_within_a_batch(trained: Any, predict: Any) -> None:
    """A batch of 1,250 students fills two windows of 500 and starts a third."""
    drift = drift_of(trained.store, window_students=500)
    add(drift, predict(range(1250)))
    snapshot = drift.snapshot()
    assert [(window.number, window.students) for window in snapshot.recent] == [(1, 500), (2, 500)]
    assert snapshot.running is not None
    assert snapshot.running.students == 250
    assert snapshot.samples == 1250
    assert snapshot.windows[DriftStatus.OK] == 2
    assert {int(counts.sum()) for counts in snapshot.observations.values()} == {1250}


def test_another_version_begins_anew(trained: Any, predict: Any) -> None:
    """When another version predicts, drift starts over with an empty window."""
    drift = drift_of(trained.store)
    add(drift, predict(range(700)))
    version = trained.store.add(trained.model)
    add(drift, predict(range(50), version=version))
    assert drift.snapshot().model_version == trained.version, "the champion governs"
    trained.store.promote(version)
    try:
        add(drift, predict(range(50), version=version))
        snapshot = drift.snapshot()
        assert (snapshot.model_version, snapshot.samples, snapshot.recent) == (version, 50, ())
    finally:
        trained.store.promote(trained.version)


def test_a_damaged_baseline_is_refused(trained: Any, tmp_path: Any) -> None:
    """A baseline that does not match the manifest is not used."""
    import shutil  # noqa: PLC0415 - only here

    from model_store.store import ModelStore  # noqa: PLC0415 - only here

    shutil.copytree(trained.store.folder, tmp_path / "purchase")
    path = tmp_path / "purchase" / "versions" / trained.version / "baseline.json"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(b"1", b"2", 1))
    with pytest.raises(ModelStoreError, match="manifest"):
        Baselines(ModelStore(tmp_path, "purchase")).of(trained.version)


def test_state_goes_on_after_a_restart(trained: Any, predict: Any, tmp_path: Any) -> None:
    """Saved and restored, drift ends up where it would be without the restart."""
    settings = {"window_students": 500}
    unbroken, before = drift_of(trained.store, **settings), drift_of(trained.store, **settings)
    add(unbroken, predict(range(800)), predict(range(700, 1300)))
    add(before, predict(range(800)))
    saved, seen = before.saved()
    state = SavedState(
        source={"topic": "t"},
        next_offsets={0: 7},
        drift=saved,
        recommendation=Recommendation("prediction_rate_shift", ("score",)),
        announced=Announced("continue_monitoring", 5.0),
    )
    write_state(tmp_path / "state", state, {"seen": seen})
    found = read_state(tmp_path / "state", {"topic": "t"}, {0: 7})
    assert found is not None
    read, arrays = found
    assert (read.source, read.next_offsets) == (state.source, state.next_offsets)
    assert (read.recommendation, read.announced) == (state.recommendation, state.announced)
    after = Drift(Baselines(trained.store), country_code, DriftSettings(**settings))
    after.restore(read.drift, arrays["seen"])
    add(after, predict(range(700, 1300)), counted=False)
    restarted, expected = after.snapshot(), unbroken.snapshot()
    assert restarted.recent == expected.recent
    assert (restarted.samples, restarted.predictions) == (expected.samples, expected.predictions)
    assert restarted.running is not None
    assert expected.running is not None
    for name in SERIES:
        assert np.array_equal(restarted.running.bins[name], expected.running.bins[name])
        assert restarted.observations[name].sum() == 0, "counters do not count twice"


def test_a_state_with_outcomes_is_read_again(trained: Any, tmp_path: Any) -> None:
    """The arrays of pending predictions are restored unchanged."""
    join = OutcomeJoin(OutcomeSettings(max_predictions=10))
    students = np.arange(4, dtype=np.uint64)
    join.remember(
        students,
        np.full(4, 0.5),
        np.ones(4, np.int64),
        np.arange(4),
        DictionaryColumn(["v"], np.zeros(4, np.int64)),
    )
    saved, arrays = join.saved({0: 3})
    drift, seen = drift_of(trained.store).saved()
    state = SavedState(source={}, next_offsets={}, drift=drift, outcomes=saved)
    write_state(tmp_path / "state", state, {"seen": seen, **arrays})
    found = read_state(tmp_path / "state", {}, {})
    assert found is not None
    assert found[0].outcomes == saved
    assert np.array_equal(found[1]["waiting"], arrays["waiting"])


@pytest.mark.parametrize("content", [b"", b"not a state", b"PK\x03\x04torn"])
def test_an_unusable_state_is_no_state(tmp_path: Any, content: bytes) -> None:
    """A torn or foreign file is not used."""
    (tmp_path / "state").write_bytes(content)
    assert read_state(tmp_path / "state", {}, {}) is None
    assert read_state(tmp_path / "missing", {}, {}) is None


@pytest.mark.parametrize(("source", "log_offsets"), [({"topic": "other"}, {0: 9}), ({"topic": "t"}, {0: 8})])
def test_a_state_that_does_not_fit_the_log_is_not_used(
    trained: Any, tmp_path: Any, source: dict[str, str], log_offsets: dict[int, int]
) -> None:
    """A state of another topic, or one that is ahead of the audit log, is not used."""
    drift, seen = drift_of(trained.store).saved()
    state = SavedState(source={"topic": "t"}, next_offsets={0: 9}, drift=drift)
    write_state(tmp_path / "state", state, {"seen": seen})
    assert read_state(tmp_path / "state", source, log_offsets) is None
    assert read_state(tmp_path / "state", {"topic": "t"}, {0: 9}) is not None


def test_an_erased_student_leaves_the_state(tmp_path: Any) -> None:
    """The hash and the inputs go from the window and from the ring; the others stay where they are."""
    path, students = tmp_path / "state", np.array([1, 5, 9], np.uint64)
    join = OutcomeJoin(OutcomeSettings(max_predictions=4))
    versions = DictionaryColumn(["v"], np.zeros(3, np.int64))
    inputs = np.ones((3, 7))
    join.remember(students, np.full(3, 0.5), np.zeros(3, np.int64), np.arange(3), versions, inputs)
    saved, arrays = join.saved({})
    state = SavedState(source={}, next_offsets={}, drift=SavedDrift(), outcomes=saved)
    write_state(path, state, {"seen": students, **arrays})
    assert erase_from_state(path, [np.uint64(5), np.uint64(7)], dry_run=True) == 2
    assert erase_from_state(path, [np.uint64(5), np.uint64(7)], dry_run=False) == 2
    assert erase_from_state(path, [np.uint64(5)], dry_run=False) == 0
    found = read_state(path, {}, {})
    assert found is not None
    assert found[1]["seen"].tolist() == [1, 9]
    assert found[1]["waiting"]["student"].tolist() == [1, 0, 9, 0]
    assert np.isnan(found[1]["features"][:, 0]).tolist() == [False, True, False, True]
    join.restore(saved, found[1])
    assert join.snapshot("on").pending == 2


def test_a_state_that_cannot_be_read_is_deleted_by_an_erasure(tmp_path: Any) -> None:
    """The monitor would not use it, and nobody can say who is in it."""
    path = tmp_path / "state"
    path.write_bytes(b"damaged")
    assert erase_from_state(path, [np.uint64(1)], dry_run=True) == 0
    assert path.exists()
    assert erase_from_state(path, [np.uint64(1)], dry_run=False) == 0
    assert not path.exists()
