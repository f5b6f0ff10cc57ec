"""What is kept of a run in the repository: a line of history, a plot, and the tables on the page."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from tables import Table, growth_tables, tables, targets, why_noisy

DOCS: Final = Path(__file__).parents[2] / "docs"
HISTORY: Final = DOCS / "bench" / "history.jsonl"
GROWTH: Final = DOCS / "bench" / "growth.json"
PLOT: Final = DOCS / "bench" / "history.svg"
PAGE: Final = DOCS / "performance.md"


def record(result: dict[str, Any]) -> None:
    """Append a whole run to the history, redraw the plot, and put the run's tables on the page."""
    HISTORY.parent.mkdir(exist_ok=True)
    with HISTORY.open("a") as history:
        history.write(json.dumps(_line(result), ensure_ascii=False) + "\n")
    runs = [json.loads(line) for line in HISTORY.read_text().splitlines()]
    _draw(runs)
    fill_page("run", result["at"], tables(result))


def record_growth(result: dict[str, Any]) -> None:
    """Keep the last growth run, and put its tables on the page."""
    GROWTH.parent.mkdir(exist_ok=True)
    GROWTH.write_text(json.dumps(result, indent=2) + "\n")
    fill_page("growth", result["at"], growth_tables(result))


def _line(result: dict[str, Any]) -> dict[str, Any]:
    """Return what is kept of a run: medians, and how far they can be trusted."""
    return {
        "at": result["at"],
        "cores": result["cores"],
        "events": result["events"],
        "rounds": result["rounds"],
        "too_noisy": why_noisy(result),
        "wire_spread": round(result["wire_spread"], 3),
        "others_ratio": None if result["others_ratio"] is None else round(result["others_ratio"], 3),
        "targets": {target.name: round(statistics.median(target.values), 3) for target in targets(result)},
        "ratios_to_wire": {
            name: round(statistics.median(ratios), 3) for name, ratios in result["ratios_to_wire"].items()
        },
        "stages_us": {name: round(value, 3) for name, value in result["stages_us"].items()},
        "latency_ms": {
            rate: {p: round(statistics.median(at[p] for at in rounds), 1) for p in rounds[0]}
            for rate, rounds in result["latency_ms"].items()
        },
    }


def _draw(runs: list[dict[str, Any]]) -> None:
    """Draw how the ratios have moved from run to run; noisy runs are hollow."""
    import matplotlib as mpl  # noqa: PLC0415 - takes a second, and only this needs it

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "bench"  # the same runs, the same bytes
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, axes = plt.subplots(figsize=(9, 4.5), layout="constrained")
    numbers = range(1, len(runs) + 1)
    for name in runs[-1]["ratios_to_wire"]:
        # A gap where a run did not have this one yet.
        values = [run["ratios_to_wire"].get(name, math.nan) for run in runs]
        (line,) = axes.plot(numbers, values, label=name)
        for n, run, value in zip(numbers, runs, values, strict=True):
            face = "white" if run["too_noisy"] else line.get_color()
            axes.plot(n, value, marker="o", color=line.get_color(), markerfacecolor=face)
    axes.axhline(1, color="grey", linewidth=0.8, linestyle="dashed")
    axes.set_xticks(list(numbers), [run["at"][:10] for run in runs], rotation=30, ha="right")
    axes.set_ylim(bottom=0)
    axes.set_ylabel("of the bare wire with transactions")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    figure.savefig(PLOT, metadata={"Date": None})
    plt.close(figure)


def fill_page(part: str, at: str, found: Sequence[Table]) -> None:
    """Put tables between the two marks of a part of the page."""
    begin, end = f"<!-- {part}: begin -->", f"<!-- {part}: end -->"
    before, _, rest = PAGE.read_text().partition(begin)
    _, _, after = rest.partition(end)
    body = "\n\n".join([f"Run of {at[:10]}.", *(table.markdown() for table in found)])
    PAGE.write_text(f"{before}{begin}\n\n{body}\n\n{end}{after}")
