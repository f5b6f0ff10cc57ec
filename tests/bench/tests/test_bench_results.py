"""What `make bench` makes of its measurements: rates, verdicts, and the page that they are put on."""

from __future__ import annotations

import copy
import importlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from types import ModuleType

BENCH = Path(__file__).parents[1]
DOCS = Path(__file__).parents[3] / "docs"

RESULT: dict[str, Any] = {
    "at": "2026-01-31T12:00:00+00:00",
    "cores": 2,
    "others_ratio": 0.01,
    "events": 400_000,
    "rounds": 2,
    "wire_spread": 0.05,
    "rates": {
        "pass-through, transactions": [200_000.0, 210_000.0, 200_000.0, 190_000.0],
        "scorer, exactly once": [160_000.0, 180_000.0],
        "monitor": [200_000.0, 200_000.0],
        "hand-written": [20_000.0, 20_000.0],
        "scorer, all rejected": [90_000.0, 90_000.0],
    },
    "ratios_to_wire": {"scorer, exactly once": [0.8, 0.9], "monitor": [1.0, 1.0]},
    "stages_us": {"decode": 0.5, "encode": 1.0},
    "starts_s": [{"model_loaded": 1.0, "first_prediction": 1.2, "resident_mb": 95.0}],
    "both": [{"scorer_events_per_second": 100_000.0, "log_behind_s": 0.5}],
    "latency_ms": {
        "1000": [
            {"p50": 30.0, "p99": 55.0, "p99.9": 60.0},
            {"p50": 31.0, "p99": 45.0, "p99.9": 70.0},
            {"p50": 29.0, "p99": 40.0, "p99.9": 50.0},
        ]
    },
    "backlog": {"events": 1_000_000, "events_per_second": 180_000.0, "peak_memory_mb": 210.0},
    "scorer_peak_memory_mb": 210.0,
}


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return what imports a module of the benchmark; they are scripts, side by side in a folder."""
    monkeypatch.syspath_prepend(BENCH)

    def imported(name: str) -> ModuleType:
        return importlib.import_module(name)

    return imported


def test_rate_is_that_of_the_middle(bench: Any) -> None:
    """A slow start and a slow end do not count: between a tenth and nine tenths it was 100 a second."""
    samples = [(0.0, 0), (50.0, 0), (51.0, 100), (59.0, 900), (99.0, 1000)]
    assert bench("measure").events_per_second(samples, 1000) == pytest.approx(100)


def test_rate_between_looks_at_when_a_level_was_first_seen(bench: Any) -> None:
    """Samples that repeat a level are waiting, and count as such."""
    samples = [(0.0, 0), (1.0, 100), (2.0, 100), (3.0, 100), (4.0, 200)]
    assert bench("measure").rate_between(samples, 100, 200) == pytest.approx(100 / 3)


def test_sample_is_as_late_as_its_answer(bench: Any) -> None:
    """A value that took its time is true of when it came; dated earlier, it would be too fast a rate."""
    began_s = time.monotonic()

    def slow() -> int:
        time.sleep(0.2)
        return 7

    ((at_s, done),) = bench("measure").sampled(slow, 7, 5)
    assert done == 7
    assert at_s - began_s >= 0.2


def test_targets_take_ratios_within_a_round(bench: Any) -> None:
    """Monitor over scorer is 200/160 and 200/180, not the ratio of two medians of different rounds."""
    found = {target.name: target for target in bench("tables").targets(RESULT)}
    assert found["monitor / scorer"].values == pytest.approx([1.25, 200 / 180])
    assert found["scorer / hand-written"].values == pytest.approx([8, 9])
    assert all(target.reached for target in found.values())


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"scorer_peak_memory_mb": 251.0}, "resident memory of a scorer"),
        ({"ratios_to_wire": {"scorer, exactly once": [0.7, 0.7]}}, "scorer / bare wire, both transactional"),
        ({"starts_s": [{"first_prediction": 3.1}]}, "start to first prediction"),
    ],
)
def test_missed_target_is_said(bench: Any, change: dict[str, Any], name: str) -> None:
    """What lies on the wrong side of its bound is marked, and nothing else."""
    rows = bench("tables").tables(RESULT | change)[0].rows
    assert {row[0] for row in rows if row[-1] == "no"} == {name}


@pytest.mark.parametrize("change", [{"wire_spread": 0.3}, {"others_ratio": 0.2}])
def test_noisy_run_gives_no_verdict(bench: Any, change: dict[str, float]) -> None:
    """Where the wire itself varied, or others had much of the machine, nothing is reached or missed."""
    first = bench("tables").tables(RESULT | change)[0]
    assert "to judge by" in first.title
    assert {row[-1] for row in first.rows} == {"?"}


def test_unknown_share_of_others_is_no_noise(bench: Any) -> None:
    """With a broker that is not ours nobody can tell; the wire's spread still can."""
    assert bench("tables").why_noisy(RESULT | {"others_ratio": None}) is None


