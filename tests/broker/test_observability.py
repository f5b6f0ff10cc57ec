"""Dashboard, rules and alerts on a real Prometheus that scrapes the running service."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastavro import schemaless_reader

from consumer.embedded_kafka.broker import free_port
from consumer.monitor.drift.statistics import psi, smoothed_ratios
from model_store.baseline import Baseline
from model_store.countries import country_code
from model_store.inputs import INPUT_NAMES
from model_store.store import ModelStore
from schemas.repository import purchase_prediction
from tests.support.prometheus import EXECUTABLE, Prometheus, prometheus_over
from tests.support.topics import Published

pytestmark = [
    pytest.mark.broker,
    pytest.mark.skipif(EXECUTABLE is None, reason="needs prometheus: apt-get install prometheus"),
]

DASHBOARD = Path(__file__).parents[2] / "deploy/grafana/dashboards/purchase-stream.json"
DEADLINE_S = 90.0
EVENTS_PER_S = 400
"""Enough to close a window of 1,000 students within seconds."""

STUDENT = {"student_country": "DE", **dict.fromkeys(INPUT_NAMES[1:], 0)}
_HEADER_BYTES = 10
_PSI = "model_version_feature:purchase_stream_drift_psi:sum_increase6h"


@pytest.fixture
def prometheus(
    tmp_path: Path, deploy: Callable[..., Any], trained_store: Path
) -> Iterator[tuple[Prometheus, Published]]:
    """A Prometheus over busy roles, and a publisher of predictions and outcomes."""
    service = deploy()
    ports = {"score": free_port(), "monitor": free_port(), "serve": free_port()}
    service.environment |= {
        f"PURCHASE_STREAM_HTTP__{role.upper()}_PORT": str(port) for role, port in ports.items()
    }
    service.start("score")
    service.start("monitor")
    service.start("serve")
    service.start("produce", "--rate", str(EVENTS_PER_S), "--broken", "0.02", "--count", "1000000")
    with prometheus_over({role: [port] for role, port in ports.items()}, tmp_path / "prometheus") as server:
        _until(
            lambda: server.ready() and len(server.ask("up == 1")) == 3,
            lambda: server.log() + service.logs(),
        )
        with predict_again_and_again(ports["serve"]):
            yield server, Published(service, ModelStore(trained_store, "purchase"))


@contextlib.contextmanager
def predict_again_and_again(port: int) -> Iterator[None]:
    """Send requests to ``serve`` in the background."""
    ended = threading.Event()

    def ask() -> None:
        while not ended.wait(0.5):
            httpx.post(f"http://127.0.0.1:{port}/predict", json=STUDENT)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def test_every_query_returns_data_and_every_rule_evaluates(
    prometheus: tuple[Prometheus, Published],
) -> None:
    """With a little traffic, no panel and no recording rule is empty, and no alert fails or fires."""
    server, published = prometheus
    # The counters exist from 0 on, so that a rate includes the first outcome.
    _until(
        lambda: server.ask("sum(purchase_stream_matured_outcomes_total)") == [0.0],
        lambda: "the counters of outcomes do not begin at 0",
    )
    probabilities = published.predict(0, 2000)
    _until(
        lambda: server.ask("sum(purchase_stream_predictions_awaiting_outcome)")[0] >= 2000,
        lambda: "the monitor does not remember predictions",
    )
    bought = np.random.default_rng(3).random(2000) < probabilities
    published.tell_outcomes(0, bought)

    dashboard = json.loads(DASHBOARD.read_text())
    queries = {
        target["expr"].replace("$__rate_interval", "10s").replace("$job", ".*")
        for panel in dashboard["panels"]
        for target in panel.get("targets", ())
    }
    queries |= {rule["name"] for rule in server.rules() if rule["type"] == "recording"}
    assert len(queries) > 50

    empty: set[str] = set(queries)

    def all_answered() -> bool:
        empty.difference_update([query for query in empty if server.ask(query)])
        return not empty

    _until(all_answered, lambda: "no data from:\n" + "\n".join(sorted(empty)))

    rules = server.rules()
    assert {rule["health"] for rule in rules} == {"ok"}, [r for r in rules if r["health"] != "ok"]
    alerts = [rule for rule in rules if rule["type"] == "alerting"]
    assert alerts
    for alert in alerts:
        server.ask(alert["query"])
    assert [alert["name"] for alert in alerts if alert["state"] == "firing"] == []

    _until(
        lambda: server.ask("sum(purchase_stream_matured_outcomes_total)") == [2000.0],
        lambda: "outcomes are missing",
    )
    squared_error = np.mean((probabilities - bought) ** 2)
    brier = "model_version:purchase_stream_realised_brier_score:ratio_increase1d"
    _until(
        lambda: server.ask(brier) == pytest.approx([squared_error], rel=0.001),
        lambda: f"Brier score {server.ask(brier)} instead of {squared_error}",
    )


def test_psi_over_two_monitors_is_that_of_all_predictions(
    deploy: Callable[..., Any], topics: Callable[..., str], trained_store: Path, tmp_path: Path
) -> None:
    """If two monitors read a part each, the recorded PSI is that of the whole, within 1 %."""
    service, store = deploy(), ModelStore(trained_store, "purchase")
    parts = {topics(f"predictions-{i}", partitions=i): free_port() for i in (1, 2)}
    for topic, port in parts.items():
        service.start(
            "monitor",
            PURCHASE_STREAM_TOPICS__PREDICTIONS=topic,
            PURCHASE_STREAM_AUDIT__PATH=str(tmp_path / topic / "log.jsonl"),
            PURCHASE_STREAM_HTTP__MONITOR_PORT=str(port),
        )
    counted = "sum(purchase_stream_drift_observations_total)"
    with prometheus_over({"monitor": [*parts.values()]}, tmp_path / "prometheus", "250ms") as server:
        _until(
            lambda: server.ready() and len(server.ask(f"{counted} by (instance) == 0")) == 2,
            lambda: server.log() + service.logs(),
        )
        one, other = (Published(service, store, topic) for topic in parts)
        one.predict(0, 2600, more_days=60)
        other.predict(2600, 1400)
        records = [message for topic, n in zip(parts, (2600, 1400), strict=True)
                   for message in service.read(topic, n)]  # fmt: skip
        exact = _psi_of([message.value() for message in records], store.load("champion").version, store)
        series = len(exact) + 1  # and the decision
        _until(lambda: server.ask(counted) == [4000.0 * series], service.logs)

        def recorded() -> dict[str, float]:
            return server.by("feature", f'{_PSI}{{feature!="predicted_purchase"}}')

        # increase() extrapolates to the end of its range: by less and less, as scrapes go on.
        _until(
            lambda: recorded() == pytest.approx(exact, rel=0.01),
            lambda: f"recorded {recorded()}\nexact {exact}\n{service.logs()}",
        )
        own = server.by("instance", 'purchase_stream_drift_psi{feature="days_on_platform"}').values()
        whole = exact["days_on_platform"]
        for wrong in (max(own), min(own), sum(own), sum(own) / 2):
            assert wrong != pytest.approx(whole, rel=0.1), (
                "the two parts have to differ for this to be a test"
            )


def _psi_of(values: list[bytes], version: str, store: ModelStore) -> dict[str, float]:
    """Return the exact index of every input and of the score, with the bins of training."""
    schema = purchase_prediction().parsed
    predictions: list[Any] = [
        schemaless_reader(BytesIO(value[_HEADER_BYTES:]), schema, None) for value in values
    ]
    assert {prediction["model_version"] for prediction in predictions} == {version}
    inputs = np.array(
        [
            [
                country_code(p["features"][name]) if name == INPUT_NAMES[0] else p["features"][name]
                for name in INPUT_NAMES
            ]
            for p in predictions
        ],
        np.float64,
    )
    scores = np.array([p["predicted_purchase_probability"] for p in predictions])
    folder = store.folder / "versions" / version
    baseline = Baseline.model_validate_json((folder / "baseline.json").read_bytes())
    counts = baseline.bin_counts(inputs, scores)
    bins = {**baseline.features, "score": baseline.score}
    return {name: psi(smoothed_ratios(counts[name]), bins[name].ratios).item() for name in bins}


def _until(done: Callable[[], bool], explain: Callable[[], str]) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not done():
        assert time.monotonic() < deadline_s, explain()
        time.sleep(0.5)
