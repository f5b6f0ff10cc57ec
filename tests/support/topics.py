"""Predictions and outcomes put into their topics by hand, as a scorer and a platform would."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
from confluent_kafka import Producer

from model_store.inputs import INPUT_NAMES, INTEGER_INPUTS
from model_store.synthetic import generate_students
from schemas.avro import AvroSchema
from schemas.repository import purchase_outcome, purchase_prediction
from tests.support.events import encoded, framed

if TYPE_CHECKING:
    from model_store.store import ModelStore


class Published:
    """Publishes predictions as a scorer would, and what became of them.

    Args:
        deployment: Whose topics.
        store: Whose champion predicts.
        predictions: Another topic of predictions.
    """

    def __init__(self, deployment: Any, store: ModelStore, predictions: str = "") -> None:
        self._outcomes = deployment.topics["OUTCOMES"]
        self._predictions = predictions or deployment.topics["PREDICTIONS"]
        self._model = store.load("champion")
        self._producer = Producer({"bootstrap.servers": deployment.servers})

    def predict(self, begin: int, n: int, *, more_days: float = 0.0) -> np.ndarray:
        """Publish predictions about n students, numbered from ``begin`` on; return the probabilities."""
        table = generate_students(n, seed=begin)
        inputs = np.asfortranarray(table.inputs)
        inputs[:, 1] += more_days
        probabilities = self._model.predict_probability(inputs)
        for i, probability in enumerate(probabilities.tolist()):
            features: dict[str, Any] = {
                name: int(x) if name in INTEGER_INPUTS else float(x)
                for name, x in zip(INPUT_NAMES, inputs[i], strict=True)
            }
            features["student_country"] = table.countries[i]
            record = {
                "event_id": f"e{begin + i}",
                "student_id": f"s{begin + i}",
                "predicted_purchase_probability": probability,
                "predicted_purchase": int(probability >= self._model.threshold),
                "threshold": self._model.threshold,
                "model_version": self._model.version,
                "occurred_at": int(time.time() * 1000),
                "scored_at": int(time.time() * 1000),
                "source_partition": 0,
                "source_offset": begin + i,
                "features": features,
            }
            self._send(self._predictions, f"s{begin + i}", purchase_prediction(), record)
        self._producer.flush()
        return probabilities

    def tell_outcomes(self, begin: int, purchased: np.ndarray) -> None:
        """Publish whether students bought."""
        for i, bought in enumerate(purchased.tolist()):
            record = {
                "student_id": f"s{begin + i}",
                "purchased": bool(bought),
                "observed_at": int(time.time() * 1000),
            }
            self._send(self._outcomes, f"s{begin + i}", purchase_outcome(), record)
        self._producer.flush()

    def _send(self, topic: str, key: str, schema: AvroSchema, record: dict[str, Any]) -> None:
        self._producer.produce(topic, framed(encoded(record, schema.parsed), schema), key)
