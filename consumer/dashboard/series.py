"""One series against training as a card: verdict, picture, evidence, numbers. Pure.

The page and the report draw the same cards.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final
from xml.etree import ElementTree as ET

from consumer.dashboard.charts import gauge, shares
from consumer.dashboard.markup import Child, number, percent, scrolling, table, tag
from consumer.monitor.drift.verdict import DriftStatus, RateVerdict, SeriesVerdict, WindowVerdict
from consumer.monitor.drift.window import SCORE
from model_store.baseline import Baseline, CountryBins, NumericBins
from model_store.inputs import INPUT_NAMES, INTEGER_INPUTS

_BADGES: Final = {
    DriftStatus.OK: ("✓", "as in training"),
    DriftStatus.DRIFT: ("▲", "drifted"),
    DriftStatus.UNKNOWN: ("○", "not judged yet"),
}
_UNITS: Final = {"minutes_watched": " min", "minutes_spent_on_exams": " min", "days_on_platform": " days"}


def title(name: str) -> str:
    """Return a series' name for people: ``Days on platform``."""
    return name.replace("_", " ").capitalize()


def badge(status: DriftStatus, text: str = "") -> ET.Element:
    """Return a status as sign and words; its colour only repeats them."""
    sign, words = _BADGES[status]
    mark = tag("span", sign, aria_hidden="true")
    return tag("span", mark, f" {text or words}", class_=f"badge {status}")


def legend() -> ET.Element:
    """Say which bars are which."""
    return tag(
        "p",
        tag("span", tag("i", class_="swatch live", aria_hidden="true"), " live"),
        tag("span", tag("i", class_="swatch training", aria_hidden="true"), " training"),
        tag("span", "share of students per bin"),
        class_="legend",
    )


def series_cards(
    window: WindowVerdict | None, baseline: Baseline, *, open_numbers: bool = False
) -> Iterator[ET.Element]:
    """Yield a card for the decision, the score and each input.

    Args:
        window: what is shown; ``None`` shows training alone.
        baseline: training.
        open_numbers: whether the table of each card is open, as on paper nobody can open it.
    """
    yield _rate_card(window.rate if window else None, baseline)
    yield _card(SCORE, window.score if window else None, baseline.score, open_numbers=open_numbers)
    for name in INPUT_NAMES:
        verdict = window.features[name] if window else None
        yield _card(name, verdict, baseline.features[name], open_numbers=open_numbers)


def bin_ranges(name: str, bins: NumericBins | CountryBins) -> list[str]:
    """Return what falls into each bin: ``0``, ``1 to 3``, ``≤ 12``, ``> 40``; countries as they are."""
    if isinstance(bins, CountryBins):
        return list(bins.labels)
    show = _percentage if name == SCORE else number
    if not bins.edges:
        return ["all"]
    inner = []
    for lower, upper in zip(bins.edges, bins.edges[1:], strict=False):
        if name not in INTEGER_INPUTS:
            inner.append(f"{show(lower)} to {show(upper)}")
        else:
            inner.append(number(upper) if upper == lower + 1 else f"{number(lower + 1)} to {number(upper)}")
    first = "0" if bins.labels[0] == "zero" else f"≤ {show(bins.edges[0])}"
    return [first, *inner, f"> {show(bins.edges[-1])}"]


def _card(
    name: str, verdict: SeriesVerdict | None, bins: NumericBins | CountryBins, *, open_numbers: bool
) -> ET.Element:
    n = verdict.observations if verdict else 0
    training = bins.ratios.tolist()
    live = [count / n for count in verdict.counts] if verdict and n else None
    ranges = bin_ranges(name, bins)
    rows: list[list[Child]] = [
        [label, percent(live[i] if live else None), percent(training[i])] for i, label in enumerate(ranges)
    ]
    status = verdict.status if verdict else DriftStatus.UNKNOWN
    return tag(
        "article",
        tag("h3", title(name), " ", badge(status), id=f"series-{name}"),
        tag(
            "figure",
            shares(live, training, _summary(name, ranges, live, training)),
            tag("figcaption", tag("span", ranges[0]), tag("span", _last(ranges, bins)), class_="axis"),
        ),
        *(_evidence(name, verdict, bins) if verdict and n else ()),
        tag(
            "details",
            tag("summary", "Numbers", aria_label=f"Numbers of {title(name)}"),
            scrolling(
                table(f"{title(name)}: share per bin", ["Bin", "Live", "Training"], rows),
                f"bins-{name}",
                f"Bins of {title(name)}",
            ),
            id=f"numbers-{name}",
            open=open_numbers,
        ),
        class_=f"series {status}",
        aria_labelledby=f"series-{name}",
    )


def _last(ranges: list[str], bins: NumericBins | CountryBins) -> str:
    """Say what stands on the right; of countries the last two, or the others would pass for unknown."""
    return ranges[-1] if isinstance(bins, NumericBins) else ", ".join(ranges[-2:])


def _summary(name: str, ranges: list[str], live: list[float] | None, training: list[float]) -> str:
    if live is None:
        return f"{title(name)}: the shares in training; no student yet"
    differences = [abs(now - then) for now, then in zip(live, training, strict=True)]
    i = differences.index(max(differences))
    return (
        f"{title(name)}: share of students per bin, live and in training. They differ most at"
        f" {ranges[i]}: {percent(live[i])} live, {percent(training[i])} in training."
    )


def _evidence(
    name: str, verdict: SeriesVerdict, bins: NumericBins | CountryBins
) -> Iterator[ET.Element | None]:
    if verdict.psi is not None and verdict.threshold is not None:
        words = f"PSI {number(verdict.psi)}; drift above {number(verdict.threshold)}"
        yield gauge(verdict.psi, verdict.threshold, words)
        yield tag("p", words, class_="evidence")
    if isinstance(bins, NumericBins) and verdict.mean_shift_sd is not None:
        show = percent if name == SCORE else number
        live = bins.mean + verdict.mean_shift_sd * bins.sd
        unit = _UNITS.get(name, "")
        yield tag(
            "p",
            f"Mean {show(live)}{unit}, in training {show(bins.mean)}{unit} (z {verdict.mean_shift_sd:+.2f})",
            class_="evidence",
        )


def _percentage(ratio: float) -> str:
    """Return a score near 0 to three digits, too, where :func:`percent` would say 0.0 %."""
    return f"{number(100 * ratio)}\N{NO-BREAK SPACE}%"


def _rate_card(rate: RateVerdict | None, baseline: Baseline) -> ET.Element:
    """Draw the share of predicted purchases as two numbers; a picture of two bars says less."""
    status = rate.status if rate else DriftStatus.UNKNOWN
    live, training = rate.predicted_positive_ratio if rate else None, baseline.predicted_positive_ratio
    evidence: list[ET.Element] = []
    if rate and live is not None and rate.threshold is not None:
        difference = abs(live - training)
        words = f"{100 * difference:.1f} points apart; drift above {100 * rate.threshold:.1f}"
        evidence = [gauge(difference, rate.threshold, words), tag("p", words, class_="evidence")]
    return tag(
        "article",
        tag("h3", "Predicted purchases ", badge(status), id="series-rate"),
        tag(
            "dl",
            tag("div", tag("dt", "Live"), tag("dd", percent(live))),
            tag("div", tag("dt", "Training"), tag("dd", percent(training))),
            class_="pair",
        ),
        *evidence,
        class_=f"series {status}",
        aria_labelledby="series-rate",
    )
