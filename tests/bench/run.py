"""``make bench``: the scorer against the bare wire and against what somebody would write instead.

Everything runs on one real broker on this machine, interleaved, several rounds; ratios are taken
within a round and their medians reported. Absolute figures say more about the machine than about us.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

import growth
import history
from bench import Bench
from competitors import TRANSACTION_EVENTS
from rich.console import Console
from spread import Others
from stages import stages_us
from startup import start_s
from tables import growth_tables, tables
from throughput import Drained

from consumer.embedded_kafka.available import BOOTSTRAP_VARIABLE, available_kafka

EVENTS: Final = 1_000_000
LATENCY_RATES = (100, 1000, 10_000)
LATENCY_S = 12.0
BROKEN_SHARE = 0.5
"""Rejected events are sent so many per good one of the other runs: they take longer."""


class Result:
    """What is measured, as it comes in."""

    def __init__(self, bench: Bench, given: argparse.Namespace) -> None:
        self._bench = bench
        self._given = given
        self._predictions = ""
        self.rates: dict[str, list[float]] = {}
        self.memory_mb: list[float] = []

    def rounds(self, contestants: dict[str, Callable[[], float]], wire: Callable[[], float]) -> list[float]:
        """Run every contestant once per round, in turn, between two runs of the wire.

        Returns:
            The rate of the wire in each round, the mean of the two.
        """
        for _ in range(WARM_UP_RUNS):
            say(f"warm-up: {WIRE} {wire():,.0f} events/s")
        bases: list[float] = []
        for n in range(self._given.rounds):
            around = [self._run(n, WIRE, wire)]
            for name, run in contestants.items():
                self._run(n, name, run)
            around.append(self._run(n, WIRE, wire))
            bases.append(sum(around) / len(around))
        return bases

    def _run(self, n: int, name: str, run: Callable[[], float]) -> float:
        rate = run()
        self.rates.setdefault(name, []).append(rate)
        say(f"round {n + 1}: {name} {rate:,.0f} events/s")
        return rate

    def scorer(self, events: str, total: int, delivery: str = "exactly_once") -> float:
        """Return the rate of one scorer."""
        return self.noted(self._bench.scorer(events, total, KAFKA__DELIVERY=delivery))

    def noted(self, drained: Drained) -> float:
        """Return the rate; remember memory and predictions."""
        self.memory_mb.append(drained.peak_memory_mb)
        self._predictions = drained.predictions
        return drained.events_per_second

    def monitor(self, total: int) -> float:
        """Return the monitor's rate on the predictions of the last scorer."""
        return self._bench.monitor(self._predictions, total).lines_per_second


WARM_UP_RUNS: Final = 4
"""Runs of the wire that do not count: a broker that has just started becomes nearly twice as fast while its
virtual machine compiles what is used most."""

WIRE: Final = "pass-through, transactions"


def main() -> None:
    """Measure and print."""
    given = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    others = Others()
    if given.growth:
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            result = growth.measure(Path(folder), given.events, given.backlog or growth.BACKLOG_EVENTS, say)
    else:
        with tempfile.TemporaryDirectory(prefix="bench-") as folder, available_kafka() as servers:
            result = measure(Bench(servers, Path(folder)), given)
    result |= {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
        "others_ratio": None if os.environ.get(BOOTSTRAP_VARIABLE) else others.ratio(),
    }
    given.json.parent.mkdir(parents=True, exist_ok=True)
    given.json.write_text(json.dumps(result, indent=2) + "\n")
    show = growth_tables if given.growth else tables
    for table in show(result):
        Console().print(table.rich())
    if given.record:
        record = history.record_growth if given.growth else history.record
        record(result)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--events", type=int, help="Events of each run.")
    parser.add_argument("--backlog", type=int, help="Events of the long backlog.")
    parser.add_argument("--quick", action="store_true", help="Throughput only: wire, scorer, monitor.")
    parser.add_argument(
        "--growth", action="store_true", help="More partitions, workers and events instead; takes longer."
    )
    parser.add_argument(
        "--record", action="store_true", help="Append to docs/bench, redraw, and fill docs/performance.md."
    )
    parser.add_argument("--json", type=Path, default=Path("artifacts/bench.json"))
    given = parser.parse_args()
    if given.events is None:
        given.events = growth.EVENTS if given.growth else EVENTS
    if given.record and given.quick:
        parser.error("--record keeps whole runs only, not --quick ones")
    return given


