"""Drift and outcomes over a restart: one file, replaced as a whole, that says how far it has come.

The file holds a state and the offsets that it reflects. Whoever loads it reads on from there, up to
where the audit log is, so that every prediction is in the state exactly once, however the process
ended. The file is derived: without it, drift begins with an empty window, and nothing else is lost.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import orjson
import structlog
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from consumer.monitor.drift.tracker import SavedDrift
from consumer.monitor.durable import replace_file
from consumer.monitor.outcomes.join import SavedOutcomes
from consumer.monitor.retraining import Announced, Recommendation

if TYPE_CHECKING:
    from pathlib import Path

log = structlog.get_logger(__name__)

FORMAT: Final = 1
_DESCRIPTION: Final = "description"


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedState:
    """What the monitor keeps beside its arrays.

    Attributes:
        format: version of this file's layout.
        source: what the predictions were read from, such as cluster, topic and the topic's id.
        next_offsets: how far, by partition.
        drift: drift.
        outcomes: outcomes, where there is a feed.
        recommendation: the last one.
        announced: what the control topic was last told.
    """

    format: Literal[1] = FORMAT
    source: dict[str, str]
    next_offsets: dict[int, int]
    drift: SavedDrift
    outcomes: SavedOutcomes | None = None
    recommendation: Recommendation | None = None
    announced: Announced = field(default_factory=Announced)


def write_state(path: Path, state: SavedState, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Replace the file durably.

    Raises:
        OSError: the disk is full or failing; the file before is still there.
    """
    options = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
    description = np.frombuffer(orjson.dumps(state, option=options), np.uint8)
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **{_DESCRIPTION: description, **arrays})
    replace_file(path, content.getvalue())


def read_state(path: Path) -> tuple[SavedState, dict[str, NDArray[Any]]] | None:
    """Read the file; ``None`` if there is none, or none that is usable, which is logged."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        description = arrays.pop(_DESCRIPTION).tobytes()
        return _ADAPTER.validate_json(description), arrays
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        log.warning("drift begins anew: its state cannot be read", path=str(path), reason=_one_line(error))
        return None


def _one_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        problem = error.errors()[0]
        return f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
    return " ".join(str(error).split())


_ADAPTER: Final = TypeAdapter(SavedState)
