"""Scored events → the bytes of predictions.

A prediction repeats the event's ids, time and seven inputs, so those are copied as the very bytes
that arrived: the fields stand in the same order in both schemas. What is left to encode is one
double, one bit and one offset per event; everything else is constant over a batch or a partition.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from consumer.core.batch import INPUTS_BEGIN, IntArray
from consumer.core.score import Scored

_OCCURRED_AT: Final = 2
_VARINT_MAX_BYTES: Final = 10
_DECISION: Final = (b"\x00", b"\x02")
"""Avro int 0 and 1: zig-zag 0 and 2."""


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
    probabilities = scored.probabilities.astype("<f8").tobytes()
    version = scored.model_version.encode()
    after = np.float64(scored.threshold).tobytes() + _varint(len(version)) + version
    decisions = [_DECISION[0] + after, _DECISION[1] + after]
    decided = scored.decisions.tolist()
    scored_at = _varint(scored_at_ms)
    source = {partition: scored_at + _varint(partition) for partition in set(partitions)}
    return [
        b"".join(
            (
                header,
                data[begin[i] : ids_end[i]],
                probabilities[8 * i : 8 * i + 8],
                decisions[decided[i]],
                data[ids_end[i] : inputs[i]],
                source[partition],
                offset,
                data[inputs[i] : end[i]],
            )
        )
        for i, (partition, offset) in enumerate(zip(partitions, encode_varints(offsets), strict=True))
    ]


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
