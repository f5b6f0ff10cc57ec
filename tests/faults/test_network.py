"""The network between scorer and broker: cut, silent, slow, or late."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.faults import crash_points
from tests.faults.proxy import END_TXN, TXN_OFFSET_COMMIT

pytestmark = pytest.mark.faults


@pytest.fixture
def proxy(broker: Any) -> Iterator[Any]:
    """The proxy between scorers and broker, without faults again afterwards."""
    yield broker.proxy
    broker.proxy.pass_on()
    broker.proxy.delay_ms = 0.0


def test_connections_cut(
    broker: Any, proxy: Any, deploy: Callable[..., Any], holds: Callable[..., None]
) -> None:
    """Every connection is reset 40 times, at random points of the loop."""
    service = deploy(scorer_servers=broker.proxied)
    flowing = service.flow(100_000, seconds=25)
    ends = service.supervise(service.start("score"))
    service.await_progress()
    cuts, random_source = 40, random.Random(2)
    for _ in range(cuts):
        time.sleep(random_source.uniform(0.1, 1))
        proxy.cut()
    flowing.result()
    service.await_decided()
    holds("TCP connections reset", f"{cuts} resets, {len(ends)} restarts", service.verdict())


@pytest.mark.parametrize(
    ("fault", "swallowed"),
    [("black hole", {}), ("half-open: answers are lost", {"requests": False})],
)
def test_silence(
    broker: Any,
    proxy: Any,
    deploy: Callable[..., Any],
    holds: Callable[..., None],
    fault: str,
    swallowed: dict[str, bool],
) -> None:
    """Frames vanish for less than a request's timeout and for more than a transaction's."""
    service = deploy(scorer_servers=broker.proxied)
    flowing = service.flow(100_000, seconds=30)
    ends = service.supervise(service.start("score"))
    service.await_progress()
    silences_s = (1, 3, 13)
    recoveries_s = []
    for seconds in silences_s:
        proxy.swallow(**swallowed)
        time.sleep(seconds)
        proxy.pass_on()
        recoveries_s.append(service.recovery_s(service.interruption()))
        time.sleep(1)
    flowing.result()
    service.await_decided()
    spans = ", ".join(f"{seconds} s" for seconds in silences_s)
    holds(fault, f"{len(silences_s)} ({spans}), {len(ends)} restarts", service.verdict(), recoveries_s)


def test_delay(broker: Any, proxy: Any, deploy: Callable[..., Any], holds: Callable[..., None]) -> None:
    """With a round trip of 200 ms the stream is slower, but exact."""
    proxy.delay_ms = 100.0
    service = deploy(scorer_servers=broker.proxied)
    service.stream(100_000).result()
    service.start("score")
    service.await_progress()
    seconds = 15
    time.sleep(seconds)
    proxy.delay_ms = 0.0
    service.await_decided()
    holds("every frame delayed by 100 ms", f"for {seconds} s", service.verdict())


@pytest.mark.parametrize(("name", "api_key"), [("EndTxn", END_TXN), ("TxnOffsetCommit", TXN_OFFSET_COMMIT)])
def test_late_request(
    broker: Any,
    proxy: Any,
    deploy: Callable[..., Any],
    holds: Callable[..., None],
    name: str,
    api_key: int,
) -> None:
    """A request that was delayed and sent again arrives during the next transaction."""
    service = deploy(scorer_servers=broker.proxied)
    service.stream(100_000).result()
    slow = service.start("score", wire=crash_points.Scorer(crash_points.SlowProducer))
    ends = service.supervise(slow)
    service.await_progress()
    times, random_source = 10, random.Random(3)
    for _ in range(times):
        proxy.hold(api_key)
        assert proxy.wait_until_held(30), service.logs()
        service.await_progress()
        time.sleep(random_source.uniform(0, crash_points.SlowProducer.OPEN_S))
        proxy.release()
    assert not ends, service.logs()
    slow.kill()
    service.start("score")
    service.await_decided()
    holds(f"late {name} in the next transaction", f"{times} held", service.verdict())
