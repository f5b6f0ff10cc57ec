"""``make bench``: the scorer against the bare wire and against what somebody would write instead.

Everything runs on one real broker on this machine, interleaved, several rounds; ratios are taken
within a round and their medians reported. Absolute figures say more about the machine than about us.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import Bench
from contestants import TRANSACTION_EVENTS
from rich.console import Console
from rich.table import Table

from consumer.demo.available_kafka import available_kafka

TOO_NOISY = 0.25
"""Spread of the bare wire's own rate over the rounds, (max - min) / median: above it, no verdict."""


def rounds(n_rounds: int, contestants: dict[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Run every contestant once per round, in turn."""
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    for n in range(n_rounds):
        for name, run in contestants.items():
            rates[name].append(run())
            print(f"round {n + 1}: {name} {rates[name][-1]:,.0f} events/s", file=sys.stderr, flush=True)
    return rates


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--events", type=int, default=400_000)
    arguments.add_argument("--backlog", type=int, default=1_000_000)
    arguments.add_argument("--quick", action="store_true", help="Throughput only.")
    arguments.add_argument("--json", type=Path, default=Path("artifacts/bench.json"))
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, available_kafka() as servers:
        bench = Bench(servers, Path(folder))
        result = measure(bench, given)
    given.json.parent.mkdir(parents=True, exist_ok=True)
    given.json.write_text(json.dumps(result, indent=2) + "\n")
    show(result)


def measure(bench: Bench, given: argparse.Namespace) -> dict[str, Any]:
    """Run everything that was asked for."""
    events, total = bench.topic("events"), given.events
    bench.fill(events, total)
    predictions: list[str] = []
    memory_mb: list[float] = []

    def scorer(**settings: str) -> float:
        rate, peak, topic = bench.scorer(events, total, **settings)
        predictions.append(topic)
        memory_mb.append(peak)
        return rate

    contestants: dict[str, Callable[[], float]] = {
        "pass-through, transactions": lambda: bench.contestant("pass_through_transactional", events, total),
        "scorer, exactly once": scorer,
        "monitor": lambda: bench.monitor(predictions[-1], total),
    }
    if not given.quick:
        few = min(total, 60_000)
        fewer_events = bench.topic("events")
        bench.fill(fewer_events, few)
        broken = bench.topic("events")
        n_broken = bench.fill(broken, 1, broken_ratio=float(total // 2))
        contestants |= {
            "pass-through, no transactions": lambda: bench.contestant("pass_through", events, total),
            "scorer, at least once": lambda: scorer(KAFKA__DELIVERY="at_least_once"),
            "scorer, all rejected": lambda: bench.scorer(broken, n_broken)[0],
            "scorer, two workers": lambda: bench.scorer(events, total, workers=2)[0],
            "hand-written": lambda: bench.contestant("hand_written", fewer_events, few),
        }
    rates = rounds(given.rounds, contestants)
    wire = rates["pass-through, transactions"]
    ratios = {
        name: [rate / base for rate, base in zip(values, wire, strict=True)] for name, values in rates.items()
    }
    result: dict[str, Any] = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
        "events": total,
        "events_per_transaction": TRANSACTION_EVENTS,
        "rates": rates,
        "ratios_to_wire": ratios,
        "wire_spread": (max(wire) - min(wire)) / statistics.median(wire),
        "scorer_peak_memory_mb": max(memory_mb),
    }
    if not given.quick:
        result["both"] = bench.both(events, total)
        result["latency_ms"] = {str(rate): bench.latency_ms(rate, 10) for rate in (100, 1000, 10_000)}
        backlog = bench.topic("events")
        bench.fill(backlog, given.backlog)
        rate, peak, _ = bench.scorer(backlog, given.backlog)
        result["backlog"] = {"events": given.backlog, "events_per_second": rate, "peak_memory_mb": peak}
    return result


def show(result: dict[str, Any]) -> None:
    """Print the result as tables."""
    console = Console()
    table = Table("what", "events/s (median)", "of the wire (median)", "min … max")
    for name, values in result["rates"].items():
        ratios = result["ratios_to_wire"][name]
        table.add_row(
            name,
            f"{statistics.median(values):,.0f}",
            f"{statistics.median(ratios):.2f}",
            f"{min(ratios):.2f} … {max(ratios):.2f}",
        )
    console.print(table)
    if "latency_ms" in result:
        latency = Table("produced → readable at", "p50 ms", "p99 ms", "p99.9 ms")
        for rate, at in result["latency_ms"].items():
            latency.add_row(f"{rate} events/s", *(f"{at[p]:.1f}" for p in ("p50", "p99", "p99.9")))
        console.print(latency)
        both = result["both"]
        console.print(
            f"scorer and monitor side by side: {both['scorer_events_per_second']:,.0f} events/s, "
            f"the audit log complete {both['log_behind_s']:.1f} s after the last commit"
        )
        backlog = result["backlog"]
        console.print(
            f"backlog of {backlog['events']:,}: {backlog['events_per_second']:,.0f} events/s, "
            f"peak {backlog['peak_memory_mb']:.0f} MB"
        )
    console.print(f"scorer's peak memory: {result['scorer_peak_memory_mb']:.0f} MB")
    if result["wire_spread"] > TOO_NOISY:
        console.print(
            f"The bare wire itself varied by {result['wire_spread']:.0%} between rounds: "
            "this machine was too noisy to judge small differences."
        )


if __name__ == "__main__":
    main()
