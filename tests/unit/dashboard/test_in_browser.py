"""The page in a real Chromium, in each of its states: no broker, the views are made here.

With ``SCREENSHOTS=FOLDER`` a picture of each state is written there.
"""

from __future__ import annotations

import base64
import dataclasses
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from consumer.dashboard.records import StoredRecord
from consumer.dashboard.routes import page_routes
from consumer.monitor.outcomes.join import OutcomesSnapshot
from consumer.monitor.outcomes.quality import Comparison, OutcomeSums, QualityVerdict
from consumer.monitor.recent import RecentRejection, RejectionLog
from consumer.monitor.view import challenger_answer
from consumer.runtime.http import HttpServer
from consumer.settings import ChallengerSettings, LinkSettings, Settings, TopicSettings
from model_store.inputs import INPUT_NAMES
from model_store.store import ModelStore
from tests.support.axe import axe_script, violations
from tests.support.browser import EXECUTABLE, Chromium
from tests.support.events import prediction
from tests.unit.dashboard.test_page import (
    EVIL,
    NOW_S,
    View,
    comparison,
    data_of,
    letter,
    model_snapshot,
    view_of,
)

pytestmark = pytest.mark.skipif(EXECUTABLE is None, reason="needs Chromium: apt-get install chromium")

HOSTILE = f"{EVIL}\u202e\0\n{'w' * 100}"
SETTINGS = Settings(links=LinkSettings(grafana="http://grafana:3000/d/purchase-stream"))
LOOKS = {"light": (1200, "light"), "dark-phone": (360, "dark")}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    """One browser for all tests."""
    with Chromium(tmp_path_factory.mktemp("chromium")) as chromium:
        yield chromium


def read_record(topic: str, partition: int, offset: int) -> StoredRecord:
    """Return a record: offset 0 is usual, offset 1 is hostile."""
    raw = base64.b64encode(bytes(range(256)) * 20).decode()
    detail = [
        {"type": "greater_than_equal", "loc": ["event", "minutes_watched"], "msg": "Input should be ≥ 0"}
    ]
    event = {"event_id": "e-1", "student_id": "s-1", "minutes_watched": -3.5}
    usual = letter(code="field_invalid", detail=detail, event=event, raw=raw, raw_sha256="ab" * 32)
    problem = {"type": HOSTILE, "loc": [HOSTILE], "msg": HOSTILE}
    hostile = letter(
        code="field_invalid", detail=[problem], event={HOSTILE: HOSTILE}, raw=raw, source={"topic": HOSTILE}
    )
    predictions = [prediction(), prediction(event_id=HOSTILE[:128], student_id=HOSTILE[:128])]
    values = [usual, hostile] if topic == TopicSettings().dead_letters else predictions
    headers = [("traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"), (HOSTILE, None)]
    return StoredRecord(
        topic=topic,
        partition=partition,
        offset=offset,
        timestamp_ms=int(NOW_S * 1000),
        key=HOSTILE.encode() if offset else b"s-1",
        value=values[offset],
        headers=headers[: 1 + offset],
    )


def find_rejections(_: str) -> list[RecentRejection]:
    """Return a usual and a hostile rejection."""
    rejections = RejectionLog()
    rejections.add([letter(), letter(detail=HOSTILE)], [(0, 0), (0, 1)], counted=[True, True])
    return list(rejections.last)


@pytest.fixture(scope="module")
def serve() -> Iterator[Callable[[View], str]]:
    """A function that serves a view and returns its address."""
    views: list[View] = []
    data = data_of(
        lambda: views[-1],
        read_record,
        window=lambda _: views[-1]["trigger"],
        find_rejections=find_rejections,
    )
    server = HttpServer(page_routes(SETTINGS, data), "127.0.0.1", 0)
    server.start()

    def served(view: View) -> str:
        views.append(view)
        return f"http://127.0.0.1:{server.port}/"

    yield served
    server.stop()


