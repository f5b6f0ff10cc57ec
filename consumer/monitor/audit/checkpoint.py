"""The audit log's checkpoint: the small file that says how much of the log counts.

A line is in the log once the checkpoint covers it. The checkpoint is written after the lines that it
covers are durable, never before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from consumer.errors import StartupError
from model_store.files import replace_file

if TYPE_CHECKING:
    from pathlib import Path

FORMAT: Final = 1

FILE_MODE: Final = 0o640
"""Mode of the monitor's files: readable by the group, closed to others, for they hold personal data."""

_Count = Annotated[int, Field(ge=0)]


class Checkpoint(BaseModel):
    """A consistent state of the audit log.

    Attributes:
        format: Version of the file format.
        source: Identity of the topic that the log is a view of: cluster, topic, topic id.
        closed_segments: Number of closed segments; they are numbered from 1.
        length_bytes: Length of the log; bytes beyond it do not count.
        next_offsets: The next offset to append, by partition of the topic.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    format: Literal[1] = FORMAT
    source: dict[str, str]
    closed_segments: _Count = 0
    length_bytes: _Count = 0
    next_offsets: dict[_Count, _Count] = Field(default_factory=dict)

    def after(self, n_bytes: int, next_offsets: dict[int, int]) -> Checkpoint:
        """Return the state after an append."""
        return self.model_copy(
            update={
                "length_bytes": self.length_bytes + n_bytes,
                "next_offsets": {**self.next_offsets, **next_offsets},
            }
        )

    def with_log_closed(self) -> Checkpoint:
        """Return the state after a rotation."""
        return self.model_copy(update={"closed_segments": self.closed_segments + 1, "length_bytes": 0})


def read_checkpoint(path: Path) -> Checkpoint | None:
    """Read the checkpoint; return ``None`` if there is none.

    Raises:
        StartupError: The file is not a valid checkpoint.
        OSError: The file cannot be read.
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
            f"{path} is not a valid checkpoint ({where}: {problem['msg']}); restore it, or move it away"
            " together with the audit log and its segments to start a new log"
        ) from error


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Replace the checkpoint durably.

    Raises:
        OSError: It may or may not have been replaced; read it again before you continue.
    """
    replace_file(path, checkpoint.model_dump_json(indent=1).encode() + b"\n", FILE_MODE)
