"""Read positions and digests from records and audit lines, with fastavro and plain JSON. Pure.

A digest is a CRC-32: four bytes that reveal a mistake, though not a forgery.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final, cast
from zlib import crc32

import numpy as np
import orjson
from fastavro import parse_schema, schemaless_reader
from numpy.typing import NDArray

from consumer.kafka.reader import Record
from consumer.monitor.audit.hashed_ids import IdHasher, is_hashed
from schemas.repository import (
    CONFLUENT_HEADER_BYTES,
    CONFLUENT_MARKER,
    SINGLE_OBJECT_HEADER_BYTES,
    SINGLE_OBJECT_MARKER,
    known_schemas,
    purchase_prediction,
)

_NO_KEY_DIGEST: Final = 1
"""Differs from the CRC-32 of an empty key, which is 0."""

_FIELDS: Final = (
    "source_partition",
    "source_offset",
    "event_id",
    "student_id",
    "predicted_purchase_probability",
)


@dataclass(frozen=True, slots=True)
class Observed:
    """The n readable records or lines of a batch; arrays have length n.

    Attributes:
        rows: The row numbers in the batch, int64.
        partitions: The partition of the original that each one shows, int64.
        offsets: The offset of the original that each one shows, int64.
        digests: The digest of the part of the original that each one repeats, uint32.
        unreadable: The row numbers of unreadable records or lines, each with the reason.
        codes: For dead letters: their codes.
        keyed: For dead letters: whether they have kept their event's key, bool. Large ones may drop it.
        contents: For predictions: the digest of what their audit line must repeat, uint32.
        students: For predictions: the student ids in UTF-8.
        comparable: For lines: bool, whether the digest can be compared. It cannot if the ids are hashed
            with another key than the configured one.
    """

    rows: NDArray[np.int64]
    partitions: NDArray[np.int64]
    offsets: NDArray[np.int64]
    digests: NDArray[np.uint32]
    unreadable: list[tuple[int, str]] = field(default_factory=list)
    codes: list[str] = field(default_factory=list)
    keyed: NDArray[np.bool_] | None = None
    contents: NDArray[np.uint32] | None = None
    students: list[bytes] = field(default_factory=list)
    comparable: NDArray[np.bool_] | None = None


def key_digest(key: bytes | None) -> int:
    """Return the digest of a record's key."""
    return _NO_KEY_DIGEST if key is None else crc32(key)


def observe_events(records: Sequence[Record]) -> Observed:
    """Read the positions and keys of events, and ignore their values."""
    return Observed(
        rows=np.arange(len(records)),
        partitions=_longs([record.partition() for record in records]),
        offsets=_longs([record.offset() for record in records]),
        digests=_digests([key_digest(record.key()) for record in records]),
    )


def observe_predictions(records: Sequence[Record], hasher: IdHasher | None = None) -> Observed:
    """Read the event's position from each prediction.

    Args:
        records: The records.
        hasher: Hashes event ids as the log does.
    """
    students: list[bytes] = []
    found: list[tuple[int, int, int, int, int]] = []
    unreadable: list[tuple[int, str]] = []
    for row, record in enumerate(records):
        try:
            fields = _prediction(record.value())
        except ValueError as error:
            unreadable.append((row, str(error)))
            continue
        partition, offset = fields["source_partition"], fields["source_offset"]
        event_id = _logged_id(fields["event_id"], hasher)
        content = _content(event_id, fields["predicted_purchase_probability"], partition, offset)
        students.append(fields["student_id"].encode())
        found.append((row, partition, offset, key_digest(record.key()), content))
    rows, partitions, offsets, keys, contents = _columns(found, 5)
    return Observed(
        rows,
        partitions,
        offsets,
        keys.astype(np.uint32),
        unreadable,
        contents=contents.astype(np.uint32),
        students=students,
    )


def observe_dead_letters(records: Sequence[Record], events_topic: str) -> Observed:
    """Read the event's position from each dead letter; its headers and its body must agree."""
    found: list[tuple[int, int, int, int, int]] = []
    codes: list[str] = []
    unreadable: list[tuple[int, str]] = []
    for row, record in enumerate(records):
        try:
            partition, offset, code, truncated = _dead_letter(record, events_topic)
        except ValueError as error:
            unreadable.append((row, str(error)))
            continue
        codes.append(code)
        keyed = record.key() is not None or not truncated
        found.append((row, partition, offset, key_digest(record.key()), keyed))
    rows, partitions, offsets, keys, keyed_rows = _columns(found, 5)
    return Observed(
        rows,
        partitions,
        offsets,
        keys.astype(np.uint32),
        unreadable,
        codes=codes,
        keyed=keyed_rows.astype(np.bool_),
    )


