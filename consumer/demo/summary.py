"""Summarize a demo, and check that all counts agree. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from consumer.ops.verify.report import VerifyReport
from consumer.simulator.producer import Sent


@dataclass(frozen=True, slots=True)
class Summary:
    """The outcome of a demo.

    Attributes:
        sent: The events that were sent, by phase.
        burst_events: The number of events in the burst.
        burst_s: Seconds from the burst's first event sent to its last output read.
        latencies_ms: Milliseconds from event to readable prediction in the paced phase.
        paced_rate: Events per second in the paced phase.
        workers: The number of scorers.
        report: The result of the verification.
    """

    sent: Sequence[Sent]
    burst_events: int
    burst_s: float
    latencies_ms: Sequence[int]
    paced_rate: float
    workers: int
    report: VerifyReport

    @property
    def n_sent(self) -> int:
        """The number of events sent in all phases."""
        return sum(sent.events for sent in self.sent)

    @property
    def broken(self) -> dict[str, int]:
        """The number of broken events sent, by expected dead-letter code."""
        total: Counter[str] = Counter()
        for sent in self.sent:
            total.update(sent.broken)
        return dict(total)

    @property
    def holds(self) -> bool:
        """Whether the guarantees hold and the topics hold what was sent."""
        return self.problem() is None

    def problem(self) -> str | None:
        """Return the first disagreement, or ``None``."""
        if not self.report.holds:
            return self.report.problem()
        if self.report.events != self.n_sent:
            return f"{self.n_sent} events were sent, but the topic holds {self.report.events}"
        if self.report.dead_letters != self.broken:
            return f"broken events sent: {self.broken}, but dead letters: {self.report.dead_letters}"
        return None

    def lines(self) -> list[str]:
        """Format the summary, one fact per line."""
        scorers = "1 scorer" if self.workers == 1 else f"{self.workers} scorers"
        throughput = (
            f"throughput: {self.burst_events} events in {self.burst_s:.1f} s from the first one sent to "
            f"the last one decided and readable: {self.burst_events / self.burst_s:.0f} events/s "
            f"with {scorers}"
        )
        n_broken = sum(self.broken.values())
        text = [f"events sent: {self.n_sent}, {n_broken} of them broken on purpose", throughput]
        if self.latencies_ms:
            p50, p99 = np.percentile(self.latencies_ms, (50, 99))
            text.append(
                f"latency: p50 {p50:.0f} ms, p99 {p99:.0f} ms from event to readable prediction, "
                f"at {self.paced_rate:.0f} events/s ({len(self.latencies_ms)} predictions)"
            )
        return [*text, *self.report.lines()]
