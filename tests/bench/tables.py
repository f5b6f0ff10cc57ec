"""Results as tables, for the terminal and for ``docs/performance.md``."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import rich.table

TOO_NOISY: Final = 0.25
"""Spread of the wire's own rate over a run, (max - min) / mean: above it, no verdict."""

TOO_BUSY: Final = 0.1
"""Share of all cores that others have had during a run: above it, no verdict."""


@dataclass(frozen=True, slots=True)
class Table:
    """A title, a head and rows of text."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def rich(self) -> rich.table.Table:
        """Return it for a terminal."""
        table = rich.table.Table(*self.head, title=self.title, title_justify="left")
        for row in self.rows:
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        """Return it for a page."""
        lines = [self.head, ["---"] * len(self.head), *self.rows]
        return "\n".join([f"**{self.title}**", "", *(f"| {' | '.join(line)} |" for line in lines)])


@dataclass(frozen=True, slots=True)
class Target:
    """What must be reached.

    Attributes:
        name: Of the measure.
        values: As measured, one or more; the median counts.
        bound: At least this or, if ``at_most``, at most.
        form: How a value is written.
    """

    name: str
    values: Sequence[float]
    bound: float
    at_most: bool = False
    form: str = "{:.2f}"

    @property
    def reached(self) -> bool:
        """Whether the median is on the right side."""
        value = statistics.median(self.values)
        return value <= self.bound if self.at_most else value >= self.bound

    def row(self) -> list[str]:
        """Return it as a row."""
        limit = f"{'at most' if self.at_most else 'at least'} {self.form.format(self.bound)}"
        value = self.form.format(statistics.median(self.values))
        return [
            self.name,
            value,
            _spread(self.values, self.form) if len(self.values) > 1 else "",
            limit,
            "yes" if self.reached else "no",
        ]


def why_noisy(result: dict[str, Any]) -> str | None:
    """Say why a run is not to be judged by, or nothing if it may be."""
    if result["wire_spread"] > TOO_NOISY:
        return (
            f"the bare wire itself varied by {result['wire_spread']:.0%}; "
            "this machine was too noisy to judge by"
        )
    others = result["others_ratio"]  # unknown where the broker is not ours
    if others is not None and others > TOO_BUSY:
        return f"other programs had {others:.0%} of the cores; this machine was too noisy to judge by"
    return None


def targets(result: dict[str, Any]) -> list[Target]:
    """Return every target that the run measured."""
    rates, to_wire = result["rates"], result["ratios_to_wire"]

    def against(name: str, other: str) -> list[float]:
        return [a / b for a, b in zip(rates[name], rates[other], strict=True)]

    scorer = "scorer, exactly once"
    found = [
        Target("scorer / bare wire, both transactional", to_wire[scorer], 0.75),
        Target("monitor / scorer", against("monitor", scorer), 1.0),
    ]
    if "latency_ms" in result:
        p99_ms = [at["p99"] for at in result["latency_ms"]["1000"]]
        starts_s = [start["first_prediction"] for start in result["starts_s"]]
        found += [
            Target("scorer / hand-written", against(scorer, "hand-written"), 4.0, form="{:.1f}"),
            Target("all rejected / good traffic", against("scorer, all rejected", scorer), 0.5),
            Target("p99 produced → readable at 1,000 events/s", p99_ms, 50, at_most=True, form="{:.0f} ms"),
            Target("start to first prediction", starts_s, 3, at_most=True, form="{:.1f} s"),
        ]
    memory_mb = [result["scorer_peak_memory_mb"]]
    return [*found, Target("resident memory of a scorer", memory_mb, 250, at_most=True, form="{:.0f} MB")]


def tables(result: dict[str, Any]) -> list[Table]:
    """Return a whole run as tables; the first says what is reached, if the run may be judged by."""
    noise = why_noisy(result)
    verdicts = [target.row() for target in targets(result)]
    title = "Targets"
    if noise is not None:
        title, verdicts = f"Targets: {noise}", [[*row[:-1], "?"] for row in verdicts]
    found = [
        Table(title, ["measure", "median", "min … max", "target", "reached"], verdicts),
        Table(
            f"Rates: backlogs of {result['events']:,} events, {result['rounds']} rounds, "
            f"{result['cores']} cores shared with the broker; the wire varied by {result['wire_spread']:.0%}",
            ["what", "events/s, median", "of the wire, median", "min … max"],
            [_rate_row(name, result) for name in result["rates"]],
        ),
    ]
    return found + _single_tables(result) if "latency_ms" in result else found


def _rate_row(name: str, result: dict[str, Any]) -> list[str]:
    median = f"{statistics.median(result['rates'][name]):,.0f}"
    ratios = result["ratios_to_wire"].get(name)
    if ratios is None:
        return [name, median, "1", ""]
    return [name, median, f"{statistics.median(ratios):.2f}", _spread(ratios, "{:.2f}")]


def _spread(values: Sequence[float], form: str) -> str:
    return f"{form.format(min(values))} … {form.format(max(values))}"


def _latency_row(rate: str, rounds: list[dict[str, float]]) -> list[str]:
    row = [f"{int(rate):,}"]
    for percentile in ("p50", "p99", "p99.9"):
        values = [at[percentile] for at in rounds]
        row.append(f"{statistics.median(values):.0f} ({_spread(values, '{:.0f}')})")
    return row


def _single_tables(result: dict[str, Any]) -> list[Table]:
    both, backlog = result["both"], result["backlog"]
    together = (
        f"{statistics.median(one['scorer_events_per_second'] for one in both):,.0f} events/s, the audit "
        f"log complete {statistics.median(one['log_behind_s'] for one in both):.1f} s after the last commit"
    )
    long = f"a backlog of {backlog['events']:,}"
    drained = f"{backlog['events_per_second']:,.0f} events/s, at most {backlog['peak_memory_mb']:.0f} MB"
    starts = {
        name: [start[name] for start in result["starts_s"] if name in start] for name in result["starts_s"][0]
    }
    idle_mb = starts.pop("resident_mb", [])
    idle = (
        [["a scorer after its first prediction", f"{statistics.median(idle_mb):.0f} MB"]] if idle_mb else []
    )
    return [
        Table(
            "The core alone, µs per event",
            list(result["stages_us"]),
            [[f"{value:.2f}" for value in result["stages_us"].values()]],
        ),
        Table(
            "From produced to readable by a read_committed reader: medians of the rounds, min … max",
            ["events/s", "p50 ms", "p99 ms", "p99.9 ms"],
            [_latency_row(rate, rounds) for rate, rounds in result["latency_ms"].items()],
        ),
        Table(
            "Seconds from exec of the scorer",
            ["to", "median", "min … max"],
            [
                [name.replace("_", " "), f"{statistics.median(at):.2f}", _spread(at, "{:.2f}")]
                for name, at in starts.items()
            ],
        ),
        Table(
            "And",
            ["what", "result"],
            [*idle, ["scorer and monitor side by side", together], [long, drained]],
        ),
    ]


def growth_tables(result: dict[str, Any]) -> list[Table]:
    """Return a growth run as tables."""
    backlog, cost = result["backlog"], result["cost"]
    months = backlog["months"]
    return [
        Table(
            "One scorer, more partitions",
            ["partitions", "events/s", "scorer µs CPU per event", "broker µs CPU per event"],
            [
                [
                    str(row["partitions"]),
                    f"{row['rate']:,.0f}",
                    f"{row['worker_us']:.1f}",
                    f"{row['broker_us']:.1f}",
                ]
                for row in result["partitions"]
            ],
        ),
        Table(
            f"More scorers, 8 partitions, {result['cores']} cores shared with the broker",
            ["scorers", "events/s", "scorers' µs CPU per event", "broker µs CPU per event", "cores in use"],
            [
                [
                    str(row["workers"]),
                    f"{row['rate']:,.0f}",
                    f"{row['worker_us']:.1f}",
                    f"{row['broker_us']:.1f}",
                    f"{row['cores_in_use']:.1f}",
                ]
                for row in result["workers"]
            ],
        ),
        Table(
            f"A backlog of {backlog['events']:,}, tenth by tenth",
            ["tenth", *(str(n + 1) for n in range(len(backlog["rates"])))],
            [
                ["thousand events/s", *(f"{rate / 1000:,.0f}" for rate in backlog["rates"])],
                ["MB resident", *(f"{mb:.0f}" for mb in backlog["memory_mb"])],
            ],
        ),
        Table(
            f"Restarts with {backlog['events']:,} events and predictions in the topics, "
            f"{months['log_bytes'] / 1e9:.1f} GB of audit log, {months['versions']} model versions",
            ["from exec", "seconds"],
            [
                ["of a scorer to its first prediction", f"{months['scorer_restart_s']:.1f}"],
                ["of the monitor to its next line in the log", f"{months['monitor_restart_s']:.1f}"],
            ],
        ),
        Table(
            "Cost of one event",
            ["what", "measured"],
            [
                ["event, uncompressed", f"{cost['event_bytes']:.0f} bytes"],
                ["prediction, uncompressed", f"{cost['prediction_bytes']:.0f} bytes"],
                ["CPU of a scorer", f"{cost['worker_us']:.1f} µs"],
                ["CPU of the monitor", f"{cost['monitor_us']:.1f} µs"],
                ["CPU of the broker, one replica", f"{cost['broker_us']:.1f} µs"],
            ],
        ),
        Table(
            "One scorer that keeps up with a steady stream",
            ["events/s", "transactions/s", "cores of the scorer", "cores of the broker"],
            [
                [
                    f"{row['rate']:,.0f}",
                    f"{row['transactions_per_s']:.0f}",
                    f"{row['scorer_cores']:.2f}",
                    f"{row['broker_cores']:.2f}",
                ]
                for row in result["trickles"]
            ],
        ),
        Table(
            "On paper: events/s that each part would bear",
            [
                "scorers",
                "brokers",
                "scorers' CPU",
                "brokers' CPU",
                "brokers' network",
                "least of these",
                "one monitor",
                "brokers' CPU for small batches",
            ],
            [[*(f"{value:,.0f}" for value in row[:-1]), f"{row[-1]:.0%}"] for row in result["cluster"]],
        ),
    ]
