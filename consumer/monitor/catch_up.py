"""Reads again what the audit log already has, and drift has not: from one set of offsets to another."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import structlog

from consumer.errors import StartupError, Unavailable
from consumer.kafka.reader import CommittedTail
from consumer.monitor.loop import MAX_RECORDS
from consumer.pipeline.batch import RecordBatch
from consumer.pipeline.decode import Decoder
from consumer.runtime.readiness import Readiness

log = structlog.get_logger(__name__)

_PATIENCE_S: Final = 20.0
"""Without a record for so long, the rest is given up: above the time in which a broker comes back from
a change of leaders, and drift must not keep the audit log from starting."""

_WAIT_S: Final = 0.1


def catch_up(
    client_config: Mapping[str, Any],
    topic: str,
    begin: Mapping[int, int],
    end: Mapping[int, int],
    decoder: Decoder,
    take: Callable[[RecordBatch], None],
) -> bool:
    """Give every prediction between two sets of offsets to ``take``, in order per partition.

    Args:
        client_config: of the client.
        topic: the predictions topic.
        begin: where to begin, by partition; one that is missing begins at 0.
        end: where to end, before that offset; the record before it was read already, so it is there.
        decoder: reads predictions.
        take: gets them.

    Returns:
        Whether all of them could be read; if not, some may have been given.
    """
    behind = {p: offset for p, offset in end.items() if begin.get(p, 0) < offset}
    if not behind:
        return True
    try:
        tail = CommittedTail(client_config, topic, {p: begin.get(p, 0) for p in end}, Readiness(time.time))
    except (StartupError, Unavailable) as error:
        log.warning("drift cannot catch up with the audit log", reason=str(error))
        return False
    try:
        patient_until_s = time.monotonic() + _PATIENCE_S
        while any(tail.next_offsets.get(p, 0) < offset for p, offset in behind.items()):
            batch = tail.poll(MAX_RECORDS, _WAIT_S)
            if batch is None:
                if time.monotonic() > patient_until_s:
                    log.warning("drift cannot catch up with the audit log", reason="no records came")
                    return False
                continue
            patient_until_s = time.monotonic() + _PATIENCE_S
            predictions, _ = decoder.decode(batch.values)
            limits = np.array([end.get(p, 0) for p in batch.partitions.tolist()], np.int64)
            wanted = (batch.offsets < limits)[predictions.rows]
            take(predictions if wanted.all() else predictions.select_rows(np.flatnonzero(wanted)))
    except (StartupError, Unavailable) as error:
        log.warning("drift cannot catch up with the audit log", reason=str(error))
        return False
    finally:
        tail.close()
    return True
