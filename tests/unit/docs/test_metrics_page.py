"""docs/metrics.md is a table of every metric, held against the code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from consumer.errors import Condition
from consumer.monitor.health import CauseCode, Health, Level
from consumer.monitor.metrics import ChallengerTelemetry, HealthTelemetry, MonitorTelemetry
from consumer.monitor.stream_status import StreamSnapshot
from consumer.roles.shared import role_registry
from consumer.runtime.readiness import Readiness
from consumer.scorer.metrics import ScorerTelemetry
from consumer.serve.metrics import HttpTelemetry
from consumer.settings import DriftSettings

PAGE = Path(__file__).parents[3] / "docs" / "metrics.md"
Row = tuple[str, str, str, str]


def rows_of(registry: CollectorRegistry) -> list[Row]:
    """Return name, type, labels and help text of every family, in their order."""
    rows: list[Row] = []
    for collector in list(registry._collector_to_names):
        own_labels: Any = getattr(collector, "_labelnames", None)
        for family in collector.collect():
            if family.name.endswith("_created"):
                continue
            name = family.name + ("_total" if family.type == "counter" else "")
            labels = family._labelnames if own_labels is None else own_labels  # type: ignore[attr-defined]
            text = ", ".join(f"`{label}`" for label in labels)
            rows.append((f"`{name}`", family.type, text, family.documentation))
    return rows


def rows_below(heading: str) -> list[Row]:
    """Return the rows of the table below a heading of the page."""
    section = PAGE.read_text().split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("| `")]
    return [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines]  # type: ignore[misc]


def test_the_page_lists_the_metrics_of_every_role() -> None:
    """Name, type, labels and text of the metrics that every role has match the code."""
    rows = rows_of(role_registry(Readiness(lambda: 0.0)))
    assert rows_below("Every role") == [row for row in rows if row[0].startswith("`purchase_stream_")]


def test_the_page_lists_every_condition_and_cause() -> None:
    """The label values of conditions and causes on the page are those in the code."""
    text = PAGE.read_text()
    assert [name for name in Condition if f"`{name}`" not in text] == []
    assert [code for code in CauseCode if f"`{code}`" not in text] == []


@pytest.mark.parametrize("role", ["score", "monitor", "serve"])
def test_the_page_lists_exactly_the_metrics_that_there_are(role: str) -> None:
    """Name, type, labels and text of each metric stand in the table as they stand in the code."""
    registry = CollectorRegistry()
    if role == "score":
        ScorerTelemetry(registry)
    elif role == "serve":
        HttpTelemetry(registry)
    else:
        MonitorTelemetry(registry, DriftSettings())
        health = Health(level=Level.WELL, headline="All is well")
        registry.register(HealthTelemetry(lambda: health, StreamSnapshot, "events"))
        registry.register(ChallengerTelemetry(lambda: ()))
    assert rows_below(f"`{role}`") == rows_of(registry)


def test_names_say_the_unit_and_texts_end_as_sentences() -> None:
    """Every metric has our prefix, counters end in _total, and every text is a sentence."""
    for name, kind, _, text in [*rows_below("`score`"), *rows_below("`monitor`"), *rows_below("`serve`")]:
        assert name.startswith("`purchase_stream_")
        assert (kind == "counter") == name.endswith("_total`")
        assert text.endswith(".")
