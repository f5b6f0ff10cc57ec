"""The page in a real Chromium, over a real monitor and a real Kafka.

``SCREENSHOTS=docs/images`` renews the pictures of the documentation.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from consumer.embedded_kafka.broker import EmbeddedKafka, free_port
from consumer.kafka.admin import ClusterAdmin, TopicSpec
from consumer.settings import KafkaSettings, Settings, TopicSettings
from consumer.simulator.producer import EventProducer
from model_store.synthetic import generate_students
from tests.support.browser import EXECUTABLE, Chromium
from tests.support.events import STUDENT

pytestmark = [
    pytest.mark.broker,
    pytest.mark.skipif(EXECUTABLE is None, reason="needs Chromium: apt-get install chromium"),
]

TAB = ("Tab", 9)
ENTER = ("Enter", 13)
CONTROLS = "[...document.querySelectorAll('a[href], button, summary, [tabindex=\"0\"]')]"
VISIBLE = f"{CONTROLS}.filter(e => e.checkVisibility())"

EVENTS_IN, LAG = (f"document.querySelector('.tiles > div:nth-child({n}) strong').textContent" for n in (1, 2))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    """One browser for all tests."""
    with Chromium(tmp_path_factory.mktemp("chromium")) as chromium:
        yield chromium


@pytest.fixture(autouse=True)
def quiet(browser: Chromium) -> None:
    """Start each test without complaints."""
    browser.open("about:blank#")
    browser.complaints.clear()


def picture(
    browser: Chromium, name: str, *, width: int = 1200, height: int = 1500, scheme: str = "light"
) -> None:
    """Take a picture for the documentation, if ``SCREENSHOTS`` is set."""
    folder = os.environ.get("SCREENSHOTS")
    if folder:
        browser.show(width=width, height=height, scheme=scheme)
        time.sleep(0.3)
        browser.screenshot(Path(folder) / f"{name}.png")


def start_monitor(deployment: Any, **environment: str) -> tuple[str, Any]:
    """Start a monitor, wait until it answers, and return its address and process."""
    port = free_port()
    process = deployment.start("monitor", PURCHASE_STREAM_HTTP__MONITOR_PORT=str(port), **environment)
    url = f"http://127.0.0.1:{port}/"
    deadline_s = time.monotonic() + 60
    while True:
        try:
            httpx.get(url)
        except httpx.TransportError:
            assert time.monotonic() < deadline_s, deployment.logs()
            assert process.poll() is None, deployment.logs()
            time.sleep(0.1)
        else:
            return url, process


def send(deployment: Any, n: int, *, seed: int, more_days: float = 0.0, rate: float | None = None) -> None:
    """Send one event for each of n students. Some events are broken."""
    topics = deployment.topics
    settings = Settings(
        kafka=KafkaSettings(bootstrap_servers=deployment.servers),
        topics=TopicSettings(events=topics["EVENTS"], predictions=topics["PREDICTIONS"]),
    )
    students = generate_students(n, seed=seed)
    inputs = np.asfortranarray(students.inputs)
    inputs[:, 1] += more_days
    EventProducer(
        settings, dataclasses.replace(students, inputs=inputs), count=n, broken_ratio=0.03, rate=rate
    ).run()


def test_the_page_follows_the_stream(browser: Chromium, deploy: Callable[..., Any]) -> None:
    """The page updates by itself with traffic, with drift, and when the monitor ends."""
    deployment = deploy()
    deployment.start("score")
    url, monitor = start_monitor(deployment)
    browser.show()
    browser.open(url)
    browser.ask("window.notReloaded = true")
    browser.until("document.body.textContent.includes('No prediction of this model has been seen')")

    send(deployment, 2400, seed=11, rate=400)
    browser.until("document.body.textContent.includes('Window 2: 1,000 different students')", 90)
    browser.until("document.querySelectorAll('#last-rejections tbody tr').length === 10")
    assert browser.ask("document.querySelectorAll('#last-predictions tbody tr').length") == 10
    assert browser.ask("document.querySelectorAll('.badge.ok').length") >= 9
    assert browser.ask("document.querySelector('.headline').textContent").strip().endswith("All is well")
    assert "well" in browser.ask("document.title")
    assert browser.ask("[...document.querySelectorAll('time')].every(t => t.title)")
    picture(browser, "page-normal")
    picture(browser, "page-dark-phone", width=400, height=1100, scheme="dark")

    browser.show()
    browser.ask("document.querySelector('#numbers-score').open = true")
    send(deployment, 2600, seed=12, more_days=60, rate=900)
    browser.until("document.querySelector('article:has(#series-days_on_platform).drift')")
    browser.until("document.querySelector('.headline.warn')")
    drifted = browser.ask("[...document.querySelectorAll('.series.drift h3')].map(h => h.id)")
    assert set(drifted) - {"series-score", "series-rate"} == {"series-days_on_platform"}
    assert "Days on platform" in browser.ask("document.querySelector('#health').textContent")
    assert browser.ask("document.querySelector('#numbers-score').open")
    browser.ask("document.querySelector('#numbers-score').open = false")
    picture(browser, "page-drift")

    assert browser.ask("window.notReloaded")
    assert browser.complaints == []
    monitor.send_signal(signal.SIGTERM)
    browser.until("document.querySelector('#connection').textContent.includes('has not answered since')")
    assert browser.ask("document.body.classList.contains('lost')")


def test_the_page_is_for_everybody(browser: Chromium, deploy: Callable[..., Any]) -> None:
    """The page fits a phone, follows the colour scheme, and works with the keyboard alone."""
    deployment = deploy()
    deployment.start("score")
    url, _ = start_monitor(deployment)
    send(deployment, 300, seed=13)
    browser.show(width=360, height=740)
    browser.open(url)
    browser.until("document.querySelectorAll('#last-predictions tbody tr').length === 10")
    browser.until("document.querySelectorAll('#last-rejections tbody tr').length > 1")
    for table, words in (("#last-rejections", "dlq show"), ("#last-predictions", "Reference student")):
        link = browser.ask(f"document.querySelector('{table} tbody a').href")
        answer = httpx.get(link, timeout=30)
        assert answer.status_code == 200
        assert words in answer.text
        assert httpx.get(f"{link}999999999", timeout=30).status_code == 404
    history = httpx.get(f"{url}history", params={"hours": "1"}, timeout=60)
    assert history.status_code == 200
    assert '<h2 id="history-1">Events: 309</h2>' in history.text
    browser.until("document.querySelector('#members')?.textContent.includes('127.0.0.1')")
    student = browser.ask("document.querySelector('#last-predictions tbody bdi').textContent")
    assert student in httpx.get(f"{url}search", params={"q": student}).text
    assert browser.ask("document.documentElement.scrollWidth") == 360
    light = browser.ask("getComputedStyle(document.body).backgroundColor")
    browser.show(width=360, height=740, scheme="dark")
    assert browser.ask("getComputedStyle(document.body).backgroundColor") != light
    assert browser.ask("document.documentElement.scrollWidth") == 360

    # The focus stays where it is while the page is updated around it.
    browser.ask("document.querySelector('#numbers-score summary').focus()")
    browser.press(*ENTER)
    before = browser.ask("document.querySelector('#as-of').textContent")
    browser.until(f"document.querySelector('#as-of').textContent !== {before!r}")
    assert browser.ask("document.activeElement.closest('details').id") == "numbers-score"
    assert browser.ask("document.querySelector('#numbers-score').open")

    browser.ask("document.querySelector('#pause').focus()")
    browser.press(*ENTER)
    assert browser.ask("document.querySelector('#pause').getAttribute('aria-pressed')") == "true"
    time.sleep(0.5)  # an answer that was on its way
    stopped = browser.ask("document.querySelector('#as-of').textContent")
    browser.ask("document.activeElement.blur()")
    browser.ask("window.reached = new Set()")
    browser.ask("document.addEventListener('focusin', e => window.reached.add(e.target))")
    controls = browser.ask(f"{VISIBLE}.length")
    assert controls >= 18
    for _ in range(controls + 6):
        browser.press(*TAB)
    unreached = f"{VISIBLE}.filter(e => !window.reached.has(e)).map(e => e.outerHTML.slice(0, 80))"
    assert browser.ask(unreached) == []
    assert browser.ask(f"{VISIBLE}.every(e => (e.textContent || e.ariaLabel).trim())")
    assert browser.ask("[...document.querySelectorAll('main, header, footer, nav, h1')].length") == 6
    assert browser.ask("document.querySelector('#as-of').textContent") == stopped
    assert browser.complaints == []


def test_a_prediction_shows_its_reasons_and_the_api_its_traffic(
    browser: Chromium, deploy: Callable[..., Any]
) -> None:
    """Predictions of the API are a section of the page; the page of a prediction says why."""
    deployment, port = deploy(), free_port()
    deployment.start("serve", PURCHASE_STREAM_HTTP__SERVE_PORT=str(port))
    url, _ = start_monitor(deployment)
    browser.show()
    browser.open(url)
    browser.until("document.querySelector('#api').textContent.includes('No prediction came by the API')")
    deadline_s, answers = time.monotonic() + 60, 0
    while answers < 30:
        assert time.monotonic() < deadline_s, deployment.logs()
        try:
            answers += httpx.post(f"http://127.0.0.1:{port}/predict", json=STUDENT).status_code == 200
        except httpx.TransportError:
            time.sleep(0.1)
    browser.until("document.querySelector('#api').textContent.includes('30 since the monitor started')")
    browser.until("document.querySelector('#last-predictions tbody a')")
    browser.open(browser.ask("document.querySelector('#last-predictions tbody a').href"))
    browser.until("document.querySelectorAll('#reasons tbody tr').length >= 8")
    amounts = browser.ask(
        "[...document.querySelectorAll('#reasons tbody td:nth-child(3)')].map(e => Number(e.textContent))"
    )
    assert abs(sum(amounts[:-1]) - amounts[-1]) < 0.01
    picture(browser, "page-prediction", height=1400)
    browser.open(f"{url}history?hours=1")
    browser.until("document.querySelector('h1').textContent === 'The last hour'")
    assert browser.ask("document.querySelector('#history-2').textContent").startswith("Predictions: ")
    assert browser.complaints == []


def test_without_a_model_the_page_says_what_to_do(
    browser: Chromium, deploy: Callable[..., Any], tmp_path: Path
) -> None:
    """Without a model in the store the page says so, and nothing fails."""
    url, _ = start_monitor(deploy(), PURCHASE_STREAM_MODEL_STORE__PATH=str(tmp_path / "none"))
    browser.show()
    browser.open(url)
    browser.until("document.querySelector('#flow dl').textContent.includes('in 2 partitions')")
    assert "train and promote a model" in browser.ask("document.querySelector('#health').textContent")
    assert "Nothing to compare with" in browser.ask("document.querySelector('#drift').textContent")
    picture(browser, "page-no-model", height=1200)
    assert browser.complaints == []


def test_a_missing_broker_is_shown_with_its_time(
    browser: Chromium, deploy: Callable[..., Any], tmp_path: Path
) -> None:
    """While Kafka is away the page says since when and keeps what it knew; later it is well again."""
    with EmbeddedKafka(tmp_path / "kafka", remove_data=True) as kafka:
        deployment = deploy()
        deployment.servers = deployment.environment["PURCHASE_STREAM_KAFKA__BOOTSTRAP_SERVERS"] = (
            kafka.bootstrap_servers
        )
        specs = [TopicSpec(name=name, partitions=2) for name in deployment.topics.values()]
        ClusterAdmin({"bootstrap.servers": kafka.bootstrap_servers}).create_topics(specs)
        deployment.start("score")
        url, _ = start_monitor(deployment)
        send(deployment, 1300, seed=14, rate=600)
        browser.show()
        browser.open(url)
        browser.until("document.body.textContent.includes('Window 1: 1,000 different students')", 90)
        browser.until(f"{EVENTS_IN} !== 'unknown' && {LAG} === '0'")
        kafka.kill(1)
        browser.until("document.querySelector('.headline.bad')", 60)
        said = browser.ask("document.querySelector('#health').textContent")
        assert "Kafka does not answer" in said
        assert "Since" in said
        browser.until(f"{EVENTS_IN} === 'unknown' && {LAG} === 'unknown'", 60)
        picture(browser, "page-broker-gone", height=1200)
        kafka.restart(1)
        browser.until("document.querySelector('.headline.good')", 60)
        assert browser.complaints == []
