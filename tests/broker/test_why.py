"""`why` on a real broker: the trace of every event, whatever its outcome."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.events import good

pytestmark = pytest.mark.broker


def why(service: Any, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    return subprocess.run(  # noqa: S603 - every word is ours
        [sys.executable, "-m", "consumer", "why", *arguments],
        env=os.environ | service.environment,
        cwd=service.folder,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


def trace_of(service: Any, *arguments: str) -> dict[str, Any]:
    """Return the trace of one event."""
    done = why(service, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    (trace,) = json.loads(done.stdout)
    return trace  # type: ignore[no-any-return]  # it is an object


def test_every_event_has_a_trace(deploy: Callable[..., Any]) -> None:
    """Scored, rejected, waiting, unknown: each outcome is right."""
    service = deploy(partitions=2)
    service.environment["PURCHASE_STREAM_AUDIT__PATH"] = str(service.folder / "log.jsonl")
    values = [
        good(event_id=f"e-{n}", minutes_watched=float(n))
        if n % 5
        else good(event_id=f"e-{n}", minutes_watched=-1.0)
        for n in range(3000)
    ]
    service.produce([(b"k-%d" % n, value, n % 2) for n, value in enumerate(values)])
    scorer = service.start("score")
    service.start("monitor")
    service.read(service.topics["PREDICTIONS"], 2400)
    deadline_s = time.monotonic() + 30
    while (service.folder / "log.jsonl").read_bytes().count(b"\n") < 2400 and time.monotonic() < deadline_s:
        time.sleep(0.1)

    for n in (1, 2, 1501, 2998, 2999):
        trace = trace_of(service, f"{n % 2}:{n // 2}")
        (prediction,) = trace["predictions"]
        assert (trace["outcome"], prediction["event_id"]) == ("scored", f"e-{n}")
        assert prediction["source"] == {
            "topic": service.topics["EVENTS"],
            "partition": n % 2,
            "offset": n // 2,
        }
        assert trace["event"]["fields"]["minutes_watched"] == float(n)
        assert trace["audit_line"]["line"] == prediction
        assert trace["scoring"]["probability_now"] == prediction["predicted_purchase_probability"]
        scoring = trace["scoring"]
        assert len(scoring["contributions"]) == 10
        log_odds = scoring["base"] + sum(item["log_odds"] for item in scoring["contributions"])
        assert 1 / (1 + math.exp(-log_odds)) == pytest.approx(scoring["probability_now"])

    for n in (0, 1500, 2995):
        trace = trace_of(service, f"{n % 2}:{n // 2}")
        (letter,) = trace["dead_letters"]
        assert (trace["outcome"], trace["predictions"]) == ("rejected", [])
        assert (letter["letter"]["code"], letter["replayed"]) == ("field_invalid", False)
        assert trace["event"]["would_be_rejected_as"] == "field_invalid"

    text = why(service, "0:1").stdout
    assert "log_minutes_watched" in text
    assert "the same to the last bit" in text
    assert "0:0 of" in why(service, "0:0").stdout

    assert trace_of(service, "--event-id", "e-1501")["source"]["offset"] == 750
    service.produce([(b"k", good(event_id="e-1501"), 0)])
    service.read(service.topics["PREDICTIONS"], 2401)
    assert len(json.loads(why(service, "--event-id", "e-1501", "--json").stdout)) == 2
    unknown = why(service, "--event-id", "e-nobody")
    assert (unknown.returncode, unknown.stderr.count("\n")) == (65, 1)

    scorer.terminate()
    scorer.wait(20)
    service.produce([(b"k", good(event_id="late-1"), 0), (b"k", good(event_id="late-2"), 0)])
    late = trace_of(service, "0:1502")
    assert (late["outcome"], late["events_before_it"]) == ("waiting", 1)
    beyond = why(service, "0:1503")
    assert (beyond.returncode, "ends at 1503" in beyond.stderr) == (65, True)


def test_an_event_that_is_nowhere_is_an_alarm(deploy: Callable[..., Any]) -> None:
    """The group has passed it, and there is neither a prediction nor a dead letter."""
    from confluent_kafka import Consumer, TopicPartition  # noqa: PLC0415 - only here

    service = deploy(partitions=1)
    service.produce([(b"k", good(), 0)])
    events = service.topics["EVENTS"]
    group = Consumer({"bootstrap.servers": service.servers, "group.id": events})
    group.commit(offsets=[TopicPartition(events, 0, 1)], asynchronous=False)
    group.close()
    done = why(service, "0:0")
    assert done.returncode == 65
    assert "neither a prediction nor a dead letter" in done.stderr


@pytest.mark.parametrize("arguments", [[], ["0:1", "--event-id", "x"], ["one"]])
def test_wrong_usage_is_said_in_a_line(deploy: Callable[..., Any], arguments: list[str]) -> None:
    """With the exit code for it."""
    done = why(deploy(), *arguments)
    assert (done.returncode, done.stderr.count("\n")) == (64, 1)