def test_ended_children_count_as_ours(bench: Any) -> None:
    """A second of CPU of a process that we started and saw the end of is ours, so not others'."""
    noise = bench("spread")
    before_s = noise._ours_s()
    burn = "import time; t = time.process_time()\nwhile time.process_time() < t + 1: pass"
    subprocess.run([sys.executable, "-c", burn], check=True)
    assert 1 <= noise._ours_s() - before_s < 3


def test_others_have_what_is_busy_and_not_ours(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 10 s on two cores, 12 were busy and 9 of these ours: others had 3 of 20."""
    noise = bench("spread")
    now = {"busy": 100.0, "ours": 5.0, "clock": 50.0}
    monkeypatch.setattr(noise, "_busy_s", lambda: now["busy"])
    monkeypatch.setattr(noise, "_ours_s", lambda: now["ours"])
    monkeypatch.setattr(noise.time, "monotonic", lambda: now["clock"])
    monkeypatch.setattr(noise.os, "cpu_count", lambda: 2)
    others = noise.Others()
    now |= {"busy": 112.0, "ours": 14.0, "clock": 60.0}
    assert others.ratio() == pytest.approx(0.15)


def test_record_keeps_history_plot_and_page(
    bench: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Two recorded runs are two lines, a plot, and the tables of the second on the page."""
    history = bench("history")
    page = tmp_path / "performance.md"
    page.write_text("before\n<!-- run: begin -->\nold\n<!-- run: end -->\nafter\n")
    for name, path in {
        "HISTORY": tmp_path / "bench" / "history.jsonl",
        "PLOT": tmp_path / "bench" / "history.svg",
        "PAGE": page,
    }.items():
        monkeypatch.setattr(history, name, path)
    history.record(RESULT)
    second = copy.deepcopy(RESULT) | {"at": "2026-02-01T12:00:00+00:00", "wire_spread": 0.5}
    history.record(second)

    lines = [json.loads(line) for line in history.HISTORY.read_text().splitlines()]
    assert [line["ratios_to_wire"]["scorer, exactly once"] for line in lines] == [0.85, 0.85]
    assert [line["too_noisy"] is not None for line in lines] == [False, True]
    assert history.PLOT.read_text().startswith("<?xml")
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "2026-02-01" in text
    assert "2026-01-31" not in text


@pytest.mark.parametrize("part", ["run", "growth"])
def test_page_has_the_marks(part: str) -> None:
    """The page has one place each for what is recorded."""
    text = (DOCS / "performance.md").read_text()
    begin, end = f"<!-- {part}: begin -->", f"<!-- {part}: end -->"
    assert text.count(begin) == text.count(end) == 1
    assert text.index(begin) < text.index(end)


def test_cluster_is_bound_by_its_scarcest_part(bench: Any) -> None:
    """One scorer is bound by its own CPU; a hundred on three brokers are bound by the brokers."""
    growth = bench("growth")
    cost = {
        "event_bytes": 120.0,
        "prediction_bytes": 180.0,
        "worker_us": 5.0,
        "broker_us": 4.0,
        "monitor_us": 5.0,
    }
    rows = {row[:2]: row[2:] for row in growth.cluster(cost, 0.25)}
    by_scorers, by_brokers, by_network, least, by_monitor, small_batches = rows[1, 3]
    assert by_scorers == least == by_monitor == pytest.approx(0.6 * 200_000)
    assert by_brokers == pytest.approx(3 * 8 * 0.6 / (3 * 4e-6))
    assert by_network == pytest.approx(3 * 1.25e9 * 0.6 / (3 * 120 + 4 * 180))
    assert small_batches == pytest.approx(0.25 * 3 / 24)
    assert rows[16, 6][-1] == pytest.approx(8 * small_batches)
