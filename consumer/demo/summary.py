"""What the demo has to say in the end, and whether everything agrees. Pure."""

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
        sent: what the upstream sent, phase by phase.
        burst_events: of these, those of the phase that gives the throughput.
        burst_s: from its first event sent to its last decision read.
        latencies_ms: from event to readable prediction, of the paced phase.
        paced_rate: events per second of the paced phase.
        workers: scorers.
        verdict: the oracle's.
    """

    sent: Sequence[Sent]
    burst_events: int
    burst_s: float
    latencies_ms: Sequence[int]
    paced_rate: float
    workers: int
    verdict: VerifyReport

    @property
    def n_sent(self) -> int:
        """Events sent in all phases."""
        return sum(sent.events for sent in self.sent)

    @property
    def broken(self) -> dict[str, int]:
        """How many events were sent to get each dead-letter code."""
        total: Counter[str] = Counter()
        for sent in self.sent:
            total.update(sent.broken)
        return dict(total)

    @property
    def holds(self) -> bool:
        """Whether the oracle is content, and the topics hold what was sent."""
        return self.problem() is None

    def problem(self) -> str | None:
        """Say what does not agree, if something doesn't."""
        if not self.verdict.holds:
            return self.verdict.problem()
        if self.verdict.events != self.n_sent:
            return f"{self.n_sent} events were sent, but the topic holds {self.verdict.events}"
        if self.verdict.dead_letters != self.broken:
            return f"broken events sent: {self.broken}, but dead letters: {self.verdict.dead_letters}"
        return None

    def lines(self) -> list[str]:
        """Say everything, a fact a line."""
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
        return [*text, *self.verdict.lines()]
