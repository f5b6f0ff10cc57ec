"""What the oracle found, for programs and for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

MEANINGS: Final = {
    "missing": "events in neither predictions nor dead letters",
    "doubled": "events that were decided more than once",
    "out_of_order": "predictions or dead letters after one of a later event of their partition",
    "wrong_key": "predictions or dead letters whose key is not the event's",
    "unknown_source": "predictions or dead letters of events that are not there",
    "unreadable": "records that are no prediction or no dead letter",
    "log_missing": "predictions without a line in the audit log",
    "log_doubled": "predictions with more than one line",
    "log_out_of_order": "lines after one of a later prediction of their partition",
    "log_altered": "lines that say something else than their prediction",
    "log_foreign": "lines of predictions that are not in the topic",
    "log_unreadable": "lines that are no audit line",
}
"""Everything that must not be."""


@dataclass(slots=True)
class Finding:
    """One kind of thing that must not be.

    Attributes:
        count: how many there are.
        examples: where the first of them are.
    """

    count: int = 0
    examples: list[str] = field(default_factory=list)


@dataclass(slots=True)
class VerifyReport:
    """The answer.

    Attributes:
        examples: how many places to keep of each kind of finding.
        events: committed events in the topic.
        predictions: predictions of these events.
        dead_letters: dead letters of these events by code.
        prediction_records: all predictions in the topic, those asked for over HTTP included.
        http_predictions: predictions asked for over HTTP.
        log_lines: lines of these prediction records; ``None`` if the log was not looked at.
        findings: by name, see :data:`MEANINGS`.
        notes: what else a reader of the answer should know.
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

    def find(self, name: str, count: int, places: Sequence[str]) -> None:
        """Add to a kind of finding.

        Args:
            name: of the kind.
            count: how many more there are.
            places: where the first of them are.
        """
        finding = self.findings[name]
        finding.count += count
        finding.examples += places[: max(self.examples - len(finding.examples), 0)]

    def count(self, name: str) -> int:
        """Return how many there are of a kind."""
        return self.findings[name].count

    @property
    def n_dead_letters(self) -> int:
        """Dead letters of all codes."""
        return sum(self.dead_letters.values())

    @property
    def missing(self) -> int:
        """Events that were lost, or predictions that the log lost."""
        return self.count("missing") + self.count("log_missing")

    @property
    def doubled(self) -> int:
        """Events that were decided, or predictions that were logged, more than once."""
        return self.count("doubled") + self.count("log_doubled")

    @property
    def out_of_order(self) -> int:
        """Records or lines in the wrong order."""
        return self.count("out_of_order") + self.count("log_out_of_order")

    @property
    def holds(self) -> bool:
        """Whether nothing was found that must not be."""
        return not any(finding.count for finding in self.findings.values())

    def problem(self) -> str:
        """Say in one line what does not hold."""
        found = [f"{name} {finding.count}" for name, finding in self.findings.items() if finding.count]
        return f"the promise does not hold: {', '.join(found)}; the places are listed above"

    def lines(self) -> list[str]:
        """Say everything, a fact a line."""
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
