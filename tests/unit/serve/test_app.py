"""The synchronous API without Kafka: its answers, which are the stream's own predictions."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from io import BytesIO
from typing import Any

import fastavro
import numpy as np
import orjson
import pytest
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.testclient import TestClient

from consumer.columnar.arrays import FloatArray
from consumer.errors import StartupError, Unavailable
from consumer.pipeline.batch import RawBatch
from consumer.pipeline.decode import Decoder
from consumer.pipeline.pipeline import Pipeline
from consumer.pipeline.score import CountryNumbers
from consumer.scorer.processing import BatchProcessor, ProcessedBatch
from consumer.serve import predictor as predictor_module
from consumer.serve.app import api_routes
from consumer.serve.metrics import HttpTelemetry
from consumer.serve.predictor import Answer, Predictor
from consumer.serve.requests import PredictionRequest
from consumer.settings import ServeSettings
from model_store.countries import country_code
from model_store.errors import ModelStoreError
from model_store.reasons import Contribution, Reasons
from schemas.repository import (
    SINGLE_OBJECT_HEADER_BYTES,
    BundledSchemas,
    engagement_event,
    purchase_prediction,
    single_object_header,
)

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
    """A model whose probabilities are irrational, so that equality to the last bit means something."""

    version = "v1"
    threshold = 0.5

    def predict_probability(self, features: FloatArray) -> FloatArray:
        """Return the logistic function of the sum of the logarithms."""
        total = np.zeros(len(features))
        for column in range(1, features.shape[1]):
            total += np.log1p(features[:, column])
        return 1 / (1 + np.exp(5 - total))


class Fakes:
    """A source of models and a publisher that can both fail."""

    def __init__(self) -> None:
        self.model: SomeModel | None = SomeModel()
        self.broker_away = False
        self.delivery_failure: str | None = None
        self.published: list[tuple[bytes, bytes]] = []

    def current(self) -> SomeModel:
        """Return the model."""
        if self.model is None:
            raise StartupError("no model")
        return self.model

    def check(self) -> None:
        """Raise if the broker is known to be away."""
        if self.broker_away:
            raise Unavailable("no broker")

    def publish(
        self, keys: Sequence[bytes], values: Sequence[bytes], on_done: Callable[[str | None], None]
    ) -> None:
        """Keep what was published, and report it from another thread like the client does."""
        if self.delivery_failure is None:
            self.published += zip(keys, values, strict=True)
        threading.Thread(target=on_done, args=(self.delivery_failure,)).start()


def explained(version: str, student: Mapping[str, Any]) -> Reasons:
    """Return the reasons of a model that counts days only, or fail as if the version were removed."""
    if student["days_on_platform"] > 1000:
        raise ModelStoreError("removed")
    days = Contribution("days_on_platform", float(student["days_on_platform"]), 0.5)
    return Reasons(version, 0.6, "probability", {"days_on_platform": 0.0}, 0.1, (days,))


@pytest.fixture
def fakes() -> Fakes:
    """Return the fakes that the API depends on."""
    return Fakes()


@pytest.fixture
def pipeline(fakes: Fakes) -> Pipeline:
    """The real pipeline with the fake model."""
    header = single_object_header(purchase_prediction().fingerprint)
    return Pipeline(
        Decoder(engagement_event(), BundledSchemas()), fakes, CountryNumbers(country_code), header
    )


@pytest.fixture
def limits() -> ServeSettings:
    """The limits of a request."""
    return ServeSettings(max_records=300, max_body_bytes=100_000)


@pytest.fixture
def client(pipeline: Pipeline, fakes: Fakes, limits: ServeSettings) -> Iterator[TestClient]:
    """A client of the API."""
    predictor = Predictor(BatchProcessor(pipeline, now_s=lambda: 1_790_000_000.0), fakes)
    health = {"ready": True, "predictor_loaded": True, "drift_baseline_loaded": True}
    routes = api_routes(predictor, HttpTelemetry(CollectorRegistry()), limits, lambda: health, explained)
    with TestClient(Starlette(routes=routes)) as client:
        yield client


def test_a_prediction_is_the_streams_own_to_the_last_bit(client: TestClient, pipeline: Pipeline) -> None:
    """The same inputs as an event of the stream get the same probability and decision."""
    answer = client.post("/predict", json=STUDENT).json()
    record = BytesIO()
    event = STUDENT | {"event_id": "e", "student_id": "s", "occurred_at": 1_700_000_000_000}
    fastavro.schemaless_writer(record, engagement_event().parsed, event)
    value = single_object_header(engagement_event().fingerprint) + record.getvalue()
    raw = RawBatch("t", [0] * 9, list(range(9)), [b"s"] * 9, [value] * 9, lambda _: [], lambda _: [])
    scored = pipeline.run(raw, scored_at_ms=0).scored
    assert answer == {
        "predicted_purchase_probability": scored.probabilities[4].item(),
        "predicted_purchase": int(scored.decisions[4]),
    }


def test_a_prediction_is_published_with_source_minus_1(client: TestClient, fakes: Fakes) -> None:
    """The published prediction has the ids of the request."""
    client.post("/predict", json=STUDENT | {"event_id": "mine", "student_id": "me"})
    ((key, value),) = fakes.published
    record = fastavro.schemaless_reader(
        BytesIO(value[SINGLE_OBJECT_HEADER_BYTES:]), purchase_prediction().parsed
    )
    assert isinstance(record, dict)
    assert key == b"me"
    assert (record["event_id"], record["source_partition"], record["source_offset"]) == ("mine", -1, -1)
    assert record["features"] == STUDENT


def test_reasons_are_answered_on_request(client: TestClient) -> None:
    """They come beside the prediction, from the version that made it; by default there are none."""
    plain = client.post("/predict?explain=false", json=STUDENT).json()
    assert set(plain) == {"predicted_purchase_probability", "predicted_purchase"}
    answer = client.post("/predict?explain=true", json=STUDENT).json()
    assert answer.pop("explanation") == {
        "model_version": "v1",
        "unit": "probability",
        "reference": {"days_on_platform": 0.0},
        "base": 0.1,
        "contributions": [{"feature": "days_on_platform", "value": 30.0, "probability": 0.5}],
        "total": 0.6,
    }
    assert answer == plain
    refused = client.post("/predict?explain=1", json=STUDENT)
    assert (refused.status_code, refused.json()["detail"][0]["loc"]) == (422, ["query", "explain"])
    gone = client.post("/predict?explain=true", json=STUDENT | {"days_on_platform": 1001})
    assert (gone.status_code, gone.json()["explanation"]) == (200, None)


def test_every_broken_field_is_listed_in_fastapis_form(client: TestClient) -> None:
    """The answer is 422 with type, loc and msg of each error, even for NaN, which is not valid JSON."""
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
    """The rule is checked only when every field is valid, and nothing is published."""
    answer = client.post("/predict", json=STUDENT | {"practice_exams_passed": 5})
    assert (answer.status_code, answer.json()) == (
        422,
        {"detail": "practice_exams_passed cannot exceed practice_exams_started."},
    )
    assert fakes.published == []


def test_without_a_model_the_answer_is_503(client: TestClient, fakes: Fakes) -> None:
    """Predictions are answered again as soon as there is a model."""
    model, fakes.model = fakes.model, None
    answer = client.post("/predict", json=STUDENT)
    assert (answer.status_code, answer.json()) == (503, {"detail": "Model is not loaded."})
    fakes.model = model
    assert client.post("/predict", json=STUDENT).status_code == 200


def test_a_prediction_that_cannot_be_published_is_not_answered(client: TestClient, fakes: Fakes) -> None:
    """Every answered prediction is in the audit log."""
    fakes.broker_away = True
    assert client.post("/predict", json=STUDENT).status_code == 503


def test_a_list_is_answered_in_order_all_or_none(client: TestClient, fakes: Fakes) -> None:
    """One bad student refuses the list."""
    lazy = STUDENT | {"minutes_watched": 0.0, "days_on_platform": 0}
    both = client.post("/batch_predict", json=[STUDENT, lazy]).json()
    alone = [client.post("/predict", json=student).json() for student in (STUDENT, lazy)]
    assert both == alone
    assert client.post("/batch_predict", json={"records": [STUDENT, lazy]}).json() == {"predictions": both}
    assert client.post("/batch_predict", json=[STUDENT, STUDENT | {"courses_started": -1}]).status_code == 422
    assert len(fakes.published) == 6


def test_a_large_request_is_answered_in_order(client: TestClient, fakes: Fakes) -> None:
    """It is scored in pieces."""
    students = [STUDENT | {"minutes_watched": float(n)} for n in range(300)]
    answers = client.post("/batch_predict", json={"records": students}).json()["predictions"]
    probabilities = [answer["predicted_purchase_probability"] for answer in answers]
    assert probabilities == sorted(set(probabilities))
    assert len(fakes.published) == 300


COURSES_OF_1 = ["body", "records", 1, "courses_started"]


@pytest.mark.parametrize(
    ("body", "type_", "loc"),
    [
        ([], "too_short", ["body"]),
        ({"records": []}, "too_short", ["body", "records"]),
        ([STUDENT] * 301, "too_long", ["body"]),
        ({}, "missing", ["body", "records"]),
        ({"records": {}}, "list_type", ["body", "records"]),
        (7, "dict_type", ["body"]),
        ([STUDENT, 7], "dict_type", ["body", 1]),
        ({"records": [STUDENT, STUDENT | {"courses_started": -1}]}, "greater_than_equal", COURSES_OF_1),
        ([STUDENT, STUDENT | {"practice_exams_passed": 5}], "value_error", ["body", 1]),
    ],
)  # fmt: skip
def test_a_wrong_batch_is_refused_where_it_is_wrong(
    client: TestClient, fakes: Fakes, body: Any, type_: str, loc: list[str | int]
) -> None:
    """A wrong record is named by its index, and the number of records is limited on both sides."""
    answer = client.post("/batch_predict", json=body)
    assert answer.status_code == 422
    (problem,) = answer.json()["detail"]
    assert (problem["type"], problem["loc"]) == (type_, loc)
    assert fakes.published == []


@pytest.mark.parametrize("value", [True, False, "3"])
@pytest.mark.parametrize("name", [name for name in STUDENT if name != "student_country"])
def test_a_boolean_or_a_text_is_no_number(client: TestClient, name: str, value: Any) -> None:
    """Pydantic would convert both."""
    answer = client.post("/predict", json=STUDENT | {name: value})
    assert answer.status_code == 422
    (problem,) = answer.json()["detail"]
    assert (problem["type"], problem["loc"]) == (
        "float_type" if "minutes" in name else "int_type",
        ["body", name],
    )


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"nonsense", b"[" * 50_000, b'"\xff"', b"7", b"null", b"[{}]"],
)
def test_what_is_no_request_is_refused(client: TestClient, body: bytes) -> None:
    """422 with a short answer."""
    answer = client.post("/predict", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422
    assert len(answer.content) < 300


@pytest.mark.parametrize(
    ("field", "value", "type_"),
    [
        ("event_id", r'"\ud800"', "json_invalid"),
        ("days_on_platform", "9223372036854775808", "less_than_equal"),
        ("days_on_platform", "9" * 5_000, "json_invalid"),
        ("days_on_platform", "1e400", "finite_number"),
        ("minutes_watched", "-Infinity", "finite_number"),
        ("student_country", '"' + "x" * 65 + '"', "string_too_long"),
    ],
)
def test_hostile_values_are_refused(client: TestClient, field: str, value: str, type_: str) -> None:
    """Each gets 422 and none of them fails later in the pipeline."""
    fields = [
        f'"{name}": {value if name == field else orjson.dumps(given).decode()}'
        for name, given in STUDENT.items()
    ]
    if field not in STUDENT:
        fields.append(f'"{field}": {value}')
    body = "{" + ", ".join(fields) + "}"
    answer = client.post("/predict", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["type"] == type_


@pytest.mark.parametrize("records", [[{}] * 300, [STUDENT | {"courses_started": -1}] * 300, [7] * 300])
def test_the_list_of_errors_is_bounded(client: TestClient, records: list[Any]) -> None:
    """At most twenty are listed, and the answer says that there are more."""
    answer = client.post("/batch_predict", json=records)
    problems = answer.json()["detail"]
    assert len(problems) == 21
    assert problems[-1] == {
        "type": "too_many_errors",
        "loc": ["body"],
        "msg": "Further errors are not listed",
    }
    assert len(answer.content) < 3_000


def test_a_body_that_is_too_large_is_refused(client: TestClient) -> None:
    """413, whether the length is announced or not."""
    headers = {"content-type": "application/json"}
    announced = client.post("/batch_predict", content=b" " * 100_001, headers=headers)
    streamed = client.post("/batch_predict", content=iter([b" " * 60_000] * 2), headers=headers)
    for answer in (announced, streamed):
        assert (answer.status_code, answer.json()) == (
            413,
            {"detail": "The body is larger than 100000 bytes."},
        )


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_a_body_that_is_not_declared_as_json_is_refused(client: TestClient, content_type: str) -> None:
    """A browser sends these to any site without asking it first."""
    answer = client.post("/predict", content=orjson.dumps(STUDENT), headers={"content-type": content_type})
    assert answer.status_code == 415


def test_a_retried_request_is_one_prediction(client: TestClient, fakes: Fakes) -> None:
    """The same event_id, in the body or the header, gets the same answer and publishes nothing more."""
    named = STUDENT | {"event_id": "e-1"}
    first = client.post("/predict", json=named).json()
    assert client.post("/predict", json=named).json() == first
    assert client.post("/predict", json=STUDENT, headers={"idempotency-key": "e-1"}).json() == first
    assert client.post("/batch_predict", json=[named, named]).json() == [first, first]
    assert len(fakes.published) == 1
    assert client.post("/predict", json=named, headers={"idempotency-key": "k" * 129}).status_code == 422
    other = client.post("/batch_predict", json={"records": [STUDENT, named | {"minutes_watched": 1.0}]})
    assert other.status_code == 422
    assert other.json()["detail"][0]["loc"] == ["body", "records", 1, "event_id"]
    assert len(fakes.published) == 1


def test_a_request_that_failed_can_be_retried(client: TestClient, fakes: Fakes) -> None:
    """Only answers are remembered."""
    named = STUDENT | {"event_id": "e-2"}
    fakes.delivery_failure = "timed out"
    failed = client.post("/predict", json=named)
    assert (failed.status_code, failed.json()) == (
        503,
        {"detail": "The prediction could not be recorded: timed out."},
    )
    fakes.delivery_failure = None
    assert client.post("/predict", json=named).status_code == 200
    assert len(fakes.published) == 1


def test_requests_at_once_are_scored_together(pipeline: Pipeline, fakes: Fakes) -> None:
    """Requests that wait while a batch is scored form the next batch."""
    sizes: list[int] = []

    class CountingProcessor(BatchProcessor):
        """Notes the size of each batch."""

        def process(self, raw: RawBatch) -> ProcessedBatch:
            """Process the batch, slowly."""
            sizes.append(len(raw))
            time.sleep(0.05)
            return super().process(raw)

    async def ask() -> list[list[Answer]]:
        predictor = Predictor(CountingProcessor(pipeline), fakes)
        one = PredictionRequest.model_validate(STUDENT)
        return await asyncio.gather(*(predictor.predict([one]) for _ in range(20)))

    answers = asyncio.run(ask())
    assert len(answers) == 20
    assert sum(sizes) == 20
    assert len(sizes) <= 3


def test_one_event_id_at_once_is_one_prediction(pipeline: Pipeline, fakes: Fakes) -> None:
    """A retry that overtakes the first answer waits for it."""

    async def ask() -> list[list[Answer]]:
        predictor = Predictor(BatchProcessor(pipeline), fakes)
        one = PredictionRequest.model_validate(STUDENT | {"event_id": "e"})
        return await asyncio.gather(*(predictor.predict([one]) for _ in range(5)))

    answers = asyncio.run(ask())
    assert answers == [answers[0]] * 5
    assert len(fakes.published) == 1


def test_a_retry_joins_a_prediction_that_kafka_has_not_acknowledged(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first request is answered in time, and the prediction that it started is the retry's."""
    monkeypatch.setattr(predictor_module, "ANSWER_TIMEOUT_S", 0.2)
    reports: list[Callable[[str | None], None]] = []

    class Frozen(Fakes):
        """Keeps the delivery reports."""

        def publish(
            self, _keys: Sequence[bytes], _values: Sequence[bytes], on_done: Callable[[str | None], None]
        ) -> None:
            """Keep the report."""
            reports.append(on_done)

    async def ask() -> list[Answer]:
        predictor = Predictor(BatchProcessor(pipeline), Frozen())
        one = PredictionRequest.model_validate(STUDENT | {"event_id": "e"})
        with pytest.raises(Unavailable, match="acknowledge"):
            await predictor.predict([one])
        retry = asyncio.create_task(predictor.predict([one]))
        await asyncio.sleep(0)
        reports[0](None)
        return await retry

    assert 0 < asyncio.run(ask())[0].prediction["predicted_purchase_probability"] < 1
    assert len(reports) == 1


def test_the_health_of_the_api_is_always_answered(client: TestClient) -> None:
    """200 with three facts."""
    answer = client.get("/health")
    assert (answer.status_code, set(answer.json())) == (
        200,
        {"ready", "predictor_loaded", "drift_baseline_loaded"},
    )


def test_the_openapi_document_is_true(client: TestClient, limits: ServeSettings) -> None:
    """Its examples get an answer, and it states version and limits."""
    document = client.get("/openapi.json").json()
    assert document["info"]["version"] == version("purchase-stream")
    for path in ("/predict", "/batch_predict"):
        operation = document["paths"][path]["post"]
        example = operation["requestBody"]["content"]["application/json"]["example"]
        assert client.post(path, json=example).status_code == 200
        assert {"200", "413", "422", "503"} <= set(operation["responses"])
    assert (
        document["components"]["schemas"]["BatchRequest"]["properties"]["records"]["maxItems"]
        == limits.max_records
    )
