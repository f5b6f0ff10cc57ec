"""Students, a model trained on them, and a store that holds it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sklearn.naive_bayes import GaussianNB
from threadpoolctl import threadpool_limits

from model_store.manifest import InputFormat
from model_store.store import ModelStore
from model_store.synthetic import generate_students
from model_store.training import TrainedModel, assess, train

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from model_store.training_data import TrainingTable


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Fit on one thread: the tests share the machine, and OpenMP's threads wait for each other busily."""
    with threadpool_limits(1):
        yield


@pytest.fixture(scope="session")
def students() -> TrainingTable:
    """Four thousand generated students."""
    return generate_students(4000, seed=7)


@pytest.fixture(scope="session")
def trained(students: TrainingTable) -> TrainedModel:
    """A model trained on them."""
    return train(students)


@pytest.fixture(scope="session")
def own_model(students: TrainingTable) -> TrainedModel:
    """A classifier that is no linear model, so that it is stored as a pickle only."""
    estimator = GaussianNB().fit(students.inputs, students.purchased)
    return assess(students, estimator, input_format=InputFormat(), unseen=True)


@pytest.fixture
def own_champion(store: ModelStore, own_model: TrainedModel) -> str:
    """The id of a pickled version in the store that is its champion."""
    version = store.add(own_model)
    store.promote(version, reason="naive Bayes is not calibrated", actor="test", force=True)
    return version


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    """An empty store."""
    return ModelStore(tmp_path / "models", "purchase")


@pytest.fixture
def champion(store: ModelStore, trained: TrainedModel) -> str:
    """The id of a version in the store that is its champion."""
    version = store.add(trained)
    store.promote(version, reason="first", actor="test")
    return version
