"""The breaker on a real broker: a held batch is not published, and nothing of it is lost or doubled."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from consumer.embedded_kafka.broker import free_port
from tests.support.events import decoded_prediction, good

pytestmark = pytest.mark.broker


def test_a_held_batch_waits_for_an_operator_and_is_then_published_once(deploy: Callable[..., Any]) -> None:
    """While it is held, its good events wait too; after a restart with ``alert`` each event has its place."""
    service, port = deploy(partitions=1), free_port()
    values = [good(event_id=f"e-{n}", minutes_watched=-1.0 if n % 3 else 1.0) for n in range(90)]
    service.produce([(b"k", value, 0) for value in values])
    common = {"PURCHASE_STREAM_HTTP__SCORE_PORT": str(port), "PURCHASE_STREAM_BREAKER__MINIMUM_EVENTS": "50"}
    scorer = service.start("score", PURCHASE_STREAM_BREAKER__ACTION="pause", **common)
    wait_for(lambda: 'condition{condition="breaker"} 1.0' in metrics(port), service)
    assert "60 of the latest 90 events of the schema with fingerprint" in service.logs()
    service.read(service.topics["PREDICTIONS"], 0)
    service.read(service.topics["DEAD_LETTERS"], 0)
    scorer.kill()
    scorer.wait()

    service.start("score", PURCHASE_STREAM_BREAKER__ACTION="alert", **common)
    letters = service.read(service.topics["DEAD_LETTERS"], 60)
    predictions = service.read(service.topics["PREDICTIONS"], 30)
    offsets = [json.loads(letter.value())["source"]["offset"] for letter in letters]
    offsets += [decoded_prediction(prediction.value())["source_offset"] for prediction in predictions]
    assert sorted(offsets) == list(range(90))
    wait_for(lambda: "purchase_stream_breaker_batches_total 1.0" in metrics(port), service)


def metrics(port: int) -> str:
    """Return what a role exports; nothing while it does not answer."""
    try:
        with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            return str(answer.read().decode())
    except URLError:
        return ""


def wait_for(holds: Callable[[], bool], service: Any) -> None:
    """Wait until something holds."""
    deadline_s = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline_s, service.logs()
        time.sleep(0.1)
