"""The result of a verification."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

MEANINGS: Final = {
    "missing": "events in neither predictions nor dead letters",
    "doubled": "events decided more than once",
    "out_of_order": "predictions or dead letters after one of a later event of their partition",
    "wrong_key": "predictions or dead letters whose key is not the event's",
    "unknown_source": "predictions or dead letters of events that do not exist",
    "unreadable": "records that are no valid prediction or dead letter",
    "log_missing": "predictions without a line in the audit log",
    "log_doubled": "predictions with more than one line",
    "log_out_of_order": "lines after one of a later prediction of their partition",
    "log_altered": "lines that differ from their prediction",
    "log_foreign": "lines of predictions that the topic does not have",
    "log_unreadable": "lines that are no valid audit line",
}
"""The violations of the guarantees."""


@dataclass(slots=True)
class Finding:
    """The violations of one kind.

    Attributes:
        count: Their number.
        examples: The positions of the first of them.
    """

    count: int = 0
    examples: list[str] = field(default_factory=list)


@dataclass(slots=True)
class VerifyReport:
    """The result of a verification.

    Attributes:
        examples: The number of positions to keep for each kind of violation.
        events: The number of committed events in the topic.
        predictions: The number of predictions of these events.
        dead_letters: The number of dead letters of these events, by code.
        prediction_records: The number of all predictions in the topic, including those of the HTTP API.
        http_predictions: The number of predictions of the HTTP API.
        log_lines: The number of audit lines of these predictions; ``None`` if the log was not read.
        findings: The violations by name, see :data:`MEANINGS`.
        notes: Remarks for the reader.
    """

    examples: int = 10
    events: int = 0
    predictions: int = 0
    dead_letters: dict[str, int] = field(default_factory=dict)
    prediction_records: int = 0
    http_predictions: int = 0
    log_lines: int | None = None
    findings: dict[str, Finding] = field(default_factory=lambda: {name: Finding() for name in MEANINGS})
    notes: list[str] = field(default_factory=list)

    def add(self, name: str, count: int, positions: Sequence[str]) -> None:
        """Add violations.

        Args:
            name: The kind of violation.
            count: The number of violations to add.
            positions: The positions of the first of them.
        """
        finding = self.findings[name]
        finding.count += count
        finding.examples += positions[: max(self.examples - len(finding.examples), 0)]

    def count(self, name: str) -> int:
        """Return the number of violations of a kind."""
        return self.findings[name].count

    @property
    def n_dead_letters(self) -> int:
        """The number of dead letters, over all codes."""
        return sum(self.dead_letters.values())

    @property
    def missing(self) -> int:
        """The number of lost events and of predictions that the log lost."""
        return self.count("missing") + self.count("log_missing")

    @property
    def doubled(self) -> int:
        """The number of events decided, and of predictions logged, more than once."""
        return self.count("doubled") + self.count("log_doubled")

    @property
    def out_of_order(self) -> int:
        """The number of records and lines in the wrong order."""
        return self.count("out_of_order") + self.count("log_out_of_order")

    @property
    def holds(self) -> bool:
        """Whether there is no violation."""
        return not any(finding.count for finding in self.findings.values())

    def problem(self) -> str:
        """Summarize the violations in one line."""
        found = [f"{name} {finding.count}" for name, finding in self.findings.items() if finding.count]
        return f"the guarantees do not hold: {', '.join(found)}; the positions are listed above"

    def lines(self) -> list[str]:
        """Format the result, one fact per line."""
        decided = self.predictions + self.n_dead_letters
        sign = "=" if decided == self.events else "but"
        text = [
            f"events {self.events} {sign} predictions {self.predictions} + dead letters {self.n_dead_letters}"
        ]
        if self.dead_letters:
            codes = ", ".join(f"{code} {n}" for code, n in sorted(self.dead_letters.items()))
            text.append(f"dead letters: {codes}")
        if self.log_lines is not None:
            text.append(f"audit log: {self.log_lines} lines for {self.prediction_records} prediction records")
        if self.http_predictions:
            text.append(f"asked for over HTTP: {self.http_predictions} of the prediction records")
        for name, finding in self.findings.items():
            if finding.count:
                more = ", …" if finding.count > len(finding.examples) else ""
                text.append(f"{name} {finding.count}: {MEANINGS[name]}: {', '.join(finding.examples)}{more}")
        text += self.notes
        if self.holds:
            log = "; every prediction is in the log once" if self.log_lines is not None else ""
            text.append(f"it holds: every event is in exactly one place, in order{log}")
        return text
