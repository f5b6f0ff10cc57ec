"""The fault suite in a minute: every crash point once, a killed monitor, and a proof that it can fail."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import crash_points
from tests.faults.service import Service

pytestmark = pytest.mark.broker


@pytest.fixture
def service(kafka: str, trained_store: Path, tmp_path: Path) -> Iterator[Service]:
    """A service on the shared Kafka."""
    with Service(kafka, tmp_path, trained_store) as deployed:
        yield deployed


def test_killed_scorers_and_monitors_lose_and_double_nothing(service: Service) -> None:
    """A scorer dies at every crash point and the monitor is killed: events, outputs and log agree."""
    service.stream(10_000).result()
    monitor = service.start("monitor")
    for point in crash_points.POINTS:
        killed = service.start("score", wire=crash_points.dies(point, 2))
        assert killed.wait(60) == -9, service.logs()
        monitor.kill()
        monitor = service.start("monitor")
    service.start("score")
    service.await_decided()
    verdict = service.await_log()
    assert verdict.holds, "\n".join(verdict.lines())
    assert verdict.events == 10_000


@pytest.mark.faults
def test_killed_scorers_under_the_protocol_of_kip_848(
    kafka: str, tmp_path: Path, trained_store: Path
) -> None:
    """The same with ``group.protocol=consumer`` at three crash points."""
    with Service(kafka, tmp_path, trained_store, client={"group.protocol": "consumer"}) as service:
        service.stream(5_000).result()
        for point in ("during produce", "after offsets", "during commit"):
            killed = service.start("score", wire=crash_points.dies(point, 2))
            assert killed.wait(60) == -9, service.logs()
        service.start("score")
        service.await_decided()
        verdict = service.verdict()
        assert verdict.holds, "\n".join(verdict.lines())
        assert verdict.events == 5_000


def test_without_transactions_the_verifier_finds_doubles(service: Service) -> None:
    """With at-least-once delivery, a kill before the offsets are committed doubles events and loses none."""
    service.stream(5_000).result()
    killed = service.start(
        "score", wire=crash_points.Scorer(crash_points.DiesAfterFlush), KAFKA__DELIVERY="at_least_once"
    )
    assert killed.wait(60) == -9, service.logs()
    time.sleep(0.1)
    service.start("score", KAFKA__DELIVERY="at_least_once")
    service.await_decided()
    verdict = service.verdict()
    assert verdict.doubled > 0
    assert verdict.missing == 0
