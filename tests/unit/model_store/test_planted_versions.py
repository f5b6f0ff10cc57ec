"""Thirty planted versions, each with the sentence that it gets when it is added or promoted."""

from __future__ import annotations

import re
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from sklearn.compose import make_column_transformer
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import RandomForestClassifier, VotingClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from sklearn.svm import LinearSVC

from model_store.errors import ModelStoreError
from model_store.estimator import format_inputs
from model_store.manifest import InputFormat
from model_store.training import assess, train

if TYPE_CHECKING:
    from collections.abc import Callable

    from model_store.store import ModelStore
    from model_store.training import TrainedModel
    from model_store.training_data import TrainingTable

    Plant = Callable[[TrainingTable], TrainedModel]


def _added(make: Callable[[TrainingTable], Any]) -> Plant:
    """Assess an estimator on the students that it was fitted on, by refitting it."""
    return lambda table: assess(table, make(table))


def _as_it_is(make: Callable[[TrainingTable], Any]) -> Plant:
    """Assess an estimator as it is, as if the students were new to it."""
    return lambda table: assess(table, make(table), unseen=True, input_format=InputFormat())


def _fitted(estimator: Any, columns: slice = slice(None)) -> Callable[[TrainingTable], Any]:
    return lambda table: estimator.fit(table.inputs[:, columns], table.purchased)


def _regression(**options: Any) -> Callable[[TrainingTable], Any]:
    return _fitted(LogisticRegression(max_iter=3000, **options))


def _with(fit: Callable[[TrainingTable], Any], change: Callable[[Any], object]) -> Any:
    def make(table: TrainingTable) -> Any:
        estimator = fit(table)
        change(estimator)
        return estimator

    return make


def _three_classes(table: TrainingTable) -> Any:
    return GaussianNB().fit(table.inputs, table.purchased + 2 * (table.inputs[:, 1] == 0))


def _text_labels(table: TrainingTable) -> Any:
    return GaussianNB().fit(table.inputs, np.where(table.purchased == 1, "yes", "no"))


def _one_class(table: TrainingTable) -> Any:
    return GaussianNB().fit(table.inputs, np.ones(table.rows))


def _two_outputs(table: TrainingTable) -> Any:
    return RandomForestClassifier(2).fit(table.inputs, np.column_stack([table.purchased] * 2))


def _other_columns(table: TrainingTable) -> Any:
    pytest.importorskip("pandas")
    frame = format_inputs(table.inputs, InputFormat(container="frame"))
    return GaussianNB().fit(frame.rename(columns={"student_country": "land"}), table.purchased)


def _strict_countries(table: TrainingTable) -> Any:
    columns = make_column_transformer(
        (OneHotEncoder(sparse_output=False, handle_unknown="error"), [0]), remainder=StandardScaler()
    )
    rows = format_inputs(table.inputs, InputFormat(country="text"))
    return make_pipeline(columns, LogisticRegression(max_iter=500)).fit(rows, table.purchased)


def _logarithm(table: TrainingTable) -> Any:
    """Country -1 becomes minus infinity."""
    model = make_pipeline(FunctionTransformer(np.log1p), LogisticRegression(max_iter=5000))
    return model.fit(np.abs(table.inputs), table.purchased)


class _Local(GaussianNB):  # type: ignore[misc]  # sklearn is untyped
    """A classifier of a module that no package installs."""


def _swapped(table: TrainingTable) -> Any:
    return GaussianNB().fit(table.inputs, 1 - table.purchased)


def _magnify(model: Any) -> None:
    model.coef_ *= 6
    model.intercept_ *= 6


def _shuffled(table: TrainingTable) -> TrainedModel:
    return train(replace(table, purchased=np.random.default_rng(0).permutation(table.purchased)))


def _leaking(table: TrainingTable) -> TrainedModel:
    inputs = table.inputs.copy(order="F")
    inputs[:, 6] = 10 * table.purchased
    return train(replace(table, inputs=inputs))


def _few(table: TrainingTable) -> TrainedModel:
    inputs, purchased = np.asfortranarray(table.inputs[:500]), table.purchased[:500]
    return _added(_fitted(GaussianNB()))(replace(table, inputs=inputs, purchased=purchased))


def _duplicates(table: TrainingTable) -> TrainedModel:
    inputs = np.asfortranarray(np.tile(table.inputs[:1000], (4, 1)))
    return train(replace(table, inputs=inputs, purchased=np.tile(table.purchased[:1000], 4)))


def _without_countries(table: TrainingTable) -> TrainedModel:
    inputs = table.inputs.copy(order="F")
    inputs[:, 0] = -1
    return train(replace(table, inputs=inputs))


