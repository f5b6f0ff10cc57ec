"""Answer prediction requests with the stream's own pipeline.

A request is encoded as an event and processed like the events of the stream, so the same inputs get the
same probability to the last bit. Its prediction is published before it is answered, so the audit log has
every answer. Requests that arrive while a batch is scored form the next batch.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from io import BytesIO
from typing import Any, Final, Protocol, TypedDict

from fastavro import parse_schema, schemaless_writer

from consumer.errors import Unavailable
from consumer.pipeline.batch import RawBatch
from consumer.pipeline.rejections import Rejection
from consumer.scorer.processing import BatchProcessor
from consumer.serve.requests import PredictionRequest
from schemas.repository import engagement_event, single_object_header

NOT_FROM_THE_STREAM: Final = -1
"""The source partition and offset of a prediction for an HTTP request."""

MAX_BATCH_RECORDS: Final = 256
"""A large request is scored in pieces of this size, so that small requests do not wait for all of it."""

ANSWER_TIMEOUT_S: Final = 3.0
"""How long a request waits. Its prediction is published even after that, so a retry with the same
``event_id`` joins it and makes no second prediction."""

MAX_REMEMBERED_IDS: Final = 50_000
"""The number of event ids to remember with their answers, each in less than 1 kB."""


class Prediction(TypedDict):
    """One prediction."""

    predicted_purchase_probability: float
    predicted_purchase: int


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one request.

    Attributes:
        prediction: The prediction.
        model_version: The version that made the prediction.
    """

    prediction: Prediction
    model_version: str


class PredictionPublisher(Protocol):
    """Publishes predictions."""

    def check(self) -> None:
        """Raise :class:`Unavailable` if Kafka is known to be away."""

    def publish(
        self, keys: Sequence[bytes], values: Sequence[bytes], on_done: Callable[[str | None], None]
    ) -> None:
        """Queue predictions. ``on_done`` is called once, from any thread, with the failure or ``None``.

        Raises:
            Unavailable: Nothing was queued.
        """


class Rejected(Exception):  # noqa: N818 - a value for the client, not a mistake
    """The pipeline rejects a valid request.

    Attributes:
        rejection: The reason.
    """

    def __init__(self, rejection: Rejection) -> None:
        super().__init__(str(rejection.detail))
        self.rejection = rejection


class EventIdReused(Exception):  # noqa: N818 - a value for the client, not a mistake
    """An event id is used again with other inputs.

    Attributes:
        index: The index of the request.
    """

    def __init__(self, index: int) -> None:
        super().__init__("This event_id was used before, with other inputs")
        self.index = index


@dataclass(frozen=True, slots=True)
class _Scored:
    """A prediction that is not published yet: its answer, and the record's key and value."""

    answer: Answer
    key: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class _Remembered:
    """A named event: the digest of its request, and its answer, now or later."""

    digest: bytes
    answer: asyncio.Future[Answer]


