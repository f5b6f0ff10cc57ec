"""A version is judged before its promotion, and versions are compared, derived, removed and exported."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from sklearn.naive_bayes import GaussianNB

from model_store.errors import ModelStoreError
from model_store.evaluation import ThresholdCriterion
from model_store.promotion import PromotionRefused, judge
from model_store.synthetic import generate_students
from model_store.training import assess, train

if TYPE_CHECKING:
    from pathlib import Path

    from model_store.store import ModelStore
    from model_store.training import TrainedModel
    from model_store.training_data import TrainingTable


def _failed(store: ModelStore, version: str, table: TrainingTable | None = None) -> dict[str, str]:
    return {check.name: check.finding for check in judge(store, version, table) if not check.passed}


def test_a_good_version_passes_every_check(store: ModelStore, trained: TrainedModel) -> None:
    """The default model passes, with and without a champion to be compared with."""
    first = store.add(trained)
    assert _failed(store, first) == {}
    store.promote(first, evidence={"trial": "a week beside the champion"})
    second = store.add(trained)
    assert [check.name for check in judge(store, second)][-1] == "champion"
    assert _failed(store, second) == {}
    evidence = store.history()[-1]["evidence"]
    assert evidence["base_rate"]["passed"] is True
    assert "duplicate rows" in evidence["data"]["finding"]
    assert evidence["trial"] == "a week beside the champion"


def _useless(students: TrainingTable) -> TrainedModel:
    random = np.random.default_rng(0)
    shuffled = replace(students, purchased=random.permutation(students.purchased))
    return train(shuffled)


def test_a_promotion_from_code_is_judged_too(store: ModelStore, students: TrainingTable) -> None:
    """The store refuses a bad champion, unless it is forced with a reason; a challenger may be bad."""
    version = store.add(_useless(students))
    with pytest.raises(PromotionRefused, match=f"version {version} is not promoted: .*--force --reason TEXT"):
        store.promote(version)
    assert store.target("champion") is None
    assert store.promote(version, "challenger").checks == ()
    with pytest.raises(ModelStoreError, match="needs a reason"):
        store.promote(version, force=True)
    promotion = store.promote(version, reason="a test", force=True)
    assert [check.name for check in promotion.checks if not check.passed] == ["base_rate"]
    assert store.history()[-1]["evidence"]["base_rate"]["passed"] is False


def test_a_worse_version_than_the_champion_fails(
    store: ModelStore, champion: str, students: TrainingTable
) -> None:
    """On rows that neither was fitted on, a clearly worse candidate is recognised."""
    worse = GaussianNB().fit(students.inputs[:, :7], students.purchased)
    version = store.add(assess(students, worse))
    unseen = generate_students(4000, seed=99)
    assert "against the champion on the 4000 rows" in _failed(store, version, unseen)["champion"]
    with pytest.raises(ModelStoreError, match="is the data that one of the two versions was fitted on"):
        judge(store, version, students)
    assert store.resolve("champion").version == champion


def test_threshold_is_chosen_again_without_training(
    store: ModelStore, champion: str, trained: TrainedModel
) -> None:
    """The new version scores alike and has another threshold, and figures for it."""
    version = store.rethreshold(champion, ThresholdCriterion("precision", min_precision=0.9))
    derived, model = store.manifest(version), store.load(version)
    assert derived.threshold.precision >= 0.9
    assert model.threshold > trained.threshold.value
    assert derived.provenance.parent == champion
    quality = derived.metrics.cross_validated
    assert quality.precision == pytest.approx(derived.threshold.precision)
    assert quality.average_precision == trained.metrics.cross_validated.average_precision
    assert model.baseline.predicted_positive_ratio < trained.baseline.predicted_positive_ratio
    with pytest.raises(ModelStoreError, match=r"no threshold has a precision of 0\.9999"):
        store.rethreshold(
            store.add(_useless_labels(trained)), ThresholdCriterion("precision", min_precision=0.9999)
        )


def _useless_labels(trained: TrainedModel) -> TrainedModel:
    curve = trained.evaluation.curve.model_copy(
        update={"false_positives": (50,) * len(trained.evaluation.curve.thresholds)}
    )
    return replace(trained, evaluation=trained.evaluation.model_copy(update={"curve": curve}))


def _record_other_version(store: ModelStore, version: str, library: str) -> None:
    path = store.folder / "versions" / version / "manifest.json"
    tree = json.loads(path.read_bytes())
    tree["libraries"][library] = "0.0.1"
    path.chmod(0o644)
    path.write_text(json.dumps(tree))


def test_migration_proves_equal_scores(store: ModelStore, own_model: TrainedModel) -> None:
    """A version of other libraries is refused, migrated when its scores are equal, and then loads."""
    version = store.add(own_model)
    _record_other_version(store, version, "scikit-learn")
    with pytest.raises(ModelStoreError, match=f"models migrate {version}"):
        store.load(version)
    migration = store.migrate(version)
    assert (migration.rows, migration.leaves) == (len(own_model.self_test), None)
    assert store.load(migration.version).manifest.provenance.parent == version
    first = own_model.self_test[0]
    changed = first.model_copy(update={"expected_probability": first.expected_probability + 1e-12})
    other = store.add(replace(own_model, self_test=(changed, *own_model.self_test[1:])))
    with pytest.raises(
        ModelStoreError,
        match=r"is not migrated: .* 1 of its \d+ self-test rows .* selftest.jsonl, line 1; train it again",
    ):
        store.migrate(other)


def test_linear_version_loads_with_other_libraries(store: ModelStore, champion: str) -> None:
    """The default model is numbers: other library versions do not matter, and verify still says so."""
    _record_other_version(store, champion, "scikit-learn")
    assert store.load(champion).version == champion
    with pytest.raises(ModelStoreError, match=r"trained with scikit-learn 0\.0\.1"):
        store.verify(champion)
    with pytest.raises(ModelStoreError, match="is linear: it loads with any library versions"):
        store.migrate(champion)


def test_versions_without_an_alias_are_removed(
    store: ModelStore, champion: str, trained: TrainedModel
) -> None:
    """A version that an alias names stays; any other one goes, and a lost name is answered by its nearest."""
    second = store.add(trained)
    with pytest.raises(ModelStoreError, match=f"{champion} is the champion; promote another one first"):
        store.remove(champion)
    store.remove(second)
    assert store.versions() == [champion]
    with pytest.raises(ModelStoreError, match=f"did you mean {champion}"):
        store.load(champion[:-1] + "x")


def test_export_copies_the_verified_files(store: ModelStore, champion: str, tmp_path: Path) -> None:
    """An exported folder has the same bytes, and is never written over."""
    assert store.export("champion", tmp_path / "out") == champion
    folder = store.folder / "versions" / champion
    exported = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert exported == {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ModelStoreError, match=r"cannot export to .*: File exists"):
        store.export("champion", tmp_path / "out")


def test_missing_champion_proposes_a_version_that_is_there(store: ModelStore, trained: TrainedModel) -> None:
    """With versions but no champion, the message names the newest one."""
    version = store.add(trained)
    with pytest.raises(ModelStoreError, match=f"has no champion; promote a version: .* promote {version}"):
        store.load()
