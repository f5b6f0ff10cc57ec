"""Encode predictions.

A prediction repeats the event's ids, time and seven inputs in the same order, so their bytes are copied
as received. Only one double, one bit and one offset per event are encoded; everything else is constant
over a batch or a partition::

    event       event_id student_id ──────── occurred_at ──────── seven inputs
    prediction  event_id student_id (scores) occurred_at (source) seven inputs

    scores: probability, decision, threshold, model version
    source: scored_at, partition, offset
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from consumer.columnar.arrays import IntArray
from consumer.pipeline.batch import EVENT_FIELDS, INPUT_FIELDS
from consumer.pipeline.score import Scored

_OCCURRED_AT: Final = EVENT_FIELDS.index("occurred_at")
_INPUTS: Final = EVENT_FIELDS.index(INPUT_FIELDS[0])
_VARINT_MAX_BYTES: Final = 10
_PROBABILITY_BYTES: Final = 8


def encode_predictions(
    scored: Scored,
    *,
    header: bytes,
    scored_at_ms: int,
    partitions: Sequence[int],
    offsets: IntArray,
) -> list[bytes]:
    """Encode one framed ``PurchasePrediction`` per scored event.

    Args:
        scored: The m events with their predictions.
        header: The frame before each record.
        scored_at_ms: Milliseconds since the epoch.
        partitions: Source partition of each scored event, length m.
        offsets: Source offset of each scored event, int64 (m,).
    """
    events, data = scored.events, scored.events.data
    scores = _scores(scored)
    width, scores_bytes = scores.shape[1], scores.tobytes()
    scored_at = _varint(scored_at_ms)
    source = {partition: scored_at + _varint(partition) for partition in set(partitions)}
    return [
        b"".join(
            (
                header,
                data[start:occurred_at],
                scores_bytes[score : score + width],
                data[occurred_at:inputs],
                source[partition],
                offset,
                data[inputs:stop],
            )
        )
        for start, occurred_at, inputs, stop, score, partition, offset in zip(
            events.starts[:, 0].tolist(),
            events.starts[:, _OCCURRED_AT].tolist(),
            events.starts[:, _INPUTS].tolist(),
            events.starts[:, -1].tolist(),
            range(0, scores.size, width),
            partitions,
            encode_varints(offsets),
            strict=True,
        )
    ]


def _scores(scored: Scored) -> NDArray[np.uint8]:
    """Encode the probability, decision, threshold and model version of each event: uint8 (m, w)."""
    version = scored.model_version.encode()
    shared = np.float64(scored.threshold).tobytes() + _varint(len(version)) + version
    scores = np.empty((len(scored.probabilities), _PROBABILITY_BYTES + 1 + len(shared)), np.uint8)
    scores[:, :_PROBABILITY_BYTES] = (
        scored.probabilities.astype("<f8").view(np.uint8).reshape(-1, _PROBABILITY_BYTES)
    )
    scores[:, _PROBABILITY_BYTES] = scored.decisions
    scores[:, _PROBABILITY_BYTES] *= 2  # an Avro int of 0 or 1 is zig-zag 0 or 2
    scores[:, _PROBABILITY_BYTES + 1 :] = np.frombuffer(shared, np.uint8)
    return scores


def _varint(value: int) -> bytes:
    return encode_varints(np.array([value]))[0]


def encode_varints(values: IntArray) -> list[bytes]:
    """Encode 64-bit numbers as Avro's ``long``: zig-zag, then 7 bits per byte, lowest first.

    >>> [varint.hex() for varint in encode_varints(np.array([-1, 1, 64]))]
    ['01', '02', '8001']

    Args:
        values: The numbers, int64 (m,).
    """
    rest = ((values << 1) ^ (values >> 63)).view(np.uint64)
    septets = np.empty((len(values), _VARINT_MAX_BYTES), np.uint8)
    length = np.ones(len(values), np.int64)
    for k in range(_VARINT_MAX_BYTES):
        septets[:, k] = rest & np.uint64(0x7F)
        rest >>= np.uint64(7)
        more = rest > 0
        if not more.any():
            break
        septets[more, k] |= 0x80
        length += more
    data, width = septets.tobytes(), _VARINT_MAX_BYTES
    return [data[width * i : width * i + n] for i, n in enumerate(length.tolist())]
