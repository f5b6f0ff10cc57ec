"""What goes out in one commit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from consumer.core.batch import Headers


@dataclass(frozen=True, slots=True)
class Records:
    """Records for one topic; all sequences have the same length.

    Attributes:
        topic: where they go.
        partitions: target partition of each.
        keys: key of each.
        values: value of each.
        headers: headers of each, or ``None`` if none has any.
        rows: which row of the batch each comes from.
    """

    topic: str
    partitions: Sequence[int] = field(repr=False)
    keys: Sequence[bytes | None] = field(repr=False)
    values: Sequence[bytes | None] = field(repr=False)
    headers: Sequence[Headers] | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.values)


Outgoing = Iterable[Records]
