"""What would become of events that are replayed now: decoded and validated, and neither scored nor sent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

from consumer.ops.dlq.plan import ReplayItem
from consumer.pipeline.decode import Decoder
from consumer.pipeline.framing import WriterSchemas
from consumer.pipeline.validate import validate
from schemas.repository import engagement_event


class Preview:
    """Counts events by what they were rejected for and what would become of them.

    Args:
        writers: where writer schemas come from.
    """

    BATCH_EVENTS: Final = 1000

    def __init__(self, writers: WriterSchemas) -> None:
        self._decoder = Decoder(engagement_event(), writers)
        self._accepted: Counter[str] = Counter()
        self._rejected: Counter[tuple[str, str]] = Counter()

    def add(self, batch: Sequence[ReplayItem]) -> None:
        """Take in some events.

        Raises:
            Unavailable: the schema registry is away.
        """
        codes = [due.letter.code for due in batch]
        decoded, undecodable = self._decoder.decode([due.event.value for due in batch])
        valid, invalid = validate(decoded)
        self._accepted.update(codes[row] for row in valid.rows.tolist())
        self._rejected.update((codes[one.row], one.code.value) for one in [*undecodable, *invalid])

    def lines(self) -> Iterator[str]:
        """Say it, a line for each kind."""
        for code, count in self._accepted.most_common():
            yield f"{code}: {count} would be accepted now"
        for (code, again), count in self._rejected.most_common():
            yield f"{code}: {count} would be rejected again as {again}"
