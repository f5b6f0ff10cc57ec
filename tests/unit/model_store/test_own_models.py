"""Any fitted classifier over the seven inputs can be added; everything else is refused with a sentence."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import joblib
import numpy as np
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from model_store.errors import ModelStoreError
from model_store.estimator import EstimatorModel, format_inputs, leaf_numbers, read_estimator
from model_store.manifest import InputFormat
from model_store.self_test import from_lines, input_rows
from model_store.store import ModelStore
from model_store.training import assess

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from model_store.training_data import TrainingTable

_NUMBERS = list(range(1, 7))


def _frame(table: TrainingTable, country: str = "text") -> Any:
    pytest.importorskip("pandas")
    categories = tuple(sorted(set(table.countries)))
    return format_inputs(
        table.inputs,
        InputFormat.model_validate({"container": "frame", "country": country, "categories": categories}),
    )


def _text_pipeline(column: object = 0, **options: Any) -> Any:
    encoder = OneHotEncoder(sparse_output=False, **({"handle_unknown": "ignore"} | options))
    columns = make_column_transformer((encoder, [column]), remainder=StandardScaler())
    return make_pipeline(columns, LogisticRegression(max_iter=500))


def _boosted(table: TrainingTable) -> Any:
    return HistGradientBoostingClassifier(max_iter=20).fit(table.inputs, table.purchased)


def _forest(table: TrainingTable) -> Any:
    forest = RandomForestClassifier(20, min_samples_leaf=5, n_jobs=2, random_state=0)
    return forest.fit(table.inputs, table.purchased)


def _calibrated(table: TrainingTable) -> Any:
    pipeline = make_pipeline(StandardScaler(), HistGradientBoostingClassifier(max_iter=10))
    return CalibratedClassifierCV(pipeline, cv=2).fit(table.inputs, table.purchased)


def _array_with_text(table: TrainingTable) -> Any:
    rows = format_inputs(table.inputs, InputFormat(country="text"))
    return _text_pipeline().fit(rows, table.purchased)


def _frame_with_text(table: TrainingTable) -> Any:
    frame = _frame(table)
    return _text_pipeline("student_country").fit(frame[list(reversed(frame.columns))], table.purchased)


def _boosted_categories(table: TrainingTable) -> Any:
    model = HistGradientBoostingClassifier(max_iter=20, categorical_features="from_dtype")
    return model.fit(_frame(table, "category"), table.purchased)


def _lightgbm(table: TrainingTable) -> Any:
    lightgbm = pytest.importorskip("lightgbm")
    return lightgbm.LGBMClassifier(n_estimators=20, verbose=-1, n_jobs=1).fit(table.inputs, table.purchased)


def _xgboost(table: TrainingTable) -> Any:
    xgboost = pytest.importorskip("xgboost")
    model = xgboost.XGBClassifier(n_estimators=20, enable_categorical=True, n_jobs=1)
    return model.fit(_frame(table, "category"), table.purchased)


def _catboost(table: TrainingTable) -> Any:
    catboost = pytest.importorskip("catboost")
    model = catboost.CatBoostClassifier(
        iterations=20, verbose=0, cat_features=["student_country"], allow_writing_files=False
    )
    return model.fit(_frame(table), table.purchased)


def _self_test(store: ModelStore, version: str) -> bytes:
    return (store.folder / "versions" / version / "selftest.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("fit", "expected"),
    [
        (_boosted, "array with the country as number"),
        (_forest, "array with the country as number"),
        (_calibrated, "array with the country as number"),
        (_array_with_text, "array with the country as text"),
        (_frame_with_text, "frame with the country as text"),
        (_boosted_categories, "array with the country as text"),
        (_lightgbm, "array with the country as number"),
        (_xgboost, "frame with the country as category"),
        (_catboost, "array with the country as text"),
    ],
)
def test_any_classifier_is_added_and_scores_as_it_was_fitted(
    store: ModelStore, students: TrainingTable, fit: Callable[[TrainingTable], Any], expected: str
) -> None:
    """Its format is found out, its quality is measured, and the loaded version gives its probabilities."""
    estimator = fit(students)
    version = store.add(assess(students, estimator))
    model = store.load(version)
    assert str(model.manifest.input_format) == expected
    rows = format_inputs(students.inputs[:500], model.manifest.input_format)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        direct = estimator.predict_proba(rows)[:, 1]
    assert np.allclose(model.predict_probability(students.inputs[:500]), direct, atol=1e-12)
    assert 0.5 < model.manifest.metrics.cross_validated.average_precision < 0.95
    assert model.manifest.cost is not None
    assert model.predict_probability(np.empty((0, 7))).shape == (0,)
    leaves = leaf_numbers(estimator, rows)
    assert (leaves is not None) == ("Pipeline" not in type(estimator).__name__)
    if leaves is not None:
        tested = format_inputs(
            input_rows(from_lines(_self_test(store, version))), model.manifest.input_format
        )
        reached = leaf_numbers(estimator, tested)
        assert reached is not None
        for tree in range(leaves.shape[1]):
            assert set(leaves[:, tree]) <= set(reached[:, tree])
    name = type(estimator).__module__.partition(".")[0].replace("sklearn", "scikit-learn")
    assert any(library.startswith(name) for library in model.manifest.libraries)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"no pickle", r"own.joblib cannot be unpickled: .*; save it with joblib.dump"),
        (b"", r"own.joblib cannot be unpickled: EOFError"),
        (b"\x80\x04cnot_installed_here\nThing\n.", "own.joblib needs the module not_installed_here; install"),
        (None, "own.joblib cannot be read: No such file"),
    ],
)
def test_unreadable_file_is_refused(tmp_path: Path, content: bytes | None, sentence: str) -> None:
    """A file that holds no estimator is refused by its name."""
    path = tmp_path / "own.joblib"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelStoreError, match=sentence):
        read_estimator(path)


def test_saved_estimator_is_read(tmp_path: Path, students: TrainingTable) -> None:
    """What joblib.dump saved is read, compressed or not."""
    joblib.dump(_boosted(students), tmp_path / "own.joblib", compress=3)
    assert type(read_estimator(tmp_path / "own.joblib")) is HistGradientBoostingClassifier


def test_unseen_rows_measure_the_model_itself(students: TrainingTable) -> None:
    """With unseen rows nothing is fitted again: the quality is that of the given estimator."""
    half = students.rows // 2
    estimator = GaussianNB().fit(students.inputs[:half], students.purchased[:half])
    rest = replace(
        students,
        inputs=np.asfortranarray(students.inputs[half:]),
        purchased=students.purchased[half:],
        countries=students.countries[half:],
    )
    measured = assess(rest, estimator, unseen=True)
    probabilities = estimator.predict_proba(rest.inputs)[:, 1]
    expected = float(np.mean((probabilities - rest.purchased) ** 2))
    assert measured.metrics.cross_validated.brier_score == pytest.approx(expected)
    assert measured.metrics.folds == 1


def test_own_threads_are_limited(students: TrainingTable) -> None:
    """A model predicts on one thread, whatever number of jobs it was fitted with."""
    forest = _forest(students)
    model = EstimatorModel(
        CalibratedClassifierCV(forest, cv=2).fit(students.inputs, students.purchased), InputFormat()
    )
    model.predict_probability(students.inputs[:10])
    inner = [c.estimator.n_jobs for c in model.estimator.calibrated_classifiers_]
    assert inner == [1, 1]
