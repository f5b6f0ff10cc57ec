"""What the scorer is measured against: programs that somebody would write instead.

Run as ``python competitors.py NAME BOOTSTRAP EVENTS_TOPIC OUTPUT_TOPIC GROUP [MODEL_STORE]``. Each runs
until it is ended, or its standard input is; the caller watches the group's committed offsets.
"""

from __future__ import annotations

import io
import json
import os
import sys
import threading
import uuid
from pathlib import Path
from typing import Any

import fastavro
import joblib
import numpy as np
from confluent_kafka import Consumer, Producer, TopicPartition
from pydantic import BaseModel, Field, ValidationError, model_validator

from consumer.kafka.client_config import FETCH
from consumer.runtime.memory import tune_gc_and_malloc
from model_store.countries import country_code
from model_store.inputs import INPUT_NAMES
from schemas.repository import engagement_event, purchase_prediction, single_object_header

TRANSACTION_EVENTS = 5000
HAND_WRITTEN_EVENTS = 500


def clients(
    servers: str, topic: str, group: str, *, transactional: bool, compression: str = "none"
) -> tuple[Consumer, Producer]:
    """Return a subscribed consumer and a producer; the one fetches as the scorer's does."""
    consumer = Consumer(
        {
            "bootstrap.servers": servers,
            "group.id": group,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            **FETCH,
        }
    )
    consumer.subscribe([topic])
    config: dict[str, Any] = {
        "bootstrap.servers": servers,
        "enable.idempotence": True,
        "queue.buffering.max.messages": 1_000_000,
        "compression.type": compression,
    }
    if transactional:
        config["transactional.id"] = f"{group}-{uuid.uuid4()}"
    producer = Producer(config)
    if transactional:
        producer.init_transactions()
    return consumer, producer


def next_offsets(messages: list[Any]) -> list[TopicPartition]:
    """Return where to go on, one entry per partition."""
    last = {message.partition(): message.offset() + 1 for message in messages}
    return [TopicPartition(messages[0].topic(), partition, offset) for partition, offset in last.items()]


def pass_through(
    servers: str, topic: str, output: str, group: str, *, transactional: bool, compression: str
) -> None:
    """Move the same bytes through the same kind of transactions, and do nothing else."""
    consumer, producer = clients(servers, topic, group, transactional=transactional, compression=compression)
    tune_gc_and_malloc()
    while True:
        messages = [m for m in consumer.consume(TRANSACTION_EVENTS, 0.1) if m.error() is None]
        if not messages:
            continue
        if transactional:
            producer.begin_transaction()
        for message in messages:
            producer.produce(output, message.value(), message.key(), message.partition() or 0)
        producer.flush()
        if transactional:
            producer.send_offsets_to_transaction(next_offsets(messages), consumer.consumer_group_metadata())
            producer.commit_transaction()
        else:
            consumer.commit(offsets=next_offsets(messages), asynchronous=False)


class Event(BaseModel):
    """An event as the hand-written consumer checks it."""

    event_id: str = Field(min_length=1, max_length=128)
    student_id: str = Field(min_length=1, max_length=128)
    occurred_at: Any
    student_country: str = Field(min_length=2, max_length=64)
    days_on_platform: int = Field(ge=0)
    minutes_watched: float = Field(ge=0, allow_inf_nan=False)
    courses_started: int = Field(ge=0)
    practice_exams_started: int = Field(ge=0)
    practice_exams_passed: int = Field(ge=0)
    minutes_spent_on_exams: float = Field(ge=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def check(self) -> Event:
        """Apply the rule across fields."""
        if self.practice_exams_passed > self.practice_exams_started:
            raise ValueError("practice_exams_passed cannot exceed practice_exams_started.")
        return self


def hand_written(servers: str, topic: str, output: str, group: str, store: str) -> None:
    """Score as a competent engineer would in an hour: fastavro, pydantic, one predict_proba per batch."""
    folder = Path(store) / "purchase"
    version = json.loads((folder / "aliases" / "champion").read_text())["version"]
    model = joblib.load(folder / "versions" / version / "model.joblib")
    manifest = json.loads((folder / "versions" / version / "manifest.json").read_text())
    threshold = manifest["threshold"]["value"]
    reader, writer = engagement_event().parsed, purchase_prediction().parsed
    header = single_object_header(purchase_prediction().fingerprint)
    consumer, producer = clients(servers, topic, group, transactional=True)
    while True:
        messages = [m for m in consumer.consume(HAND_WRITTEN_EVENTS, 0.1) if m.error() is None]
        if not messages:
            continue
        good, events = [], []
        for message in messages:
            try:
                record = fastavro.schemaless_reader(io.BytesIO((message.value() or b"")[10:]), reader)
                events.append(Event.model_validate(record))
                good.append(message)
            except (ValidationError, EOFError):
                pass
        inputs = np.array(
            [
                [country_code(event.student_country), *(getattr(event, name) for name in INPUT_NAMES[1:])]
                for event in events
            ],
            np.float64,
        )
        probabilities = model.predict_proba(inputs)[:, 1] if events else []
        producer.begin_transaction()
        for message, event, probability in zip(good, events, probabilities, strict=True):
            fields = event.model_dump()
            out = io.BytesIO()
            fastavro.schemaless_writer(
                out,
                writer,
                {
                    "event_id": event.event_id,
                    "student_id": event.student_id,
                    "predicted_purchase_probability": float(probability),
                    "predicted_purchase": int(probability >= threshold),
                    "threshold": threshold,
                    "model_version": version,
                    "occurred_at": event.occurred_at,
                    "scored_at": event.occurred_at,
                    "source_partition": message.partition(),
                    "source_offset": message.offset(),
                    "features": {name: fields[name] for name in INPUT_NAMES},
                },
            )
            producer.produce(output, header + out.getvalue(), message.key(), message.partition() or 0)
        producer.flush()
        producer.send_offsets_to_transaction(next_offsets(messages), consumer.consumer_group_metadata())
        producer.commit_transaction()


def end_with_parent() -> None:
    """End when standard input does: it is a pipe that the caller holds open."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=end_with_parent, daemon=True).start()
    name, *arguments = sys.argv[1:]
    if name == "hand_written":
        hand_written(*arguments)
    else:
        pass_through(
            *arguments[:4],
            transactional=name != "pass_through",
            compression="lz4" if name == "pass_through_lz4" else "none",
        )
