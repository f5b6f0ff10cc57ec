"""From ``exec`` of ``purchase-stream score`` to the first prediction that a reader can have."""

from __future__ import annotations

import json
import sys
import time
from datetime import datetime
from pathlib import Path

from bench import Bench
from latency import Reader
from measure import memory_mb, process

TIMEOUT_S = 60.0
EVENTS = 100
MILESTONES = {"model activated": "model_loaded", "partitions assigned": "partitions_assigned"}
"""Lines of the scorer's own log, and what they are called in the result."""


def start_s(bench: Bench) -> dict[str, float]:
    """Start one scorer of a new group, on a topic in which events wait.

    Returns:
        Seconds from ``exec`` to each milestone and, as ``first_prediction``, to the first prediction;
        and, as ``resident_mb``, the memory of the scorer then.
    """
    events, predictions = bench.topic("events"), bench.topic("predictions")
    bench.fill(events, EVENTS)
    environment = bench.environment(
        KAFKA__GROUP_ID=bench.name("group"),
        TOPICS__EVENTS=events,
        TOPICS__PREDICTIONS=predictions,
        TOPICS__DEAD_LETTERS=bench.topic("dlq"),
    )
    return first_prediction_s(bench, environment, predictions)


def first_prediction_s(bench: Bench, environment: dict[str, str], predictions: str) -> dict[str, float]:
    """Start a scorer that has events to score.

    Args:
        bench: The broker.
        environment: The scorer's settings, as variables.
        predictions: The topic that it publishes to.

    Returns:
        As :func:`start_s`.
    """
    command = [str(Path(sys.executable).with_name("purchase-stream")), "score"]
    log = bench.folder / f"{bench.name('start')}.log"
    reader = Reader(bench.servers, predictions)
    began_s, began_at_s = time.monotonic(), time.time()
    try:
        with process(command, environment, log) as running:
            while not reader.read(0.5):
                running.check()
                if time.monotonic() - began_s > TIMEOUT_S:
                    raise TimeoutError(f"no prediction after {TIMEOUT_S:.0f} s: {log.read_text()[-2000:]}")
            first_s = time.monotonic() - began_s
            resident_mb = memory_mb(running.pid)
    finally:
        reader.close()
    return {**_milestones_s(log, began_at_s), "first_prediction": first_s, "resident_mb": resident_mb}


def _milestones_s(log: Path, began_at_s: float) -> dict[str, float]:
    """Read from the scorer's log when it came past which point."""
    reached = {}
    for text in log.read_text().splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        name = MILESTONES.get(line.get("event"))
        if name is not None and name not in reached:
            reached[name] = datetime.fromisoformat(line["timestamp"]).timestamp() - began_at_s
    return reached
