"""The model card: the numbers of the version, as one file that loads nothing and runs nothing."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

from consumer.dashboard.model_card import card_view, render_model_card
from model_store.evaluation import wilson_interval
from model_store.manifest import Provenance
from model_store.promotion import Check, judge
from tests.unit.dashboard.test_page import EVIL


class Elements(HTMLParser):
    """Collects the names of elements and of their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        self.names.add(tag)
        self.attributes |= {name for name, _ in attrs}


def test_the_card_shows_the_numbers_of_the_version(trained: Any) -> None:
    """Quality, decisions at the chosen threshold, and slices are those of the store."""
    store, version = trained.store, trained.version
    manifest, evaluation = store.manifest(version), store.evaluation(version)
    view = card_view(manifest, evaluation, judge(store, version))
    chosen = next(row for row in view["thresholds"] if row["chosen"])
    hits, false_alarms = evaluation.curve.counts_at(manifest.threshold.value)
    assert chosen["precision"] == hits / (hits + false_alarms)
    assert chosen["recall_interval"] == wilson_interval(hits, evaluation.curve.positives)
    assert sum(item["rows"] for item in view["slices"] if item["feature"] == "days_on_platform") == (
        manifest.training_data.rows
    )
    page = render_model_card(manifest, evaluation, judge(store, version)).decode()
    assert f"{manifest.metrics.cross_validated.average_precision:.3f}" in page
    points = re.search(r'class="curve" points="([^"]*)"', page)
    assert points is not None
    for point in points[1].split():
        assert all(0 <= float(number) <= 100 for number in point.split(","))


def test_the_card_runs_and_loads_nothing(trained: Any) -> None:
    """It has no script, link or image, and foreign texts stay text."""
    store, version = trained.store, trained.version
    manifest = store.manifest(version)
    data = manifest.training_data.model_copy(update={"source": EVIL})
    hostile = manifest.model_copy(
        update={"training_data": data, "provenance": Provenance(user=EVIL, command=EVIL, parent=EVIL)}
    )
    page = render_model_card(hostile, store.evaluation(version), [Check("data", False, EVIL)])  # noqa: FBT003
    elements = Elements()
    elements.feed(page.decode())
    assert not elements.names & {"script", "link", "img", "iframe", "object", "embed", "b"}
    assert not [name for name in elements.attributes if name.startswith("on") or name in {"style", "src"}]
    assert page.decode().count("&lt;script") >= 4


def test_the_chosen_threshold_is_a_row_of_its_own(trained: Any) -> None:
    """Also where it lies between the rounded ones."""
    manifest = trained.store.manifest(trained.version)
    threshold = manifest.threshold.model_copy(update={"value": 0.1234})
    changed = manifest.model_copy(update={"threshold": threshold})
    view = card_view(changed, trained.store.evaluation(trained.version), [])
    assert [row["threshold"] for row in view["thresholds"]][:3] == [0.1, 0.1234, 0.2]