def say(text: str) -> None:
    """Tell how far we are."""
    print(text, file=sys.stderr, flush=True)


def measure(bench: Bench, given: argparse.Namespace) -> dict[str, Any]:
    """Run everything that was asked for."""
    events, total = bench.topic("events"), given.events
    bench.fill(events, total)
    result = Result(bench, given)
    contestants: dict[str, Callable[[], float]] = {
        "scorer, exactly once": lambda: result.scorer(events, total),
        "monitor": lambda: result.monitor(total),
    }
    if not given.quick:
        few = min(total, 60_000)
        fewer_events, broken = bench.topic("events"), bench.topic("events")
        bench.fill(fewer_events, few)
        n_broken = bench.fill(broken, 1, broken_ratio=float(int(total * BROKEN_SHARE)))
        contestants |= {
            "pass-through, transactions, lz4": partial(bench.contestant, "pass_through_lz4", events, total),
            "pass-through, no transactions": partial(bench.contestant, "pass_through", events, total),
            "scorer, at least once": lambda: result.scorer(events, total, "at_least_once"),
            "scorer, all rejected": lambda: bench.scorer(broken, n_broken).events_per_second,
            "two scorers": lambda: result.noted(bench.workers(events, total, 2)),
            "hand-written": lambda: bench.contestant("hand_written", fewer_events, few),
        }
    pass_through = partial(bench.contestant, "pass_through_transactional", events, total)
    pass_through()  # a broker's first transactions are not like the others
    bases = result.rounds(contestants, pass_through)
    wire = result.rates[WIRE]
    measured: dict[str, Any] = {
        "events": total,
        "rounds": given.rounds,
        "events_per_transaction": TRANSACTION_EVENTS,
        "rates": result.rates,
        "ratios_to_wire": {
            name: [rate / base for rate, base in zip(rates, bases, strict=True)]
            for name, rates in result.rates.items()
            if name != WIRE
        },
        "wire_spread": (max(wire) - min(wire)) / (sum(wire) / len(wire)),
    }
    if not given.quick:
        measured |= singles(bench, events, given, result)
    return measured | {"scorer_peak_memory_mb": max(result.memory_mb)}


def singles(bench: Bench, events: str, given: argparse.Namespace, result: Result) -> dict[str, Any]:
    """Run what has no counterpart on the wire, so needs no rounds."""
    say("stages of the core")
    stages = stages_us(bench.model_store)
    say("start-up")
    starts = [start_s(bench) for _ in range(2 * given.rounds)]
    say("side by side")
    both = [bench.both(events, given.events) for _ in range(given.rounds)]
    latency_ms: dict[str, list[dict[str, float]]] = {}
    for rate in LATENCY_RATES * given.rounds:
        say(f"latency at {rate} events/s")
        latency_ms.setdefault(str(rate), []).append(bench.latency_ms(rate, LATENCY_S))
    backlog, n_backlog = bench.topic("events"), given.backlog or 1_000_000
    say(f"a backlog of {n_backlog:,}")
    bench.fill(backlog, n_backlog)
    drained = bench.scorer(backlog, n_backlog)
    result.noted(drained)
    return {
        "stages_us": stages,
        "starts_s": starts,
        "both": both,
        "latency_ms": latency_ms,
        "backlog": {
            "events": n_backlog,
            "events_per_second": drained.events_per_second,
            "peak_memory_mb": drained.peak_memory_mb,
        },
    }


if __name__ == "__main__":
    main()
