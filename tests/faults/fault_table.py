"""The table of faults: what was injected, and what the verifier found."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from consumer.ops.verify.verifier import VerifyReport

FILE: Final = Path("artifacts/faults.md")
_HEAD: Final = ("fault", "events", "injected", "missing", "doubled", "out of order", "recovery")


@dataclass(frozen=True)
class Row:
    """The result of one scenario.

    Attributes:
        fault: The fault.
        injected: How often it was injected, in words.
        verdict: The report of the verifier.
        recoveries_s: The seconds from each interruption to the first commit after it.
    """

    fault: str
    injected: str
    verdict: VerifyReport
    recoveries_s: Sequence[float] = ()

    def cells(self) -> list[str]:
        """Return the cells of the row."""
        verdict = self.verdict
        counts = (verdict.missing, verdict.doubled, verdict.out_of_order)
        return [self.fault, f"{verdict.events:,}", self.injected, *map(str, counts), self._recovery()]

    def _recovery(self) -> str:
        if not self.recoveries_s:
            return ""
        ordered = sorted(self.recoveries_s)
        if len(ordered) == 1:
            return f"{ordered[0]:.1f} s"
        return f"{ordered[len(ordered) // 2]:.1f} s median, {ordered[-1]:.1f} s longest"


@dataclass
class FaultTable:
    """The results of a run."""

    rows: list[Row] = field(default_factory=list)

    def markdown(self) -> str:
        """Return the table in Markdown."""
        lines = [_HEAD, ["---"] * len(_HEAD), *(row.cells() for row in self.rows)]
        return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