@pytest.fixture(scope="module")
def states(trained: Any, predict: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, View]:
    """A view for each state of the page."""
    store, ms = trained.store, int(NOW_S * 1000) - 60_000
    days = np.argsort(trained.students[:, INPUT_NAMES.index("days_on_platform")])
    letters = tuple(
        letter(detail=f"letter {i}", code=c) for i, c in enumerate(["rule_violated", "field_invalid"] * 9)
    )
    judged = QualityVerdict(
        outcomes=500,
        precision=Comparison(expected=0.5, realised=0.3, tolerated_gap=0.1, decayed=True),
        recall=Comparison(expected=0.6, realised=0.59, tolerated_gap=0.1, decayed=False),
        brier=Comparison(expected=0.07, realised=0.08),
        brier_z=1.0,
    )
    outcomes = OutcomesSnapshot(
        state="on", joined=730, running=OutcomeSums(true_positives=100, true_negatives=130), verdict=judged
    )
    stable = [predict(range(i, i + 700), scored_at_ms=ms + i) for i in range(0, 1400, 700)]
    hostile = letter(
        detail=HOSTILE,
        rejected_at=HOSTILE,
        event={"event_id": HOSTILE, "student_id": HOSTILE},
        source={"topic": HOSTILE},
    )
    states = {
        "no-model": view_of(ModelStore(tmp_path_factory.mktemp("none"), "purchase")),
        "no-data": view_of(store),
        "running": view_of(store, predict(range(50), scored_at_ms=ms)),
        "well": view_of(
            store, *stable, letters=letters, outcomes=dataclasses.replace(outcomes, verdict=None)
        ),
        "drift": view_of(store, *stable, predict(days[-1200:].tolist(), scored_at_ms=ms), letters=letters),
        "decay": view_of(store, *stable, outcomes=outcomes),
        "broker-gone": view_of(store, *stable, broker="no answer from localhost:9092", audit_log="disk full"),
        "hostile": view_of(store, predict(range(600)), letters=(hostile,), broker=HOSTILE),
    }
    foreign = {"student_id": HOSTILE, "event_id": HOSTILE, "model_version": HOSTILE}
    for answer in states.values():
        answer["stream"] |= {"lag_events": 12, "incoming_per_s": 51.3, "decided_per_s": 50.9}
    states["broker-gone"]["stream"] |= dict.fromkeys(("lag_events", "incoming_per_s", "decided_per_s"))
    for state, problem in (("decay", ""), ("hostile", HOSTILE)):
        compared = dataclasses.replace(
            model_snapshot(store), comparisons=(comparison(trained.version, problem),)
        )
        states[state]["challenger"] = challenger_answer(compared, ChallengerSettings())
    predictions = states["hostile"]["predictions"]
    predictions["latest"] = [predictions["latest"][0] | foreign]
    return states


STATES = ["no-model", "no-data", "running", "well", "drift", "decay", "broker-gone", "hostile"]


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("state", STATES)
def test_each_state_is_accessible(
    browser: Chromium,
    serve: Callable[[View], str],
    states: dict[str, View],
    request: pytest.FixtureRequest,
    state: str,
    look: str,
) -> None:
    """Every state fits its screen, breaks no rule of WCAG 2.2 A and AA, and logs no error."""
    check(browser, request, serve(states[state]), look, state)


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize(
    "path",
    [
        "rejections/0/0",
        "rejections/0/1",
        "predictions/0/0",
        "predictions/0/1",
        "windows/5",
        "search?q=s-1",
        "history?hours=6",
    ],
)
def test_each_subpage_is_accessible(
    browser: Chromium,
    serve: Callable[[View], str],
    states: dict[str, View],
    request: pytest.FixtureRequest,
    path: str,
    look: str,
) -> None:
    """The same holds for records, past windows and the search."""
    check(browser, request, serve(states["drift"]) + path, look, re.sub("[/?=]", "-", path))


def check(browser: Chromium, request: pytest.FixtureRequest, url: str, look: str, name: str) -> None:
    """Open a page and check it."""
    script = axe_script(Path(str(request.config.cache.mkdir("axe-core"))))
    width, scheme = LOOKS[look]
    browser.show(width=width, height=900, scheme=scheme)
    browser.complaints.clear()
    browser.open(url)
    assert browser.ask("document.documentElement.scrollWidth") == width
    browser.ask("document.querySelectorAll('details').forEach(d => { d.open = true })")
    assert violations(browser, script) == []
    if folder := os.environ.get("SCREENSHOTS"):
        browser.ask("document.querySelectorAll('details').forEach(d => { d.open = false })")
        browser.screenshot(Path(folder) / f"{name}-{look}.png", whole=True)
    assert browser.complaints == []
    assert browser.ask("document.querySelectorAll('script').length") == 1


def test_an_update_keeps_what_the_reader_did(
    browser: Chromium, serve: Callable[[View], str], states: dict[str, View]
) -> None:
    """An update keeps open details, focus, scroll position and elements that did not change."""
    browser.show(width=360, height=740)
    browser.open(serve(states["well"]))
    browser.ask("document.querySelector('#numbers-score').open = true")
    browser.ask("document.querySelector('#numbers-score summary').focus()")
    browser.ask("document.querySelector('#last-predictions').scrollLeft = 50")
    browser.ask("document.querySelector('#series-score').kept = true")
    serve(states["drift"])
    browser.until("document.querySelector('.headline.warn')")
    assert browser.ask("document.querySelector('article:has(#series-days_on_platform).drift') !== null")
    assert browser.ask("document.querySelector('#numbers-score').open")
    assert browser.ask("document.activeElement.closest('details').id") == "numbers-score"
    assert browser.ask("document.querySelector('#last-predictions').scrollLeft") == 50
    assert browser.ask("document.querySelector('#series-score').kept")
    assert browser.ask("document.querySelector('time').title.length > 20")
    serve(states["no-model"])
    browser.until("document.body.textContent.includes('Nothing to compare with')")
    assert browser.ask("document.querySelectorAll('article').length") == 0


def test_without_javascript_the_page_is_complete(
    browser: Chromium, serve: Callable[[View], str], states: dict[str, View]
) -> None:
    """With scripts switched off every section is there, and nothing pretends to work."""
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(serve(states["drift"]))
        assert browser.ask(
            "document.querySelector('.headline').textContent.includes('needs someone to look')"
        )
        assert browser.ask("document.querySelectorAll('article.series').length") == 9
        assert not browser.ask("document.querySelector('#pause').checkVisibility()")
        time.sleep(0.1)
        assert browser.ask("document.querySelector('time').title") == ""
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)
