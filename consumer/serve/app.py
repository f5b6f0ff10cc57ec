"""Build the routes of the synchronous API."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, TypeVar

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from consumer.errors import Condition, StartupError, Unavailable
from consumer.runtime.http import json_error
from consumer.scorer.model_reloader import ModelReloader
from consumer.serve.metrics import HttpTelemetry
from consumer.serve.openapi import document
from consumer.serve.predictor import EventIdReused, Predictor, Rejected
from consumer.serve.requests import (
    MAX_ID_CHARACTERS,
    InvalidRequest,
    PredictionRequest,
    error_at,
    parse_many,
    parse_one,
)
from consumer.settings import ServeSettings
from model_store.errors import ModelStoreError
from model_store.reasons import Reasons

MODEL_MISSING: Final = "Model is not loaded."
IDEMPOTENCY_HEADER: Final = "idempotency-key"

_INLINE_BYTES: Final = 16 * 1024
"""A body up to this size is parsed in the event loop, which takes less than a millisecond."""
_REST_FACTOR: Final = 3
"""Large bodies are parsed in a quarter of the time at most."""
_DRAIN_S: Final = 1.0
_DRAIN_BYTES: Final = 16 * 1024 * 1024

T = TypeVar("T")
Endpoint: TypeAlias = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Health:
    """The answer of ``/health``.

    Attributes:
        active_conditions: Returns the active conditions.
        models: Holds the active model.
    """

    active_conditions: Callable[[], Any]
    models: ModelReloader

    def as_json(self) -> dict[str, bool]:
        """Return the answer. Every model has a drift baseline."""
        try:
            self.models.current()
        except StartupError:
            loaded = False
        else:
            loaded = True
        ready = not self.active_conditions()
        return {"ready": ready, "predictor_loaded": loaded, "drift_baseline_loaded": loaded}


def api_routes(
    predictor: Predictor,
    telemetry: HttpTelemetry,
    limits: ServeSettings,
    health: Callable[[], dict[str, bool]],
    explain: Callable[[str, Mapping[str, Any]], Reasons],
) -> list[BaseRoute]:
    """Return the routes of the API.

    Args:
        predictor: Answers valid requests.
        telemetry: Counts predictions.
        limits: The limits of one request.
        health: Returns the answer of ``/health``.
        explain: Returns the reasons for the probability that a model version gives a student, or raises
            ModelStoreError.
    """
    explainer = ThreadPoolExecutor(1, "explain")
    parser = _Parser()
    openapi = orjson.dumps(document(limits))

    async def predict(request: Request) -> Response:
        body = await _read_json(request, limits.max_body_bytes)
        parsed = _with_idempotency_key(await parser.parse(parse_one, body), request)
        explained = _asks_for_reasons(request)
        try:
            (answer,) = await predictor.predict([parsed])
        except EventIdReused as reused:
            raise error_at(["body", "event_id"], str(reused)) from reused
        telemetry.predicted(1)
        if not explained:
            return _json(answer.prediction)
        try:
            reasons = await asyncio.get_running_loop().run_in_executor(
                explainer, explain, answer.model_version, parsed.model_dump()
            )
        except ModelStoreError:  # the version was removed; the prediction is published already
            return _json({**answer.prediction, "explanation": None})
        return _json({**answer.prediction, "explanation": reasons.as_json()})

    async def batch_predict(request: Request) -> Response:
        body = await _read_json(request, limits.max_body_bytes)
        batch = await parser.parse(lambda content: parse_many(content, limits.max_records), body)
        try:
            answers = await predictor.predict(batch.requests)
        except EventIdReused as reused:
            raise error_at([*batch.location, reused.index, "event_id"], str(reused)) from reused
        telemetry.predicted(len(answers))
        predictions = [answer.prediction for answer in answers]
        return _json(predictions if batch.is_bare else {"predictions": predictions})

    async def show_health(_: Request) -> Response:
        return _json(health())

    async def show_openapi(_: Request) -> Response:
        return Response(openapi, media_type="application/json")

    return [
        Route("/predict", _answering(predict), methods=["POST"]),
        Route("/batch_predict", _answering(batch_predict), methods=["POST"]),
        Route("/health", show_health),
        Route("/openapi.json", show_openapi),
    ]


class _Refused(Exception):  # noqa: N818 - an answer, not a mistake
    """A request that gets this answer instead of a prediction."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status_code)
        self.response = response