def observe_lines(lines: Sequence[bytes], predictions_topic: str, hasher: IdHasher | None = None) -> Observed:
    """Read the prediction's position from each audit line.

    Args:
        lines: The lines.
        predictions_topic: The topic that they must be of.
        hasher: Hashes event ids, so that lines with plain ids are compared as well.
    """
    found: list[tuple[int, int, int, int, int]] = []
    unreadable: list[tuple[int, str]] = []
    for row, line in enumerate(lines):
        try:
            entry = orjson.loads(line)
            output, source = entry["output"], entry["source"]
            if output["topic"] != predictions_topic:
                raise ValueError(f"it is of topic {output['topic']}")  # noqa: TRY301 - handled like the other faults
            partition, offset = int(output["partition"]), int(output["offset"])
            event_id = entry["event_id"]
            own = not is_hashed(event_id) or (hasher is not None and event_id.startswith(hasher.prefix))
            content = _content(
                event_id if is_hashed(event_id) else _logged_id(event_id, hasher),
                entry["predicted_purchase_probability"],
                source["partition"],
                source["offset"],
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            unreadable.append((row, f"no audit line: {error}"))
            continue
        found.append((row, partition, offset, content, own))
    rows, partitions, offsets, contents, comparable = _columns(found, 5)
    return Observed(
        rows,
        partitions,
        offsets,
        contents.astype(np.uint32),
        unreadable,
        comparable=comparable.astype(np.bool_),
    )


def _logged_id(id_: str, hasher: IdHasher | None) -> str:
    return id_ if hasher is None else hasher.hashed(id_.encode())


def _content(event_id: str, probability: float, partition: int, offset: int) -> int:
    """Return the digest of the fields that identify a prediction."""
    return crc32(f"{event_id} {probability!r} {partition} {offset}".encode())


def _prediction(value: bytes | None) -> dict[str, Any]:
    """Decode the fields that identify a prediction.

    Raises:
        ValueError: It is not a prediction.
    """
    if value is None:
        raise ValueError("a tombstone")
    if value.startswith(SINGLE_OBJECT_MARKER):
        start = SINGLE_OBJECT_HEADER_BYTES
        writer = _writers().get(value[len(SINGLE_OBJECT_MARKER) : start])
    else:
        # A scorer writes this schema under whatever id the registry gives it.
        start = CONFLUENT_HEADER_BYTES
        framed = value.startswith(CONFLUENT_MARKER)
        writer = _writers()[purchase_prediction().fingerprint] if framed else None
    if writer is None:
        raise ValueError("not framed as a prediction")
    stream = io.BytesIO(value)
    stream.seek(start)
    try:
        fields = schemaless_reader(stream, writer, _reader_schema())
    except Exception as error:  # fastavro raises many kinds on foreign bytes, EOFError to IndexError
        raise ValueError(f"no prediction: {type(error).__name__}") from error
    if stream.tell() != len(value):
        raise ValueError("bytes follow the prediction")
    return cast("dict[str, Any]", fields)


def _dead_letter(record: Record, events_topic: str) -> tuple[int, int, str, bool]:
    """Return source partition and offset, code, and whether the key was kept.

    Raises:
        ValueError: It is not a dead letter of this service, or its headers contradict its body.
    """
    try:
        headers = {name: bytes(value or b"").decode() for name, value in record.headers() or []}
        in_headers = (
            headers["__dlq.errors.topic"],
            int(headers["__dlq.errors.partition"]),
            int(headers["__dlq.errors.offset"]),
            headers["dlq.error.code"],
        )
        body = orjson.loads(record.value() or b"")
        source = body["source"]
        in_body = (source["topic"], source["partition"], source["offset"], body["code"])
        truncated = bool(body["raw_truncated"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"no dead letter: {type(error).__name__} {error}") from error
    if in_headers != in_body:
        raise ValueError(f"its headers say {in_headers}, its body {in_body}")
    topic, partition, offset, code = in_headers
    if topic != events_topic:
        raise ValueError(f"it is of topic {topic}")
    return partition, offset, code, truncated


@cache
def _writers() -> dict[bytes, Any]:
    """Return the prediction schemas by fingerprint, without logical types, so that times stay numbers."""
    name = purchase_prediction().name
    return {
        fingerprint: parse_schema(json.loads(schema.canonical))
        for fingerprint, schema in known_schemas().items()
        if schema.name == name
    }


@cache
def _reader_schema() -> Any:
    """Return a reader schema with only :data:`_FIELDS`; fastavro skips the others."""
    schema = json.loads(purchase_prediction().canonical)
    schema["fields"] = [entry for entry in schema["fields"] if entry["name"] in _FIELDS]
    return parse_schema(schema)


def _columns(found: Sequence[tuple[int, ...]], width: int) -> list[NDArray[np.int64]]:
    table = np.array(found, np.int64).reshape(len(found), width)
    return [table[:, column] for column in range(width)]


def _longs(values: Sequence[int | None]) -> NDArray[np.int64]:
    return np.array(values, np.int64)


def _digests(values: Sequence[int]) -> NDArray[np.uint32]:
    return np.array(values, np.uint32)