class Predictor:
    """Predicts, publishes, and remembers the answers of named events.

    All methods run in one event loop. Scoring runs in its own thread.

    Args:
        processor: Processes requests as the stream processes events.
        publisher: Publishes the predictions.
    """

    def __init__(self, processor: BatchProcessor, publisher: PredictionPublisher) -> None:
        self._processor = processor
        self._publisher = publisher
        self._executor = ThreadPoolExecutor(1, "score")
        self._waiting: deque[tuple[Sequence[PredictionRequest], asyncio.Future[list[_Scored]]]] = deque()
        self._scoring: asyncio.Task[None] | None = None
        self._answering: set[asyncio.Task[None]] = set()
        self._remembered: OrderedDict[str, _Remembered] = OrderedDict()

    async def predict(self, requests: Sequence[PredictionRequest]) -> list[Answer]:
        """Answer all requests or none.

        A request whose ``event_id`` was answered before gets the same answer and publishes nothing.

        Raises:
            StartupError: No model is loaded.
            Unavailable: The model fails, or Kafka does not take the predictions in time.
            Rejected: The pipeline rejects a request.
            EventIdReused: An ``event_id`` is used again with other inputs.
        """
        if not all(self._is_answered(request) for request in requests):
            self._publisher.check()
        answers: list[asyncio.Future[Answer]] = []
        new: list[PredictionRequest] = []
        own: list[asyncio.Future[Answer]] = []
        for i, request in enumerate(requests):
            remembered = self._remembered.get(request.event_id) if request.event_id else None
            if remembered is None:
                answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
                new.append(request)
                own.append(answer)
                self._remember(request, answer)
            elif remembered.digest == _digest(request):
                answer = remembered.answer
            else:
                self._forget(new)
                raise EventIdReused(i)
            answers.append(answer)
        if new:  # a separate task: it publishes the prediction even if this request is answered earlier
            task = asyncio.create_task(self._answer(new, own))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)
        _, late = await asyncio.wait(answers, timeout=ANSWER_TIMEOUT_S)
        if late:
            raise Unavailable(f"Kafka did not acknowledge it within {ANSWER_TIMEOUT_S:.0f} s")
        return [answer.result() for answer in answers]

    def _is_answered(self, request: PredictionRequest) -> bool:
        remembered = self._remembered.get(request.event_id) if request.event_id else None
        return remembered is not None and remembered.answer.done()

    async def _answer(
        self, requests: Sequence[PredictionRequest], answers: Sequence[asyncio.Future[Answer]]
    ) -> None:
        """Score and publish the requests without a time limit, and set their answers."""
        try:
            scored: list[_Scored] = []
            for start in range(0, len(requests), MAX_BATCH_RECORDS):
                scored += await self._score(requests[start : start + MAX_BATCH_RECORDS])
            await self._publish(scored)
        except BaseException as error:
            self._forget(requests)
            for answer in answers:
                answer.set_exception(error if isinstance(error, Exception) else Unavailable("stopping"))
                answer.exception()  # the request may have been answered already
            if not isinstance(error, Exception):
                raise
        else:
            for answer, one in zip(answers, scored, strict=True):
                answer.set_result(one.answer)

    def _remember(self, request: PredictionRequest, answer: asyncio.Future[Answer]) -> None:
        if request.event_id is not None:
            self._remembered[request.event_id] = _Remembered(_digest(request), answer)
            if len(self._remembered) > MAX_REMEMBERED_IDS:
                self._remembered.popitem(last=False)

    def _forget(self, requests: Sequence[PredictionRequest]) -> None:
        for request in requests:
            self._remembered.pop(request.event_id or "", None)

    async def _score(self, requests: Sequence[PredictionRequest]) -> list[_Scored]:
        """Score requests together with all other waiting requests."""
        result: asyncio.Future[list[_Scored]] = asyncio.get_running_loop().create_future()
        self._waiting.append((requests, result))
        if self._scoring is None or self._scoring.done():
            self._scoring = asyncio.create_task(self._score_waiting())
        return await result

    async def _score_waiting(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            taken = [self._waiting.popleft()]
            n = len(taken[0][0])
            while self._waiting and n + len(self._waiting[0][0]) <= MAX_BATCH_RECORDS:
                taken.append(self._waiting.popleft())
                n += len(taken[-1][0])
            try:
                rows = await loop.run_in_executor(
                    self._executor, self._process, [request for requests, _ in taken for request in requests]
                )
            except Exception as error:  # noqa: BLE001 - each request answers it in its own way
                for _, result in taken:
                    result.set_exception(error)
                continue
            start = 0
            for requests, result in taken:
                own = rows[start : start + len(requests)]
                start += len(requests)
                rejected = next((row for row in own if isinstance(row, Rejected)), None)
                if rejected is None:
                    result.set_result([row for row in own if isinstance(row, _Scored)])
                else:
                    result.set_exception(rejected)

    def _process(self, requests: Sequence[PredictionRequest]) -> list[_Scored | Rejected]:
        """Run the pipeline; return one element per request."""
        raw = _raw_batch(requests, int(self._processor.now_s() * 1000))
        processed = self._processor.process(raw)
        rows: dict[int, _Scored | Rejected] = {
            rejection.row: Rejected(rejection) for rejection in processed.rejections
        }
        scored = processed.scored
        for row, probability, decision, value in zip(
            processed.rows,
            scored.probabilities.tolist(),
            scored.decisions.tolist(),
            processed.predictions,
            strict=True,
        ):
            prediction: Prediction = {
                "predicted_purchase_probability": probability,
                "predicted_purchase": int(decision),
            }
            rows[row] = _Scored(Answer(prediction, scored.model_version), raw.keys[row] or b"", value)
        return [rows[row] for row in range(len(requests))]

    async def _publish(self, scored: Sequence[_Scored]) -> None:
        """Publish predictions and wait until Kafka has them.

        Raises:
            Unavailable: Kafka does not have all of them. It may have some.
        """
        loop = asyncio.get_running_loop()
        delivered: asyncio.Future[str | None] = loop.create_future()

        def on_done(failure: str | None) -> None:
            loop.call_soon_threadsafe(delivered.set_result, failure)

        self._publisher.publish([one.key for one in scored], [one.value for one in scored], on_done)
        failure = await delivered
        if failure is not None:
            raise Unavailable(failure)


def _digest(request: PredictionRequest) -> bytes:
    return blake2b(request.model_dump_json().encode(), digest_size=16).digest()


def _raw_batch(requests: Sequence[PredictionRequest], now_ms: int) -> RawBatch:
    """Encode requests as events."""
    schema = engagement_event()
    parsed = parse_schema(schema.parsed)
    header = single_object_header(schema.fingerprint)
    values, keys = [], []
    for request in requests:
        event_id = request.event_id or str(uuid.uuid4())
        student_id = request.student_id or event_id
        event: dict[str, Any] = request.model_dump()
        event |= {"event_id": event_id, "student_id": student_id, "occurred_at": now_ms}
        record = BytesIO()
        schemaless_writer(record, parsed, event)
        values.append(header + record.getvalue())
        keys.append(student_id.encode())
    n = len(requests)
    return RawBatch(
        topic="",
        partitions=[NOT_FROM_THE_STREAM] * n,
        offsets=[NOT_FROM_THE_STREAM] * n,
        keys=keys,
        values=values,
        timestamps_ms=lambda rows: [now_ms] * len(rows),
        headers=lambda rows: [[] for _ in rows],
    )