def _answering(endpoint: Endpoint) -> Endpoint:
    """Return the endpoint with its exceptions turned into answers."""

    async def wrapper(request: Request) -> Response:
        try:
            return await endpoint(request)
        except _Refused as refused:
            return refused.response
        except InvalidRequest as invalid:
            return json_error(422, invalid.detail)
        except Rejected as rejected:
            return json_error(rejected.rejection.code.status, rejected.rejection.detail)
        except StartupError:
            return json_error(503, MODEL_MISSING)
        except Unavailable as outage:
            return _outage(outage)

    return wrapper


def _outage(outage: Unavailable) -> Response:
    if outage.condition is Condition.MODEL:
        return json_error(500, "The model fails.")
    return json_error(503, f"The prediction could not be recorded: {outage}.", {"retry-after": "1"})


def _asks_for_reasons(request: Request) -> bool:
    """Return whether the query parameter ``explain`` is true."""
    value = request.query_params.get("explain", "false")
    if value not in {"true", "false"}:
        raise error_at(["query", "explain"], "Use true or false")
    return value == "true"


def _with_idempotency_key(parsed: PredictionRequest, request: Request) -> PredictionRequest:
    """Use the header ``Idempotency-Key`` as the event id if the body names none."""
    key = request.headers.get(IDEMPOTENCY_HEADER)
    if key is None:
        return parsed
    if not 1 <= len(key) <= MAX_ID_CHARACTERS:
        raise error_at(["header", IDEMPOTENCY_HEADER], f"Use 1 to {MAX_ID_CHARACTERS} characters")
    return parsed if parsed.event_id else parsed.model_copy(update={"event_id": key})


class _Parser:
    """Parses bodies: small ones at once, large ones in a thread of their own.

    The interpreter's lock is held while a body is parsed, so one large body after the other would stop
    everything else. The thread rests before the next one, for a multiple of the time that the last one took.
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, "parse")
        self._rest_until_s = 0.0  # used in that thread only

    async def parse(self, parse: Callable[[bytes], T], body: bytes) -> T:
        """Return what ``parse`` returns for a body, or raise what it raises."""
        if len(body) <= _INLINE_BYTES:
            return parse(body)
        return await asyncio.get_running_loop().run_in_executor(
            self._executor, self._parse_large, parse, body
        )

    def _parse_large(self, parse: Callable[[bytes], T], body: bytes) -> T:
        time.sleep(max(0.0, self._rest_until_s - time.monotonic()))
        started_s = time.monotonic()
        try:
            return parse(body)
        finally:
            stopped_s = time.monotonic()
            self._rest_until_s = stopped_s + _REST_FACTOR * (stopped_s - started_s)


async def _read_json(request: Request, max_bytes: int) -> bytes:
    """Read the body.

    Raises:
        _Refused: The body is not JSON or too large.
    """
    # A browser sends other types to any site without asking first, so any page could make predictions (CSRF).
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json" and not media_type.endswith("+json"):
        raise _Refused(json_error(415, "Send the header Content-Type: application/json."))
    if int(request.headers.get("content-length", "0")) > max_bytes:
        raise _Refused(_TooLarge(max_bytes))
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > max_bytes:
                raise _Refused(_TooLarge(max_bytes))
    except ClientDisconnect as gone:
        raise HTTPException(400, "The client is gone.") from gone
    return bytes(body)


def _json(content: Any) -> Response:
    return Response(orjson.dumps(content), media_type="application/json")


class _TooLarge(Response):
    """Answers 413, and then discards what the client sends during the next moments.

    A client that is still sending reads the answer only if the connection is not reset.
    """

    def __init__(self, max_bytes: int) -> None:
        body = orjson.dumps({"detail": f"The body is larger than {max_bytes} bytes."})
        super().__init__(body, 413, {"connection": "close"}, "application/json")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 413, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        if not any(name == b"expect" for name, _ in scope["headers"]):
            with suppress(TimeoutError):
                async with asyncio.timeout(_DRAIN_S):
                    await _discard(receive)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _discard(receive: Receive) -> None:
    discarded = 0
    while discarded < _DRAIN_BYTES:
        message = await receive()
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            return
        discarded += len(message["body"])
