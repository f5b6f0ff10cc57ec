"""The synchronous API: the stream's own decision, asked for over HTTP.

A request is encoded as an event and goes through the very pipeline that the stream goes through, so
the same inputs get the same probability to the last bit. Its prediction is published before the
answer is given, so that the audit log and drift see it, too.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final, Protocol

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastavro import schemaless_writer
from pydantic import BaseModel, Field

from consumer.errors import StartupError, Unavailable
from consumer.pipeline.batch import RawBatch
from consumer.pipeline.validate import CROSS_FIELD_DETAIL, StudentInputs
from consumer.scorer.processing import BatchProcessor
from schemas.framing import single_object_header
from schemas.repository import engagement_event

MODEL_MISSING: Final = "Model is not loaded."
_NOT_FROM_THE_STREAM: Final = -1
"""Source partition and offset of a prediction that was asked for over HTTP."""

_BATCH_MAX: Final = 1000


class PredictionPublisher(Protocol):
    """Where predictions go."""

    def publish(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        """Publish, and return once that is certain."""


class PredictionRequest(StudentInputs):
    """The seven inputs; the ids are optional and end up in the audit log."""

    event_id: str | None = Field(default=None, min_length=1, max_length=128)
    student_id: str | None = Field(default=None, min_length=1, max_length=128)


class PredictionResponse(BaseModel):
    """A prediction."""

    predicted_purchase_probability: float
    predicted_purchase: int


@dataclass(frozen=True, slots=True)
class Predictor:
    """Decides on requests, publishes that, and says it.

    Attributes:
        processor: Processes requests as the stream processes events.
        publisher: where predictions go.
    """

    processor: BatchProcessor
    publisher: PredictionPublisher

    def decide(self, requests: Sequence[PredictionRequest]) -> list[PredictionResponse]:
        """Predict for every request, or raise the ``HTTPException`` that answers them all."""
        if any(request.practice_exams_passed > request.practice_exams_started for request in requests):
            raise HTTPException(422, CROSS_FIELD_DETAIL)
        raw = _raw_batch(requests, int(self.processor.now_s() * 1000))
        try:
            processed = self.processor.process(raw)
        except StartupError as error:
            raise HTTPException(503, MODEL_MISSING) from error
        except Unavailable as error:
            raise HTTPException(500, "The model fails.") from error
        for rejection in processed.rejections:
            raise HTTPException(rejection.code.status, rejection.detail)
        try:
            self.publisher.publish([key or b"" for key in raw.keys], processed.predictions)
        except Unavailable as outage:
            raise HTTPException(503, f"The prediction could not be recorded: {outage}.") from outage
        scored = processed.scored
        return [
            PredictionResponse(predicted_purchase_probability=probability, predicted_purchase=int(decision))
            for probability, decision in zip(
                scored.probabilities.tolist(), scored.decisions.tolist(), strict=True
            )
        ]


def create_app(predictor: Predictor) -> FastAPI:
    """Return the application."""
    app = FastAPI(title="Purchase Stream", description="Will this student buy?")

    @app.post("/predict")
    def predict(request: PredictionRequest) -> PredictionResponse:
        """Predict for one student."""
        return predictor.decide([request])[0]

    @app.post("/batch_predict")
    def batch_predict(requests: list[PredictionRequest]) -> list[PredictionResponse]:
        """Predict for a list of students, all or none."""
        if len(requests) > _BATCH_MAX:
            raise HTTPException(413, f"At most {_BATCH_MAX} students in one request.")
        return predictor.decide(requests) if requests else []

    @app.exception_handler(RequestValidationError)
    def invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
        # Without the input: it may hold NaN, which JSON cannot say.
        detail = [{key: problem[key] for key in ("type", "loc", "msg")} for problem in error.errors()]
        return JSONResponse({"detail": detail}, 422)

    return app


def _raw_batch(requests: Sequence[PredictionRequest], now_ms: int) -> RawBatch:
    """Encode requests as the events that they stand for."""
    schema = engagement_event()
    header = single_object_header(schema.fingerprint)
    values, keys = [], []
    for request in requests:
        event_id = request.event_id or str(uuid.uuid4())
        student_id = request.student_id or event_id
        event: dict[str, Any] = request.model_dump()
        event |= {"event_id": event_id, "student_id": student_id, "occurred_at": now_ms}
        record = BytesIO()
        schemaless_writer(record, schema.parsed, event)
        values.append(header + record.getvalue())
        keys.append(student_id.encode())
    n = len(requests)
    return RawBatch(
        topic="",
        partitions=[_NOT_FROM_THE_STREAM] * n,
        offsets=[_NOT_FROM_THE_STREAM] * n,
        keys=keys,
        values=values,
        timestamps_ms=lambda rows: [now_ms] * len(rows),
        headers=lambda rows: [[] for _ in rows],
    )
