"""Versions and aliases: what is stored, promoted, rolled back and refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from model_store.errors import ModelStoreError
from model_store.estimator import probability_model
from model_store.store import ModelStore

if TYPE_CHECKING:
    from pathlib import Path

    from model_store.training import TrainedModel
    from model_store.training_data import TrainingTable


def test_version_is_loaded_as_it_was_trained(
    store: ModelStore, champion: str, trained: TrainedModel, students: TrainingTable
) -> None:
    """A stored model scores to the last bit like the trained one, and carries what was recorded."""
    model = store.load("champion")
    assert model.version == champion == store.load(champion).version
    expected = probability_model(trained.estimator).predict_probability(students.inputs)
    assert model.predict_probability(students.inputs).tobytes() == expected.tobytes()
    assert model.threshold == trained.threshold.value
    assert model.baseline == trained.baseline
    assert model.manifest.training_data == trained.training_data
    assert model.manifest.metrics == trained.metrics


def test_version_folder_is_complete_and_read_only(store: ModelStore, champion: str) -> None:
    """A version is a set of read-only files, and its id ends with its model's digest."""
    folder = store.folder / "versions" / champion
    assert sorted(path.name for path in folder.iterdir()) == [
        "baseline.json",
        "evaluation.json",
        "linear.json",
        "manifest.json",
        "model.joblib",
        "selftest.jsonl",
    ]
    assert all(path.stat().st_mode & 0o777 == 0o444 for path in folder.iterdir())
    assert store.manifest(champion).files["model.joblib"].sha256.startswith(champion[-8:])


def test_promotion_keeps_the_last_champion_as_previous(store: ModelStore, trained: TrainedModel) -> None:
    """A new champion makes the old one `previous`, and the history records who did what and why."""
    first, second = store.add(trained), store.add(trained)
    assert store.versions() == [first, second]
    store.promote(first, reason="start", actor="ann")
    store.promote(second, reason="better", actor="bob")
    assert {alias: target.version for alias, target in store.aliases().items()} == {
        "champion": second,
        "previous": first,
    }
    told = [(h["alias"], h["from"], h["to"], h["reason"], h["actor"]) for h in store.history()]
    assert told == [
        ("champion", None, first, "start", "ann"),
        ("previous", None, first, "better", "bob"),
        ("champion", first, second, "better", "bob"),
    ]


def test_promoting_the_champion_again_changes_nothing(store: ModelStore, champion: str) -> None:
    """The champion stays, `previous` is not overwritten with it, and nothing is recorded."""
    before = store.history()
    store.promote(champion, reason="again")
    assert set(store.aliases()) == {"champion"}
    assert store.history() == before


def test_challenger_leaves_the_champion_alone(
    store: ModelStore, champion: str, trained: TrainedModel
) -> None:
    """Naming a challenger moves neither champion nor previous."""
    challenger = store.add(trained)
    store.promote(challenger, "challenger")
    assert store.resolve("champion").version == champion
    assert store.resolve("challenger").version == challenger
    assert "previous" not in store.aliases()


def test_rollback_swaps_champion_and_previous(
    store: ModelStore, champion: str, trained: TrainedModel
) -> None:
    """Rolling back returns to the previous champion, and again to the one rolled back from."""
    second = store.add(trained)
    store.promote(second)
    assert store.rollback(reason="worse").version == champion
    assert store.resolve("previous").version == second
    assert store.rollback().version == second


def test_rollback_without_a_previous_is_refused(store: ModelStore, champion: str) -> None:
    """With one champion ever there is nothing to go back to."""
    with pytest.raises(ModelStoreError, match="has no earlier champion"):
        store.rollback()
    assert store.resolve("champion").version == champion


def test_rollback_to_a_damaged_version_is_refused(
    store: ModelStore, champion: str, trained: TrainedModel
) -> None:
    """A previous version that fails its checks does not become champion."""
    second = store.add(trained)
    store.promote(second)
    path = store.folder / "versions" / champion / "model.joblib"
    path.chmod(0o644)
    path.write_bytes(b"x" * path.stat().st_size)
    with pytest.raises(ModelStoreError, match=r"model\.joblib"):
        store.rollback()
    assert store.resolve("champion").version == second


@pytest.mark.parametrize("name", ["nothing", "../../etc", ".unfinished", ""])
def test_unknown_version_is_refused(store: ModelStore, champion: str, name: str) -> None:
    """A version that is not there, or a name that leads elsewhere, is one line of complaint."""
    with pytest.raises(ModelStoreError, match="no version or alias"):
        store.load(name)
    assert store.versions() == [champion]


def test_missing_store_says_what_to_do(store: ModelStore) -> None:
    """Without a store there are no versions, and the missing champion names the command."""
    assert store.versions() == []
    assert store.aliases() == {}
    assert store.history() == []
    with pytest.raises(ModelStoreError, match=r"has no champion; .* purchase-stream train --promote"):
        store.load()
    assert not store.folder.exists()


def test_model_name_must_be_plain(tmp_path: Path) -> None:
    """A model's name cannot lead out of the store."""
    with pytest.raises(ModelStoreError, match="model name"):
        ModelStore(tmp_path, "../elsewhere")


@pytest.mark.parametrize(
    "content",
    [b"", b"not json", b'{"version": "x"}', b'{"version": "../x", "manifest_sha256": "%s"}' % (b"0" * 64)],
)
def test_broken_alias_is_refused(store: ModelStore, champion: str, content: bytes) -> None:
    """An alias that names no version is an error that says which file, not a missing model."""
    (store.folder / "aliases" / "champion").write_bytes(content)
    with pytest.raises(
        ModelStoreError, match="champion cannot be read: it does not name a version; remove it"
    ):
        store.load("champion")
    assert store.versions() == [champion]


def test_symbolic_link_is_no_alias(store: ModelStore, champion: str) -> None:
    """An alias file that is a symbolic link is not followed."""
    alias = store.folder / "aliases" / "champion"
    alias.rename(alias.with_name("elsewhere"))
    alias.symlink_to("elsewhere")
    with pytest.raises(ModelStoreError, match="champion cannot be read"):
        store.resolve("champion")
    assert store.load(champion).version == champion


def test_history_is_json_lines(store: ModelStore, champion: str) -> None:
    """Every line of the history is a JSON object on its own."""
    lines = (store.folder / "history.jsonl").read_text().splitlines()
    assert [json.loads(line)["to"] for line in lines] == [champion]


def test_any_estimator_can_be_stored(
    store: ModelStore, own_model: TrainedModel, own_champion: str, students: TrainingTable
) -> None:
    """A classifier that is not our pipeline is stored, verified and loaded like one."""
    model = store.load("champion")
    assert model.version == own_champion
    assert model.manifest.engineered_features == ()
    expected = own_model.estimator.predict_proba(students.inputs)[:, 1]
    assert np.array_equal(model.predict_probability(students.inputs), expected)