PLANTED: dict[str, tuple[Plant, str]] = {
    # What is refused when it is added.
    "three-classes": (_added(_three_classes), "GaussianNB has the classes 0, 1, 2, 3; they must be 0 and 1"),
    "text-labels": (_added(_text_labels), "GaussianNB has the classes no, yes; they must be 0 and 1"),
    "one-class": (_added(_one_class), "GaussianNB has the classes 1.0; they must be 0 and 1"),
    "two-outputs": (_added(_two_outputs), r"has the classes \[0, 1\], \[0, 1\]; they must be 0 and 1"),
    "reversed-classes": (
        _added(_with(_fitted(GaussianNB()), lambda model: setattr(model, "classes_", np.array([1, 0])))),
        "GaussianNB has the classes 1, 0; they must be 0 and 1",
    ),
    "six-columns": (
        _added(_fitted(GaussianNB(), slice(1, 7))),
        "GaussianNB was fitted on 6 columns; they must be the seven",
    ),
    "other-columns": (
        _added(_other_columns),
        "was fitted on the columns land, days_on_.*; they must be student_country",
    ),
    "no-probabilities": (
        _added(_fitted(LinearSVC())),
        "LinearSVC has no predict_proba; wrap it in CalibratedClassifierCV",
    ),
    "hard-votes": (
        _added(_fitted(VotingClassifier([("a", GaussianNB()), ("b", DummyClassifier())]))),
        "VotingClassifier has no predict_proba",
    ),
    "regressor": (
        _added(_fitted(LinearRegression())),
        "LinearRegression has no predict_proba; it must be a classifier",
    ),
    "transformer": (
        _added(_fitted(StandardScaler())),
        "StandardScaler has no predict_proba; it must be a classifier",
    ),
    "not-fitted": (_added(lambda _: GaussianNB()), "GaussianNB is not fitted; fit it before you save it"),
    "dictionary": (_added(lambda _: {"a": "dict"}), "dict has no predict_proba"),
    "known-countries-only": (
        _added(_strict_countries),
        r"fails on valid inputs: .*unknown categories.*handle_unknown='ignore'",
    ),
    "infinity-for-unknown": (
        _added(_logarithm),
        "fails on valid inputs: .*infinity.*must accept every country",
    ),
    "own-class": (_added(_fitted(_Local())), "cannot be pickled|no installed package provides"),
    "own-function": (
        _added(_fitted(make_pipeline(FunctionTransformer(lambda rows: rows), GaussianNB()))),
        "Pipeline cannot be pickled: .*lambda",
    ),
    "nan": (
        _as_it_is(_with(_regression(), lambda model: model.coef_.fill(np.nan))),
        "LogisticRegression predicts nan for .* students; a probability lies between 0 and 1",
    ),
    "random": (
        _added(_fitted(DummyClassifier(strategy="stratified"))),
        "predicts other probabilities when asked again for the same students; set its random_state",
    ),
    # What is refused as the champion.
    "shuffled-labels": (_shuffled, "not better than predicting the base rate"),
    "constant": (_added(_fitted(DummyClassifier())), "not better than predicting the base rate"),
    "swapped-labels": (_as_it_is(_swapped), "it ranks buyers last: are the labels swapped"),
    "leaked-label": (_leaking, "minutes_spent_on_exams alone tells buyers from others: a leaked label"),
    "memorised": (
        _as_it_is(_fitted(RandomForestClassifier(10, random_state=0))),
        "are too good to be true: a leaked label, or rows that it was fitted on",
    ),
    "weighted-classes": (
        _added(_regression(class_weight="balanced")),
        "purchases predicted, .* made; calibrate it",
    ),
    "overconfident": (
        _as_it_is(_with(_regression(), _magnify)),
        "purchases predicted, .* made; calibrate it",
    ),
    "worse": (
        _added(_fitted(GaussianNB())),
        r"average precision \[.*\] against the champion's \[.*\], each on its own data",
    ),
    "few-students": (_few, r"average precision .* \(at least 0\.[0-3]"),
    # What is stated, and promoted.
    "duplicates": (_duplicates, "3001 duplicate rows, 0 rows of unknown countries"),
    "unknown-countries": (_without_countries, "4000 rows of unknown countries"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_planted_version_gets_its_sentence(
    store: ModelStore, champion: str, students: TrainingTable, name: str
) -> None:
    """It is refused, or its findings say so; a refused version never becomes the champion."""
    plant, sentence = PLANTED[name]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            version = store.add(plant(students))
        promotion = store.promote(version)
    except ModelStoreError as error:
        said = str(error)
        assert store.resolve("champion").version == champion
    else:
        said = "; ".join(check.finding for check in promotion.checks)
    assert "\n" not in said
    assert re.search(sentence, said), said
