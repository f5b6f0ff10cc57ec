"""Records and lines → arrays of coordinates and digests, by fastavro and the plain JSON. Pure.

A digest is a CRC-32: enough to notice a mistake, which is what an oracle is for, in four bytes.
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
from schemas.framing import (
    CONFLUENT_HEADER_BYTES,
    CONFLUENT_MARKER,
    SINGLE_OBJECT_HEADER_BYTES,
    SINGLE_OBJECT_MARKER,
)
from schemas.repository import known_schemas, purchase_prediction

_NO_KEY_DIGEST: Final = 1
"""Not the CRC-32 of an empty key, which is 0."""

_LOOKED_AT: Final = ("source_partition", "source_offset", "event_id", "predicted_purchase_probability")


@dataclass(frozen=True, slots=True)
class Observed:
    """n records or lines, as far as they could be read; arrays have length n.

    Attributes:
        rows: their indexes in the batch they came in.
        partitions: int64, partition of what each is about.
        offsets: int64, offset of what each is about.
        digests: uint32, of what each repeats of that.
        unreadable: the other rows and what is wrong with each.
        codes: for dead letters the code of each.
        keyed: for dead letters, bool; the others gave their key up because the record was too large.
        contents: for predictions, uint32, digest of what their line in the log must repeat.
    """

    rows: NDArray[np.int64]
    partitions: NDArray[np.int64]
    offsets: NDArray[np.int64]
    digests: NDArray[np.uint32]
    unreadable: list[tuple[int, str]] = field(default_factory=list)
    codes: list[str] = field(default_factory=list)
    keyed: NDArray[np.bool_] | None = None
    contents: NDArray[np.uint32] | None = None


def key_digest(key: bytes | None) -> int:
    """Return the digest of a record's key."""
    return _NO_KEY_DIGEST if key is None else crc32(key)


def observe_events(records: Sequence[Record]) -> Observed:
    """Read the coordinates and keys of events; their values are not looked at."""
    return Observed(
        rows=np.arange(len(records)),
        partitions=_longs([record.partition() for record in records]),
        offsets=_longs([record.offset() for record in records]),
        digests=_digests([key_digest(record.key()) for record in records]),
    )


def observe_predictions(records: Sequence[Record]) -> Observed:
    """Read which event each prediction is of."""
    found: list[tuple[int, int, int, int, int]] = []
    unreadable: list[tuple[int, str]] = []
    for row, record in enumerate(records):
        try:
            fields = _prediction(record.value())
        except ValueError as error:
            unreadable.append((row, str(error)))
            continue
        partition, offset = fields["source_partition"], fields["source_offset"]
        content = _content(fields["event_id"], fields["predicted_purchase_probability"], partition, offset)
        found.append((row, partition, offset, key_digest(record.key()), content))
    rows, partitions, offsets, keys, contents = _columns(found, 5)
    return Observed(
        rows, partitions, offsets, keys.astype(np.uint32), unreadable, contents=contents.astype(np.uint32)
    )


def observe_dead_letters(records: Sequence[Record], events_topic: str) -> Observed:
    """Read which event each dead letter is of; headers and body must agree on that."""
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


def observe_lines(lines: Sequence[bytes], predictions_topic: str) -> Observed:
    """Read which prediction each line of the audit log is of."""
    found: list[tuple[int, int, int, int]] = []
    unreadable: list[tuple[int, str]] = []
    for row, line in enumerate(lines):
        try:
            entry = orjson.loads(line)
            output, source = entry["output"], entry["source"]
            if output["topic"] != predictions_topic:
                raise ValueError(f"it is of topic {output['topic']}")  # noqa: TRY301 - one way out for all
            partition, offset = int(output["partition"]), int(output["offset"])
            content = _content(
                entry["event_id"],
                entry["predicted_purchase_probability"],
                source["partition"],
                source["offset"],
            )
        except (ValueError, KeyError, TypeError) as error:
            unreadable.append((row, f"no audit line: {error}"))
            continue
        found.append((row, partition, offset, content))
    rows, partitions, offsets, contents = _columns(found, 4)
    return Observed(rows, partitions, offsets, contents.astype(np.uint32), unreadable)


def _content(event_id: str, probability: float, partition: int, offset: int) -> int:
    """Return the digest of what tells one prediction from another."""
    return crc32(f"{event_id} {probability!r} {partition} {offset}".encode())


def _prediction(value: bytes | None) -> dict[str, Any]:
    """Decode what is looked at of a prediction.

    Raises:
        ValueError: it is no prediction.
    """
    if value is None:
        raise ValueError("a tombstone")
    if value.startswith(SINGLE_OBJECT_MARKER):
        begin = SINGLE_OBJECT_HEADER_BYTES
        writer = _writers().get(value[len(SINGLE_OBJECT_MARKER) : begin])
    else:
        # What our scorers put under a registry's id is this schema.
        begin = CONFLUENT_HEADER_BYTES
        framed = value.startswith(CONFLUENT_MARKER)
        writer = _writers()[purchase_prediction().fingerprint] if framed else None
    if writer is None:
        raise ValueError("not framed as a prediction")
    stream = io.BytesIO(value)
    stream.seek(begin)
    try:
        fields = schemaless_reader(stream, writer, _looked_at())
    except Exception as error:  # fastavro raises many kinds on foreign bytes, EOFError to IndexError
        raise ValueError(f"no prediction: {type(error).__name__}") from error
    if stream.tell() != len(value):
        raise ValueError("bytes follow the prediction")
    return cast("dict[str, Any]", fields)


def _dead_letter(record: Record, events_topic: str) -> tuple[int, int, str, bool]:
    """Return source partition and offset, code, and whether it was truncated.

    Raises:
        ValueError: it is no dead letter of ours, or contradicts itself.
    """
    try:
        headers = {name: bytes(value or b"").decode() for name, value in record.headers() or []}
        told = (
            headers["__dlq.errors.topic"],
            int(headers["__dlq.errors.partition"]),
            int(headers["__dlq.errors.offset"]),
            headers["dlq.error.code"],
        )
        body = orjson.loads(record.value() or b"")
        source = body["source"]
        written = (source["topic"], source["partition"], source["offset"], body["code"])
        truncated = bool(body["raw_truncated"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"no dead letter: {type(error).__name__} {error}") from error
    if told != written:
        raise ValueError(f"its headers say {told}, its body {written}")
    topic, partition, offset, code = told
    if topic != events_topic:
        raise ValueError(f"it is of topic {topic}")
    return partition, offset, code, truncated


@cache
def _writers() -> dict[bytes, Any]:
    """Schemas of predictions by fingerprint; canonical, so that times stay numbers of any size."""
    name = purchase_prediction().name
    return {
        fingerprint: parse_schema(json.loads(schema.canonical))
        for fingerprint, schema in known_schemas().items()
        if schema.name == name
    }


@cache
def _looked_at() -> Any:
    """Return a reader's schema with a few fields; fastavro skips the others."""
    schema = json.loads(purchase_prediction().canonical)
    schema["fields"] = [entry for entry in schema["fields"] if entry["name"] in _LOOKED_AT]
    return parse_schema(schema)


def _columns(found: Sequence[tuple[int, ...]], width: int) -> list[NDArray[np.int64]]:
    table = np.array(found, np.int64).reshape(len(found), width)
    return [table[:, column] for column in range(width)]


def _longs(values: Sequence[int | None]) -> NDArray[np.int64]:
    return np.array(values, np.int64)


def _digests(values: Sequence[int]) -> NDArray[np.uint32]:
    return np.array(values, np.uint32)
