"""Describe the topics as an AsyncAPI 3 document.

Everything is generated: payloads from the Avro schemas, addresses from the settings, and the example of each
dead letter by rejecting a broken event as the stream would.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from consumer.pipeline.batch import RawBatch
from consumer.pipeline.dead_letter import dead_letters
from consumer.pipeline.decode import Decoder
from consumer.pipeline.rejections import Code, Rejection, Rejections
from consumer.pipeline.validate import validate
from consumer.simulator.events import events
from model_store.synthetic import generate_students
from schemas.repository import BundledSchemas, engagement_event, purchase_outcome, purchase_prediction

if TYPE_CHECKING:
    from consumer.settings import Settings
    from schemas.avro import AvroSchema

_AVRO: Final = "application/vnd.apache.avro;version=1.9.0"
_SINGLE_OBJECT: Final = "avro/binary"
_EXAMPLE_AT_MS: Final = 1_790_000_000_000
_MAX_EXAMPLE_BYTES: Final = 1_000_000

_SOURCE_HEADERS: Final = ("topic", "partition", "offset", "group", "message")

_KEY: Final = {"type": "string", "description": "The student id, UTF-8. Opaque: copied as it is."}
_CARRIED_HEADERS: Final = {
    "traceparent": {"type": "string", "description": "W3C trace context, carried into the output."},
    "tracestate": {"type": "string", "description": "W3C trace context, carried into the output."},
}


def asyncapi(settings: Settings, version: str) -> dict[str, Any]:
    """Return the document.

    Args:
        settings: The settings, which name the brokers, the topics and the group.
        version: The version of this software.
    """
    topics = settings.topics
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Purchase Stream",
            "version": version,
            "description": "Scores student engagement events: will this student buy? Exactly once. "
            "Readers of predictions and dead letters set isolation.level=read_committed.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": _SINGLE_OBJECT,
        "servers": {
            f"kafka{number}": {"host": host, "protocol": "kafka"}
            for number, host in enumerate(settings.kafka.bootstrap_servers.split(","), 1)
        },
        "channels": {
            "events": _channel(topics.events, "Engagement events, in.", "EngagementEvent"),
            "predictions": _channel(topics.predictions, "Predictions, out.", "PurchasePrediction"),
            "deadLetters": _channel(topics.dead_letters, "Rejected events, out.", "DeadLetter"),
            "outcomes": _channel(topics.outcomes, "Purchase outcomes, in; optional.", "PurchaseOutcome"),
        },
        "operations": {
            "score": _operation("receive", "events", settings.kafka.group_id),
            "publishPredictions": _operation("send", "predictions"),
            "publishDeadLetters": _operation("send", "deadLetters"),
            "joinOutcomes": _operation("receive", "outcomes"),
        },
        "components": {
            "messages": {
                "EngagementEvent": _avro_message(engagement_event()),
                "PurchasePrediction": _avro_message(purchase_prediction()),
                "PurchaseOutcome": _avro_message(purchase_outcome()),
                "DeadLetter": _dead_letter_message(),
            }
        },
    }


def _channel(address: str, description: str, message: str) -> dict[str, Any]:
    return {
        "address": address,
        "description": description,
        "messages": {message: {"$ref": f"#/components/messages/{message}"}},
    }


def _operation(action: str, channel: str, group_id: str | None = None) -> dict[str, Any]:
    operation: dict[str, Any] = {"action": action, "channel": {"$ref": f"#/channels/{channel}"}}
    if group_id is not None:
        operation["bindings"] = {"kafka": {"groupId": {"type": "string", "const": group_id}}}
    return operation


def _avro_message(schema: AvroSchema) -> dict[str, Any]:
    """Describe a message with an Avro payload in single-object encoding."""
    return {
        "name": schema.name,
        "contentType": _SINGLE_OBJECT,
        "description": f"Single-object encoding; CRC-64-AVRO fingerprint {schema.fingerprint[::-1].hex()}.",
        "headers": {"type": "object", "properties": _CARRIED_HEADERS},
        "bindings": {"kafka": {"key": _KEY}},
        "payload": {"schemaFormat": _AVRO, "schema": schema.definition},
    }


def _dead_letter_message() -> dict[str, Any]:
    """Describe dead letters, with an example of each code."""
    text = {"type": "string"}
    return {
        "name": "DeadLetter",
        "contentType": "application/json",
        "headers": {
            "type": "object",
            "description": "The headers of the event, then these (KIP-1191 names, UTF-8).",
            "properties": {
                **{
                    f"__dlq.errors.{name}": text
                    for name in ("topic", "partition", "offset", "group", "message")
                },
                **{f"dlq.error.{name}": text for name in ("code", "status", "dropped")},
            },
        },
        "bindings": {"kafka": {"key": _KEY}},
        "payload": {
            "type": "object",
            "required": ["status", "code", "detail", "rejected_at", "source", "event", "raw", "raw_sha256"],
            "properties": {
                "status": {"type": "integer", "enum": [422, 500]},
                "code": {"type": "string", "enum": [code.value for code in Code]},
                "detail": {"type": ["string", "array"], "description": "As in the 422 of an HTTP API."},
                "rejected_at": {"type": "string", "format": "date-time"},
                "source": {"type": "object", "description": "Topic, partition, offset, timestamp and key."},
                "event": {"type": ["object", "null"], "description": "The decoded fields."},
                "raw": {"type": ["string", "null"], "description": "The original value, Base64."},
                "raw_truncated": {"type": "boolean"},
                "raw_sha256": {"type": ["string", "null"], "description": "Of the whole original value."},
            },
        },
        "examples": [{"name": code, "payload": payload} for code, payload in _examples().items()],
    }


def _examples() -> dict[str, Any]:
    """Return the dead letter of one broken event for each code."""
    students = generate_students(100, seed=1)
    broken = [
        event
        for event in events(students, count=1, broken_ratio=7, run_id="0" * 20, now_ms=lambda: _EXAMPLE_AT_MS)
        if event.code is not None
    ]
    n = len(broken)
    raw = RawBatch(
        topic="engagement-events",
        partitions=[0] * n,
        offsets=range(n),
        keys=[event.key for event in broken],
        values=[event.value for event in broken],
        timestamps_ms=lambda rows: [_EXAMPLE_AT_MS] * len(rows),
        headers=lambda rows: [[] for _ in rows],
    )
    decoded, undecodable = Decoder(engagement_event(), BundledSchemas()).decode(raw.values)
    _, invalid = validate(decoded)
    server_side = Rejections.of(
        [
            Rejection(0, Code.MODEL_FAILED, "The model fails on this event."),
            Rejection(1, Code.PUBLISH_REFUSED, "The prediction is larger than its topic accepts."),
        ]
    )
    letters = [
        letter
        for rejections in (Rejections.merged([undecodable, invalid]), server_side)
        for letter in dead_letters(
            rejections,
            raw,
            group="purchase-stream",
            rejected_at_ms=_EXAMPLE_AT_MS,
            max_bytes=_MAX_EXAMPLE_BYTES,
        )
    ]
    bodies = [json.loads(letter.value) for letter in letters]
    return {body["code"]: body for body in bodies}
