"""The synchronous API, without Kafka: what it answers, and that it is the stream's own decision."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import Any

import fastavro
import numpy as np
import pytest
from starlette.testclient import TestClient

from consumer.columnar.arrays import FloatArray
from consumer.errors import StartupError, Unavailable
from consumer.pipeline.batch import RawBatch
from consumer.pipeline.decode import Decoder
from consumer.pipeline.pipeline import Pipeline
from consumer.pipeline.score import CountryNumbers
from consumer.scorer.processing import BatchProcessor
from consumer.serve.app import Predictor, create_app
from model_store.countries import country_code
from schemas.bundled import BundledSchemas
from schemas.framing import SINGLE_OBJECT_HEADER_BYTES, single_object_header
from schemas.repository import engagement_event, purchase_prediction

STUDENT: dict[str, Any] = {
    "student_country": "NA",
    "days_on_platform": 30,
    "minutes_watched": 12.5,
    "courses_started": 2,
    "practice_exams_started": 4,
    "practice_exams_passed": 3,
    "minutes_spent_on_exams": 20.25,
}


class SomeModel:
    """A model with an irrational answer, so that equality means something."""

    version = "v1"
    threshold = 0.5

    def predict_probability(self, features: FloatArray) -> FloatArray:
        """Return the logistic function of the sum of the logarithms."""
        total = np.zeros(len(features))
        for column in range(1, features.shape[1]):
            total += np.log1p(features[:, column])
        return 1 / (1 + np.exp(5 - total))


class Fakes:
    """A source of models and a publisher, both with a switch."""

    def __init__(self) -> None:
        self.model: SomeModel | None = SomeModel()
        self.broker_away = False
        self.published: list[tuple[bytes, bytes]] = []

    def current(self) -> SomeModel:
        """Return the model."""
        if self.model is None:
            raise StartupError("no model")
        return self.model

    def publish(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        """Keep what was published."""
        if self.broker_away:
            raise Unavailable("no broker")
        self.published += zip(keys, values, strict=True)


@pytest.fixture
def fakes() -> Fakes:
    """What the API stands on."""
    return Fakes()


@pytest.fixture
def pipeline(fakes: Fakes) -> Pipeline:
    """The real pipeline with the fake model."""
    header = single_object_header(purchase_prediction().fingerprint)
    return Pipeline(
        Decoder(engagement_event(), BundledSchemas()), fakes, CountryNumbers(country_code), header
    )


@pytest.fixture
def client(pipeline: Pipeline, fakes: Fakes) -> TestClient:
    """A client of the API."""
    return TestClient(create_app(Predictor(BatchProcessor(pipeline, now_s=lambda: 1_790_000_000.0), fakes)))


def test_a_prediction_is_the_streams_own_to_the_last_bit(client: TestClient, pipeline: Pipeline) -> None:
    """The same inputs as an event of the stream get the same probability and decision."""
    answer = client.post("/predict", json=STUDENT).json()
    record = BytesIO()
    event = STUDENT | {"event_id": "e", "student_id": "s", "occurred_at": 0}
    fastavro.schemaless_writer(record, engagement_event().parsed, event)
    value = single_object_header(engagement_event().fingerprint) + record.getvalue()
    raw = RawBatch("t", [0] * 9, list(range(9)), [b"s"] * 9, [value] * 9, lambda _: [], lambda _: [])
    scored = pipeline.run(raw, scored_at_ms=0).scored
    assert answer == {
        "predicted_purchase_probability": scored.probabilities[4].item(),
        "predicted_purchase": int(scored.decisions[4]),
    }


def test_a_prediction_is_published_with_source_minus_1(client: TestClient, fakes: Fakes) -> None:
    """The audit log sees what was asked for over HTTP, with the ids that were given."""
    client.post("/predict", json=STUDENT | {"event_id": "mine", "student_id": "me"})
    ((key, value),) = fakes.published
    record = fastavro.schemaless_reader(
        BytesIO(value[SINGLE_OBJECT_HEADER_BYTES:]), purchase_prediction().parsed
    )
    assert isinstance(record, dict)
    assert key == b"me"
    assert (record["event_id"], record["source_partition"], record["source_offset"]) == ("mine", -1, -1)
    assert record["features"] == STUDENT


def test_every_broken_field_is_listed_in_fastapis_form(client: TestClient) -> None:
    """422 with type, loc and msg of each, even for a NaN, which JSON cannot repeat."""
    body = '{"student_country": "X", "days_on_platform": -1, "minutes_watched": NaN, "courses_started": 1.5}'
    answer = client.post("/predict", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422
    problems = {tuple(p["loc"]): p["type"] for p in answer.json()["detail"]}
    assert problems == {
        ("body", "student_country"): "string_too_short",
        ("body", "days_on_platform"): "greater_than_equal",
        ("body", "minutes_watched"): "finite_number",
        ("body", "courses_started"): "int_from_float",
        ("body", "practice_exams_started"): "missing",
        ("body", "practice_exams_passed"): "missing",
        ("body", "minutes_spent_on_exams"): "missing",
    }


def test_the_cross_field_rule_is_one_sentence(client: TestClient, fakes: Fakes) -> None:
    """Looked at only when every field is good; nothing is published."""
    answer = client.post("/predict", json=STUDENT | {"practice_exams_passed": 5})
    assert (answer.status_code, answer.json()) == (
        422,
        {"detail": "practice_exams_passed cannot exceed practice_exams_started."},
    )
    assert fakes.published == []


def test_without_a_model_the_answer_is_503(client: TestClient, fakes: Fakes) -> None:
    """And it is answered again as soon as there is one."""
    model, fakes.model = fakes.model, None
    answer = client.post("/predict", json=STUDENT)
    assert (answer.status_code, answer.json()) == (503, {"detail": "Model is not loaded."})
    fakes.model = model
    assert client.post("/predict", json=STUDENT).status_code == 200


def test_what_cannot_be_recorded_is_not_answered(client: TestClient, fakes: Fakes) -> None:
    """A prediction that the audit log would not see is no prediction."""
    fakes.broker_away = True
    assert client.post("/predict", json=STUDENT).status_code == 503


def test_a_list_is_answered_in_order_all_or_none(client: TestClient, fakes: Fakes) -> None:
    """One bad student refuses the list; an empty list is answered with one."""
    lazy = STUDENT | {"minutes_watched": 0.0, "days_on_platform": 0}
    both = client.post("/batch_predict", json=[STUDENT, lazy]).json()
    alone = [client.post("/predict", json=student).json() for student in (STUDENT, lazy)]
    assert both == alone
    assert client.post("/batch_predict", json=[STUDENT, STUDENT | {"courses_started": -1}]).status_code == 422
    assert client.post("/batch_predict", json=[]).json() == []
    assert len(fakes.published) == 4
