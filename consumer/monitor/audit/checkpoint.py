"""How far the audit log has come: the one small file that decides what counts.

A line is in the log when the checkpoint says so. Rule: the checkpoint is written after what it
speaks of is durable, never before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from consumer.errors import StartupError
from consumer.monitor.durable import replace_file

if TYPE_CHECKING:
    from pathlib import Path

FORMAT: Final = 1

_Count = Annotated[int, Field(ge=0)]


class Checkpoint(BaseModel):
    """One state of the audit log, consistent in itself.

    Attributes:
        format: version of this file's layout.
        source: what the log is a view of, such as cluster, topic and the topic's id.
        closed_segments: how many files have been set aside, numbered from 1.
        length_bytes: length of the log; what lies beyond does not count.
        next_offsets: where to read on, by partition of the topic.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    format: Literal[1] = FORMAT
    source: dict[str, str]
    closed_segments: _Count = 0
    length_bytes: _Count = 0
    next_offsets: dict[_Count, _Count] = Field(default_factory=dict)

    def after(self, n_bytes: int, next_offsets: dict[int, int]) -> Checkpoint:
        """Return the state after more bytes and further offsets."""
        return self.model_copy(
            update={
                "length_bytes": self.length_bytes + n_bytes,
                "next_offsets": {**self.next_offsets, **next_offsets},
            }
        )

    def with_log_closed(self) -> Checkpoint:
        """Return the state after the log has been set aside and an empty one begun."""
        return self.model_copy(update={"closed_segments": self.closed_segments + 1, "length_bytes": 0})


def read_checkpoint(path: Path) -> Checkpoint | None:
    """Read the checkpoint, or ``None`` where there is none.

    Raises:
        StartupError: the file is no checkpoint of ours.
        OSError: it cannot be read.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        return Checkpoint.model_validate_json(content)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"]) or "the file"
        raise StartupError(
            f"{path} is no usable checkpoint ({where}: {problem['msg']}); restore it, or set it aside"
            " together with the audit log and its segments to begin a new log"
        ) from error


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Replace the checkpoint durably.

    Raises:
        OSError: it may or may not have been replaced; read it again before going on.
    """
    replace_file(path, checkpoint.model_dump_json(indent=1).encode() + b"\n")
