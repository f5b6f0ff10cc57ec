"""Students, a trained model and predictions about them."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastavro import schemaless_writer

from consumer.pipeline.batch import RecordBatch
from consumer.pipeline.decode import Decoder
from model_store.estimator import probability_model
from model_store.inputs import INPUT_NAMES, INTEGER_INPUTS
from model_store.store import ModelStore
from model_store.synthetic import generate_students
from model_store.training import TrainedModel, train
from schemas.repository import BundledSchemas, purchase_prediction, single_object_header


@dataclass
class Trained:
    """A model, the store whose champion it is, and students it has not seen."""

    model: TrainedModel
    store: ModelStore
    version: str
    students: np.ndarray
    countries: list[str]
    probabilities: np.ndarray


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A model trained on generated students."""
    model = train(generate_students(6000, seed=1))
    store = ModelStore(tmp_path_factory.mktemp("drift-models"), "purchase")
    version = store.add(model)
    store.promote(version)
    others = generate_students(20_000, seed=2)
    probabilities = probability_model(model.estimator).predict_probability(others.inputs)
    return Trained(model, store, version, others.inputs, list(others.countries), probabilities)


@pytest.fixture
def store(trained: Trained, tmp_path: Path) -> ModelStore:
    """A store with three versions; the first is the champion."""
    store = ModelStore(tmp_path / "models", "purchase")
    for _ in range(3):
        store.add(trained.model)
    store.promote(store.versions()[0])
    return store


Predict = Callable[..., RecordBatch]


@pytest.fixture(scope="session")
def predict(trained: Trained) -> Predict:
    """Return a function that makes decoded predictions about some of the students."""
    header = single_object_header(purchase_prediction().fingerprint)
    decoder = Decoder(purchase_prediction(), BundledSchemas())

    def made(
        rows: range, *, version: str | None = None, scored_at_ms: int = 0, anonymous: bool = False
    ) -> RecordBatch:
        values = []
        for i in rows:
            features: dict[str, Any] = {
                name: int(x) if name in INTEGER_INPUTS else float(x)
                for name, x in zip(INPUT_NAMES, trained.students[i], strict=True)
            }
            features["student_country"] = trained.countries[i]
            out = io.BytesIO()
            record = {
                "event_id": f"event-{i}",
                "student_id": f"event-{i}" if anonymous else f"student-{i}",
                "predicted_purchase_probability": float(trained.probabilities[i]),
                "predicted_purchase": int(trained.probabilities[i] >= trained.model.threshold.value),
                "threshold": trained.model.threshold.value,
                "model_version": version or trained.version,
                "occurred_at": 0,
                "scored_at": scored_at_ms,
                "source_partition": 0,
                "source_offset": -1 if anonymous else i,
                "features": features,
            }
            schemaless_writer(out, purchase_prediction().parsed, record)
            values.append(header + out.getvalue())
        return decoder.decode(values)[0]

    return made


@pytest.fixture
def empty_store(tmp_path: Path) -> ModelStore:
    """An empty model store."""
    return ModelStore(tmp_path / "models", "purchase")
