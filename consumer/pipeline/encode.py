"""Scored events → the bytes of predictions.

A prediction repeats the event's ids, time and seven inputs, so those are copied as the very bytes
that arrived: the fields stand in the same order in both schemas. What is left to encode is one
double, one bit and one offset per event; everything else is constant over a batch or a partition.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from consumer.columnar.arrays import IntArray
from consumer.pipeline.batch import INPUTS_BEGIN
from consumer.pipeline.score import Scored

_OCCURRED_AT: Final = 2
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
        scored: m events with their predictions.
        header: the frame before each record.
        scored_at_ms: milliseconds since the epoch.
        partitions: source partition of each scored event, length m.
        offsets: int64 (m,), source offset of each scored event.
    """
    events, data = scored.events, scored.events.data
    begin = events.starts[:, 0].tolist()
    ids_end = events.starts[:, _OCCURRED_AT].tolist()
    inputs = events.starts[:, INPUTS_BEGIN].tolist()
    end = events.starts[:, -1].tolist()
    scores = _scores(scored)
    width, scores_bytes = scores.shape[1], scores.tobytes()
    scored_at = _varint(scored_at_ms)
    source = {partition: scored_at + _varint(partition) for partition in set(partitions)}
    return [
        b"".join(
            (
                header,
                data[event_at:ids_end_at],
                scores_bytes[score_at : score_at + width],
                data[ids_end_at:inputs_at],
                source[partition],
                offset,
                data[inputs_at:end_at],
            )
        )
        for event_at, ids_end_at, inputs_at, end_at, score_at, partition, offset in zip(
            begin,
            ids_end,
            inputs,
            end,
            range(0, scores.size, width),
            partitions,
            encode_varints(offsets),
            strict=True,
        )
    ]


def _scores(scored: Scored) -> NDArray[np.uint8]:
    """Return probability, decision, threshold and model version of each event, encoded: uint8 (m, w)."""
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
    """Encode 64-bit numbers as Avro's ``long`` (zig-zag, then 7 bits a byte, lowest first).

    Args:
        values: int64 (m,).
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
