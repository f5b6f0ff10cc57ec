"""Record what was removed from the audit log on purpose: erased students and expired segments.

The file ``<log>.removals`` records it, so that ``audit verify`` knows which lines must be missing, and
``audit rebuild``, the dashboard and ``why`` never bring an erased student back. It names an erased student
only by a hash with a random key of its own.

The record is written before anything is removed. A removal that was interrupted is finished by the next
run: an erasure without a count of lines is unfinished.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Final, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from consumer import timestamps
from consumer.columnar.arrays import IntArray
from consumer.errors import StartupError
from consumer.pipeline.batch import RecordBatch
from model_store.files import replace_file

FORMAT: Final = 1
FILE_MODE: Final = 0o640
_KEY_BYTES: Final = 32

_Count = Annotated[int, Field(ge=0)]
Offsets = dict[_Count, _Count]
"""Offsets by partition of the predictions topic."""


class Erasure(BaseModel):
    """The erasure of one student.

    Attributes:
        student: HMAC-SHA-256 of the student id with the key of this file, in hexadecimal digits.
        erased_at: The time of the erasure, RFC 3339. Events and dead letters with an earlier timestamp are no
            longer shown.
        before: By partition, the end of the predictions topic at that time. The student's predictions
            before it have no line. Later ones are logged: the student has come back.
        lines: The number of lines that were removed; ``None`` until the erasure is finished.
        tombstones: The number of tombstones written to compacted topics.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    student: str
    erased_at: str
    before: Offsets
    lines: _Count | None = None
    tombstones: _Count = 0


class Expired(BaseModel):
    """The closed segments that retention has removed: always the oldest ones.

    Attributes:
        segments: The number of segments.
        lines: The number of their lines.
        before: By partition, the offset after the last of their lines.
        last_at: When the latest of them was removed, RFC 3339.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    segments: _Count = 0
    lines: _Count = 0
    before: Offsets = Field(default_factory=dict)
    last_at: str = ""


class Removals(BaseModel):
    """All removals from one audit log.

    Attributes:
        format: Version of the file format.
        key: The key of the hashes, in hexadecimal digits.
        erasures: The erasures, oldest first.
        expired: What retention has removed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, arbitrary_types_allowed=True)

    format: Literal[1] = FORMAT
    key: str = Field(default_factory=lambda: secrets.token_hex(_KEY_BYTES))
    erasures: Sequence[Erasure] = ()
    expired: Expired = Expired()

    @property
    def erased_lines(self) -> int:
        """The number of lines that erasures have removed."""
        return sum(erasure.lines or 0 for erasure in self.erasures)

    @property
    def unfinished(self) -> Sequence[Erasure]:
        """The erasures that were interrupted."""
        return [erasure for erasure in self.erasures if erasure.lines is None]

    def hashed(self, student_id: bytes) -> str:
        """Return the hash of a student id in UTF-8."""
        return hmac.digest(self._key_bytes, student_id, "sha256").hex()

    def erased_at_ms(self, student_id: bytes) -> int | None:
        """Return when a student was last erased, ms since the epoch, or ``None``."""
        return self._erased_at_ms.get(self.hashed(student_id)) if self.erasures else None

    def hides(self, student_id: bytes, timestamp_ms: int) -> bool:
        """Return whether a record of a student, with this timestamp, is from before an erasure."""
        erased_at_ms = self.erased_at_ms(student_id)
        return erased_at_ms is not None and timestamp_ms <= erased_at_ms

    def is_erased(self, student_id: bytes, partition: int, offset: int) -> bool:
        """Return whether the prediction about a student at a position of the topic has no line."""
        if offset >= self._erased_before.get(partition, 0):  # the usual case
            return False
        before = self._before.get(self.hashed(student_id), {})
        return offset < before.get(partition, 0)

    def is_expired(self, partition: int, offset: int) -> bool:
        """Return whether retention has removed the line of the prediction at a position of the topic."""
        return offset < self.expired.before.get(partition, 0)

    def without_erased(
        self, predictions: RecordBatch, partitions: IntArray, offsets: IntArray
    ) -> RecordBatch:
        """Return the predictions that have a line, or will get one.

        Args:
            predictions: The decoded predictions.
            partitions: Partition of each record of the batch that ``predictions.rows`` refer to, int64.
            offsets: Offset of each of these records, int64.
        """
        if not self.erasures or not len(predictions):
            return predictions
        rows = predictions.rows
        limits = np.array([self._erased_before.get(p, 0) for p in range(int(partitions.max()) + 1)], np.int64)
        old = np.flatnonzero(offsets[rows] < limits[partitions[rows]])
        if not len(old):  # the usual case
            return predictions
        starts, stops = predictions.span("student_id")
        erased = [
            i
            for i in old.tolist()
            if self.is_erased(
                predictions.data[starts[i] : stops[i]], int(partitions[rows[i]]), int(offsets[rows[i]])
            )
        ]
        return predictions.select_rows(np.delete(np.arange(len(predictions)), erased))

    def with_erasure(self, erasure: Erasure) -> Removals:
        """Return the removals with one more erasure, or with an unfinished one replaced."""
        kept = [
            other for other in self.erasures if other.student != erasure.student or other.lines is not None
        ]
        return Removals(key=self.key, erasures=(*kept, erasure), expired=self.expired)

    def with_expired(self, expired: Expired) -> Removals:
        """Return the removals with another state of retention."""
        return Removals(key=self.key, erasures=self.erasures, expired=expired)

    @property
    def _key_bytes(self) -> bytes:
        return bytes.fromhex(self.key)

    @cached_property
    def _before(self) -> dict[str, dict[int, int]]:
        """The highest offset before which each student's predictions have no line, by hash and partition."""
        before: dict[str, dict[int, int]] = {}
        for erasure in self.erasures:
            _raise_to(before.setdefault(erasure.student, {}), erasure.before)
        return before

    @cached_property
    def _erased_before(self) -> dict[int, int]:
        """The offset from which on no prediction was erased, by partition."""
        highest: dict[int, int] = {}
        for erasure in self.erasures:
            _raise_to(highest, erasure.before)
        return highest

    @cached_property
    def _erased_at_ms(self) -> dict[str, int]:
        return {
            erasure.student: int(timestamps.parse(erasure.erased_at).timestamp() * 1000)
            for erasure in self.erasures
        }


