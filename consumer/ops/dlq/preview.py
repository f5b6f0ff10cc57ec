"""Predict what the scorers would do with events: decode and validate them, without scoring or sending."""

from __future__ import annotations

from collections.abc import Sequence

from consumer.ops.dlq.dead_letter import OriginalEvent
from consumer.pipeline.decode import Decoder
from consumer.pipeline.framing import WriterSchemas
from consumer.pipeline.pipeline import find_rejections
from schemas.repository import engagement_event


class RejectionPreview:
    """Predicts rejections with the scorers' own code.

    Args:
        writers: Resolves writer schemas; with the scorers' settings, these are the scorers' schemas.
    """

    def __init__(self, writers: WriterSchemas) -> None:
        self._decoder = Decoder(engagement_event(), writers, keep_nulls=True)

    def __call__(self, events: Sequence[OriginalEvent]) -> list[str | None]:
        """Return the code that each event would be rejected with; ``None`` would be accepted.

        Raises:
            Unavailable: The schema registry is down.
        """
        codes: list[str | None] = [None] * len(events)
        for rejection in find_rejections(
            self._decoder,
            [event.value for event in events],
            lambda rows: [events[row].headers for row in rows],
        ):
            codes[rejection.row] = rejection.code.value
        return codes
