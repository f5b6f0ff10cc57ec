"""Save drift and outcomes across restarts in one file, together with the offsets that they cover.

On start the monitor loads the state and reads the predictions from there up to the end of the audit log,
so that each prediction is in the state exactly once, however the process ended. If the file is lost,
drift starts over with an empty window, and nothing else is affected.
"""

from __future__ import annotations

import contextlib
import io
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import orjson
import structlog
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from consumer.errors import StartupError, Unavailable
from consumer.kafka.reader import TopicReader
from consumer.monitor.audit.log import FILE_MODE
from consumer.monitor.audit.removals import Removals
from consumer.monitor.challenger import SavedComparison
from consumer.monitor.drift.tracker import SavedDrift
from consumer.monitor.outcomes.join import SavedOutcomes
from consumer.monitor.retraining import Announced, Recommendation
from consumer.pipeline.batch import RecordBatch
from consumer.pipeline.decode import Decoder
from model_store.files import replace_file

if TYPE_CHECKING:
    from pathlib import Path

log = structlog.get_logger(__name__)

FORMAT: Final = 1
_DESCRIPTION: Final = "description"

_SILENCE_LIMIT_S: Final = 20.0
"""Catching up ends after this time without a record, which is longer than a change of leaders takes. Drift
must not keep the audit log from starting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedState:
    """The saved state, without its arrays.

    Attributes:
        format: Version of the file format.
        source: Identity of the predictions topic: cluster, topic, topic id.
        next_offsets: The offsets after the last prediction included, by partition.
        drift: State of drift.
        outcomes: State of outcomes, if there is an outcomes topic.
        recommendation: The last recommendation.
        announced: The last announcement on the control topic.
        comparisons: The evidence for and against other versions than the champion.
    """

    format: Literal[1] = FORMAT
    source: dict[str, str]
    next_offsets: dict[int, int]
    drift: SavedDrift
    outcomes: SavedOutcomes | None = None
    recommendation: Recommendation | None = None
    announced: Announced = field(default_factory=Announced)
    comparisons: list[SavedComparison] = field(default_factory=list)


Arrays = dict[str, NDArray[Any]]
"""The arrays of a saved state, by name."""


def write_state(path: Path, state: SavedState, arrays: Arrays) -> None:
    """Replace the file durably.

    Raises:
        OSError: The disk is full or failing; the previous file is still there.
    """
    options = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
    description = np.frombuffer(orjson.dumps(state, option=options), np.uint8)
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **{_DESCRIPTION: description, **arrays})
    replace_file(path, content.getvalue(), FILE_MODE)


def read_state(
    path: Path, source: dict[str, str], log_offsets: Mapping[int, int]
) -> tuple[SavedState, Arrays] | None:
    """Read the state; return ``None`` and log why if there is no state that can be used.

    Args:
        path: The file.
        source: Identity of the predictions topic; a state of another topic is not used.
        log_offsets: Next offsets of the audit log; a state that is ahead of the log is not used.
    """
    try:
        state, arrays = _load(path)
    except FileNotFoundError:
        return None
    except _UNREADABLE as error:
        log.warning("drift starts over: cannot read its state", path=str(path), reason=_one_line(error))
        return None
    if state.source != source:
        log.warning("drift starts over: its state belongs to another topic", path=str(path))
        return None
    if any(offset > log_offsets.get(p, 0) for p, offset in state.next_offsets.items()):
        log.warning("drift starts over: its state is ahead of the audit log", path=str(path))
        return None
    return state, arrays


def erase_from_state(path: Path, students: Sequence[np.uint64], *, dry_run: bool) -> int:
    """Remove students from the saved state; return in how many places they were.

    The counts of the window being filled keep them, but no longer know whom they have counted. A file that
    cannot be read is deleted: the monitor would not use it either.

    Args:
        path: The file.
        students: The hashes of the students.
        dry_run: Count, but change nothing.

    Raises:
        OSError: The disk is full or failing.
    """
    try:
        state, arrays = _load(path)
    except FileNotFoundError:
        return 0
    except _UNREADABLE:
        if not dry_run:
            path.unlink()
        return 0
    found = 0
    if "seen" in arrays:
        counted = np.isin(arrays["seen"], students)
        found += int(counted.sum())
        arrays["seen"] = arrays["seen"][~counted]
    if "waiting" in arrays:
        remembered = np.isin(arrays["waiting"]["student"], students)
        found += int(remembered.sum())
        # A row of zeros is an empty place of the ring.
        arrays["waiting"][remembered] = np.zeros((), arrays["waiting"].dtype)
        if "features" in arrays:
            arrays["features"][remembered] = np.nan
    if found and not dry_run:
        write_state(path, state, arrays)
    return found


def _load(path: Path) -> tuple[SavedState, Arrays]:
    """Load the file; raise FileNotFoundError or one of :data:`_UNREADABLE`."""
    with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    return _ADAPTER.validate_json(arrays.pop(_DESCRIPTION).tobytes()), arrays


_UNREADABLE: Final = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)


def catch_up(
    client_config: Mapping[str, Any],
    topic: str,
    start: Mapping[int, int],
    stop: Mapping[int, int],
    decoder: Decoder,
    removals: Removals,
    ingest: Callable[[RecordBatch], None],
) -> bool:
    """Read the predictions that the audit log has and the saved state lacks.

    Args:
        client_config: Kafka client configuration.
        topic: The predictions topic.
        start: First offset to read, by partition; 0 for a missing partition.
        stop: Offset to stop at, exclusive, by partition. The record before it was read earlier, so it
            exists.
        decoder: Decodes predictions.
        removals: Says which students were erased from the log.
        ingest: Called with every batch, in order per partition.

    Returns:
        Whether all predictions could be read. If not, some may have been ingested.
    """
    ranges = {p: (start.get(p, 0), offset) for p, offset in stop.items()}
    try:
        with contextlib.closing(
            TopicReader(client_config, topic, silence_limit_s=_SILENCE_LIMIT_S)
        ) as reader:
            for records in reader.read_ranges(ranges):
                predictions, _ = decoder.decode([record.value() for record in records])
                partitions = np.array([record.partition() for record in records], np.int64)
                offsets = np.array([record.offset() for record in records], np.int64)
                ingest(removals.without_erased(predictions, partitions, offsets))
    except (StartupError, Unavailable) as error:
        log.warning("drift starts over: cannot catch up with the audit log", reason=str(error))
        return False
    return True


def _one_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        problem = error.errors()[0]
        return f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
    return " ".join(str(error).split())


_ADAPTER: Final = TypeAdapter(SavedState)