def _raise_to(offsets: dict[int, int], others: dict[int, int]) -> None:
    for partition, offset in others.items():
        offsets[partition] = max(offset, offsets.get(partition, 0))


def removals_path(log: Path) -> Path:
    """Return the path of a log's removals."""
    return log.with_name(log.name + ".removals")


def read_removals(log: Path) -> Removals:
    """Read the removals of a log; without a file, nothing was removed.

    Raises:
        StartupError: The file is damaged or cannot be read.
    """
    path = removals_path(log)
    try:
        return Removals.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return Removals()
    except OSError as error:
        raise StartupError(f"{path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        problem = error.errors()[0]
        raise StartupError(
            f"{path} does not say what was removed from the audit log ({problem['msg']}); restore it from a"
            " backup: without it, erased students would come back"
        ) from error


def write_removals(log: Path, removals: Removals) -> None:
    """Replace the removals of a log durably.

    Raises:
        OSError: The disk is full or failing.
    """
    replace_file(removals_path(log), removals.model_dump_json(indent=1).encode() + b"\n", FILE_MODE)


def removal_lines(removals: Removals) -> Iterable[str]:
    """Describe what was removed, one fact per line; nothing if nothing was."""
    if removals.erasures:
        students = len({erasure.student for erasure in removals.erasures})
        yield (
            f"erased from the audit log: {students} students, {removals.erased_lines} lines,"
            f" the last on {removals.erasures[-1].erased_at}"
        )
    if removals.expired.segments:
        expired = removals.expired
        yield (
            f"removed by retention: {expired.segments} segments with {expired.lines} lines, the last on"
            f" {expired.last_at}"
        )
